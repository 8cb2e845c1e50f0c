//! The trainer's side of a [`Collective`]: it knows the step and how long an operation may take.

use std::time::Duration;

use midi_ingest::job::exit::{Error, Result};
use tch::Tensor;

use super::collective::{Collective, Operation};
use super::solo::Solo;

/// How long operations may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To meet, in the first step, and while rank 0 saves.
    pub first: Duration,
    /// Later.
    pub later: Duration,
}

/// The ranks of a training.
#[derive(Debug)]
pub struct Group {
    collective: Box<dyn Collective>,
    limits: Limits,
    step: u64,
    /// Whether a step was done.
    warm: bool,
}

impl Group {
    /// The ranks of `collective`.
    pub fn new(collective: Box<dyn Collective>, limits: Limits) -> Self {
        Group { collective, limits, step: 0, warm: false }
    }

    /// This process alone.
    pub fn solo() -> Self {
        Group::new(Box::new(Solo), Limits { first: Duration::MAX, later: Duration::MAX })
    }

    /// The transport's name.
    pub fn name(&self) -> &'static str {
        self.collective.name()
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.collective.rank()
    }

    /// The number of ranks.
    pub fn world(&self) -> usize {
        self.collective.world()
    }

    /// Whether this rank writes what all of them made.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The following operations belong to `step`, of which others were done before if `warm`.
    pub fn begin(&mut self, step: u64, warm: bool) {
        (self.step, self.warm) = (step, warm);
    }

    /// Tells the others that this rank ends with `error`.
    pub fn leave(&mut self, error: &Error) {
        self.collective.leave(error);
    }

    fn operation(&self, name: &'static str) -> Operation {
        let deadline = if self.warm { self.limits.later } else { self.limits.first };
        Operation { name, step: self.step, deadline }
    }

    /// See [`Collective::all_reduce`].
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn all_reduce(&mut self, name: &'static str, values: &mut Tensor) -> Result<()> {
        let operation = self.operation(name);
        self.collective.all_reduce(&operation, values)
    }

    /// See [`Collective::reduce_scatter`].
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn reduce_scatter(&mut self, name: &'static str, values: &Tensor) -> Result<Tensor> {
        let operation = self.operation(name);
        self.collective.reduce_scatter(&operation, values)
    }

    /// See [`Collective::all_gather`].
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn all_gather(&mut self, name: &'static str, part: &Tensor, whole: usize) -> Result<Tensor> {
        let operation = self.operation(name);
        self.collective.all_gather(&operation, part, whole)
    }

    /// The sums of `values` over all ranks.
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn sum_f64<const N: usize>(&mut self, name: &'static str, mut values: [f64; N]) -> Result<[f64; N]> {
        let operation = self.operation(name);
        self.collective.sum_f64(&operation, &mut values)?;
        Ok(values)
    }

    /// The sums of `values` over all ranks.
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn sum_u64<const N: usize>(&mut self, name: &'static str, mut values: [u64; N]) -> Result<[u64; N]> {
        let operation = self.operation(name);
        self.collective.sum_u64(&operation, &mut values)?;
        Ok(values)
    }

    /// Whether `flag` is raised on any rank.
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn any(&mut self, name: &'static str, flag: bool) -> Result<bool> {
        Ok(self.sum_u64(name, [u64::from(flag)])?[0] > 0)
    }

    /// Waits for rank 0, which may take as long as the first step.
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn wait_for_first(&mut self, name: &'static str) -> Result<()> {
        let operation = Operation { deadline: self.limits.first, ..self.operation(name) };
        self.collective.barrier(&operation)
    }

    /// That all ranks hold the same `values`, which are rank 0's on return.
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn of_first(&mut self, name: &'static str, values: [i64; 2]) -> Result<[i64; 2]> {
        let operation = self.operation(name);
        let mut tensor = Tensor::from_slice(&values);
        self.collective.broadcast(&operation, &mut tensor, 0)?;
        Ok([tensor.int64_value(&[0]), tensor.int64_value(&[1])])
    }
}
