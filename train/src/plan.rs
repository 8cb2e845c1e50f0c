//! What a training run will do, derived from its configuration and the data set, and checked: everything
//! that follows is printed and stored before the first step.

use std::fmt;

use midi_ingest::job::config::key_of;
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::shard::{Manifest, Split};
use serde::Serialize;

use crate::config::{DistConfig, LoraConfig, LossScaling, Mode, Precision, TrainConfig};
use crate::data::Order;
use crate::model::Shape;

/// A checked run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainPlan {
    /// The model's name: that of its table.
    pub model: String,
    /// The network's shape.
    pub shape: Shape,
    /// Single parameters of the network.
    pub parameters: u64,
    /// What is trained.
    pub mode: Mode,
    /// Optimiser steps.
    pub steps: u64,
    /// Sequences in a step.
    pub global_batch: usize,
    /// Sequences in one forward and backward pass.
    pub micro_batch: usize,
    /// Training samples.
    pub samples: u64,
    /// Validation samples.
    pub valid_samples: u64,
    /// The longest sample, in tokens.
    pub context_tokens: usize,
    /// Tokens in a step, on average, padding left out.
    pub tokens_per_step: f64,
    /// How often the training samples are seen.
    pub epochs: f64,
    /// Fingerprint of the order of samples.
    pub order: String,
    /// Fingerprint of the vocabulary.
    pub vocabulary: String,
    /// The run's seed.
    pub seed: u64,
    /// Fingerprint of all that determines the run's result: data, model, batch, schedule, optimiser, seed.
    pub key: String,
}

impl TrainPlan {
    /// The plan of `config` on the data set of `manifest`.
    ///
    /// # Errors
    /// A value that cannot be (78), or a data set without training samples (65).
    pub fn new(model: &str, seed: u64, config: &TrainConfig, manifest: &Manifest) -> Result<Self> {
        check(config).map_err(|e| e.within(format_args!("`train.{model}`")))?;
        let shape = Shape::new(config.model.layers, config.model.width, manifest.vocabulary.size)?;
        let train = manifest.split(Split::Train);
        if train.samples == 0 {
            return Err(Error::data("the data set has no training samples")
                .hint("look at the counts in `ingest/manifest.json`: were the files rejected or skipped?"));
        }
        let seen = config.steps as f64 * config.global_batch as f64;
        Ok(TrainPlan {
            model: model.to_owned(),
            shape,
            parameters: shape.count(),
            mode: config.mode,
            steps: config.steps,
            global_batch: config.global_batch,
            micro_batch: config.micro_batch.unwrap_or(config.global_batch),
            samples: train.samples,
            valid_samples: manifest.split(Split::Valid).samples,
            context_tokens: manifest.context_tokens,
            tokens_per_step: train.tokens as f64 / train.samples as f64 * config.global_batch as f64,
            epochs: seen / train.samples as f64,
            order: Order::new(seed, train.samples).fingerprint(),
            vocabulary: manifest.vocabulary.fingerprint.clone(),
            seed,
            key: key_with_tuning(
                config,
                key_of(&(
                    &manifest.key,
                    &manifest.vocabulary.fingerprint,
                    &config.model,
                    config.global_batch,
                    config.steps,
                    &config.schedule,
                    &update_rule(config)?,
                    seed,
                )),
            ),
        })
    }

    /// Positions of a step whose sequences are all as long as the context, as the seed repository counts tokens.
    pub fn positions_per_step(&self) -> u64 {
        (self.context_tokens * self.global_batch) as u64
    }

    /// That `world` ranks can share a step.
    ///
    /// # Errors
    /// The global batch cannot be divided among them: exit code 78.
    pub fn expect_world(&self, world: usize) -> Result<()> {
        if self.global_batch.is_multiple_of(world) {
            return Ok(());
        }
        Err(Error::mismatch(format!(
            "`train.{}`: `global-batch` is {}, which cannot be divided among {world} processes",
            self.model, self.global_batch
        ))
        .hint("start another number of processes, or change `global-batch` in a run of another name"))
    }
}

/// What the optimiser computes; who computes which part of it makes no other run.
fn update_rule(config: &TrainConfig) -> Result<serde_json::Value> {
    let mut rule = serde_json::to_value(&config.optimizer)
        .map_err(|e| Error::bug("a configuration does not serialise").because(e))?;
    if let Some(rule) = rule.as_object_mut() {
        rule.remove("shard");
        // This rule weighs what is together in a micro-batch.
        if config.optimizer.scaling == LossScaling::PerMicroBatch {
            rule.insert("micro-batch".into(), config.micro_batch.into());
        }
    }
    Ok(rule)
}

/// Early stopping decides on the last step, and when it is looked for.
fn key_with_stop(config: &TrainConfig, key: String) -> String {
    match &config.early_stop {
        Some(stop) => key_of(&(key, stop, config.valid_every_steps)),
        None => key,
    }
}

