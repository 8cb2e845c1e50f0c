//! The run of one model: from its newest checkpoint, or from the start, to its last step.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::job::provenance::{self, Env};
use midi_ingest::job::{Experiment, Progress, Shutdown};
use midi_ingest::shard::{Manifest, Split};
use midi_ingest::store::Store;

use crate::checkpoint::{Checkpoints, Commit, Lease, Saver, Snapshot, Terms};
use crate::config::TrainConfig;
use crate::data::{Batch, Dataset, Order, unigram_loss};
use crate::metrics::{Line, MetricLog, Summary, Window};
use crate::model::init::init;
use crate::model::{Parameters, Rwkv7};
use crate::optim::{AdamW, Schedule};
use crate::plan::TrainPlan;
use crate::step::{StepReport, evaluate, step};
use crate::stopping::Best;
use crate::wkv::{CpuWkv, WkvBackend};

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

/// Trains the model called `name` to its last step, from where its checkpoints leave off.
///
/// # Errors
/// Data that is missing or bad (65), divergence (70), a store that fails (74), a request to stop, after a
/// checkpoint was saved (75), a configuration that does not fit or is not that of the checkpoints (78).
pub fn run(experiment: &Experiment, name: &str, progress: &Progress, shutdown: &Shutdown) -> Result<Finished> {
    run_on(&Store::open(&experiment.out)?, experiment, name, progress, shutdown)
}

