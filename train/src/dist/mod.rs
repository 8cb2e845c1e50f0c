//! Many processes, one training: who is which rank, where ranks meet, what they compute together, and who is
//! missing when one of them is lost.
//!
//! [`Collective`] is the border: `Solo`, `Gloo` (processors) and `Nccl` (GPUs) stand behind it, judged by the same
//! [`conformance`] suite; [`rendezvous::join`] is where one is chosen.

pub mod env;
pub mod store;

#[cfg(feature = "torch")]
mod collective;
#[cfg(feature = "torch")]
pub mod conformance;
#[cfg(feature = "torch")]
pub mod flat;
#[cfg(feature = "torch")]
mod gloo;
#[cfg(feature = "torch")]
mod group;
#[cfg(feature = "torch")]
mod nccl;
#[cfg(feature = "torch")]
pub mod rendezvous;
#[cfg(feature = "torch")]
mod solo;
#[cfg(feature = "torch")]
mod watch;

pub use env::RankEnv;

#[cfg(feature = "torch")]
pub use collective::{Collective, Operation, shard};
#[cfg(feature = "torch")]
pub use gloo::Gloo;
#[cfg(feature = "torch")]
pub use group::{Group, Limits};
#[cfg(feature = "torch")]
pub use nccl::Nccl;
#[cfg(feature = "torch")]
pub use solo::Solo;
