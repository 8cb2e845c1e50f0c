//! The parts of a layer that lie around its matrix products, each as one pass over memory on the CPU. In torch's
//! operators they are dozens of passes, which together take longer than the WKV operator.
//!
//! Every part is there in torch's operators, for any device and kind, and as an [`Operator`] for f32 on the CPU; a test
//! holds the second, with its gradients, to the first in f64. On a GPU the kernels of [`cuda::fused`](crate::cuda::fused)
//! do the same.
//!
//! [`Operator`]: crate::autograd::Operator

mod output;
mod relu;
mod shift;
mod terms;

use tch::{Device, Kind, Tensor};

pub(super) use output::{output, parts};
pub(super) use relu::squared_relu;
pub(super) use shift::shift;
pub(super) use terms::{Terms, terms};

use super::shape::HEAD;
use crate::cpu::lanes::Fresh;

/// Rows (tokens) that one task takes. The sums over rows that gradients of parameters are made of are formed
/// block by block, so they do not depend on the number of threads.
const BLOCK: usize = 32;

/// One head of a row.
type Lane = [f32; HEAD];

/// Whether the loops of this module take these tensors.
fn is_ours(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| tensor.kind() == Kind::Float && tensor.device() == Device::Cpu)
}

/// Values as heads.
fn heads(values: &[f32]) -> &[Lane] {
    values.as_chunks().0
}

/// Values as heads, to be written.
fn heads_mut(values: &mut [f32]) -> &mut [Lane] {
    values.as_chunks_mut().0
}

/// The heads of each block's rows, `block` of them, in each of `made`.
fn blocks_of(made: &mut [Fresh], block: usize) -> Vec<Vec<&mut [Lane]>> {
    let mut blocks: Vec<Vec<&mut [Lane]>> = Vec::new();
    for made in made {
        for (index, part) in heads_mut(made.values()).chunks_mut(block.max(1)).enumerate() {
            if index == blocks.len() {
                blocks.push(Vec::new());
            }
            blocks[index].push(part);
        }
    }
    blocks
}

/// The sum over a head's lanes, in f64: norms amplify its error where terms nearly cancel.
#[inline(always)]
fn sum(values: Lane) -> f32 {
    let mut sums = [0.0f64; HEAD / 2];
    let (low, high) = values.split_at(HEAD / 2);
    for ((sum, low), high) in sums.iter_mut().zip(low).zip(high) {
        *sum = f64::from(*low) + f64::from(*high);
    }
    for half in [16, 8, 4, 2, 1] {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
    }
    sums[0] as f32
}

/// A head's values, one by one from the number of the lane.
#[inline(always)]
fn lane(value: impl Fn(usize) -> f32) -> Lane {
    let mut made = [0.0; HEAD];
    for (l, made) in made.iter_mut().enumerate() {
        *made = value(l);
    }
    made
}

/// The sums over blocks of what each block summed: `partial` is [blocks, count].
fn add_up(partial: &[f32], count: usize) -> Vec<f32> {
    let mut total = vec![0.0; count];
    for part in partial.chunks_exact(count.max(1)) {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}

/// What the backward pass of an operator of `results` results got, zeros where nothing depends on one.
fn gradients<const N: usize>(grads: [&Option<Tensor>; N], like: &Tensor) -> [Tensor; N] {
    grads.map(|grad| grad.as_ref().map_or_else(|| like.zeros_like(), Tensor::shallow_clone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wkv::conformance::relative_difference;

    /// Runs `part` on f64 and on f32 leaves of the shapes given, with aperiodic values, and compares results and
    /// gradients.
    pub(super) fn agrees(shapes: &[&[i64]], part: impl Fn(&[Tensor]) -> Vec<Tensor>) {
        let run = |kind: Kind| {
            let leaf = |(salt, shape): (usize, &&[i64])| wave(salt, shape).to_kind(kind).set_requires_grad(true);
            let leaves: Vec<Tensor> = shapes.iter().enumerate().map(leaf).collect();
            let results = part(&leaves);
            let weigh = |(salt, result): (usize, &Tensor)| {
                (result * wave(100 + salt, &result.size()).to_kind(kind)).sum(Kind::Double)
            };
            results.iter().enumerate().map(weigh).fold(Tensor::from(0.0), |sum, term| sum + term).backward();
            let grads = leaves.iter().map(Tensor::grad);
            results.iter().map(Tensor::detach).chain(grads).collect::<Vec<Tensor>>()
        };
        for (number, (truth, found)) in run(Kind::Double).iter().zip(run(Kind::Float)).enumerate() {
            let relative = relative_difference(&found, truth);
            assert!(relative < 2e-6, "tensor {number}, {:?}: {relative:e}", truth.size());
            assert_eq!(found.kind(), Kind::Float);
        }
    }

    fn wave(salt: usize, shape: &[i64]) -> Tensor {
        let n = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
        // Not around zero: sums that cancel would show the rounding of their terms. Rounded once, so that both kinds begin
        // with the same numbers.
        (((n + salt as f64 * 7919.0) * 12.9898).sin() + 0.4).to_kind(Kind::Float).to_kind(Kind::Double).reshape(shape)
    }
}
