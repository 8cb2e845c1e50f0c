//! Whether a GPU computes what it should, and how fast: the WKV kernels against the reference, training against the
//! processor, NCCL against its conformance suite, and the times of the operator and of a step. Nothing of a data set is
//! needed, so this is the first thing to run on a new machine.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use midi_ingest::job::exit::{Error, Exit, Result};
use tch::{Cuda, Device, Kind, Tensor, no_grad};

use crate::config::{DeviceChoice, OptimizerConfig, Precision};
use crate::cuda::{self, Cache, Gpu, Launcher, nccl_is_here};
use crate::data::Batch;
use crate::dist::{Group, RankEnv, conformance as collectives, rendezvous, store::Server};
use crate::model::{Rwkv7, Shape, init::init};
use crate::optim::AdamW;
use crate::step::step;
use crate::wkv::conformance::{relative_difference, run_on};
use crate::wkv::{CpuWkv, CudaWkv, Form, Inputs, WkvBackend, cuda_suites};

/// Repetitions of a measurement; the fastest counts.
const REPEAT: usize = 5;
/// Steps that are trained on both devices.
const STEPS: usize = 20;
/// Rows and columns of their batch.
const SIZE: (usize, usize) = (8, 48);

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What.
    pub what: String,
    /// What was found, as text.
    pub figure: String,
    /// What is allowed, as text; empty for measurements.
    pub limit: String,
    /// Whether it is as it should be.
    pub passed: bool,
}

/// All that was found on one GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Name and architecture of the GPU.
    pub gpu: String,
    /// In the order of looking.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The report, or an error that holds it, if something is not as it should be.
    ///
    /// # Errors
    /// A finding did not pass: exit code 1.
    pub fn verdict(self) -> Result<Self> {
        let failed = self.findings.iter().filter(|finding| !finding.passed).count();
        match failed {
            0 => Ok(self),
            _ => Err(Error::bug(format!("{failed} of {} findings are off on this GPU\n{self}", self.findings.len()))),
        }
    }

    /// Adds a number that must be below `limit`.
    fn below(&mut self, what: impl Into<String>, found: Result<f64>, limit: f64) {
        let (figure, passed) = match found {
            Ok(number) => (format!("{number:.1e}"), number < limit),
            Err(error) => (error.to_string(), false),
        };
        self.findings.push(Finding { what: what.into(), figure, limit: format!("{limit:.0e}"), passed });
    }

    /// Adds a measurement.
    fn measured(&mut self, what: impl Into<String>, figure: Result<String>) {
        let (figure, passed) = match figure {
            Ok(figure) => (figure, true),
            Err(error) => (error.to_string(), false),
        };
        self.findings.push(Finding { what: what.into(), figure, limit: String::new(), passed });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.gpu)?;
        let width = self.findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
        for Finding { what, figure, limit, passed } in &self.findings {
            let verdict = if *passed { "ok" } else { "OFF" };
            let limit = if limit.is_empty() { String::new() } else { format!(" (below {limit})") };
            writeln!(f, "{verdict:<4} {what:<width$}  {figure}{limit}")?;
        }
        Ok(())
    }
}

/// Looks at the first GPU; with `bench`, also measures it. `say` is told what is going on.
///
/// # Errors
/// There is no GPU, or it cannot be used: exit code 78.
pub fn run(bench: bool, cache: Cache, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let gpu = Gpu::open(cuda::choose(DeviceChoice::Cuda, 0)?, cache.clone())?;
    let launcher: Arc<dyn Launcher> = Arc::clone(&gpu) as Arc<dyn Launcher>;
    let mut report = Report { gpu: gpu.title(), findings: Vec::new() };
    say(&report.gpu);
    for suite in cuda_suites() {
        for seed in 0..3 {
            let mut terms = suite.terms;
            terms.seed += seed;
            say(&format!("{:?} {terms:?}", suite.form));
            let backend: Arc<dyn WkvBackend> = Arc::new(CudaWkv::poisoned(Arc::clone(&launcher), suite.form));
            let worst = run_on(&backend, gpu.device(), terms).map(|worst| worst.relative);
            let (kind, head) = (terms.kind, terms.head);
            let forgets = if terms.forgets { ", forgetting" } else { "" };
            let what = format!("{} {kind:?} N{head} {:?}{forgets}, seed {}", backend.name(), terms.decays, terms.seed);
            report.below(what, worst, suite.tolerance);
        }
    }
    say("2048 steps in chunks and step by step");
    report.below("2048 steps: chunks from steps", forms_apart(&launcher), 3e-2);
    say("training on the processor and on the GPU");
    for (precision, limit) in [(Precision::F32, 2e-3), (Precision::Bf16, 5e-2)] {
        let found = losses(Device::Cpu, Arc::new(CpuWkv::new()), Precision::F32, SIZE, STEPS).and_then(|on_cpu| {
            let backend = Arc::new(CudaWkv::new(Arc::clone(&launcher), Form::ByKind));
            Ok(apart(&on_cpu, &losses(gpu.device(), backend, precision, SIZE, STEPS)?))
        });
        report.below(format!("{STEPS} steps in {precision:?}: losses from the processor's"), found, limit);
    }
    if nccl_is_here() {
        let world = usize::try_from(Cuda::device_count()).unwrap_or(1).max(1);
        say(&format!("NCCL on {world} GPUs"));
        report.measured(format!("NCCL among {world}"), nccl(world, &cache).map(|()| "conforms".into()));
    } else {
        report.measured("NCCL", Ok("skipped: there is no libnccl.so".into()));
    }
    if bench {
        measure(&launcher, &mut report, say);
    }
    Ok(report)
}

