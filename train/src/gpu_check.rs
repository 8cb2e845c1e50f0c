//! Whether a GPU computes what it should, and how fast: the WKV kernels against the reference, training against the
//! processor, NCCL against its conformance suite, and the times of the operator and of a step. Nothing of a data set is
//! needed, so this is the first thing to run on a new machine.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use midi_ingest::job::Shutdown;
use midi_ingest::job::exit::{Error, Exit, Result};
use tch::{Cuda, Device, Kind, Tensor, no_grad};

use crate::config::{DeviceChoice, OptimizerConfig, Precision};
use crate::cuda::{self, Cache, Gpu, Launcher};
use crate::data::Batch;
use crate::dist::{Group, RankEnv, conformance as collectives, rendezvous, store::Server};
use crate::fault;
use crate::loss::{Rule, head_loss};
use crate::model::shape::HEAD;
use crate::model::{Rwkv7, Shape, init::init};
use crate::optim::{AdamW, clip_factor, global_norm};
use crate::step::{hidden, step};
use crate::wkv::conformance::{relative_difference, run_on};
use crate::wkv::{CpuWkv, CudaWkv, Form, Forward, Gradients, Inputs, WkvBackend, cuda_suites};

/// Repetitions of a measurement; the median counts.
const REPEAT: usize = 11;
/// Calls of the operator in one of them.
const CALLS: usize = 10;
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
}

/// A look at a GPU that is going on: every finding is told at once, and a failure of one is no end of the others.
struct Look<'a> {
    report: Report,
    say: &'a mut dyn FnMut(&str),
}

impl Look<'_> {
    /// Adds a number that must be below `limit`.
    fn below(&mut self, what: impl Into<String>, limit: f64, find: impl FnOnce() -> Result<f64>) {
        let (figure, passed) = match caught(find) {
            Ok(number) => (format!("{number:.1e}"), number < limit),
            Err(error) => (error.to_string(), false),
        };
        self.add(Finding { what: what.into(), figure, limit: format!("{limit:.0e}"), passed });
    }

    /// Adds a measurement.
    fn measured(&mut self, what: impl Into<String>, measure: impl FnOnce() -> Result<String>) {
        let (figure, passed) = match caught(measure) {
            Ok(figure) => (figure, true),
            Err(error) => (error.to_string(), false),
        };
        self.add(Finding { what: what.into(), figure, limit: String::new(), passed });
    }

    fn add(&mut self, finding: Finding) {
        (self.say)(&finding.to_string());
        self.report.findings.push(finding);
    }
}

/// A panic as an error: torch's operators panic where the GPU has failed before.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Error::bug(text.and_then(|text| text.lines().next()).unwrap_or("a panic").to_owned()))
    })
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { what, figure, limit, passed } = self;
        let verdict = if *passed { "ok" } else { "OFF" };
        let width = f.width().unwrap_or(0);
        write!(f, "{verdict:<4} {what:<width$}  {figure}")?;
        if limit.is_empty() { Ok(()) } else { write!(f, " (below {limit})") }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.gpu)?;
        let width = self.findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
        for finding in &self.findings {
            writeln!(f, "{finding:<width$}")?;
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
    let mut look = Look { report: Report { gpu: gpu.title(), findings: Vec::new() }, say };
    (look.say)(&look.report.gpu);
    for suite in cuda_suites() {
        for seed in 0..3 {
            let mut terms = suite.terms;
            terms.seed += seed;
            let backend: Arc<dyn WkvBackend> = Arc::new(CudaWkv::poisoned(Arc::clone(&launcher), suite.form));
            let (kind, head) = (terms.kind, terms.head);
            let forgets = if terms.forgets { ", forgetting" } else { "" };
            let what = format!("{} {kind:?} N{head} {:?}{forgets}, seed {}", backend.name(), terms.decays, terms.seed);
            look.below(what, suite.tolerance, || run_on(&backend, gpu.device(), terms).map(|worst| worst.relative));
        }
    }
    look.below("2048 steps: chunks from steps", 3e-2, || forms_apart(&launcher));
    for (precision, limit) in [(Precision::F32, 2e-3), (Precision::Bf16, 5e-2)] {
        look.below(format!("{STEPS} steps in {precision:?}: losses from the processor's"), limit, || {
            let on_cpu = losses(Device::Cpu, Arc::new(CpuWkv::new()), Precision::F32, SIZE, STEPS)?;
            let backend = Arc::new(CudaWkv::new(Arc::clone(&launcher), Form::ByKind));
            Ok(apart(&on_cpu, &losses(gpu.device(), backend, precision, SIZE, STEPS)?))
        });
    }
    let world = usize::try_from(Cuda::device_count()).unwrap_or(1).max(1);
    look.measured(format!("NCCL among {world}"), || nccl(world, &cache).map(|()| "conforms".into()));
    if bench {
        measure(&launcher, &mut look);
    }
    Ok(look.report)
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
        collectives::check(rendezvous::meet(&env, Some(gpu), time, &Shutdown::manual())?.as_mut())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..world).map(|rank| scope.spawn(move || one(rank))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(Error::bug("a rank's thread panicked"))))
    })
}

