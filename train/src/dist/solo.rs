//! A world of one rank: every sum is the value itself.

use midi_ingest::job::exit::{Error, Result};
use tch::Tensor;

use super::collective::{Collective, Operation};

/// The only rank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Collective for Solo {
    fn name(&self) -> &'static str {
        "solo"
    }

    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, _: &Operation, _: &mut Tensor) -> Result<()> {
        Ok(())
    }

    fn reduce_scatter(&mut self, _: &Operation, values: &Tensor) -> Result<Tensor> {
        Ok(values.copy())
    }

    fn all_gather(&mut self, _: &Operation, part: &Tensor, _: usize) -> Result<Tensor> {
        Ok(part.copy())
    }

    fn broadcast(&mut self, _: &Operation, _: &mut Tensor, _: usize) -> Result<()> {
        Ok(())
    }

    fn leave(&mut self, _: &Error) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_conforms() {
        crate::dist::conformance::check(&mut Solo).expect("conforms");
    }
}
