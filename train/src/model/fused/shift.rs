//! Token shift: each row mixed with the one before it, in several proportions at a time,
//! x + (Δ(x) − x)∘mix.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use multiversion::multiversion;
use tch::Tensor;

use super::super::resets::Resets;
use super::{BLOCK, add_up, is_ours};
use crate::autograd::{self, Operator, Outputs};
use crate::cpu::lanes::{Fresh, Lanes};
use crate::cpu::parallel;
use crate::cuda::{self, Launcher};

/// `x` [B, T, D] mixed by each of `mixes`, [1, 1, D]. The row before the first is `before` [B, D] (none: zeros), and
/// at `resets` the row before counts as zeros.
///
/// # Errors
/// Torch's, or those of a GPU.
pub(in crate::model) fn shift<const N: usize>(
    launcher: Option<&Arc<dyn Launcher>>,
    x: &Tensor,
    before: Option<&Tensor>,
    mixes: [&Tensor; N],
    resets: Option<&Resets>,
) -> Result<[Tensor; N]> {
    let mut inputs = vec![x];
    inputs.extend(mixes);
    inputs.extend(before);
    let mixed = match launcher {
        Some(launcher) if before.is_none() => cuda::fused::mixes(launcher, x, resets.map(Resets::mask), &mixes)?,
        _ if is_ours(&inputs) => {
            let operator = Shift { mixes: N, begins: resets.map(|resets| resets.begins().to_vec()) };
            autograd::apply(operator, &inputs)?
        }
        _ => {
            let delta = shifted(x, before, resets) - x;
            return Ok(mixes.map(|mix| x.addcmul(&delta, mix)));
        }
    };
    mixed.try_into().map_err(|_| Error::bug("the token shift did not give one result a mix"))
}

/// The rows of x [B, T, D] moved one step later; the first is `before` [B, D], or zeros, and those at
/// `resets` are zeros.
fn shifted(x: &Tensor, before: Option<&Tensor>, resets: Option<&Resets>) -> Tensor {
    let size = x.size();
    let (batch, time) = (size[0], size[1]);
    let first = match before {
        Some(before) => before.unsqueeze(1),
        None => Tensor::zeros([batch, 1, size[2]], (x.kind(), x.device())),
    };
    let moved = if time == 1 { first } else { Tensor::cat(&[first, x.narrow(1, 0, time - 1)], 1) };
    resets.map_or_else(|| moved.shallow_clone(), |resets| resets.zero(&moved))
}

/// (x, mixes.., before or nothing) to one result a mix.
struct Shift {
    mixes: usize,
    /// Whether a sequence begins at a row, where that is not the first of its line only.
    begins: Option<Vec<bool>>,
}

/// The operator's inputs in memory.
struct Read<'a> {
    shift: &'a Shift,
    time: usize,
    width: usize,
    x: Lanes,
    mixes: Vec<Lanes>,
    before: Option<Lanes>,
    zeros: Vec<f32>,
}

impl<'a> Read<'a> {
    fn of(shift: &'a Shift, inputs: &[Tensor]) -> Result<Self> {
        let (x, mixes, before) = match inputs.split_first() {
            Some((x, rest)) if rest.len() >= shift.mixes => (x, &rest[..shift.mixes], rest.get(shift.mixes)),
            _ => return Err(Error::bug("the token shift got too few tensors")),
        };
        let (_, time, width) = x.size3().map_err(crate::fault::torch)?;
        Ok(Read {
            shift,
            time: time as usize,
            width: width as usize,
            x: Lanes::of(x)?,
            mixes: mixes.iter().map(Lanes::of).collect::<Result<_>>()?,
            before: before.map(Lanes::of).transpose()?,
            zeros: vec![0.0; width as usize],
        })
    }

    /// (sequence, first row, rows) of each block; `row` counts the rows of all sequences.
    fn blocks(&self) -> Vec<std::ops::Range<usize>> {
        let rows = self.x.values().len() / self.width.max(1);
        let sequence =
            |first: usize| (0..self.time).step_by(BLOCK).map(move |t| first + t..first + self.time.min(t + BLOCK));
        (0..rows).step_by(self.time.max(1)).flat_map(sequence).collect()
    }

    fn row<'v>(&self, values: &'v [f32], row: usize) -> &'v [f32] {
        &values[row * self.width..][..self.width]
    }

    /// What stands before a row.
    fn previous(&self, row: usize) -> &[f32] {
        match &self.before {
            _ if self.is_reset(row) => &self.zeros,
            _ if !row.is_multiple_of(self.time) => self.row(self.x.values(), row - 1),
            Some(before) => self.row(before.values(), row / self.time),
            None => &self.zeros,
        }
    }

    fn is_reset(&self, row: usize) -> bool {
        self.shift.begins.as_ref().is_some_and(|begins| begins[row])
    }

    /// Whether a row sees the one before it in `x`.
    fn continues(&self, row: usize) -> bool {
        !row.is_multiple_of(self.time) && !self.is_reset(row)
    }

    /// New tensors like x, as the blocks of each.
    fn parts<'v>(&self, values: &'v mut [f32]) -> Vec<&'v mut [f32]> {
        let sequences = values.chunks_mut((self.time * self.width).max(1));
        sequences.flat_map(|sequence| sequence.chunks_mut(BLOCK * self.width)).collect()
    }
}

