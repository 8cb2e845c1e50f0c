//! The CUDA kernels where there is no GPU: run on the processor by an emulator and held to the conformance suite, and
//! compiled by NVRTC for the GPUs that they are meant for. On a GPU, `midi-train gpu-check` runs the same suite.
#![cfg(feature = "torch")]
#![allow(clippy::print_stdout, reason = "says what was compared and what was skipped")]

#[path = "support/emulator.rs"]
#[allow(unreachable_pub, reason = "the file is a module of its own")]
mod emulator;

use std::path::PathBuf;
use std::sync::Arc;

use emulator::Emulator;
use midi_train::config::{OptimizerConfig, Precision};
use midi_train::cuda::fused::{
    FUSED, Gated, LISTS, LOSS, LossWeights, Raw, TERMS, loss_in_place, mixes, norm, norm_bonus_gate, rounded,
    squared_relu, wkv_terms,
};
use midi_train::cuda::{Cache, Launcher, Source, compile, nvrtc_is_here};
use midi_train::gpu_check::{apart, losses};
use midi_train::loss::{Rule, logits_gradient};
use midi_train::model::Parameters;
use midi_train::optim::AdamW;
use midi_train::wkv::conformance::{Terms, relative_difference, run_on};
use midi_train::wkv::{CHUNKS, CpuWkv, CudaWkv, Form, STEPS, WkvBackend, cuda_suites};
use tch::{Device, Kind, Tensor};

/// Every file of kernels.
static SOURCES: [&Source; 6] = [&STEPS, &CHUNKS, &FUSED, &TERMS, &LOSS, &LISTS];

/// Where kernels are emulated; none where that cannot be, which is said.
fn launcher() -> Option<Arc<dyn Launcher>> {
    let Some(emulator) = Emulator::new() else {
        println!("skipped: there is no C++ compiler to emulate kernels with");
        return None;
    };
    Some(Arc::new(emulator))
}

fn emulated(form: Form) -> Option<Arc<dyn WkvBackend>> {
    Some(Arc::new(CudaWkv::poisoned(launcher()?, form)))
}

fn passes(backend: &Arc<dyn WkvBackend>, terms: Terms, tolerance: f64) {
    let worst = run_on(backend, Device::Cpu, terms).expect("runs");
    println!("{} {terms:?}: {:.1e} ({})", backend.name(), worst.relative, worst.place);
    assert!(worst.relative > 0.0 && worst.relative < tolerance, "{}: {terms:?}: {worst:?}", backend.name());
}

/// Holds the suites of one form to their tolerances.
fn conforms(form: Form) {
    let Some(backend) = emulated(form) else { return };
    for suite in cuda_suites().into_iter().filter(|suite| suite.form == form) {
        passes(&backend, suite.terms, suite.tolerance);
    }
}

#[test]
fn step_by_step_the_emulated_kernel_conforms() {
    conforms(Form::Steps);
}

#[test]
fn in_chunks_the_emulated_kernel_conforms() {
    conforms(Form::Chunks);
}

/// Numbers that are the same everywhere, from -1 to 1.
fn wave(salt: i64, shape: &[i64]) -> Tensor {
    let n = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
    ((n + salt * 7919) * 12.9898).sin().g_mul_scalar(43_758.545_3).frac().reshape(shape)
}

/// Compares `fused` with `plain` on the same inputs, results and gradients, in f32 and in bf16.
fn agree(
    what: &str,
    shapes: &[&[i64]],
    fused: &dyn Fn(&[Tensor]) -> Vec<Tensor>,
    plain: &dyn Fn(&[Tensor]) -> Vec<Tensor>,
) {
    for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 6e-3)] {
        let all = |apply: &dyn Fn(&[Tensor]) -> Vec<Tensor>, kind| {
            let drawn = shapes.iter().zip(1..).map(|(shape, salt)| wave(salt, shape).to_kind(Kind::BFloat16));
            let leaves: Vec<Tensor> = drawn.map(|x| x.to_kind(kind).set_requires_grad(true)).collect();
            let results = apply(&leaves);
            let weighed = results
                .iter()
                .zip(50..)
                .map(|(y, salt)| (y * wave(salt, &y.size()).to_kind(Kind::BFloat16).to_kind(kind)).sum(Kind::Double));
            weighed.fold(Tensor::from(0.0), |sum, part| sum + part).backward();
            let grads = leaves.iter().map(Tensor::grad);
            results.iter().map(Tensor::detach).chain(grads).collect::<Vec<_>>()
        };
        let worst = all(fused, kind)
            .iter()
            .zip(&all(plain, Kind::Double))
            .map(|(found, truth)| relative_difference(found, truth))
            .fold(0.0, |worst: f64, one| if one.is_nan() { f64::INFINITY } else { worst.max(one) });
        println!("{what} {kind:?}: {worst:.1e}");
        assert!(worst < tolerance, "{what} {kind:?}: {worst:e}");
    }
}

