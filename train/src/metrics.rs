//! What a run writes down about itself: a line of JSON every few steps, and a summary at its end.

use std::time::{Duration, Instant};

use midi_ingest::job::exit::{Error, Result};
use midi_ingest::store::Store;
use serde::{Deserialize, Serialize};

use crate::step::StepReport;
use crate::stopping::Lowest;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Optimiser steps done.
    pub step: u64,
    /// Cross-entropy in nats a target token, over the steps since the last line.
    pub loss: f64,
    /// Learning rate of the last of these steps.
    pub lr: f64,
    /// Gradient norm of the last of these steps, before clipping.
    pub grad_norm: f64,
    /// Positions trained on since the run began, padding left out.
    pub tokens: u64,
    /// Positions a second over the steps since the last line.
    pub tokens_per_second: f64,
    /// The share of positions that were not padding, 0 to 1, over the steps since the last line.
    pub filled: f64,
    /// The share of the time that was spent waiting for batches, 0 to 1, over the steps since the last line.
    #[serde(default)]
    pub loader_wait: f64,
    /// Cross-entropy over the validation split, if it was taken at this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_loss: Option<f64>,
}

/// The file `metrics.jsonl` of a model. An object store cannot append, so the file is put as a whole.
#[derive(Debug)]
pub struct MetricLog {
    store: Store,
    name: String,
    text: String,
    lines: Vec<Line>,
}

