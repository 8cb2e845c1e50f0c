//! What a run leaves to look at: files for the tools that people watch trainings with. All of them are made from the
//! lines of `metrics.jsonl` and the summary, so none can say anything else than those.

pub mod table;
pub mod tensorboard;

use midi_ingest::job::exit::Result;
use midi_ingest::store::Store;

use crate::metrics::Line;

/// Writes what belongs into `folder`, the model's, when a run has ended: `metrics.parquet`.
///
/// # Errors
/// The store fails (74).
pub fn write(store: &Store, folder: &str, lines: &[Line]) -> Result<()> {
    store.put(&format!("{folder}/metrics.parquet"), table::parquet(lines)?)
}