#[test]
fn fused_kernels_are_torchs_operators() {
    let Some(launcher) = launcher() else { return };
    let (batch, time, width) = (2, 7, 192);
    let (rows, mix): (&[i64], &[i64]) = (&[batch, time, width], &[1, 1, width]);
    let anew = Tensor::from_slice(&[2i64, 9, 10]);
    let mask = Tensor::zeros([batch * time], (Kind::Bool, Device::Cpu)).index_fill_(0, &anew, 1);
    let mask = mask.reshape([batch, time, 1]);
    for mask in [None, Some(&mask)] {
        let plain = |inputs: &[Tensor]| {
            let x = &inputs[0];
            let first = Tensor::zeros([batch, 1, width], (x.kind(), x.device()));
            let before = Tensor::cat(&[first, x.narrow(1, 0, time - 1)], 1);
            let before = mask.map_or_else(|| before.shallow_clone(), |mask| before.masked_fill(mask, 0.0));
            inputs[1..].iter().map(|mix| x + (&before - x) * mix).collect::<Vec<_>>()
        };
        let fused = |inputs: &[Tensor]| {
            mixes(&launcher, &inputs[0], mask, &inputs[1..].iter().collect::<Vec<_>>()).expect("runs")
        };
        agree("six mixes", &[rows, mix, mix, mix, mix, mix, mix], &fused, &plain);
        agree("one mix", &[rows, mix], &fused, &plain);
    }
    agree("squared ReLU", &[&[3, 5, 129]], &|x| vec![squared_relu(&launcher, &x[0]).expect("runs")], &|x| {
        vec![x[0].relu().square()]
    });
    let fused = |inputs: &[Tensor]| {
        let [y, r, k, v, g, weight, bias, r_k] = inputs else { panic!("eight inputs") };
        vec![norm_bonus_gate(&launcher, Gated { y, r, k, v, g, weight, bias, r_k }, 64e-5).expect("runs")]
    };
    let plain = |inputs: &[Tensor]| {
        let [y, r, k, v, g, weight, bias, r_k] = inputs else { panic!("eight inputs") };
        let heads = |x: &Tensor| x.view([batch, time, 3, 64]);
        let normed = y.view([batch * time, width]).group_norm(3, Some(weight), Some(bias), 64e-5, false);
        let strength = (heads(r) * heads(k) * r_k).sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>);
        vec![(heads(&normed) + strength * heads(v)).view([batch, time, width]) * g]
    };
    let vector: &[i64] = &[width];
    agree("norm, bonus and gate", &[rows, rows, rows, rows, rows, vector, vector, &[3, 64]], &fused, &plain);
}

#[test]
fn the_terms_kernel_is_torchs_operators() {
    let Some(launcher) = launcher() else { return };
    let (batch, time, width) = (2, 7, 192);
    let (rows, vector): (&[i64], &[i64]) = (&[batch, time, width], &[width]);
    // Numbers so large that all parts of the sigmoids are seen.
    let fused = |inputs: &[Tensor]| {
        let [w, k, a, k_k, k_a, values @ ..] = inputs else { panic!("five inputs at least") };
        let (v, towards) = match values {
            [v, towards, first] => (v, Some((towards, first))),
            _ => (k, None),
        };
        wkv_terms(&launcher, Raw { w: &(w * 8.0), k, v, a: &(a * 8.0), towards, k_k, k_a }).expect("runs")
    };
    let plain = |inputs: &[Tensor]| {
        let [w, k, a, k_k, k_a, values @ ..] = inputs else { panic!("five inputs at least") };
        let rate = (a * 8.0).sigmoid();
        let long = (k * k_k).view([batch, time, 3, 64]);
        let length = long.square().sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>).sqrt();
        let kappa = (long / length).view([batch, time, width]);
        let gated = k * ((&rate - 1.0) * k_a + 1.0);
        let mut results = vec![(w * 8.0).log_sigmoid() - 0.5, gated, -&kappa, kappa * rate];
        if let [v, towards, first] = values {
            results.push(v + (first - v) * towards.sigmoid());
        }
        results
    };
    agree("terms of the first layer", &[rows, rows, rows, vector, vector], &fused, &plain);
    agree("terms of other layers", &[rows, rows, rows, vector, vector, rows, rows, rows], &fused, &plain);
    let zero = Tensor::zeros([1, 1, 64], (Kind::Float, Device::Cpu));
    let key = zero.copy().set_requires_grad(true);
    let raw = Raw { w: &zero, k: &key, v: &zero, a: &zero, towards: None, k_k: &zero, k_a: &zero };
    let [_, _, away, back] = <[Tensor; 4]>::try_from(wkv_terms(&launcher, raw).expect("runs")).expect("four");
    (away + back).sum(Kind::Float).backward();
    assert!(key.grad().isfinite().all().int64_value(&[]) == 1, "a key of zeros has no direction");
}

