//! The run of one model: from its newest checkpoint, or from the start, to its last step.

mod divergence;

use std::sync::Arc;

use midi_ingest::job::config::key_of;
use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::job::provenance::{self, Env};
use midi_ingest::job::{Experiment, Progress, Shutdown};
use midi_ingest::shard::{Manifest, Split};
use midi_ingest::store::Store;
use tch::Device;

use crate::checkpoint::{Checkpoints, Commit, Lease, Saver, Snapshot, Terms};
use crate::config::{TrainConfig, Warmup};
use crate::cpu::keep_freed;
use crate::cuda::{Gpu, Launcher};
use crate::data::{Ahead, Batch, Dataset, Order, share, unigram_loss};
use crate::dist::{Group, RankEnv};
use crate::metrics::{Line, MetricLog, Summary, Window};
use crate::model::init::init;
use crate::model::{Parameters, Rwkv7};
use crate::optim::{AdamW, Schedule};
use crate::plan::TrainPlan;
use crate::step::{StepReport, evaluate, step};
use crate::stopping::{Best, Lowest};
use crate::tuning::{Tuning, TuningRecord};
use crate::watch::{self, endpoint::Endpoint, tensorboard::EventFile};
use crate::wkv::{CpuWkv, CudaWkv, Form, WkvBackend};

/// Most samples in one pass over the validation split; they are spread evenly over it.
const VALID_SAMPLES: u64 = 1024;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// What it came to.
    pub summary: Summary,
    /// Whether it was finished before, and nothing was done.
    pub already: bool,
}

/// The models of an experiment, and the one called `name`; it may be left out where there is only one.
///
/// # Errors
/// There is none, none of that name, or several and no name: exit code 78.
pub fn choose(experiment: &Experiment, name: Option<&str>) -> Result<String> {
    let names = experiment.names("train");
    let known = || format!("the models of `{}` are: {}", experiment.path.display(), names.join(", "));
    match (name, names.as_slice()) {
        (_, []) => Err(Error::mismatch(format!("`{}` has no table `[train.<model>]`", experiment.path.display()))),
        (Some(name), names) if names.iter().any(|n| n == name) => Ok(name.to_owned()),
        (Some(name), _) => Err(Error::mismatch(format!("there is no model `{name}`")).hint(known())),
        (None, [one]) => Ok(one.clone()),
        (None, _) => Err(Error::mismatch("there are several models; say which with `--model NAME`").hint(known())),
    }
}

/// The plan of a model of `experiment`, on the data set that ingest left in its `out`.
///
/// # Errors
/// Ingest has not finished there (65), or as [`TrainPlan::new`].
pub fn plan(experiment: &Experiment, name: &str) -> Result<TrainPlan> {
    let manifest = Manifest::load(&data_store(experiment)?)?;
    TrainPlan::new(name, experiment.seed, &experiment.section(&format!("train.{name}"))?, &manifest)
}

/// Trains the model called `name` to its last step, from where its checkpoints leave off, in this process alone.
///
/// # Errors
/// As [`run_in`].
pub fn run(experiment: &Experiment, name: &str, progress: &Progress, shutdown: &Shutdown) -> Result<Finished> {
    run_on(&Store::open(&experiment.out)?, experiment, name, progress, shutdown)
}

