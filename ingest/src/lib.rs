//! Files in, tokens out: scores, the tokenizer, training samples, shards, sources, the object store,
//! and how every job of the pipeline runs.
//!
//! Nothing here needs libtorch; `train`, `eval` and `launch` build on this crate.

pub mod config;
pub mod inspect;
pub mod job;
pub mod limits;
pub mod pipeline;
pub mod reject;
pub mod sample;
pub mod score;
pub mod shard;
mod song;
pub mod source;
pub mod store;
#[cfg(test)]
mod support;
pub mod token;
