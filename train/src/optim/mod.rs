//! What turns gradients into new weights: parameter groups, the learning rate over the run, clipping, AdamW.

pub mod schedule;

#[cfg(feature = "torch")]
mod adamw;
#[cfg(feature = "torch")]
mod clip;
mod groups;

pub use groups::{Group, group};
pub use schedule::Schedule;

#[cfg(feature = "torch")]
pub use adamw::AdamW;
#[cfg(feature = "torch")]
pub use clip::{clip_factor, global_norm};
