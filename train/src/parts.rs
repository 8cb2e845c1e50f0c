//! Batches on several cores: each thread passes some of the rows through a network of its own on the same weights.
//!
//! Torch's operators share their loops among threads too, but then these wait for each other after every operator, a
//! few thousand times a step. Parts meet once a micro-batch, and a part's activations are more likely to stay in its
//! core's cache.

use midi_ingest::job::exit::Result;
use tch::{Device, no_grad};

use crate::cpu::parallel;
use crate::data::Batch;
use crate::model::Rwkv7;

/// Most parts: each has gradients of its own for all weights.
const MOST: usize = 8;

/// The networks of the threads.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    first: &'a mut Rwkv7,
    /// On the weights of the first.
    others: Vec<Rwkv7>,
}

impl<'a> Parts<'a> {
    /// Of `model`, as many as are of use for `batches` on so many threads.
    ///
    /// # Errors
    /// As [`Rwkv7::twins`].
    pub(crate) fn of(model: &'a mut Rwkv7, batches: &[Batch], threads: usize) -> Result<Self> {
        let threads = if model.device() == Device::Cpu { threads } else { 1 };
        let count = batches.iter().map(|batch| count(batch.rows, threads)).max().unwrap_or(1);
        Ok(Parts { others: model.twins(count - 1)?, first: model })
    }

    /// What `work` gives for each part of `batch`, in the order of its rows.
    ///
    /// # Errors
    /// The first of the parts' errors.
    pub(crate) fn each<T: Send>(
        &mut self,
        batch: &Batch,
        work: impl Fn(&Rwkv7, &Batch) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let parts = batch.parts(count(batch.rows, 1 + self.others.len()));
        let mut made: Vec<Option<Result<T>>> = parts.iter().map(|_| None).collect();
        let networks = std::iter::once(&mut *self.first).chain(&mut self.others);
        let tasks = networks.zip(&parts).zip(&mut made).collect();
        parallel::each(tasks, |_, ((network, part), made)| *made = Some(work(network, part)));
        made.into_iter().flatten().collect()
    }

    /// Adds the gradients of all parts up, in their order, where the network's own are.
    pub(crate) fn add_gradients(&self) {
        no_grad(|| {
            for other in &self.others {
                for ((_, to), (_, from)) in self.first.trained().iter().zip(other.trained().iter()) {
                    let (mut to, from) = (to.grad(), from.grad());
                    if to.defined() && from.defined() {
                        to += from;
                    }
                }
            }
        });
    }
}

/// In how many parts to take `rows`: one a thread, if not too many threads wait for the last row.
fn count(rows: usize, threads: usize) -> usize {
    let rounds = rows.div_ceil(threads.max(1));
    let all_busy = rows * 5 >= rounds * threads * 4;
    if (2..=MOST).contains(&threads) && all_busy { threads } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_threads_where_few_of_them_wait() {
        let counts = |threads: usize| [1, 2, 3, 4, 5, 8, 9].map(|rows| count(rows, threads));
        assert_eq!(counts(1), [1; 7]);
        assert_eq!(counts(2), [1, 2, 1, 2, 2, 2, 2]);
        assert_eq!(counts(4), [1, 1, 1, 4, 1, 4, 1]);
        assert_eq!(count(64, 64), 1, "too many gradients");
    }
}
