//! RWKV-7 ("x070"): its shape, its parameters and their first values, its forward pass over whole
//! sequences and step by step.

pub mod shape;

#[cfg(feature = "torch")]
mod block;
#[cfg(feature = "torch")]
mod channel_mix;
#[cfg(feature = "torch")]
pub mod init;
#[cfg(feature = "torch")]
mod parameters;
#[cfg(feature = "torch")]
mod resets;
#[cfg(feature = "torch")]
mod rwkv7;
#[cfg(feature = "torch")]
mod state;
#[cfg(feature = "torch")]
mod time_mix;

pub use shape::Shape;

#[cfg(feature = "torch")]
pub use parameters::Parameters;
#[cfg(feature = "torch")]
pub use resets::Resets;
#[cfg(feature = "torch")]
pub use rwkv7::Rwkv7;
#[cfg(feature = "torch")]
pub use state::{LayerState, State};
#[cfg(feature = "torch")]
pub use time_mix::Stages;
