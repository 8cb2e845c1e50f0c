//! Writing a checkpoint.

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Tensor};

use super::Checkpoints;
use super::record::{COMMIT, Commit, FORMAT, Part};
use crate::format::safetensors;
use crate::model::{Parameters, Shape};
use crate::optim::AdamW;
use crate::stopping::{Best, Lowest};
use crate::tuning::TuningRecord;

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
    /// The state of early stopping.
    pub best: Option<Best>,
    /// The lowest validation loss so far, where early stopping looks for it.
    pub lowest: Option<Lowest>,
    /// Steps left out so far, because they were not finite.
    pub skipped: u64,
    /// What is tuned, and on which base; then `parameters` are those that are trained.
    pub tuning: Option<&'a TuningRecord>,
}

/// A snapshot with tensors of its own: training may go on while it is written.
#[derive(Debug)]
pub struct Frozen {
    files: Vec<(&'static str, Parameters)>,
    /// The record, but for its files.
    commit: Commit,
}

impl Snapshot<'_> {
    /// A copy, in main memory.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            files: vec![(MODEL, copies(self.parameters)), (OPTIMIZER, copies(&self.optimizer.moments()))],
            commit: Commit {
                format: FORMAT,
                step: self.optimizer.updates(),
                shape: self.shape,
                parameters: self.shape.count(),
                vocabulary: self.vocabulary.to_owned(),
                key: self.key.to_owned(),
                seed: self.seed,
                tokens: self.tokens,
                valid_loss: self.valid_loss,
                best: self.best,
                lowest: self.lowest,
                skipped: self.skipped,
                lease_epoch: None,
                tuning: self.tuning.cloned(),
                files: Vec::new(),
            },
        }
    }
}

fn copies(tensors: &Parameters) -> Parameters {
    let copy = |tensor: &Tensor| match tensor.device() {
        Device::Cpu => tensor.detach().copy(),
        _ => tensor.detach().to_device(Device::Cpu),
    };
    tensors.iter().map(|(name, tensor)| (name.to_owned(), copy(tensor))).collect()
}

impl Frozen {
    /// The step of the lowest validation loss, if it is looked for.
    pub(super) fn lowest_at(&self) -> Option<u64> {
        self.commit.lowest.map(|lowest| lowest.step)
    }

    /// Writes down under which lease this is saved.
    pub(super) fn set_lease_epoch(&mut self, epoch: u64) {
        self.commit.lease_epoch = Some(epoch);
    }
}

impl Checkpoints {
    /// Writes the parts, reads them back, then writes the record; `may_commit` is asked just before. Writing a step again
    /// replaces it: until its record is there, the old record's hashes do not hold, and an older checkpoint counts.
    ///
    /// # Errors
    /// The store fails, or what it gives back is not what was written (74); those of `may_commit`.
    pub(super) fn write(&self, frozen: Frozen, may_commit: &dyn Fn() -> Result<()>) -> Result<Commit> {
        let Frozen { files, mut commit } = frozen;
        let step = commit.step;
        let metadata = [("step", step.to_string()), ("vocabulary", commit.vocabulary.clone())];
        for (name, tensors) in files {
            let bytes = safetensors::write(&tensors, &metadata)?;
            let part = Part::of(name, &bytes);
            let at = self.at(step, name);
            self.store.put(&at, bytes)?;
            self.store.sync(&at)?;
            if !part.is(&self.store.read(&at)?) {
                let cause = std::io::Error::other("what was read back is not what was written");
                return Err(Error::storage(format!("cannot write `{}/{at}`", self.store.shown()), cause));
            }
            commit.files.push(part);
        }
        let text = serde_json::to_string_pretty(&commit)
            .map_err(|e| Error::bug("a commit record does not serialise").because(e))?;
        may_commit()?;
        let at = self.at(step, COMMIT);
        self.store.put(&at, text.into_bytes())?;
        self.store.sync(&at)?;
        Ok(commit)
    }
}
