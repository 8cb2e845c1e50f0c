//! Training that begins at a base: on top of it, while it stays as it is (initial WKV states, low-rank adapters), or
//! of all its weights.
//!
//! A checkpoint holds what was trained and nothing else. Where the base stays as it is, the record names it and its
//! contents, and whoever opens the checkpoint gets both together. Where all weights are trained, it stands alone.

use std::sync::Arc;

use midi_ingest::job::Experiment;
use midi_ingest::job::draws::Keyed;
use midi_ingest::job::exit::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint::{Commit, open_parameters};
use crate::config::{LoraConfig, Mode, TrainConfig};
use crate::model::init::{long, uniform};
use crate::model::shape::HEAD;
use crate::model::{LORA_A, LORA_B, LoraTerms, Parameters, Rwkv7, Shape, is_tuning, time_state_name};
use crate::wkv::WkvBackend;

/// What a commit record says about a model on top of a base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TuningRecord {
    /// What was trained.
    pub mode: Mode,
    /// The base's checkpoint: a path or URL, or `../<model>/step-…` beside the model's own folder.
    pub base: String,
    /// [`Commit::hash`] of the base.
    pub base_hash: String,
    /// α / r of the adapters; 0 without any.
    pub scale: f64,
}

/// A base and what is to be trained on it.
#[derive(Debug)]
pub struct Tuning {
    base: Parameters,
    record: TuningRecord,
    config: TrainConfig,
    seed: u64,
}

impl Tuning {
    /// What `config` asks for; none for pretraining. `warn` is told of broken checkpoints of the base.
    ///
    /// # Errors
    /// There is no base, or it is itself tuned, of another shape or vocabulary (78); the store fails (74).
    pub fn open(
        experiment: &Experiment,
        config: &TrainConfig,
        shape: Shape,
        vocabulary: &str,
        warn: &mut dyn FnMut(&str),
    ) -> Result<Option<Self>> {
        let Some(base) = config.begins_at()? else { return Ok(None) };
        let out = experiment.out.trim_end_matches('/');
        let beside = experiment.names("train").iter().any(|name| name == base);
        let uri = if beside { format!("{out}/train/{base}") } else { base.to_owned() };
        let (parameters, commit, folder) = open_parameters(&uri, warn)?;
        if commit.tuning.is_some() {
            return Err(Error::mismatch(format!("the base `{uri}` is a tuned model itself"))
                .hint("merge it first: `midi-train merge`"));
        }
        commit.expect_vocabulary(vocabulary, shape.vocabulary)?;
        commit.expect_shape(shape)?;
        let at = match folder.strip_prefix(&format!("{out}/train/")) {
            Some(below) if beside => format!("../{below}"),
            _ => folder,
        };
        let scale = if config.mode == Mode::Lora { config.lora.alpha / config.lora.r as f64 } else { 0.0 };
        let record = TuningRecord { mode: config.mode, base: at, base_hash: commit.hash(), scale };
        Ok(Some(Tuning { base: parameters, record, config: config.clone(), seed: experiment.seed }))
    }

    /// For the commit record; none where checkpoints stand alone.
    pub fn record(&self) -> Option<&TuningRecord> {
        (self.record.mode != Mode::Full).then_some(&self.record)
    }

    /// The base, for people.
    pub fn base(&self) -> String {
        let digits = self.record.base_hash.get(..16).unwrap_or_default();
        format!("{} ({digits})", self.record.base)
    }

    /// That a checkpoint can be continued on this base.
    ///
    /// # Errors
    /// It was trained on another one: exit code 78.
    pub fn fits(&self, commit: &Commit) -> Result<()> {
        match &commit.tuning {
            None if self.record.mode == Mode::Full => Ok(()),
            Some(found) if found.base_hash == self.record.base_hash => Ok(()),
            _ => Err(Error::mismatch(format!(
                "the checkpoint of step {} was tuned on another base than `{}` is now",
                commit.step, self.record.base
            ))
            .hint("give the model another name, or remove its folder")),
        }
    }