/// As [`run`], with `store` in the place of the experiment's `out` for all that is written.
///
/// # Errors
/// As [`run_in`].
pub fn run_on(
    store: &Store,
    experiment: &Experiment,
    name: &str,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Finished> {
    run_rank(&mut Group::solo(), &RankEnv::alone(), None, store, experiment, name, progress, shutdown)
}

/// Trains the model called `name` together with the other ranks of `group`, this one on `gpu` or on the processor.
/// Every rank reads; the first one alone writes, and only its log and summary hold the training loss.
///
/// # Errors
/// A rank that was lost (10), data that is missing or bad (65), divergence (70), a store that fails (74), a request
/// to stop, after a checkpoint was saved (75), a configuration that does not fit or is not that of the checkpoints,
/// or another trainer on the same folder (78).
pub fn run_in(
    group: &mut Group,
    env: &RankEnv,
    gpu: Option<&Arc<Gpu>>,
    experiment: &Experiment,
    name: &str,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Finished> {
    Store::open(&experiment.out)
        .and_then(|store| run_rank(group, env, gpu, &store, experiment, name, progress, shutdown))
        .inspect_err(|error| group.leave(error))
}

#[expect(clippy::too_many_arguments, reason = "what a process is given, each by its own name")]
fn run_rank(
    group: &mut Group,
    rank_env: &RankEnv,
    gpu: Option<&Arc<Gpu>>,
    store: &Store,
    experiment: &Experiment,
    name: &str,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Finished> {
    let config: TrainConfig = experiment.section(&format!("train.{name}"))?;
    let data = data_store(experiment)?;
    let manifest = Manifest::load(&data)?;
    let plan = TrainPlan::new(name, experiment.seed, &config, &manifest)?;
    plan.expect_world(group.world())?;
    let address = config.metrics_address.filter(|_| rank_env.local_rank == 0);
    let endpoint = address.map(|address| Endpoint::open(address, group.rank())).transpose()?;
    if let Some(endpoint) = &endpoint {
        progress.note(&format!("gauges for Prometheus: http://{}/metrics", endpoint.address()));
    }
    let store = store.clone();
    let folder = format!("train/{name}");
    let take = || Lease::take(&store, &folder, Terms::default(), shutdown, &|text| progress.note(text)).map(Arc::new);
    let lease = group.is_first().then(take).transpose()?;
    // The trainer before may still be saving: nobody looks for the newest checkpoint before it has ended.
    group.wait_for_first("the lease")?;
    let checkpoints = Checkpoints::new(store.clone(), &folder);
    let loaded = checkpoints.newest_valid(&mut |text| progress.note(text))?;
    if let Some(loaded) = &loaded {
        fits(&loaded.commit, &plan, &checkpoints)?;
    }
    let summary_name = format!("{folder}/{}", Summary::FILE);
    let begun_at = loaded.as_ref().map_or(0, |loaded| loaded.commit.step);
    // Read before the ranks agree to begin: afterwards the first one may write it while another still looks.
    let best = loaded.as_ref().and_then(|loaded| loaded.commit.best);
    let lowest = loaded.as_ref().and_then(|loaded| loaded.commit.lowest);
    let skipped = loaded.as_ref().map_or(0, |loaded| loaded.commit.skipped);
    let over = config.early_stop.as_ref().is_some_and(|rule| rule.is_over(best));
    let done = match begun_at >= plan.steps || over {
        true => Summary::read(&store, &summary_name)?.filter(|summary| summary.key == plan.key),
        false => None,
    };
    agree_on_start(group, begun_at, &plan, &config)?;
    if let Some(summary) = done {
        progress.note(&format!("nothing to do: {summary}"));
        return Ok(Finished { summary, already: true });
    }

    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = config.threads.unwrap_or((cores / rank_env.local_world.unwrap_or(1).max(1)).max(1));
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    keep_freed();
    let backend: Arc<dyn WkvBackend> = match gpu {
        Some(gpu) => Arc::new(CudaWkv::new(Arc::clone(gpu) as Arc<dyn Launcher>, Form::ByKind)),
        None => Arc::new(CpuWkv::new()),
    };
    let device = gpu.map_or(Device::Cpu, |gpu| gpu.device());
    let tuning = Tuning::open(experiment, &config, plan.shape, &plan.vocabulary, &mut |text| progress.note(text))?;
    let record = tuning.as_ref().and_then(|tuning| tuning.record().cloned());
    if let (Some(tuning), Some(loaded)) = (&tuning, &loaded) {
        tuning.fits(&loaded.commit)?;
    }
    let env = Env::of("midi-train", env!("CARGO_PKG_VERSION"))
        .fact("threads", threads.to_string())
        .fact("wkv", backend.name())
        .fact("device", gpu.map_or_else(|| "cpu".to_owned(), |gpu| gpu.title()))
        .fact("ranks", group.world().to_string())
        .fact("collective", group.name())
        .fact("base", tuning.as_ref().map_or_else(|| "none".to_owned(), Tuning::base));
    if group.is_first() {
        provenance::write(&store, &folder, &experiment.with_section(&format!("train.{name}"), &config)?, &plan, &env)?;
    }
    progress.note(&plan.to_string());
    if config.early_stop.is_some() && plan.valid_samples == 0 {
        progress.note("`early-stop` has nothing to look at: the data set has no validation samples");
    }
    if let Some(gpu) = gpu {
        progress.note(&format!("on {}", gpu.title()));
    }

    let network = |saved: Option<Parameters>| match tuning {
        Some(tuning) => tuning.network(saved, device, backend),
        None => trainable(saved.unwrap_or_else(|| init(plan.shape, plan.seed)).to_device(device)?, backend),
    };
    let network = |saved| network(saved).map(|network: Rwkv7| network.in_precision(config.precision));
    let tokens = loaded.as_ref().map_or(0, |loaded| loaded.commit.tokens);
    let valid_loss = loaded.as_ref().and_then(|loaded| loaded.commit.valid_loss);
    let (model, optimizer) = match loaded {
        Some(loaded) => {
            progress.note(&format!("continuing from step {begun_at}"));
            if group.is_first() {
                // Of a run that ended between its commit and this.
                checkpoints.retain(begun_at, config.checkpoint.keep, lowest.map(|lowest| lowest.step))?;
            }
            let model = network(Some(loaded.parameters))?;
            let optimizer = AdamW::resume(config.optimizer.clone(), model.trained(), &loaded.moments, begun_at)?;
            (model, optimizer)
        }
        None => {
            let model = network(None)?;
            let optimizer = AdamW::new(config.optimizer.clone(), model.trained());
            (model, optimizer)
        }
    };
    let optimizer = match gpu {
        Some(gpu) => optimizer.with_kernels(Arc::clone(gpu) as Arc<dyn Launcher>),
        None => optimizer,
    };
    let optimizer = if config.optimizer.shard { optimizer.into_shard(group) } else { optimizer };
    let train = Arc::new(Dataset::open(&data, &manifest, Split::Train)?);
    let valid = Dataset::open(&data, &manifest, Split::Valid)?;
    let log = MetricLog::open(&store, &format!("{folder}/metrics.jsonl"), begun_at)?;
    let events = EventFile::new(&store, &folder, begun_at, log.lines());
    let saver = Saver::new(checkpoints.clone(), config.checkpoint.keep, lease);
    let mut run = Run {
        group,
        store,
        folder,
        plan,
        config,
        checkpoints,
        saver,
        train,
        valid,
        model,
        record,
        optimizer,
        log,
        events,
        endpoint,
        tokens,
        valid_loss,
        skipped,
        changed: begun_at,
        best,
        lowest,
        over,
    };
    run.steps(progress, shutdown)?;
    let summary = run.summary()?;
    if run.group.is_first() {
        watch::write(&run.store, &run.folder, run.log.lines())?;
        summary.write(&run.store, &summary_name)?;
    }
    run.group.wait_for_first("the end")?;
    progress.finish(&summary.to_string());
    Ok(Finished { summary, already: false })
}

fn data_store(experiment: &Experiment) -> Result<Store> {
    Store::open(&format!("{}/ingest", experiment.out.trim_end_matches('/')))
}

fn trainable(parameters: Parameters, backend: Arc<dyn WkvBackend>) -> Result<Rwkv7> {
    let mut model = Rwkv7::new(parameters, backend)?;
    model.set_trainable(true);
    Ok(model)
}

/// That all ranks begin at the same step of the same run, and will ask for the same of each other.
fn agree_on_start(group: &mut Group, begun_at: u64, plan: &TrainPlan, config: &TrainConfig) -> Result<()> {
    let shared = TrainConfig { metrics_address: None, threads: None, ..config.clone() };
    let key = key_of(&(&plan.key, &shared));
    let mine = [begun_at as i64, i64::from_str_radix(key.get(..15).unwrap_or_default(), 16).unwrap_or(0)];
    let first = group.of_first("agreement on the start", mine)?;
    let differs = group.any("agreement on the start", first != mine)?;
    if first == mine && !differs {
        return Ok(());
    }
    let who = match (first[0] == mine[0], first == mine) {
        (_, true) => "another rank begins elsewhere than rank 0".to_owned(),
        (false, _) => {
            format!("rank {} finds the checkpoint of step {begun_at}, rank 0 that of {}", group.rank(), first[0])
        }
        (true, _) => format!("rank {} has another configuration or other data than rank 0", group.rank()),
    };
    Err(Error::mismatch(who).hint("`out` must be one place that all ranks see, and all must be given the same file"))
}

/// That the checkpoints are of this run.
fn fits(commit: &Commit, plan: &TrainPlan, checkpoints: &Checkpoints) -> Result<()> {
    commit.expect_vocabulary(&plan.vocabulary, plan.shape.vocabulary)?;
    commit.expect_shape(plan.shape)?;
    if commit.key == plan.key {
        return Ok(());
    }
    Err(Error::mismatch(format!(
        "`{}` was trained with another configuration (key {}, now {})",
        checkpoints.shown(commit.step),
        commit.key.get(..16).unwrap_or(&commit.key),
        plan.key.get(..16).unwrap_or(&plan.key)
    ))
    .hint(
        "data, batch, steps, schedule, optimiser and seed must stay the same; go back to the `config.toml` beside \
         the checkpoints, give the model another name, or remove its folder",
    ))
}

fn batch(data: &Dataset, samples: &[u64], pack: bool) -> Result<Batch> {
    if pack { data.packed_batch(samples) } else { data.batch(samples) }
}

/// A run that is going on.
struct Run<'a> {
    group: &'a mut Group,
    store: Store,
    folder: String,
    plan: TrainPlan,
    config: TrainConfig,
    checkpoints: Checkpoints,
    saver: Saver,
    train: Arc<Dataset>,
    valid: Dataset,
    model: Rwkv7,
    /// What is tuned, if it is not the whole model.
    record: Option<TuningRecord>,
    optimizer: AdamW,
    log: MetricLog,
    events: EventFile,
    /// Where this process shows its numbers.
    endpoint: Option<Endpoint>,
    tokens: u64,
    /// Of the last pass over the validation split.
    valid_loss: Option<f64>,
    /// Steps left out so far, because they were not finite.
    skipped: u64,
    /// The step after which the weights are as they are now.
    changed: u64,
    /// The state of early stopping.
    best: Option<Best>,
    /// The lowest validation loss so far, where early stopping looks for it.
    lowest: Option<Lowest>,
    /// Whether early stopping has ended the run.
    over: bool,
}

impl Run<'_> {
    /// The steps that are left.
    fn steps(&mut self, progress: &Progress, shutdown: &Shutdown) -> Result<()> {
        let order = Order::new(self.plan.seed, self.plan.samples);
        let schedule = Schedule::new(&self.config.schedule, self.plan.steps, self.plan.positions_per_step());
        let begun_at = self.optimizer.updates();
        let mut window = Window::default();
        let mut ahead = self.batches_from(order, begun_at)?;
        progress.begin("training", self.plan.steps - begun_at.min(self.plan.steps), "steps");
        // Whether the step before began to save: then rank 0 may be late.
        let mut saving = false;
        while !self.over && self.optimizer.updates() < self.plan.steps {
            let number = self.optimizer.updates();
            let lr = match self.config.schedule.warmup {
                Warmup::Once => schedule.at(number),
                Warmup::EachStart => schedule.at_since(number, number - begun_at),
            };
            self.group.begin(number, number > begun_at && !saving);
            let batches = ahead.take()?;
            window.add_wait(ahead.waited());
            let taken = step(&mut self.model, &mut self.optimizer, &self.config.optimizer, &batches, lr, self.group);
            let report = match taken {
                Ok(report) => Some(report),
                Err(error) => self.skip(error, &order, number, progress).map(|()| None)?,
            };
            if let Some(report) = &report {
                window.add(report);
                self.tokens += report.tokens;
                self.changed = number + 1;
            }
            let done = number + 1;
            let at_end = done == self.plan.steps;
            let validate = self.config.valid_every_steps.map_or(at_end, |every| done.is_multiple_of(every) || at_end);
            let valid_loss = if validate { self.validate()? } else { None };
            if let Some(loss) = valid_loss.filter(|loss| !loss.is_finite()) {
                let error = Error::new(Exit::Diverged, format!("training diverged: the validation loss is {loss}"));
                return Err(self.diverged(error, &order, number)?);
            }
            self.valid_loss = valid_loss.or(self.valid_loss);
            let is_best = self.look_for_end(valid_loss, progress);
            let last = at_end || self.over;
            let due = |every: u64| done.is_multiple_of(every) || last;
            // A step that was left out has no loss to write; the time that it took is in the next line's rate.
            if let Some(report) = &report
                && (due(self.config.log_every_steps) || valid_loss.is_some())
            {
                self.saver.poll()?;
                self.write_line(&window, report, lr, valid_loss)?;
                window = Window::default();
                progress.message(&self.message());
            }
            self.saver.poll()?;
            // Asked of one rank, all stop.
            let stop = self.group.any("agreement on stopping", shutdown.is_asked())?;
            saving = due(self.config.checkpoint.every_steps) || stop || is_best;
            if saving {
                self.save(valid_loss)?;
            }
            if last || stop {
                self.saver.wait()?;
                self.group.wait_for_first("the commit of a checkpoint")?;
            }
            progress.advance(1);
            if stop && !last {
                shutdown.ask();
                shutdown.check(&format!("step {done} is saved in `{}`", self.checkpoints.shown(done)))?;
            }
        }
        Ok(())
    }

    /// This rank's micro-batches of the steps from `first` on: of each a stride of the global batch.
    fn batches_from(&self, order: Order, first: u64) -> Result<Ahead> {
        let data = Arc::clone(&self.train);
        let (rank, world) = (self.group.rank(), self.group.world());
        let (global, micro, pack) = (self.plan.global_batch, self.plan.micro_batch, self.config.data.pack);
        Ahead::new(first..self.plan.steps, move |number| {
            let samples = share(order.step(number, global), rank, world);
            samples.chunks(micro).map(|samples| batch(&data, samples, pack)).collect()
        })
    }

    /// This rank's part of `samples`.
    fn share(&self, samples: Vec<u64>) -> Vec<u64> {
        share(samples, self.group.rank(), self.group.world())
    }

    /// The loss over the validation split, in nats a target; none if it has no target.
    fn validate(&mut self) -> Result<Option<f64>> {
        let count = self.valid.len().min(VALID_SAMPLES);
        let samples: Vec<u64> = (0..count).map(|i| i * self.valid.len() / count).collect();
        let samples = self.share(samples);
        let (mut sum, mut targets) = (0.0, 0);
        for samples in samples.chunks(self.plan.micro_batch) {
            let batch = batch(&self.valid, samples, self.config.data.pack)?;
            let (cross_entropy, count) = evaluate(&mut self.model, &batch)?;
            sum += cross_entropy;
            targets += count;
        }
        let [sum] = self.group.sum_f64("sum of the validation loss", [sum])?;
        let [targets] = self.group.sum_u64("sum of validation targets", [targets])?;
        Ok((targets > 0).then(|| sum / targets as f64))
    }

    fn write_line(&mut self, window: &Window, report: &StepReport, lr: f64, valid_loss: Option<f64>) -> Result<()> {
        let line = Line {
            step: self.optimizer.updates(),
            loss: window.loss(),
            lr,
            grad_norm: report.grad_norm,
            tokens: self.tokens,
            tokens_per_second: window.tokens_per_second(),
            filled: window.filled(),
            loader_wait: window.loader_wait(),
            valid_loss,
        };
        if let Some(endpoint) = &self.endpoint {
            endpoint.show(&line);
        }
        if !self.group.is_first() {
            return Ok(());
        }
        self.log.add(line)?;
        self.log.last().map_or(Ok(()), |line| self.events.add(line))?;
        if valid_loss.is_some() { watch::report(&self.store, &self.folder, self.log.lines()) } else { Ok(()) }
    }

    fn message(&self) -> String {
        let Some(line) = self.log.last() else { return String::new() };
        let valid = self.valid_loss.map_or_else(String::new, |loss| format!(", validation {loss:.3}"));
        let Line { loss, tokens_per_second, lr, grad_norm, .. } = line;
        format!("loss {loss:.3}{valid}, {tokens_per_second:.0} tokens/s, lr {lr:.1e}, gradient {grad_norm:.2}")
    }

    /// Begins to save the state of now: the first rank writes, and nothing in it is of ranks.
    fn save(&mut self, valid_loss: Option<f64>) -> Result<()> {
        let gathered = match self.optimizer.is_sharded() {
            true => Some(self.optimizer.gathered(self.model.trained(), self.group)?),
            false => None,
        };
        if !self.group.is_first() {
            return Ok(());
        }
        let optimizer = gathered.as_ref().unwrap_or(&self.optimizer);
        let snapshot = Snapshot {
            parameters: self.model.trained(),
            optimizer,
            shape: self.plan.shape,
            vocabulary: &self.plan.vocabulary,
            key: &self.plan.key,
            seed: self.plan.seed,
            tokens: self.tokens,
            valid_loss,
            best: self.best,
            lowest: self.lowest,
            skipped: self.skipped,
            tuning: self.record.as_ref(),
        };
        self.saver.begin(snapshot.freeze())
    }

    /// Tells early stopping of a pass over the validation split. Returns whether it was the best so far.
    fn look_for_end(&mut self, valid_loss: Option<f64>, progress: &Progress) -> bool {
        let (Some(rule), Some(loss)) = (&self.config.early_stop, valid_loss) else { return false };
        self.best = Some(rule.after(self.best, loss));
        self.over = rule.is_over(self.best);
        if self.over {
            progress.note(&format!(
                "stopping early at step {}: no better validation loss in {} passes",
                self.optimizer.updates(),
                rule.patience
            ));
        }
        let is_best = Lowest::is_beaten(self.lowest, loss);
        if is_best {
            self.lowest = Some(Lowest { loss, step: self.optimizer.updates() });
        }
        is_best
    }

    fn summary(&mut self) -> Result<Summary> {
        let valid_loss = match self.valid_loss {
            Some(loss) => Some(loss),
            None => self.validate()?,
        };
        Ok(Summary {
            model: self.plan.model.clone(),
            step: self.optimizer.updates(),
            parameters: self.plan.parameters,
            tokens: self.tokens,
            train_loss: self.log.last().map(|line| line.loss),
            valid_loss,
            unigram_loss: unigram_loss(&self.train)?,
            checkpoint: self.checkpoints.shown(self.optimizer.updates()),
            lowest: self.lowest,
            trained: self.checkpoints.shown(self.lowest.map_or(self.optimizer.updates(), |lowest| lowest.step)),
            report: format!("{}/{}/{}", self.store.shown(), self.folder, watch::REPORT),
            key: self.plan.key.clone(),
        })
    }
}
