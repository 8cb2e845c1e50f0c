//! Dropout whose masks are a function of seed, step, layer and sample: not of the rank, the row or the
//! micro-batch that a sample happens to stand in, and not of torch's random numbers.

use std::sync::{Mutex, PoisonError};

use midi_ingest::job::draws::{Draws, Keyed};
use tch::Tensor;

use crate::data::{Batch, Placed};

/// The dropout of a network's adapters: off until a training step turns it on.
#[derive(Debug, Default)]
pub(super) struct Dropout {
    rate: f64,
    seed: u64,
    now: Mutex<Option<Now>>,
}

/// The batch that is being trained on.
#[derive(Debug)]
struct Now {
    step: u64,
    /// Rows times columns.
    positions: usize,
    placed: Vec<Placed>,
}

impl Dropout {
    /// Values become zero with probability `rate`, 0 to below 1.
    pub(super) fn new(rate: f64, seed: u64) -> Self {
        Dropout { rate, seed, now: Mutex::new(None) }
    }

    /// Turns it on for `batch` at `step`.
    pub(super) fn turn_on(&self, step: u64, batch: &Batch) {
        let now = Now { step, positions: batch.rows * batch.columns, placed: batch.placed.clone() };
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Turns it off.
    pub(super) fn turn_off(&self) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `x` [B, T, D], for the layer called `name`, with some values zero and the others scaled up.
    pub(super) fn apply(&self, x: &Tensor, name: &str) -> Tensor {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(now) = now.as_ref().filter(|_| self.rate > 0.0) else { return x.shallow_clone() };
        let size = x.size();
        let width = *size.last().unwrap_or(&1) as usize;
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        let mut mask = vec![0.0f32; now.positions * width];
        for Placed { sample, at, length } in &now.placed {
            let mut draws = Keyed::new(self.seed, &format!("dropout/{}/{name}", now.step), *sample);
            for value in &mut mask[at * width..(at + length) * width] {
                *value = if draws.uniform(0.0, 1.0) < self.rate { 0.0 } else { kept };
            }
        }
        x * Tensor::from_slice(&mask).reshape(&size).to_device(x.device()).to_kind(x.kind())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn batch(rows: usize, columns: usize, placed: Vec<Placed>) -> Batch {
        let ids = vec![0; rows * columns];
        Batch { rows, columns, labels: ids.clone(), ids, resets: vec![], placed, targets: 0, tokens: 0 }
    }

    #[test]
    fn a_sample_has_its_mask_wherever_it_stands() {
        let dropout = Dropout::new(0.25, 9);
        let ones = |rows: i64, columns: i64| Tensor::ones([rows, columns, 64], (Kind::Float, Device::Cpu));
        assert!(dropout.apply(&ones(1, 3), "x").equal(&ones(1, 3)), "off at first");
        let place = |sample, at| Placed { sample, at, length: 3 };
        dropout.turn_on(7, &batch(2, 4, vec![place(5, 0), place(6, 4)]));
        let apart = dropout.apply(&ones(2, 4), "x");
        dropout.turn_on(7, &batch(1, 6, vec![place(6, 0), place(5, 3)]));
        let packed = dropout.apply(&ones(1, 6), "x");
        assert!(apart.get(0).narrow(0, 0, 3).equal(&packed.get(0).narrow(0, 3, 3)));
        assert!(apart.get(1).narrow(0, 0, 3).equal(&packed.get(0).narrow(0, 0, 3)));
        assert!(!apart.get(0).equal(&apart.get(1)));
        assert!(!dropout.apply(&ones(1, 6), "y").equal(&packed), "each layer has its own");
        let share = packed.eq(0.0).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        assert!((0.15..0.35).contains(&share), "{share}");
        dropout.turn_off();
        assert!(dropout.apply(&ones(1, 6), "x").equal(&ones(1, 6)));
    }
}