/// As [`run`], with `store` in the place of the experiment's `out` for all that is written.
///
/// # Errors
/// As [`run`].
pub fn run_on(
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
    let store = store.clone();
    let folder = format!("train/{name}");
    let lease = Arc::new(Lease::take(&store, &folder, Terms::default(), &|text| progress.note(text))?);
    let checkpoints = Checkpoints::new(store.clone(), &folder);
    let loaded = checkpoints.newest_valid(&mut |text| progress.note(text))?;
    if let Some(loaded) = &loaded {
        fits(&loaded.commit, &plan, &checkpoints)?;
    }
    let summary_name = format!("{folder}/{}", Summary::FILE);
    let begun_at = loaded.as_ref().map_or(0, |loaded| loaded.commit.step);
    let best = loaded.as_ref().and_then(|loaded| loaded.commit.best);
    let over = config.early_stop.as_ref().is_some_and(|rule| rule.is_over(best));
    if (begun_at >= plan.steps || over)
        && let Some(summary) = Summary::read(&store, &summary_name)?
        && summary.key == plan.key
    {
        progress.note(&format!("nothing to do: {summary}"));
        return Ok(Finished { summary, already: true });
    }

    let threads = config.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    let backend: Arc<dyn WkvBackend> = Arc::new(CpuWkv::new(Some(threads))?);
    let env = Env::of("midi-train", env!("CARGO_PKG_VERSION"))
        .fact("threads", threads.to_string())
        .fact("wkv", backend.name())
        .fact("device", "cpu");
    provenance::write(&store, &folder, experiment, &plan, &env)?;
    progress.note(&plan.to_string());

    let tokens = loaded.as_ref().map_or(0, |loaded| loaded.commit.tokens);
    let valid_loss = loaded.as_ref().and_then(|loaded| loaded.commit.valid_loss);
    let (model, optimizer) = match loaded {
        Some(loaded) => {
            progress.note(&format!("continuing from step {begun_at}"));
            let model = trainable(loaded.parameters, backend)?;
            let optimizer = AdamW::resume(config.optimizer.clone(), model.parameters(), &loaded.moments, begun_at)?;
            (model, optimizer)
        }
        None => {
            let model = trainable(init(plan.shape, plan.seed), backend)?;
            let optimizer = AdamW::new(config.optimizer.clone(), model.parameters());
            (model, optimizer)
        }
    };
    let train = Dataset::open(&data, &manifest, Split::Train)?;
    let valid = Dataset::open(&data, &manifest, Split::Valid)?;
    let log = MetricLog::open(&store, &format!("{folder}/metrics.jsonl"), begun_at)?;
    let saver = Saver::new(checkpoints.clone(), config.checkpoint.keep, Some(Arc::clone(&lease)), begun_at);
    let mut run =
        Run { plan, config, checkpoints, saver, train, valid, model, optimizer, log, tokens, valid_loss, best, over };
    run.steps(progress, shutdown)?;
    let summary = run.summary()?;
    summary.write(&store, &summary_name)?;
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

/// That the checkpoints are of this run.
fn fits(commit: &Commit, plan: &TrainPlan, checkpoints: &Checkpoints) -> Result<()> {
    commit.expect_vocabulary(&plan.vocabulary)?;
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

/// A run that is going on.
struct Run {
    plan: TrainPlan,
    config: TrainConfig,
    checkpoints: Checkpoints,
    saver: Saver,
    train: Dataset,
    valid: Dataset,
    model: Rwkv7,
    optimizer: AdamW,
    log: MetricLog,
    tokens: u64,
    /// Of the last pass over the validation split.
    valid_loss: Option<f64>,
    /// The state of early stopping.
    best: Option<Best>,
    /// Whether early stopping has ended the run.
    over: bool,
}

impl Run {
    /// The steps that are left.
    fn steps(&mut self, progress: &Progress, shutdown: &Shutdown) -> Result<()> {
        let order = Order::new(self.plan.seed, self.plan.samples);
        let schedule = Schedule::new(&self.config.schedule, self.plan.steps);
        let begun_at = self.optimizer.updates();
        let mut window = Window::default();
        progress.begin("training", self.plan.steps - begun_at.min(self.plan.steps), "steps");
        while !self.over && self.optimizer.updates() < self.plan.steps {
            let number = self.optimizer.updates();
            let lr = schedule.at(number);
            let batches = self.micro_batches(&order, number)?;
            let report = step(&mut self.model, &mut self.optimizer, &self.config.optimizer, &batches, lr)
                .map_err(|error| self.at_step(error, number))?;
            window.add(&report);
            self.tokens += report.tokens;
            let done = number + 1;
            let at_end = done == self.plan.steps;
            let validate = self.config.valid_every_steps.map_or(at_end, |every| done.is_multiple_of(every) || at_end);
            let valid_loss = if validate { self.validate()? } else { None };
            self.valid_loss = valid_loss.or(self.valid_loss);
            self.look_for_end(valid_loss, progress);
            let last = at_end || self.over;
            let due = |every: u64| done.is_multiple_of(every) || last;
            if due(self.config.log_every_steps) || valid_loss.is_some() {
                self.write_line(&window, &report, lr, valid_loss)?;
                window = Window::default();
                progress.message(&self.message());
            }
            self.saver.poll()?;
            let stop = shutdown.is_asked();
            if due(self.config.checkpoint.every_steps) || stop {
                self.save(valid_loss)?;
            }
            if last || stop {
                self.saver.wait()?;
            }
            progress.advance(1);
            if stop && !last {
                shutdown.check(&format!("step {done} is saved in `{}`", self.checkpoints.shown(done)))?;
            }
        }
        Ok(())
    }

    /// The micro-batches of a step.
    fn micro_batches(&self, order: &Order, number: u64) -> Result<Vec<Batch>> {
        let samples = order.step(number, self.plan.global_batch);
        samples.chunks(self.plan.micro_batch).map(|samples| self.train.batch(samples)).collect()
    }

    /// The loss over the validation split, in nats a target; none if it has no target.
    fn validate(&self) -> Result<Option<f64>> {
        let count = self.valid.len().min(VALID_SAMPLES);
        let samples: Vec<u64> = (0..count).map(|i| i * self.valid.len() / count).collect();
        let (mut sum, mut targets) = (0.0, 0);
        for samples in samples.chunks(self.plan.micro_batch) {
            let (cross_entropy, count) = evaluate(&self.model, &self.valid.batch(samples)?)?;
            sum += cross_entropy;
            targets += count;
        }
        Ok((targets > 0).then(|| sum / targets as f64))
    }

    fn write_line(&mut self, window: &Window, report: &StepReport, lr: f64, valid_loss: Option<f64>) -> Result<()> {
        self.log.add(Line {
            step: self.optimizer.updates(),
            loss: window.loss(),
            lr,
            grad_norm: report.grad_norm,
            tokens: self.tokens,
            tokens_per_second: window.tokens_per_second(),
            valid_loss,
        })
    }

    fn message(&self) -> String {
        let Some(line) = self.log.last() else { return String::new() };
        let valid = self.valid_loss.map_or_else(String::new, |loss| format!(", validation {loss:.3}"));
        let Line { loss, tokens_per_second, lr, grad_norm, .. } = line;
        format!("loss {loss:.3}{valid}, {tokens_per_second:.0} tokens/s, lr {lr:.1e}, gradient {grad_norm:.2}")
    }

    /// Begins to save the state of now.
    fn save(&mut self, valid_loss: Option<f64>) -> Result<()> {
        let snapshot = Snapshot {
            parameters: self.model.parameters(),
            optimizer: &self.optimizer,
            shape: self.plan.shape,
            vocabulary: &self.plan.vocabulary,
            key: &self.plan.key,
            seed: self.plan.seed,
            tokens: self.tokens,
            valid_loss,
            best: self.best,
        };
        self.saver.begin(snapshot.freeze())
    }

    /// Tells early stopping of a pass over the validation split.
    fn look_for_end(&mut self, valid_loss: Option<f64>, progress: &Progress) {
        let (Some(rule), Some(loss)) = (&self.config.early_stop, valid_loss) else { return };
        self.best = Some(rule.after(self.best, loss));
        self.over = rule.is_over(self.best);
        if self.over {
            progress.note(&format!(
                "stopping early at step {}: no better validation loss in {} passes",
                self.optimizer.updates(),
                rule.patience
            ));
        }
    }

    /// Adds the step, and for divergence the last good checkpoint, to an error.
    fn at_step(&mut self, error: Error, number: u64) -> Error {
        if error.exit() != Exit::Diverged {
            return error;
        }
        // One that is being written counts if it arrives.
        let _ = self.saver.wait();
        let good = match self.saver.saved() {
            0 => "there is no good checkpoint yet".to_owned(),
            step => format!("the last good checkpoint is `{}`", self.checkpoints.shown(step)),
        };
        Error::new(Exit::Diverged, format!("step {number}: {error}"))
            .hint(format!("{good}; try a lower `schedule.lr` or a longer warm-up"))
    }

    fn summary(&self) -> Result<Summary> {
        let valid_loss = match self.valid_loss {
            Some(loss) => Some(loss),
            None => self.validate()?,
        };
        Ok(Summary {
            model: self.plan.model.clone(),
            step: self.optimizer.updates(),
            parameters: self.plan.parameters,
            tokens: self.tokens,
            train_loss: self.log.last().map_or(f64::NAN, |line| line.loss),
            valid_loss,
            unigram_loss: unigram_loss(&self.train)?,
            checkpoint: self.checkpoints.shown(self.optimizer.updates()),
            key: self.plan.key.clone(),
        })
    }
}
