//! Checkpoint in, tables out: prompts, generation, metrics, statistics, results, report.
//!
//! The batch job is behind the default feature `torch`; without it the crate holds the configuration
//! types that the launcher reads.

pub mod config;
pub mod metric;
pub mod report;
pub mod results;
pub mod stats;