/// The largest relative difference of two lists of losses; not a number if one of them is none.
pub fn apart(x: &[f64], y: &[f64]) -> f64 {
    let differences: Vec<f64> = x.iter().zip(y).map(|(x, y)| ((x - y) / x).abs()).collect();
    match differences.iter().any(|one| one.is_nan()) {
        true => f64::NAN,
        false => differences.into_iter().fold(0.0, f64::max),
    }
}

/// The losses of a small network over `steps` steps of so many rows and columns, in nats a target.
///
/// # Errors
/// A step fails.
pub fn losses(
    device: Device,
    backend: Arc<dyn WkvBackend>,
    precision: Precision,
    size: (usize, usize),
    steps: usize,
) -> Result<Vec<f64>> {
    let mut trained = Trained::new(Shape::new(2, 128, 64)?, device, backend, precision, size)?;
    (0..steps).map(|_| trained.step(1e-3)).collect()
}

/// A network that is trained on made-up sequences.
struct Trained {
    model: Rwkv7,
    optimizer: AdamW,
    config: OptimizerConfig,
    batch: Batch,
}

impl Trained {
    fn new(
        shape: Shape,
        device: Device,
        backend: Arc<dyn WkvBackend>,
        precision: Precision,
        (rows, columns): (usize, usize),
    ) -> Result<Self> {
        let launcher = backend.launcher().map(Arc::clone);
        let mut model = Rwkv7::new(init(shape, 1).to_device(device)?, backend)?.in_precision(precision);
        model.set_trainable(true);
        let config = OptimizerConfig::default();
        let optimizer = AdamW::new(config.clone(), model.parameters());
        let optimizer = launcher.into_iter().fold(optimizer, AdamW::with_kernels);
        let id = |i: i64| (i * i / 3 + i * 7) % shape.vocabulary as i64;
        let batch = Batch::full(columns, (0..(rows * columns) as i64).map(id).collect());
        Ok(Trained { model, optimizer, config, batch })
    }

    /// One step, and its loss in nats a target.
    fn step(&mut self, lr: f64) -> Result<f64> {
        let batch = std::slice::from_ref(&self.batch);
        let report = step(&mut self.model, &mut self.optimizer, &self.config, batch, lr, &mut Group::solo())?;
        Ok(report.cross_entropy / report.targets as f64)
    }
}

/// Inputs of the operator that are like a model's, [B, 2048, 6, 64], and a gradient of its output.
fn operands(device: Device, batch: i64, kind: Kind) -> Vec<Tensor> {
    let size = [batch, 2048, 6, 64];
    let noise = || Tensor::randn(size, (Kind::Float, device));
    let kappa = noise();
    let kappa = &kappa / kappa.square().sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>).sqrt();
    let w: Tensor = -noise().exp() - 0.5;
    let b = &kappa * noise().sigmoid();
    [noise(), w, noise() * 0.3, noise(), -kappa, b, noise()].map(|x| x.to_kind(kind)).into()
}

/// How far the two forms are from each other on long sequences, output and gradients together.
fn forms_apart(launcher: &Arc<dyn Launcher>) -> Result<f64> {
    let operands = operands(launcher.device(), 2, Kind::BFloat16);
    let mut worst = 0.0f64;
    let run = |form| {
        let backend = CudaWkv::poisoned(Arc::clone(launcher), form);
        let [r, w, k, v, a, b, dy] = operands.as_slice() else { return Err(Error::bug("seven operands")) };
        let inputs = Inputs { r, w, k, v, a, b, s0: None };
        let out = backend.forward(inputs, true)?;
        let grads = backend.backward(inputs, &out.kept, dy, None)?;
        Ok([out.y, out.state, grads.dr, grads.dw, grads.dk, grads.dv, grads.da, grads.db, grads.ds0])
    };
    for (steps, chunks) in run(Form::Steps)?.iter().zip(&run(Form::Chunks)?) {
        let difference = relative_difference(chunks, steps);
        worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
    }
    Ok(worst)
}