/// Other numbers give another result.
fn key_with_precision(config: &TrainConfig, key: String) -> String {
    let key = key_with_stop(config, key);
    match config.precision {
        Precision::F32 => key,
        other => key_of(&(key, other)),
    }
}

/// A tuned model is another one for each base and each way to tune it.
fn key_with_tuning(config: &TrainConfig, key: String) -> String {
    let key = key_with_precision(config, key);
    match config.mode {
        Mode::Pretrain => key,
        Mode::Full | Mode::State => key_of(&(key, config.mode, &config.base)),
        Mode::Lora => key_of(&(key, config.mode, &config.base, &config.lora)),
    }
}

/// What can be said about a configuration without data.
fn check(config: &TrainConfig) -> Result<()> {
    let refuse = |key: &str, value: &dyn fmt::Display, rule: &str| {
        Err(Error::mismatch(format!("`{key}` is {value}; it must be {rule}")))
    };
    let TrainConfig { schedule, optimizer, checkpoint, .. } = config;
    Shape::new(config.model.layers, config.model.width, 1)?;
    for (key, value) in [
        ("global-batch", config.global_batch as u64),
        ("steps", config.steps),
        ("log-every-steps", config.log_every_steps),
        ("checkpoint.every-steps", checkpoint.every_steps),
        ("micro-batch", config.micro_batch.unwrap_or(1) as u64),
        ("valid-every-steps", config.valid_every_steps.unwrap_or(1)),
        ("threads", config.threads.unwrap_or(1) as u64),
        ("dist.nproc", config.dist.nproc as u64),
        ("dist.timeout-seconds", config.dist.timeout_seconds),
        ("dist.first-timeout-seconds", config.dist.first_timeout_seconds),
    ] {
        if value == 0 {
            return refuse(key, &value, "at least 1");
        }
    }
    for (key, value) in [
        ("dist.timeout-seconds", config.dist.timeout_seconds),
        ("dist.first-timeout-seconds", config.dist.first_timeout_seconds),
    ] {
        if value > DistConfig::MOST_SECONDS {
            return refuse(key, &value, "at most 30 days");
        }
    }
    if !config.global_batch.is_multiple_of(config.dist.nproc) {
        return refuse("global-batch", &config.global_batch, "divisible by `dist.nproc`");
    }
    if config.micro_batch.is_some_and(|micro| micro > config.global_batch) {
        return refuse("micro-batch", &config.micro_batch.unwrap_or(0), "at most `global-batch`");
    }
    config.begins_at()?;
    if config.mode == Mode::State && config.data.pack {
        return Err(Error::mismatch("`data.pack` cannot be true where the state is tuned")
            .hint("every sequence begins from the tuned state, and a row has one beginning"));
    }
    let LoraConfig { r, alpha, dropout, target_modules, .. } = &config.lora;
    if *r == 0 || target_modules.is_empty() {
        return Err(Error::mismatch("`lora.r` must be at least 1, and `lora.target-modules` name at least one"));
    }
    if !(alpha.is_finite() && *alpha > 0.0) {
        return refuse("lora.alpha", alpha, "above 0");
    }
    if !(0.0..1.0).contains(dropout) {
        return refuse("lora.dropout", dropout, "from 0 to below 1");
    }
    if checkpoint.keep < 2 {
        return refuse("checkpoint.keep", &checkpoint.keep, "at least 2, so that one is left if the newest is broken");
    }
    if let Some(stop) = &config.early_stop {
        if stop.patience == 0 {
            return refuse("early-stop.patience", &0, "at least 1");
        }
        if !(stop.min_delta.is_finite() && stop.min_delta >= 0.0) {
            return refuse("early-stop.min-delta", &stop.min_delta, "0 or above");
        }
        if config.valid_every_steps.is_none() {
            return Err(Error::mismatch("`early-stop` needs `valid-every-steps`: it looks at the validation loss"));
        }
    }
    for (key, value) in [
        ("schedule.lr", schedule.lr),
        ("schedule.lr-final", schedule.lr_final),
        ("optimizer.clip-norm", optimizer.clip_norm),
        // As it is computed with.
        ("optimizer.epsilon", f64::from(optimizer.epsilon as f32)),
    ] {
        if !(value.is_finite() && value > 0.0) {
            return refuse(key, &value, "above 0");
        }
    }
    for (key, value) in [("optimizer.weight-decay", optimizer.weight_decay), ("optimizer.l2wrap", optimizer.l2wrap)] {
        if !(value.is_finite() && value >= 0.0) {
            return refuse(key, &value, "0 or above");
        }
    }
    for (key, value) in [("optimizer.beta1", optimizer.beta1), ("optimizer.beta2", optimizer.beta2)] {
        if !(0.0..1.0).contains(&value) {
            return refuse(key, &value, "from 0 to below 1");
        }
    }
    Ok(())
}

