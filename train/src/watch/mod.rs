//! What a run leaves to look at: files for people, and for the tools that they watch trainings with, and gauges
//! while it goes on. All of them are made from the lines of `metrics.jsonl`, so none can say anything else than those.

mod curves;
pub mod endpoint;
pub mod report;
pub mod table;
pub mod tensorboard;

use midi_ingest::job::exit::Result;
use midi_ingest::store::Store;

use crate::metrics::Line;
pub use report::REPORT;

/// Writes the report of the run in `folder`, the model's: curves and a small table.
///
/// # Errors
/// The store fails (74).
pub fn report(store: &Store, folder: &str, lines: &[Line]) -> Result<()> {
    let model = folder.rsplit('/').next().unwrap_or(folder);
    store.put(&format!("{folder}/{REPORT}"), report::html(model, lines).into_bytes())
}

/// Writes what belongs into `folder`, the model's, when a run has ended: `metrics.parquet` and the report.
///
/// # Errors
/// The store fails (74).
pub fn write(store: &Store, folder: &str, lines: &[Line]) -> Result<()> {
    report(store, folder, lines)?;
    store.put(&format!("{folder}/metrics.parquet"), table::parquet(lines)?)
}

/// The time that a run has spent, out of the tokens and rates of its lines.
#[derive(Debug, Default)]
struct Clock {
    seconds: f64,
    tokens: u64,
}

impl Clock {
    /// Seconds at `line`, which follows the line of the last call.
    fn at(&mut self, line: &Line) -> f64 {
        let taken = line.tokens.saturating_sub(self.tokens) as f64 / line.tokens_per_second;
        self.seconds += if taken.is_finite() { taken } else { 0.0 };
        self.tokens = line.tokens;
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_what_the_rates_say() {
        let line = |tokens, tokens_per_second| Line {
            step: 1,
            loss: 1.0,
            lr: 1.0,
            grad_norm: 1.0,
            tokens,
            tokens_per_second,
            filled: 1.0,
            loader_wait: 0.0,
            valid_loss: None,
        };
        let mut clock = Clock::default();
        let seconds = [line(100, 50.0), line(300, 100.0), line(300, 0.0)].map(|line| clock.at(&line));
        assert_eq!(seconds, [2.0, 4.0, 4.0]);
    }
}