/// The times of the operator and of a step.
fn measure(launcher: &Arc<dyn Launcher>, look: &mut Look<'_>) {
    let peak = peak(&look.report.gpu);
    for (form, batch) in [(Form::Chunks, 12), (Form::Chunks, 32), (Form::Steps, 12), (Form::Steps, 32)] {
        look.measured(format!("WKV {form:?} B{batch} T2048 H6 N64 bf16"), || {
            no_grad(|| time_of_operator(launcher, form, batch))
        });
    }
    let fused = |form| Arc::new(CudaWkv::new(Arc::clone(launcher), form)) as Arc<dyn WkvBackend>;
    let plain = Arc::new(WithoutKernels(fused(Form::ByKind)));
    // In f32, the activations of 32 sequences at a time do not fit into every GPU.
    for (what, backend, precision, rows) in [
        ("", fused(Form::ByKind), Precision::Bf16, 32),
        (", torch's operators around WKV", plain, Precision::Bf16, 32),
        ("", fused(Form::ByKind), Precision::F32, 8),
    ] {
        let mut trained = None;
        look.measured(format!("step L12 D384 V16000 B{rows} T2048 {precision:?}{what}"), || {
            let shape = Shape::new(12, 384, 16_000)?;
            let made = Trained::new(shape, launcher.device(), backend, precision, (rows, 2048))?;
            time_of_step(trained.insert(made), peak)
        });
        if let Some(trained) = &mut trained {
            look.measured(format!("its parts{what}"), || times_of_parts(trained));
        }
    }
}

/// A backend whose network has no kernels of this package but the operator's: what the others are worth.
#[derive(Debug)]
struct WithoutKernels(Arc<dyn WkvBackend>);

impl WkvBackend for WithoutKernels {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn forward(&self, inputs: Inputs<'_>, keep: bool) -> Result<Forward> {
        self.0.forward(inputs, keep)
    }

    fn backward(
        &self,
        inputs: Inputs<'_>,
        kept: &[Tensor],
        dy: &Tensor,
        d_state: Option<&Tensor>,
    ) -> Result<Gradients> {
        self.0.backward(inputs, kept, dy, d_state)
    }
}

/// Both passes of the operator, and the share of the memory's speed at which they run if they move what they must.
fn time_of_operator(launcher: &Arc<dyn Launcher>, form: Form, batch: i64) -> Result<String> {
    let device = launcher.device();
    let operands = operands(device, batch, Kind::BFloat16);
    let backend = CudaWkv::new(Arc::clone(launcher), form);
    let [r, w, k, v, a, b, dy] = operands.as_slice() else { return Err(Error::bug("seven operands")) };
    let inputs = Inputs { r, w, k, v, a, b, s0: None };
    let forward = median(device, CALLS, &mut || backend.forward(inputs, true).map(|_| ()))?;
    let kept = backend.forward(inputs, true)?.kept;
    let backward = median(device, CALLS, &mut || backend.backward(inputs, &kept, dy, None).map(|_| ()))?;
    // Six inputs and the output; six inputs, dy and six gradients; what the forward pass keeps is written and read.
    let kept: f64 = kept.iter().map(|x| (x.numel() * x.kind().elt_size_in_bytes()) as f64).sum();
    let one = (r.numel() * 2) as f64;
    let speed = |passes: f64, seconds: f64| (passes * one + kept) / seconds / 1e12;
    Ok(format!(
        "{:.3} ms forward ({:.2} TB/s), {:.3} ms backward ({:.2} TB/s), {:.3} ms together",
        forward * 1e3,
        speed(7.0, forward),
        backward * 1e3,
        speed(13.0, backward),
        (forward + backward) * 1e3
    ))
}

/// A step, and the share of the GPU's speed that its products and the operator use.
fn time_of_step(trained: &mut Trained, peak: Option<f64>) -> Result<String> {
    let device = trained.model.device();
    let seconds = median(device, 1, &mut || trained.step(1e-4).map(|_| ()))?;
    let tokens = (trained.batch.rows * trained.batch.columns) as f64;
    let flops = flops_of_token(&trained.model) * tokens / seconds;
    let share = peak.map(|peak| format!(", MFU {:.1} %", 100.0 * flops / peak)).unwrap_or_default();
    let (ms, speed) = (seconds * 1e3, tokens / seconds);
    Ok(format!("{ms:.1} ms, {speed:.0} tokens/s, {:.0} TFLOP/s{share}", flops / 1e12))
}

/// Floating-point operations of a token's forward and backward pass: six a number of a matrix, and the operator's.
fn flops_of_token(model: &Rwkv7) -> f64 {
    let is_factor =
        |name: &str, x: &Tensor| !name.starts_with("emb.") && x.size().iter().filter(|&&n| n > 1).count() > 1;
    let factors = model.parameters().iter().filter(|(name, x)| is_factor(name, x) && !name.ends_with("r_k"));
    let factors: f64 = factors.map(|(_, x)| x.numel() as f64).sum();
    let Shape { layers, width, .. } = model.shape();
    // Of a step of a head: five products of the state with a vector or of two vectors, and twice that backward.
    let operator = (layers * width * HEAD) as f64 * 2.0 * 5.0 * 3.0;
    6.0 * factors + operator
}

