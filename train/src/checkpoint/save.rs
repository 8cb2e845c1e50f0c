//! Writing a checkpoint.

use midi_ingest::job::exit::{Error, Result};

use super::Checkpoints;
use super::record::{COMMIT, Commit, FORMAT, Part};
use crate::format::safetensors;
use crate::model::{Parameters, Shape};
use crate::optim::AdamW;

/// The weights' file.
pub(super) const MODEL: &str = "model.safetensors";
/// The optimiser's file.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";

/// Everything that a checkpoint is made of.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The weights.
    pub parameters: &'a Parameters,
    /// The optimiser, after as many updates as steps were done.
    pub optimizer: &'a AdamW,
    /// The network's shape.
    pub shape: Shape,
    /// Fingerprint of the vocabulary.
    pub vocabulary: &'a str,
    /// Fingerprint of the run.
    pub key: &'a str,
    /// The run's seed.
    pub seed: u64,
    /// Positions trained on.
    pub tokens: u64,
    /// The loss over the validation split, if it was just taken.
    pub valid_loss: Option<f64>,
}

impl Checkpoints {
    /// Writes the parts, reads them back, then writes the record. Writing a step again replaces it: until
    /// its record is there, the old record's hashes do not hold, and an older checkpoint counts.
    ///
    /// # Errors
    /// The store fails, or what it gives back is not what was written (74).
    pub fn save(&self, snapshot: &Snapshot<'_>) -> Result<Commit> {
        let step = snapshot.optimizer.updates();
        let metadata = [("step", step.to_string()), ("vocabulary", snapshot.vocabulary.to_owned())];
        let mut files = Vec::new();
        for (name, tensors) in [(MODEL, snapshot.parameters), (OPTIMIZER, &snapshot.optimizer.moments())] {
            let bytes = safetensors::write(tensors, &metadata)?;
            let part = Part::of(name, &bytes);
            let at = self.at(step, name);
            self.store.put(&at, bytes)?;
            if !part.is(&self.store.read(&at)?) {
                let cause = std::io::Error::other("what was read back is not what was written");
                return Err(Error::storage(format!("cannot write `{}/{at}`", self.store.shown()), cause));
            }
            files.push(part);
        }
        let commit = Commit {
            format: FORMAT,
            step,
            shape: snapshot.shape,
            parameters: snapshot.shape.count(),
            vocabulary: snapshot.vocabulary.to_owned(),
            key: snapshot.key.to_owned(),
            seed: snapshot.seed,
            tokens: snapshot.tokens,
            valid_loss: snapshot.valid_loss,
            files,
        };
        let text = serde_json::to_string_pretty(&commit)
            .map_err(|e| Error::bug("a commit record does not serialise").because(e))?;
        self.store.put(&self.at(step, COMMIT), text.into_bytes())?;
        Ok(commit)
    }
}
