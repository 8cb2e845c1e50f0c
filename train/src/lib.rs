//! Shards in, checkpoints out: the RWKV-7 model, the WKV operator, the optimiser, checkpoints.
//!
//! Everything that needs libtorch is behind the default feature `torch`; without it the crate holds the
//! configuration and plan types that the launcher reads.

pub mod config;
