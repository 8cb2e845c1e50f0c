//! Checkpoint in, tables out: prompts, generation, metrics, statistics, results, report.
//!
//! The batch job is behind the default feature `torch`; without it the crate holds the configuration
//! types that the launcher reads.

mod bars;
pub mod choose;
pub mod config;
#[cfg(feature = "torch")]
pub mod generate;
#[cfg(feature = "torch")]
pub mod job;
pub mod metric;
#[cfg(feature = "torch")]
pub mod models;
pub mod prompt;
pub mod report;
pub mod results;
pub mod rewrite;
pub mod sampler;
pub mod splice;
pub mod stats;
