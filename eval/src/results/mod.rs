//! What an evaluation leaves behind: four long-format Parquet tables, and the way from metric values to
//! comparisons of models.
//!
//! Every row says which run and which configuration it belongs to, and which checkpoint where there is
//! one, so tables of several runs can be read together. A value that does not exist is null, with its
//! reason; it is never a NaN. The same rows always give the same bytes.

pub mod answers;
pub mod compare;
pub mod comparisons;
pub mod generations;
pub mod metrics;
pub mod prompts;
#[cfg(feature = "torch")]
pub mod scan;
pub mod summary;
pub mod table;

pub use answers::Answers;
pub use comparisons::ComparisonRow;
pub use generations::{GenerationRow, Status};
pub use metrics::{Labels, MetricRow};
pub use prompts::PromptRow;
pub use summary::Summary;
pub use table::{read, write};
