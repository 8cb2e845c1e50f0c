//! Shards as batches: in which order samples come, and how they become rows of ids and labels.

mod ahead;
mod entropy;
mod loader;
mod order;

pub use ahead::Ahead;
pub use entropy::unigram_loss;
pub use loader::{Batch, Dataset, NO_TARGET, Placed};
pub use order::{Order, share};