    /// The network on `device`, of which only what is tuned is trainable: from its first values, or from `saved`.
    ///
    /// # Errors
    /// `saved` is not what this trains: exit code 78.
    pub fn network(self, saved: Option<Parameters>, device: Device, backend: Arc<dyn WkvBackend>) -> Result<Rwkv7> {
        let shape = self.base.shape()?;
        let names = trained_names(shape, &self.config);
        let mut all = self.base;
        for (name, size) in &names {
            let first = || match all.find(name) {
                Some(base) => base.shallow_clone(),
                None => first(name, size, self.seed),
            };
            let tensor = match &saved {
                Some(saved) => saved.get(name)?.shallow_clone(),
                None => first(),
            };
            let wanted = long(size);
            if tensor.size() != wanted {
                return Err(Error::mismatch(format!("`{name}` is {:?} instead of {wanted:?}", tensor.size())));
            }
            all.insert(name.clone(), tensor);
        }
        let terms = LoraTerms { scale: self.record.scale, dropout: self.config.lora.dropout, seed: self.seed };
        let mut model = Rwkv7::tuned(all.to_device(device)?, backend, terms)?;
        let names: std::collections::HashSet<String> = names.into_iter().map(|(name, _)| name).collect();
        model.train_only(|name| names.contains(name));
        Ok(model)
    }
}

/// Names and shapes of what a mode trains, in a fixed order.
fn trained_names(shape: Shape, config: &TrainConfig) -> Vec<(String, Vec<usize>)> {
    match config.mode {
        Mode::Pretrain | Mode::Full => shape.parameters(),
        Mode::State => {
            let state = |layer| (time_state_name(layer), vec![shape.heads(), HEAD, HEAD]);
            (0..shape.layers).map(state).collect()
        }
        Mode::Lora => {
            let LoraConfig { r, target_modules, norms, .. } = &config.lora;
            let mut names = Vec::new();
            for (name, size) in shape.parameters() {
                let module = name.splitn(3, '.').nth(2).and_then(|rest| rest.strip_suffix(".weight"));
                if let (Some(module), [out, inside]) = (module, size.as_slice())
                    && target_modules.iter().any(|target| target.name() == module)
                {
                    let stem = name.trim_end_matches(".weight");
                    names.push((format!("{stem}{LORA_A}"), vec![*r, *inside]));
                    names.push((format!("{stem}{LORA_B}"), vec![*out, *r]));
                } else if *norms && name.contains("ln") {
                    names.push((name, size));
                }
            }
            names
        }
    }
}

/// First values: states and B are zero, A is uniform in ±1/√in (Kaiming's with a = √5), so that tuning begins
/// at the base exactly.
fn first(name: &str, size: &[usize], seed: u64) -> Tensor {
    if name.ends_with(LORA_A) {
        return uniform(size, 1.0 / (size[1] as f64).sqrt(), &mut Keyed::new(seed, name, 0));
    }
    Tensor::zeros(long(size), (Kind::Float, Device::Cpu))
}

/// The parameters of a plain network that computes what one with adapters does: W + (α/r)·B·A.
///
/// # Errors
/// There are tuned states, which no plain network has: exit code 78.
pub fn merged(parameters: &Parameters, scale: f64) -> Result<Parameters> {
    if parameters.find(&time_state_name(0)).is_some() {
        return Err(Error::mismatch("a tuned state cannot be merged into the weights")
            .hint("use the checkpoint as it is: it is opened together with its base"));
    }
    no_grad(|| {
        let plain = parameters.only(|name| !is_tuning(name));
        plain
            .iter()
            .map(|(name, weight)| {
                let stem = name.trim_end_matches(".weight");
                let weight = match parameters.find(&format!("{stem}{LORA_A}")) {
                    Some(a) => weight + parameters.get(&format!("{stem}{LORA_B}"))?.matmul(a) * scale,
                    None => weight.copy(),
                };
                Ok((name.to_owned(), weight))
            })
            .collect()
    })
}
