//! How every stage runs: strict TOML, exit codes, errors that say what to do next, progress, shutdown.

pub mod config;
pub mod exit;

pub use config::Experiment;
pub use exit::{Error, Exit, Result};
