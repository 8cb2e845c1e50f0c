//! Shards in, checkpoints out: the RWKV-7 model, the WKV operator, the optimiser, checkpoints.
//!
//! Everything that needs libtorch is behind the default feature `torch`; without it the crate holds the
//! configuration and plan types that the launcher reads, and the order and loading of data.

#[cfg(feature = "torch")]
pub mod autograd;
#[cfg(feature = "torch")]
pub mod checkpoint;
pub mod config;
#[cfg(feature = "torch")]
pub mod cpu;
#[cfg(feature = "torch")]
pub mod cuda;
pub mod data;
pub mod dist;
#[cfg(feature = "torch")]
mod fault;
#[cfg(feature = "torch")]
pub mod format;
#[cfg(feature = "torch")]
pub mod gpu_check;
#[cfg(feature = "torch")]
pub mod loss;
#[cfg(feature = "torch")]
pub mod metrics;
pub mod model;
pub mod optim;
#[cfg(feature = "torch")]
mod parts;
pub mod plan;
#[cfg(feature = "torch")]
pub mod step;
pub mod stopping;
#[cfg(feature = "torch")]
pub mod trainer;
#[cfg(feature = "torch")]
pub mod tuning;
#[cfg(feature = "torch")]
pub mod watch;
#[cfg(feature = "torch")]
pub mod wkv;
