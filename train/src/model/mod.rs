//! RWKV-7 ("x070"): its shape, its parameters and their first values, its forward pass over whole
//! sequences and step by step.

pub mod shape;

#[cfg(feature = "torch")]
mod block;
#[cfg(feature = "torch")]
mod channel_mix;
#[cfg(feature = "torch")]
mod dropout;
#[cfg(feature = "torch")]
mod fused;
#[cfg(feature = "torch")]
pub mod init;
#[cfg(feature = "torch")]
mod linear;
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
pub use linear::{LORA_A, LORA_B};
#[cfg(feature = "torch")]
pub use parameters::Parameters;
#[cfg(feature = "torch")]
pub use resets::Resets;
#[cfg(feature = "torch")]
pub use rwkv7::{LoraTerms, Rwkv7, is_tuning, time_state_name};
#[cfg(feature = "torch")]
pub use state::{LayerState, State};
#[cfg(feature = "torch")]
pub use time_mix::Stages;