#[test]
fn the_loss_kernel_is_the_loss_of_torchs_operators() {
    let Some(launcher) = launcher() else { return };
    let rows = 5;
    let labels = Tensor::from_slice(&[0i64, 600, -100, 299, 7]);
    // Rows that begin at multiples of 16 bytes, of more numbers than threads take at once, and others.
    let cases = [(Kind::Float, 2e-6), (Kind::BFloat16, 4e-3)].map(|case| [601, 5000].map(|width| (case, width)));
    for ((kind, tolerance), width) in cases.into_iter().flatten() {
        let logits = (wave(3, &[rows, width]) * 8.0).to_kind(kind);
        for (rule, everywhere) in [
            (Rule::Corrected { targets: 9, l2wrap: 0.3 }, false),
            (Rule::Corrected { targets: 9, l2wrap: 0.0 }, false),
            (Rule::Reference { accumulation: 2, l2wrap: 0.3 }, true),
        ] {
            let (truth, cross_entropy) =
                logits_gradient(&logits.to_kind(Kind::Double), &labels, rule).expect("runs in torch");
            let (cross, penalty) = match rule {
                Rule::Corrected { targets, l2wrap } => (1.0 / targets as f64, l2wrap / targets as f64),
                Rule::Reference { accumulation, l2wrap } => (0.25 / accumulation as f64, l2wrap / rows as f64),
            };
            let weights = LossWeights { cross_entropy: cross, penalty, penalty_everywhere: everywhere };
            let found = logits.copy();
            let sums = loss_in_place(&launcher, &found, &labels, weights).expect("runs");
            let relative = relative_difference(&found, &truth);
            println!("loss {kind:?} {rule:?}: {relative:.1e}");
            assert!(relative < tolerance, "{kind:?} {rule:?}: {relative:e}");
            let sum = |column| sums.select(1, column).sum(Kind::Double).double_value(&[]);
            assert!((sum(0) / cross_entropy - 1.0).abs() < 1e-6, "{} {cross_entropy}", sum(0));
            let largest = logits.to_kind(Kind::Double).max_dim(1, false).0 * labels.ge(0).to_kind(Kind::Double);
            assert!((sum(1) / largest.square().sum(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-6);
        }
    }
    let outside = loss_in_place(
        &launcher,
        &Tensor::zeros([1, 4], (Kind::Float, Device::Cpu)),
        &Tensor::from_slice(&[4i64]),
        LossWeights { cross_entropy: 1.0, penalty: 0.0, penalty_everywhere: false },
    );
    assert!(outside.expect("runs").double_value(&[0, 0]).is_nan(), "a label that the vocabulary does not have");
}

#[test]
fn adamw_updates_any_number_of_parameters_as_on_the_processor() {
    let Some(launcher) = launcher() else { return };
    // More parameters than one launch takes, and of them some that several blocks share.
    let sizes = |index: i64| if index % 9 == 4 { 4096 * 2 + 1 } else { 1 + index % 5 };
    let trained = |launcher: Option<&Arc<dyn Launcher>>| {
        let matrix = |index: i64| (format!("blocks.{index}.att.key.weight"), wave(index, &[1, sizes(index)]));
        let leaves: Parameters = (0..70).map(matrix).map(|(name, x)| (name, x.to_kind(Kind::Float))).collect();
        let mut parameters = leaves;
        parameters.set_trainable(true);
        let optimizer = AdamW::new(OptimizerConfig::default(), &parameters);
        let mut optimizer =
            launcher.into_iter().fold(optimizer, |optimizer, launcher| optimizer.with_kernels(Arc::clone(launcher)));
        for step in 0..3 {
            parameters.clear_gradients();
            for (salt, (_, tensor)) in parameters.iter().enumerate() {
                let weight = wave(salt as i64 + 100 * step, &tensor.size()).to_kind(Kind::Float);
                (tensor * weight).sum(Kind::Float).backward();
            }
            optimizer.update(&parameters, 1e-2, 0.5).expect("updates");
        }
        parameters.iter().map(|(_, tensor)| tensor.detach()).collect::<Vec<_>>()
    };
    for (found, truth) in trained(Some(&launcher)).iter().zip(&trained(None)) {
        let worst = (found - truth).abs().max().double_value(&[]);
        assert!(worst < 1e-6, "{worst:e}");
    }
}

#[test]
fn many_tensors_are_rounded_and_measured_as_each_by_itself() {
    let Some(launcher) = launcher() else { return };
    let tensor = |index: i64| wave(index, &[1 + index % 3, if index % 20 == 7 { 5000 } else { 1 + index % 7 }]);
    let all: Vec<Tensor> = (0..150).map(|index| tensor(index).to_kind(Kind::Float).set_requires_grad(true)).collect();

    let found = norm(&launcher, &all).expect("runs").double_value(&[]);
    let truth: f64 = all.iter().map(|x| x.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[])).sum();
    assert!((found / truth.sqrt() - 1.0).abs() < 1e-6, "{found} {}", truth.sqrt());
    let infinite = Tensor::from_slice(&[1.0f32, f32::INFINITY]);
    assert!(norm(&launcher, &[infinite]).expect("runs").double_value(&[]).is_infinite());

    let copies = rounded(&launcher, &all.iter().collect::<Vec<_>>()).expect("runs");
    // Every fourth is used by nothing.
    let used = |index: usize| index % 4 != 3;
    let weighed = copies.iter().enumerate().filter(|(index, _)| used(*index));
    let weighed =
        weighed.map(|(index, x)| (x * (wave(900 + index as i64, &x.size()).to_kind(x.kind()))).sum(Kind::Float));
    weighed.fold(Tensor::from(0.0f32), |sum, part| sum + part).backward();
    for (index, (x, copy)) in all.iter().zip(&copies).enumerate() {
        assert!(copy.equal(&x.to_kind(Kind::BFloat16)), "{index}");
        let grad = x.grad();
        assert_eq!(grad.defined(), used(index), "{index}");
        if grad.defined() {
            let truth = wave(900 + index as i64, &x.size()).to_kind(Kind::BFloat16).to_kind(Kind::Float);
            assert!(grad.equal(&truth), "{index}");
        }
    }
}

#[test]
fn a_network_on_emulated_kernels_learns_as_on_the_processor() {
    let Some(by_kind) = emulated(Form::ByKind) else { return };
    let run = |backend: &Arc<dyn WkvBackend>, precision| {
        losses(Device::Cpu, Arc::clone(backend), precision, (2, 20), 3).expect("trains")
    };
    let cpu: Arc<dyn WkvBackend> = Arc::new(CpuWkv::new());
    let truth = run(&cpu, Precision::F32);
    for (precision, limit) in [(Precision::F32, 1e-5), (Precision::Bf16, 1e-2)] {
        let found = run(&by_kind, precision);
        println!("losses in {precision:?}: {found:?}, on the processor in f32 {truth:?}");
        assert!(found != truth && apart(&truth, &found) < limit, "{precision:?}: {found:?} {truth:?}");
    }
}

/// The folder of NVRTC's libraries, for machines where the loader does not find them.
fn nvrtc_folder() -> Option<PathBuf> {
    std::env::var_os("MIDI_RWKV_NVRTC").map(PathBuf::from)
}

#[test]
fn nvrtc_compiles_every_kernel_for_ampere_hopper_and_blackwell() {
    if !nvrtc_is_here(nvrtc_folder().as_deref()) {
        println!("skipped: there is no libnvrtc.so.13; MIDI_RWKV_NVRTC names its folder");
        return;
    }
    for source in SOURCES {
        for arch in ["sm_80", "sm_90", "sm_100"] {
            let code = compile(source, arch).unwrap_or_else(|e| panic!("{e}"));
            println!("{} for {arch}: {} bytes", source.name, code.len());
            assert!(code.starts_with(b"\x7fELF"), "{} for {arch}", source.name);
        }
    }
    static WRONG: Source = Source { name: "wrong.cu", text: "KERNEL(1, wrong, int) { nothing(); }" };
    let error = compile(&WRONG, "sm_90").expect_err("there is no such function");
    assert!(error.to_string().contains("wrong.cu(1)") && error.to_string().contains("nothing"), "{error}");
    let error = compile(&WRONG, "sm_19").expect_err("there is no such architecture");
    assert!(error.to_string().contains("sm_19"), "{error}");
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::new(Some(folder.path().to_owned()));
    let code = cache.compile(&CHUNKS, "sm_90").expect("compiles");
    assert_eq!(std::fs::read_dir(folder.path()).expect("reads").count(), 1);
    assert_eq!(cache.compile(&CHUNKS, "sm_90").expect("is there"), code);
}
