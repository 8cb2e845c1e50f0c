//! What ranks compute together. Every operation has a name and a deadline, so that a rank that waits in vain
//! can say for what.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use midi_ingest::job::exit::{Error, Result};
use tch::Tensor;

/// One operation: all ranks call the same ones in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it is for: `all-reduce of gradients`.
    pub name: &'static str,
    /// The step that it belongs to.
    pub step: u64,
    /// How long it may take.
    pub deadline: Duration,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, step {}", self.name, self.step)
    }
}

/// The ranks of one training. Tensors are one-dimensional, contiguous, and as long on every rank.
///
/// # Errors
/// Every operation: a rank was lost or came too late, exit code 10, naming it. No operation may follow.
pub trait Collective: fmt::Debug {
    /// The transport's name.
    fn name(&self) -> &'static str;

    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world(&self) -> usize;

    /// Replaces `values` `[n]` by the sum over all ranks: the same bits on every rank.
    ///
    /// # Errors
    /// See [`Collective`].
    fn all_reduce(&mut self, operation: &Operation, values: &mut Tensor) -> Result<()>;

    /// This rank's [`shard`] of the sum of `values` `[n]` over all ranks.
    ///
    /// # Errors
    /// See [`Collective`].
    fn reduce_scatter(&mut self, operation: &Operation, values: &Tensor) -> Result<Tensor>;

    /// All of `[n]` from the [`shard`] that each rank holds.
    ///
    /// # Errors
    /// See [`Collective`].
    fn all_gather(&mut self, operation: &Operation, part: &Tensor, whole: usize) -> Result<Tensor>;

    /// Replaces `values` `[n]` by those of rank `root`.
    ///
    /// # Errors
    /// See [`Collective`].
    fn broadcast(&mut self, operation: &Operation, values: &mut Tensor, root: usize) -> Result<()>;

    /// Tells the other ranks that this one ends, and why.
    fn leave(&mut self, error: &Error);

    /// Returns when every rank called it.
    ///
    /// # Errors
    /// See [`Collective`].
    fn barrier(&mut self, operation: &Operation) -> Result<()> {
        self.sum_u64(operation, &mut [0])
    }

    /// Replaces `values` by the sums over all ranks.
    ///
    /// # Errors
    /// See [`Collective`].
    fn sum_u64(&mut self, operation: &Operation, values: &mut [u64]) -> Result<()> {
        let numbers: Vec<i64> = values.iter().map(|value| *value as i64).collect();
        let mut tensor = Tensor::from_slice(&numbers);
        self.all_reduce(operation, &mut tensor)?;
        let sums = Vec::<i64>::try_from(&tensor).map_err(crate::fault::torch)?;
        values.iter_mut().zip(sums).for_each(|(value, sum)| *value = sum as u64);
        Ok(())
    }

    /// Replaces `values` by the sums over all ranks.
    ///
    /// # Errors
    /// See [`Collective`].
    fn sum_f64(&mut self, operation: &Operation, values: &mut [f64]) -> Result<()> {
        let mut tensor = Tensor::from_slice(values);
        self.all_reduce(operation, &mut tensor)?;
        let sums = Vec::<f64>::try_from(&tensor).map_err(crate::fault::torch)?;
        values.copy_from_slice(&sums);
        Ok(())
    }
}

/// The part of n = `whole` elements that `rank` holds: equal parts, the last ones shorter or empty.
pub fn shard(whole: usize, world: usize, rank: usize) -> Range<usize> {
    let part = whole.div_ceil(world.max(1));
    (rank * part).min(whole)..((rank + 1) * part).min(whole)
}

/// `values` `[n]` with zeros at the end up to `length`, so that every rank's part is as long as the first.
pub(super) fn padded(values: &Tensor, length: usize) -> Tensor {
    values.constant_pad_nd([0, length as i64 - values.size()[0]])
}
