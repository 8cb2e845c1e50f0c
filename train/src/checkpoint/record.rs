//! The commit record of a checkpoint: what it vouches for and what it is a checkpoint of.

use midi_ingest::job::exit::{Error, Result};
use midi_ingest::store::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::model::Shape;
use crate::stopping::{Best, Lowest};
use crate::tuning::TuningRecord;

/// The record's name below a step's folder.
pub const COMMIT: &str = "COMMIT.json";

/// Version of the format.
pub(super) const FORMAT: u32 = 1;

/// A file that the record vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Part {
    /// Its name below the step's folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 as hexadecimal digits.
    pub sha256: String,
}

/// The commit record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Commit {
    /// Version of the format.
    pub format: u32,
    /// Optimiser steps done.
    pub step: u64,
    /// The network's shape.
    pub shape: Shape,
    /// Single parameters of the network.
    pub parameters: u64,
    /// Fingerprint of the vocabulary that it was trained on; empty for a file of weights that does not say it.
    pub vocabulary: String,
    /// Fingerprint of all that determines the run: data, model, batch, schedule, optimiser, seed.
    pub key: String,
    /// The run's seed.
    pub seed: u64,
    /// Positions trained on, padding left out.
    pub tokens: u64,
    /// The loss over the validation split, in nats a target, if it was taken at this step.
    pub valid_loss: Option<f64>,
    /// The state of early stopping; none if it is off or nothing was validated yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// The lowest validation loss up to this step, where early stopping looks for it: the checkpoint of its step is
    /// the trained model and is never removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest: Option<Lowest>,
    /// Steps left out up to this one, because they were not finite.
    #[serde(default)]
    pub skipped: u64,
    /// Epoch of the lease under which this was written: which of several trainers in turn did. None without a lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_epoch: Option<u64>,
    /// What was tuned, and on which base; none for a model that stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<TuningRecord>,
    /// The files.
    pub files: Vec<Part>,
}

impl Part {
    /// The record of `bytes`.
    pub(super) fn of(name: &str, bytes: &[u8]) -> Self {
        Part { name: name.to_owned(), bytes: bytes.len() as u64, sha256: sha256_hex(bytes) }
    }

    /// Whether `bytes` are those that the record was made of.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.bytes && sha256_hex(bytes) == self.sha256
    }
}

impl Commit {
    /// A fingerprint of the checkpoint's contents, for the rows of result tables.
    pub fn hash(&self) -> String {
        let parts: Vec<&str> = self.files.iter().map(|part| part.sha256.as_str()).collect();
        sha256_hex(parts.join("\n").as_bytes())
    }

    /// That the model speaks the vocabulary with this fingerprint and so many tokens.
    ///
    /// # Errors
    /// It does not: exit code 78, naming both.
    pub fn expect_vocabulary(&self, fingerprint: &str, tokens: usize) -> Result<()> {
        let has = self.shape.vocabulary;
        let text = if has != tokens {
            format!("the model has {has} tokens, the tokenizer {tokens}")
        } else if self.vocabulary != fingerprint && !self.vocabulary.is_empty() {
            format!("the model speaks the vocabulary {}, the tokenizer is {fingerprint}", self.vocabulary)
        } else {
            return Ok(());
        };
        Err(Error::mismatch(text)
            .hint("use the tokenizer that the model was trained with, or train a model on this data"))
    }

    /// That the checkpoint is of a network of this shape.
    ///
    /// # Errors
    /// It is not: exit code 78, naming both.
    pub fn expect_shape(&self, shape: Shape) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        let text = |s: Shape| format!("L{} D{} V{}", s.layers, s.width, s.vocabulary);
        Err(Error::mismatch(format!(
            "the checkpoint of step {} is of a network {}, the configuration says {}",
            self.step,
            text(self.shape),
            text(shape)
        )))
    }
}