impl MetricLog {
    /// The log at `name`, cut back to its lines up to `step`: a resumed run writes the later ones again.
    ///
    /// # Errors
    /// The store fails (74). Lines that are not readable are dropped.
    pub fn open(store: &Store, name: &str, step: u64) -> Result<Self> {
        let mut log = MetricLog { store: store.clone(), name: name.to_owned(), text: String::new(), lines: Vec::new() };
        let old = store.get(name)?.unwrap_or_default();
        for text in String::from_utf8_lossy(&old).lines() {
            if let Ok(line) = serde_json::from_str::<Line>(text)
                && line.step <= step
            {
                log.text.push_str(text);
                log.text.push('\n');
                log.lines.push(line);
            }
        }
        Ok(log)
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn add(&mut self, line: Line) -> Result<()> {
        let text = serde_json::to_string(&line).map_err(|e| Error::bug("a metric does not serialise").because(e))?;
        self.text.push_str(&text);
        self.text.push('\n');
        self.lines.push(line);
        self.store.put(&self.name, self.text.clone().into_bytes())
    }

    /// The last line.
    pub fn last(&self) -> Option<&Line> {
        self.lines.last()
    }

    /// All lines, by step.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

/// The steps since the last line.
#[derive(Debug)]
pub struct Window {
    cross_entropy: f64,
    targets: u64,
    tokens: u64,
    positions: u64,
    waited: Duration,
    began: Instant,
}

impl Default for Window {
    fn default() -> Self {
        Window {
            cross_entropy: 0.0,
            targets: 0,
            tokens: 0,
            positions: 0,
            waited: Duration::ZERO,
            began: Instant::now(),
        }
    }
}

impl Window {
    /// Adds a step.
    pub fn add(&mut self, report: &StepReport) {
        self.cross_entropy += report.cross_entropy;
        self.targets += report.targets;
        self.tokens += report.tokens;
        self.positions += report.positions;
    }

    /// Adds time that was spent waiting for batches.
    pub fn add_wait(&mut self, waited: Duration) {
        self.waited += waited;
    }

    /// The share of the time that was spent waiting for batches.
    pub fn loader_wait(&self) -> f64 {
        self.waited.as_secs_f64() / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    /// Cross-entropy in nats a target.
    pub fn loss(&self) -> f64 {
        self.cross_entropy / self.targets.max(1) as f64
    }

    /// The share of positions that were not padding.
    pub fn filled(&self) -> f64 {
        self.tokens as f64 / self.positions.max(1) as f64
    }

    /// Positions a second since the window began.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }
}

/// `summary.json`: how a finished run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// The model's name.
    pub model: String,
    /// Optimiser steps done.
    pub step: u64,
    /// Single parameters.
    pub parameters: u64,
    /// Positions trained on.
    pub tokens: u64,
    /// Cross-entropy of the last logged steps, in nats a target; none if all were left out.
    pub train_loss: Option<f64>,
    /// Cross-entropy over the validation split, in nats a target; none if the split is empty.
    pub valid_loss: Option<f64>,
    /// Cross-entropy of predicting from the frequencies of the training targets alone.
    pub unigram_loss: f64,
    /// The last checkpoint's folder, as people find it.
    pub checkpoint: String,
    /// The lowest validation loss, where early stopping looks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest: Option<Lowest>,
    /// The folder of the checkpoint that is the trained model, as people find it.
    #[serde(default)]
    pub trained: String,
    /// The report with the curves, as people find it.
    #[serde(default)]
    pub report: String,
    /// Fingerprint of the run.
    pub key: String,
}

impl Summary {
    /// The file's name below the model's folder.
    pub const FILE: &'static str = "summary.json";

    /// Where the curves and the trained model are.
    pub fn places(&self) -> String {
        let what = self.lowest.map_or_else(
            || "checkpoint".to_owned(),
            |lowest| format!("best checkpoint, of validation loss {:.4} at step {}", lowest.loss, lowest.step),
        );
        format!("curves: {}; {what}: {}", self.report, self.trained)
    }

    /// Writes the summary at `name`.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn write(&self, store: &Store, name: &str) -> Result<()> {
        let text =
            serde_json::to_string_pretty(self).map_err(|e| Error::bug("a summary does not serialise").because(e))?;
        store.put(name, text.into_bytes())
    }

    /// The summary at `name`, if there is a readable one.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn read(store: &Store, name: &str) -> Result<Option<Self>> {
        Ok(store.get(name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |loss: Option<f64>| loss.map_or_else(|| "none".to_owned(), |loss| format!("{loss:.4}"));
        let (train, valid) = (text(self.train_loss), text(self.valid_loss));
        write!(
            f,
            "{} after {} steps: training loss {train}, validation loss {valid}, from token frequencies alone {:.4}",
            self.model, self.step, self.unigram_loss
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> Line {
        Line {
            step,
            loss: 2.5,
            lr: 1e-3,
            grad_norm: 0.7,
            tokens: 10 * step,
            tokens_per_second: 5.0,
            filled: 0.5,
            loader_wait: 0.0,
            valid_loss: None,
        }
    }

    #[test]
    fn a_reopened_log_forgets_what_will_be_written_again() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
        let mut log = MetricLog::open(&store, "m/metrics.jsonl", 0).expect("opens");
        for step in [10, 20, 30] {
            log.add(line(step)).expect("adds");
        }
        let mut log = MetricLog::open(&store, "m/metrics.jsonl", 20).expect("opens");
        assert_eq!(log.last(), Some(&line(20)));
        log.add(line(25)).expect("adds");
        let text = store.read("m/metrics.jsonl").expect("reads");
        let steps: Vec<u64> = String::from_utf8_lossy(&text)
            .lines()
            .map(|text| serde_json::from_str::<Line>(text).expect("a line").step)
            .collect();
        assert_eq!(steps, [10, 20, 25]);
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_the_file_is_whole_again() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
        let mut log = MetricLog::open(&store, "m/metrics.jsonl", 0).expect("opens");
        for step in [10, 20, 30] {
            log.add(line(step)).expect("adds");
        }
        let whole = store.read("m/metrics.jsonl").expect("reads");
        let last = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').expect("three lines") + 1;
        // Cut after the line's newline went, in its middle, and within its first key.
        for cut in [whole.len() - 1, whole.len() - 9, last + 3] {
            store.put("m/metrics.jsonl", whole[..cut].to_vec()).expect("puts");
            let mut log = MetricLog::open(&store, "m/metrics.jsonl", 30).expect("opens");
            let kept = if cut == whole.len() - 1 { vec![10, 20, 30] } else { vec![10, 20] };
            assert_eq!(log.lines().iter().map(|line| line.step).collect::<Vec<_>>(), kept, "cut at {cut}");
            log.add(line(40)).expect("adds");
            let again = MetricLog::open(&store, "m/metrics.jsonl", 40).expect("opens");
            assert_eq!(again.lines(), log.lines());
            let text = store.read("m/metrics.jsonl").expect("reads");
            assert_eq!(String::from_utf8_lossy(&text).lines().count(), kept.len() + 1, "no line of two halves");
        }
    }
}
