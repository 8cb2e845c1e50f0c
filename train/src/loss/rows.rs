//! The loss of a piece of logits as one pass over each row in the processor's cache, where torch's operators take a
//! dozen over all rows. The gradient takes the logits' place in memory.

use midi_ingest::job::exit::{Error, Result};
use multiversion::multiversion;
use tch::{Device, Kind, Tensor};

use super::{Piece, Weights};
use crate::cpu::lanes::InPlace;
use crate::cpu::{parallel, scalar};

/// Rows (positions) that one task takes.
const BLOCK: usize = 8;

/// Lanes that are summed or compared side by side.
const LANES: usize = 16;

/// Terms of a lane that are summed in f32, before the sum goes on in f64.
const RUN: usize = 32;

/// Whether the loops of this module take these logits.
pub(super) fn is_ours(logits: &Tensor) -> bool {
    logits.kind() == Kind::Float && logits.device() == Device::Cpu && logits.is_contiguous()
}

/// The loss of `logits` [N, V] for N labels, and its gradient.
pub(super) fn piece(mut logits: Tensor, labels: &Tensor, weights: Weights) -> Result<Piece> {
    let width = logits.size().last().map_or(1, |&width| width.max(1) as usize);
    let labels: Vec<i64> = Vec::try_from(labels).map_err(crate::fault::torch)?;
    if let Some(label) = labels.iter().find(|&&label| label >= width as i64) {
        return Err(super::unknown_label().because(format!("{label} of {width} ids")));
    }
    let labels: Vec<Option<usize>> = labels.iter().map(|&label| usize::try_from(label).ok()).collect();
    let mut sums = vec![Sums::default(); labels.len().div_ceil(BLOCK)];
    let mut values = InPlace::of(&mut logits).ok_or_else(|| Error::bug("logits that are not f32 on the CPU"))?;
    let blocks = values.values().chunks_mut(BLOCK * width).zip(labels.chunks(BLOCK)).zip(&mut sums).collect();
    parallel::each(blocks, |_, ((rows, labels), sums)| {
        for (row, &label) in rows.chunks_mut(width).zip(labels) {
            sums.add(row_in_place(row, label, weights));
        }
    });
    let mut total = Sums::default();
    sums.into_iter().for_each(|sums| total.add(sums));
    Ok(Piece { sums: Tensor::from_slice(&[total.cross_entropy, total.squares]), gradient: logits })
}

/// Sums over target positions.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    cross_entropy: f64,
    /// Of the squared largest logit.
    squares: f64,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.cross_entropy += other.cross_entropy;
        self.squares += other.squares;
    }
}

/// Puts the gradient in the place of a row's logits; without a label the row is no target.
#[multiversion(targets("x86_64+avx2+fma"))]
fn row_in_place(row: &mut [f32], label: Option<usize>, weights: Weights) -> Sums {
    let largest = largest(row);
    let penalty = (label.is_some() || weights.penalty_everywhere).then_some(weights.penalty).filter(|&p| p != 0.0);
    let at = penalty.and_then(|_| row.iter().position(|&x| x == largest));
    let mut sums = Sums::default();
    if let Some(label) = label {
        let picked = row[label];
        let sum = exponentials(row, largest);
        let factor = (weights.cross_entropy / sum) as f32;
        row.iter_mut().for_each(|x| *x *= factor);
        row[label] -= weights.cross_entropy as f32;
        let largest = f64::from(largest);
        sums = Sums { cross_entropy: largest + sum.ln() - f64::from(picked), squares: largest * largest };
    } else {
        row.fill(0.0);
    }
    if let (Some(at), Some(penalty)) = (at, penalty) {
        row[at] += (f64::from(largest) * penalty) as f32;
    }
    sums
}

/// The largest value that is a number.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let greater = |x: f32, y: f32| if y > x { y } else { x };
    let (parts, rest) = row.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for part in parts {
        most.iter_mut().zip(part).for_each(|(most, &x)| *most = greater(*most, x));
    }
    most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

/// Puts exp(x − largest) in the place of each x, and returns their sum.
#[inline(always)]
fn exponentials(row: &mut [f32], largest: f32) -> f64 {
    let mut sum = 0.0;
    let (parts, rest) = row.as_chunks_mut::<LANES>();
    for run in parts.chunks_mut(RUN) {
        let mut sums = [0.0f32; LANES];
        for part in run {
            for (sum, x) in sums.iter_mut().zip(part) {
                *x = scalar::exp(*x - largest);
                *sum += *x;
            }
        }
        sum += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    for x in rest {
        *x = scalar::exp(*x - largest);
        sum += f64::from(*x);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHTS: [Weights; 3] = [
        Weights { cross_entropy: 0.25, penalty: 0.0, penalty_everywhere: false },
        Weights { cross_entropy: 0.25, penalty: 0.01, penalty_everywhere: false },
        Weights { cross_entropy: 0.25, penalty: 0.01, penalty_everywhere: true },
    ];

    fn logits(rows: i64, width: i64) -> Tensor {
        let n = Tensor::arange(rows * width, (Kind::Double, Device::Cpu));
        ((n * 12.9898).sin() * 9.0).to_kind(Kind::Float).reshape([rows, width])
    }

    #[test]
    fn it_is_the_loss_of_torchs_operators() {
        for (rows, width) in [(1, 1), (3, 40), (19, 1037)] {
            let labels: Vec<i64> = (0..rows).map(|row| if row % 4 == 2 { -100 } else { row * 7 % width }).collect();
            let (logits, labels) = (logits(rows, width), Tensor::from_slice(&labels));
            for weights in WEIGHTS {
                let truth = super::super::in_torch(&logits.to_kind(Kind::Double), &labels, weights).expect("runs");
                let found = piece(logits.copy(), &labels, weights).expect("runs");
                let near = |x: f64, y: f64| assert!((x - y).abs() <= 1e-6 * y.abs(), "{x} {y} {rows} {width}");
                for sum in 0..2 {
                    near(found.sums.double_value(&[sum]), truth.sums.double_value(&[sum]));
                }
                let worst = (found.gradient - truth.gradient).abs().max().double_value(&[]);
                assert!(worst < 1e-7, "{worst:e}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY] {
            let logits = Tensor::from_slice(&[0.5, bad, 1.0]).reshape([1, 3]);
            let found = piece(logits, &Tensor::from_slice(&[0i64]), WEIGHTS[1]).expect("runs");
            assert!(!found.sums.double_value(&[0]).is_finite(), "{bad}");
        }
    }
}
