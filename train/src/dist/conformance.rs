//! What every [`Collective`] must do, with exact results: the numbers are small integers.

use std::time::Duration;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::collective::{Collective, Operation, shard};

/// Runs the whole suite; every rank of the world must call it.
///
/// # Errors
/// An operation fails, or gives something else than it should: the text says which.
pub fn check(ranks: &mut dyn Collective) -> Result<()> {
    let (rank, world) = (ranks.rank(), ranks.world());
    let operation = |name| Operation { name, step: 3, deadline: Duration::from_secs(60) };
    let same = |what: &str, got: &Tensor, truth: &Tensor| {
        if got.size() == truth.size() && got.kind() == truth.kind() && got.equal(truth) {
            return Ok(());
        }
        Err(Error::bug(format!("{what} on rank {rank} of {world} gives {got:?}, not {truth:?}")))
    };
    // Element i of rank r is (r + 1)·(i mod 7 + 1), so the sum is as exact as the parts.
    let triangle = (world * (world + 1) / 2) as i64;
    let ramp = |length: usize, times: i64, kind| {
        (Tensor::arange(length as i64, (Kind::Int64, tch::Device::Cpu)).remainder(7) + 1i64).to_kind(kind) * times
    };
    for kind in [Kind::Float, Kind::Double, Kind::Int64] {
        for length in [0, 1, 2, 3, 5, 8, 1003, 70_001] {
            let values = ramp(length, rank as i64 + 1, kind);
            let sum = ramp(length, triangle, kind);
            let mut all = values.copy();
            ranks.all_reduce(&operation("all-reduce"), &mut all)?;
            same("all-reduce", &all, &sum)?;

            let mine = shard(length, world, rank);
            let part = ranks.reduce_scatter(&operation("reduce-scatter"), &values)?;
            same("reduce-scatter", &part, &sum.narrow(0, mine.start as i64, mine.len() as i64))?;
            let whole = ranks.all_gather(&operation("all-gather"), &part, length)?;
            same("all-gather", &whole, &sum)?;

            for root in 0..world {
                let mut copy = values.copy();
                ranks.broadcast(&operation("broadcast"), &mut copy, root)?;
                same("broadcast", &copy, &ramp(length, root as i64 + 1, kind))?;
            }
        }
    }
    let mut numbers = [rank as u64, 1, 1 << 40];
    ranks.sum_u64(&operation("sum"), &mut numbers)?;
    let truth = [(world * (world - 1) / 2) as u64, world as u64, (world as u64) << 40];
    let mut floats = [0.5, f64::NAN];
    ranks.sum_f64(&operation("sum"), &mut floats)?;
    if numbers != truth || floats[0] != 0.5 * world as f64 || !floats[1].is_nan() {
        return Err(Error::bug(format!("the sums on rank {rank} are {numbers:?} and {floats:?}")));
    }
    ranks.barrier(&operation("barrier"))
}