impl Operator for Shift {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let read = Read::of(self, inputs)?;
        let mut made = Vec::new();
        for _ in 0..self.mixes {
            made.push(Fresh::unset(&inputs[0].size())?);
        }
        let blocks = read.blocks();
        let mut tasks: Vec<_> = blocks.into_iter().map(|rows| (rows, Vec::with_capacity(self.mixes))).collect();
        for made in &mut made {
            for (task, part) in tasks.iter_mut().zip(read.parts(made.values())) {
                task.1.push(part);
            }
        }
        parallel::each(tasks, |_, (rows, mut parts)| {
            for (n, row) in rows.enumerate() {
                let (x, previous) = (read.row(read.x.values(), row), read.previous(row));
                for (mix, part) in read.mixes.iter().zip(&mut parts) {
                    mix_row(x, previous, mix.values(), &mut part[n * read.width..][..read.width]);
                }
            }
        });
        let kept = inputs.iter().map(Tensor::shallow_clone).collect();
        Ok(Outputs { results: made.into_iter().map(Fresh::done).collect(), kept })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let read = Read::of(self, kept)?;
        let grads: Vec<Option<Lanes>> =
            grads.iter().map(|grad| grad.as_ref().map(Lanes::of).transpose()).collect::<Result<_>>()?;
        let terms: Vec<(usize, &[f32], &[f32])> = (0..self.mixes)
            .filter_map(|i| Some((i, grads.get(i)?.as_ref()?.values(), read.mixes[i].values())))
            .collect();
        let mut dx = Fresh::zeros(&kept[0].size())?;
        let blocks = read.blocks();
        let width = read.width;
        let mut partial = vec![0.0; blocks.len() * self.mixes * width];
        let sums = partial.chunks_mut((self.mixes * width).max(1));
        let tasks: Vec<_> = blocks.into_iter().zip(read.parts(dx.values())).zip(sums).collect();
        parallel::each(tasks, |_, ((rows, dx), sums)| {
            for (n, row) in rows.enumerate() {
                let (x, previous) = (read.row(read.x.values(), row), read.previous(row));
                let dx = &mut dx[n * width..][..width];
                let is_seen = !(row + 1).is_multiple_of(read.time) && read.continues(row + 1);
                for &(i, grad, mix) in &terms {
                    let next = if is_seen { read.row(grad, row + 1) } else { &read.zeros };
                    let sum = &mut sums[i * width..][..width];
                    mix_row_back(read.row(grad, row), next, x, previous, mix, dx, sum);
                }
            }
        });
        let d_mixes = add_up(&partial, self.mixes * width);
        let d_mix = |i: usize| Some(Tensor::from_slice(&d_mixes[i * width..][..width]).view([1, 1, -1]));
        let mut all = vec![Some(dx.done())];
        all.extend((0..self.mixes).map(d_mix));
        if let Some(before) = kept.get(self.mixes + 1) {
            let mut d_before = Fresh::zeros(&before.size())?;
            for (sequence, sum) in d_before.values().chunks_mut(width.max(1)).enumerate() {
                let row = sequence * read.time;
                if !read.is_reset(row) {
                    for &(_, grad, mix) in &terms {
                        let terms = read.row(grad, row).iter().zip(mix);
                        sum.iter_mut().zip(terms).for_each(|(sum, (grad, mix))| *sum += grad * mix);
                    }
                }
            }
            all.push(Some(d_before.done()));
        }
        Ok(all)
    }
}

/// x + (previous − x)·mix, in f64: at a sequence's first steps the WKV operator's products nearly cancel, and the group
/// norm after it amplifies roundings of what they are made of.
#[multiversion(targets("x86_64+avx2+fma"))]
fn mix_row(x: &[f32], previous: &[f32], mix: &[f32], mixed: &mut [f32]) {
    for (((mixed, x), previous), mix) in mixed.iter_mut().zip(x).zip(previous).zip(mix) {
        let (x, previous, mix) = (f64::from(*x), f64::from(*previous), f64::from(*mix));
        *mixed = (x + (previous - x) * mix) as f32;
    }
}

/// Adds to the gradients of x and mix; `next` is the gradient of the row after it, which sees x as its previous one.
#[multiversion(targets("x86_64+avx2+fma"))]
fn mix_row_back(
    grad: &[f32],
    next: &[f32],
    x: &[f32],
    previous: &[f32],
    mix: &[f32],
    dx: &mut [f32],
    d_mix: &mut [f32],
) {
    let rows = grad.iter().zip(next).zip(x).zip(previous).zip(mix);
    for ((dx, d_mix), ((((grad, next), x), previous), mix)) in dx.iter_mut().zip(d_mix).zip(rows) {
        *dx += grad + (next - grad) * mix;
        *d_mix += grad * (previous - x);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::agrees;
    use super::*;

    #[test]
    fn it_is_the_shift_of_torchs_operators() {
        let (x, mix, before): (&[i64], &[i64], &[i64]) = (&[3, 70, 64], &[1, 1, 64], &[3, 64]);
        let resets = Resets::new(3, 70, &[5, 31, 70, 100, 209]).expect("inside");
        for resets in [None, Some(&resets)] {
            agrees(&[x, mix, mix], |t| shift(None, &t[0], None, [&t[1], &t[2]], resets).expect("runs").into());
            agrees(&[x, mix, before], |t| shift(None, &t[0], Some(&t[2]), [&t[1]], resets).expect("runs").into());
        }
        agrees(&[&[2, 1, 64], mix], |t| shift(None, &t[0], None, [&t[1]], None).expect("runs").into());
    }

    #[test]
    fn a_result_that_nothing_depends_on_adds_nothing() {
        let (x, mix): (&[i64], &[i64]) = (&[2, 40, 64], &[1, 1, 64]);
        agrees(&[x, mix, mix], |t| {
            let [used, _] = shift(None, &t[0], None, [&t[1], &t[2]], None).expect("runs");
            // The unused mix has a gradient of zero on one side and none on the other.
            vec![used + &t[2] * 0.0]
        });
    }
}
