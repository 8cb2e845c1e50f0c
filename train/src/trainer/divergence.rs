//! Steps that are not finite: left out as far as the budget goes, and otherwise the end of the run, with what helps to go
//! on from there.

use midi_ingest::job::Progress;
use midi_ingest::job::exit::{Error, Exit, Result};

use super::Run;
use crate::data::Order;

/// The samples of a step that was not finite: `diverged-step-N.json`.
#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Diverged<'a> {
    step: u64,
    /// The indices of the global batch's samples, in manifest order.
    samples: Vec<u64>,
    error: &'a str,
}

impl Run<'_> {
    /// Leaves step `number` out, which was not finite, if the budget allows it. Either way its samples are written
    /// down.
    pub(super) fn skip(&mut self, error: Error, order: &Order, number: u64, progress: &Progress) -> Result<()> {
        if error.exit() != Exit::Diverged {
            return Err(error);
        }
        if self.skipped >= self.config.skip_nonfinite {
            return Err(self.diverged(error, order, number)?);
        }
        let shown = self.write_samples(&error, order, number)?;
        self.skipped += 1;
        self.optimizer.skip();
        progress.note(&format!(
            "step {number} is left out ({} of {}): {error}; its samples are in `{shown}`",
            self.skipped, self.config.skip_nonfinite
        ));
        Ok(())
    }

    /// Writes the samples of step `number` down, which led to `error`. Returns where.
    fn write_samples(&self, error: &Error, order: &Order, number: u64) -> Result<String> {
        let name = format!("{}/diverged-step-{number}.json", self.folder);
        if self.group.is_first() {
            let samples = order.step(number, self.plan.global_batch);
            let text = serde_json::to_string(&Diverged { step: number, samples, error: &error.to_string() })
                .map_err(|e| Error::bug("a list of samples does not serialise").because(e))?;
            self.store.put(&name, text.into_bytes())?;
        }
        Ok(format!("{}/{name}", self.store.shown()))
    }

    /// The error with which all ranks end that was `error` at step `number`: with the last good checkpoint, and where the
    /// step's samples are.
    ///
    /// # Errors
    /// A rank was lost (10), or the store fails (74).
    pub(super) fn diverged(&mut self, error: Error, order: &Order, number: u64) -> Result<Error> {
        let samples = self.write_samples(&error, order, number)?;
        // A checkpoint that is being written counts if it arrives, and no rank ends before that.
        let _ = self.saver.wait();
        self.group.wait_for_first("the list of samples")?;
        // The checkpoints since the weights last changed hold those that led here.
        let good = self.checkpoints.steps()?.into_iter().rfind(|&step| step < self.changed);
        let good = good.map_or_else(
            || "there is no good checkpoint yet".to_owned(),
            |step| {
                let shown = self.checkpoints.shown(step);
                format!("the last good checkpoint is `{shown}`; to go back to it, remove the later ones")
            },
        );
        Ok(Error::new(Exit::Diverged, format!("step {number}: {error}")).hint(format!(
            "{good}; the samples of the step are in `{samples}`; try a lower `schedule.lr` or a longer warm-up"
        )))
    }
}