/// The conformance suite of collectives, a thread a GPU.
fn nccl(world: usize, cache: &Cache) -> Result<()> {
    let server = Server::local().map_err(|e| Error::new(Exit::PeerLost, "cannot serve a store").because(e))?;
    let port = server.port();
    let time = Duration::from_secs(60);
    let one = |rank: usize| {
        let gpu = Gpu::open(Device::Cuda(rank), cache.clone())?;
        let host = "127.0.0.1".to_owned();
        let env = RankEnv { rank, world, local_rank: rank, host, port, served: true, ..RankEnv::alone() };
        collectives::check(rendezvous::meet(&env, Some(gpu), time)?.as_mut())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..world).map(|rank| scope.spawn(move || one(rank))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(Error::bug("a rank's thread panicked"))))
    })
}

/// The times of the operator and of a step.
fn measure(launcher: &Arc<dyn Launcher>, report: &mut Report, say: &mut dyn FnMut(&str)) {
    let device = launcher.device();
    for (form, batch) in [(Form::Chunks, 12), (Form::Chunks, 32), (Form::Steps, 12), (Form::Steps, 32)] {
        say(&format!("measuring the operator, {form:?}, B {batch}"));
        let operands = operands(device, batch, Kind::BFloat16);
        let backend = CudaWkv::new(Arc::clone(launcher), form);
        let times = || {
            let [r, w, k, v, a, b, dy] = operands.as_slice() else { return Err(Error::bug("seven operands")) };
            let inputs = Inputs { r, w, k, v, a, b, s0: None };
            let forward = fastest(device, &mut || backend.forward(inputs, true).map(|_| ()))?;
            let kept = backend.forward(inputs, true)?.kept;
            let backward = fastest(device, &mut || backend.backward(inputs, &kept, dy, None).map(|_| ()))?;
            Ok(format!("{:.3} ms forward, {:.3} ms backward", forward * 1e3, backward * 1e3))
        };
        report.measured(format!("WKV {form:?} B{batch} T2048 H6 N64 bf16"), no_grad(times));
    }
    for precision in [Precision::Bf16, Precision::F32] {
        // In f32, the activations of 32 sequences at a time do not fit into every GPU.
        let rows = if precision == Precision::Bf16 { 32 } else { 8 };
        say(&format!("measuring a step in {precision:?}"));
        let time = || {
            let backend = Arc::new(CudaWkv::new(Arc::clone(launcher), Form::ByKind));
            let mut trained = Trained::new(Shape::new(12, 384, 16_000)?, device, backend, precision, (rows, 2048))?;
            let seconds = fastest(device, &mut || trained.step(1e-4).map(|_| ()))?;
            Ok(format!("{:.1} ms, {:.0} tokens/s", seconds * 1e3, (rows * 2048) as f64 / seconds))
        };
        report.measured(format!("step L12 D384 V16000 B{rows} T2048 {precision:?}"), time());
    }
}

fn fastest(device: Device, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let wait = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    let mut best = f64::INFINITY;
    for _ in 0..=REPEAT {
        wait();
        let began = Instant::now();
        work()?;
        wait();
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_in_bf16_are_those_in_f32_to_what_bf16_tells_apart() {
        let losses = |precision| {
            let backend = Arc::new(CpuWkv::new());
            losses(Device::Cpu, backend, precision, (4, 33), 6).expect("trains")
        };
        let (f32, bf16) = (losses(Precision::F32), losses(Precision::Bf16));
        assert!(f32[5] < f32[0] - 0.05 && f32 != bf16, "{f32:?} {bf16:?}");
        assert!(apart(&f32, &bf16) < 1e-2, "{f32:?} {bf16:?}");
    }

    #[test]
    #[allow(clippy::print_stdout, reason = "says what was not tested")]
    fn a_machine_without_a_gpu_is_told_so() {
        if cuda::choose(DeviceChoice::Cuda, 0).is_ok() {
            println!("skipped: this machine has a GPU; run `make gpu-check`");
            return;
        }
        let error = run(false, Cache::default(), &mut |_| {}).expect_err("no GPU");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.hint_text().is_some(), "{error}");
    }

    #[test]
    fn losses_that_are_not_numbers_are_apart() {
        assert_eq!(apart(&[2.0, 4.0], &[2.0, 5.0]), 0.25);
        assert!(apart(&[2.0, f64::NAN], &[2.0, 5.0]).is_nan() && apart(&[f64::NAN, 2.0], &[2.0, 2.0]).is_nan());
    }

    #[test]
    fn a_number_that_is_off_fails_and_is_shown() {
        let mut report = Report { gpu: "a GPU".into(), findings: Vec::new() };
        report.below("one", Ok(1e-7), 1e-6);
        report.measured("two", Ok("3 ms".into()));
        assert!(report.clone().verdict().is_ok());
        report.below("three", Ok(f64::NAN), 1e-6);
        report.below("four", Err(Error::bug("broke")), 1e-6);
        let error = report.verdict().expect_err("two are off");
        let text = error.to_string();
        assert!(text.starts_with("2 of 4 findings are off") && text.contains("OFF  four"), "{text}");
        assert_eq!(error.exit(), Exit::Bug);
    }
}