impl fmt::Display for TrainPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { layers, width, vocabulary } = self.shape;
        writeln!(f, "model {}: {} parameters (L{layers} D{width} V{vocabulary})", self.model, self.parameters)?;
        writeln!(
            f,
            "  data: {} training and {} validation samples of up to {} tokens, vocabulary {}",
            self.samples,
            self.valid_samples,
            self.context_tokens,
            self.vocabulary.get(..16).unwrap_or(&self.vocabulary)
        )?;
        writeln!(
            f,
            "  run: {} steps of {} samples ({} at a time), {:.0} tokens a step, {:.2} epochs",
            self.steps, self.global_batch, self.micro_batch, self.tokens_per_step, self.epochs
        )?;
        write!(f, "  seed {}, order {}, key {}", self.seed, self.order, self.key.get(..16).unwrap_or(&self.key))
    }
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::Experiment;
    use midi_ingest::job::exit::Exit;
    use midi_ingest::shard::{FileRecord, UnitRecord, VocabularyRecord};

    use super::*;

    fn manifest() -> Manifest {
        let vocabulary =
            VocabularyRecord { file: "t.json".into(), size: 300, fingerprint: "f".repeat(64), no_loss_ids: vec![] };
        let shard = FileRecord { path: "a".into(), bytes: 1, sha256: "s".into(), rows: 40, tokens: 4000 };
        let unit = UnitRecord {
            key: "k".into(),
            unit: "u".into(),
            songs: FileRecord { path: "s".into(), rows: 1, tokens: 0, ..shard.clone() },
            shards: [(Split::Train, shard)].into_iter().collect(),
            counts: Default::default(),
        };
        Manifest::of_units("k", vocabulary, 128, &[unit])
    }

    fn plan(sets: &[&str]) -> Result<TrainPlan> {
        let text = "[train.m]\nsteps = 10\nglobal-batch = 8\n[train.m.model]\nlayers = 2\nwidth = 64\n";
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let experiment = Experiment::parse(std::path::Path::new("x.toml"), text, &sets)?;
        TrainPlan::new("m", experiment.seed, &experiment.section("train.m")?, &manifest())
    }

    #[test]
    fn numbers_are_derived() {
        let plan = plan(&[]).expect("fits");
        assert_eq!((plan.tokens_per_step, plan.epochs, plan.micro_batch), (800.0, 2.0, 8));
        assert_eq!(plan.parameters, Shape::new(2, 64, 300).expect("fits").count());
    }

    #[test]
    fn the_key_follows_what_changes_the_result_only() {
        let key = |sets: &[&str]| plan(sets).expect("fits").key;
        let base = key(&[]);
        for same in [
            "train.m.data.pack=true",
            "train.m.threads=3",
            "train.m.micro-batch=2",
            "train.m.log-every-steps=7",
            "train.m.checkpoint.keep=5",
            "train.m.optimizer.shard=true",
            "train.m.dist.nproc=2",
            "train.m.skip-nonfinite=1",
            "train.m.device=\"cpu\"",
        ] {
            assert_eq!(key(&[same]), base, "{same}");
        }
        for other in [
            "seed=1",
            "train.m.steps=11",
            "train.m.schedule.lr=0.5",
            "train.m.optimizer.beta2=0.5",
            "train.m.precision=\"bf16\"",
        ] {
            assert_ne!(key(&[other]), base, "{other}");
        }
        // This rule weighs what is together in a micro-batch.
        let seed = "train.m.optimizer.scaling=\"per-micro-batch\"";
        assert_ne!(key(&[seed]), key(&[seed, "train.m.micro-batch=2"]));
    }

    #[test]
    fn ranks_share_the_global_batch_evenly() {
        let plan = plan(&[]).expect("fits");
        assert!([1, 2, 4, 8].into_iter().all(|world| plan.expect_world(world).is_ok()));
        let error = plan.expect_world(3).expect_err("8 among 3");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.to_string().starts_with("`train.m`: `global-batch` is 8"), "{error}");
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (set, key) in [
            ("train.m.steps=0", "steps"),
            ("train.m.dist.nproc=0", "dist.nproc"),
            ("train.m.dist.nproc=3", "global-batch"),
            ("train.m.micro-batch=9", "micro-batch"),
            ("train.m.checkpoint.keep=1", "checkpoint.keep"),
            ("train.m.schedule.lr=-1.0", "schedule.lr"),
            ("train.m.optimizer.beta1=1.0", "optimizer.beta1"),
            ("train.m.model.width=65", "width"),
            ("train.m.early-stop.patience=0", "early-stop.patience"),
            ("train.m.optimizer.epsilon=1e-50", "optimizer.epsilon"),
            ("train.m.dist.first-timeout-seconds=9223372036854775807", "dist.first-timeout-seconds"),
        ] {
            let error = plan(&[set]).expect_err(set);
            assert_eq!(error.exit(), Exit::Mismatch);
            assert!(error.to_string().contains(&format!("`train.m`: `{key}` is")), "{error}");
        }
        let error = plan(&["train.m.model.layers=50000000"]).expect_err("takes all memory");
        assert!(error.to_string().contains("50000000 layers"), "{error}");
    }
}