/// Operations a second of dense products in bf16, by the makers' data sheets, of GPUs that are known here.
fn peak(gpu: &str) -> Option<f64> {
    let known = [("H200", 989e12), ("H100 PCIe", 756e12), ("H100", 989e12), ("A100", 312e12), ("B200", 2250e12)];
    known.iter().find(|(name, _)| gpu.contains(name)).map(|(_, peak)| *peak)
}

/// The medians of a step's parts, each waited for, so that their sum is more than a step.
fn times_of_parts(trained: &mut Trained) -> Result<String> {
    let device = trained.model.device();
    let names = ["forward", "head and loss", "backward", "norm", "update"];
    let mut times = names.map(|_| Vec::new());
    for _ in 0..REPEAT {
        let mut lap = Instant::now();
        let mut parts = times.iter_mut();
        let mut passed = || {
            wait(device);
            if let Some(times) = parts.next() {
                times.push(lap.elapsed().as_secs_f64());
            }
            lap = Instant::now();
        };
        let Trained { model, optimizer, config, batch } = &mut *trained;
        let rule = Rule::Corrected { targets: batch.targets, l2wrap: config.l2wrap };
        model.parameters_mut().clear_gradients();
        let (hidden, labels) = hidden(model, batch)?;
        passed();
        let loss = head_loss(model.launcher(), &hidden, model.head(), &labels, rule)?;
        passed();
        loss.objective.f_backward().map_err(fault::torch)?;
        passed();
        let norm = global_norm(model.launcher(), model.trained())?.double_value(&[]);
        passed();
        optimizer.update(model.trained(), 1e-4, clip_factor(norm, config.clip_norm))?;
        passed();
    }
    let each = names.iter().zip(times).map(|(name, times)| format!("{name} {:.1} ms", middle(times) * 1e3));
    Ok(each.collect::<Vec<_>>().join(", "))
}

fn wait(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

/// The median time of `work` in seconds. It is waited for once in `calls` of it, so that a short one does not consist of
/// waiting.
fn median(device: Device, calls: usize, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    // What happens once only: kernels are compiled and loaded, memory is taken.
    for _ in 0..2 {
        work()?;
    }
    let mut times = Vec::with_capacity(REPEAT);
    for _ in 0..REPEAT {
        wait(device);
        let began = Instant::now();
        for _ in 0..calls {
            work()?;
        }
        wait(device);
        times.push(began.elapsed().as_secs_f64() / calls as f64);
    }
    Ok(middle(times))
}

/// The median of an odd number of times.
fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
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
    fn a_step_and_its_parts_are_measured_on_any_device() {
        let backend: Arc<dyn WkvBackend> = Arc::new(WithoutKernels(Arc::new(CpuWkv::new())));
        let shape = Shape::new(2, 64, 50).expect("fits");
        let mut trained = Trained::new(shape, Device::Cpu, backend, Precision::F32, (2, 16)).expect("fits");
        let step = time_of_step(&mut trained, Some(1e12)).expect("runs");
        assert!(step.contains("tokens/s") && step.contains("MFU"), "{step}");
        let parts = times_of_parts(&mut trained).expect("runs");
        assert_eq!(parts.matches(" ms").count(), 5, "{parts}");
        // The matrices of two blocks and the head; the operator.
        let matrices = |name: &str| ["weight", "1", "2"].iter().any(|end| name.ends_with(end));
        let large: usize = (trained.model.parameters().iter())
            .filter(|(name, x)| matrices(name) && x.numel() > 64 && !name.starts_with("emb"))
            .map(|(_, x)| x.numel())
            .sum();
        assert_eq!(flops_of_token(&trained.model), (6 * large + 2 * 64 * 64 * 30) as f64);
        assert_eq!(peak("NVIDIA H200 (sm_90)"), Some(989e12));
        assert_eq!(peak("something new"), None);
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
        let (mut told, report) = (Vec::new(), Report { gpu: "a GPU".into(), findings: Vec::new() });
        let mut say = |text: &str| told.push(text.to_owned());
        let mut look = Look { report, say: &mut say };
        look.below("one", 1e-6, || Ok(1e-7));
        look.measured("two", || Ok("3 ms".into()));
        assert!(look.report.clone().verdict().is_ok());
        look.below("three", 1e-6, || Ok(f64::NAN));
        look.below("four", 1e-6, || Err(Error::bug("broke")));
        look.measured("five", || panic!("the GPU has failed\nbefore"));
        let report = look.report;
        assert_eq!(
            told,
            [
                "ok   one  1.0e-7 (below 1e-6)",
                "ok   two  3 ms",
                "OFF  three  NaN (below 1e-6)",
                "OFF  four  broke (below 1e-6)",
                "OFF  five  the GPU has failed"
            ]
        );
        let error = report.verdict().expect_err("three are off");
        let text = error.to_string();
        assert!(text.starts_with("3 of 5 findings are off") && text.contains("OFF  four"), "{text}");
        assert_eq!(error.exit(), Exit::Bug);
    }
}
