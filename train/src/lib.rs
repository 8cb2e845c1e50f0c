//! Shards in, checkpoints out: the RWKV-7 model, the WKV operator, the optimiser, checkpoints.
//!
//! Everything that needs libtorch is behind the default feature `torch`; without it the crate holds the
//! configuration and plan types that the launcher reads.

#[cfg(feature = "torch")]
pub mod autograd;
pub mod config;
#[cfg(feature = "torch")]
mod fault;
#[cfg(feature = "torch")]
pub mod format;
#[cfg(feature = "torch")]
pub mod loss;
pub mod model;
pub mod optim;
#[cfg(feature = "torch")]
pub mod wkv;
