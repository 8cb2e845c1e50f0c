//! How every stage runs: strict TOML, exit codes, errors that say what to do next, progress, shutdown, and what its
//! reports are made of.

pub mod config;
pub mod draws;
pub mod exit;
pub mod page;
pub mod plot;
pub mod progress;
pub mod provenance;
pub mod shutdown;

pub use config::Experiment;
pub use exit::{Error, Exit, Result};
pub use progress::Progress;
pub use shutdown::Shutdown;
