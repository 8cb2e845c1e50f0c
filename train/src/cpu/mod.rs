//! Loops over f32 tensors in memory, where torch would take several passes for what is one: tensors as slices,
//! torch's own threads to share a loop among, and functions that loops over them turn into vector instructions.

pub(crate) mod lanes;
mod memory;
pub(crate) mod parallel;
pub(crate) mod scalar;

pub use memory::keep_freed;
