//! The squared ReLU between the two products of channel mixing, max(x, 0)².

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use multiversion::multiversion;
use tch::Tensor;

use super::is_ours;
use crate::autograd::{self, Operator, Outputs};
use crate::cpu::lanes::{Fresh, Lanes};
use crate::cpu::parallel;
use crate::cuda::{self, Launcher};

/// Values that one task takes.
const PIECE: usize = 1 << 15;

/// max(x, 0)² of every value.
///
/// # Errors
/// Torch's, or those of a GPU.
pub(in crate::model) fn squared_relu(launcher: Option<&Arc<dyn Launcher>>, x: &Tensor) -> Result<Tensor> {
    if let Some(launcher) = launcher {
        return cuda::fused::squared_relu(launcher, x);
    }
    if !is_ours(&[x]) {
        return Ok(x.relu().square());
    }
    autograd::apply(SquaredRelu, &[x])?.pop().ok_or_else(|| Error::bug("the squared ReLU gave nothing"))
}

struct SquaredRelu;

impl Operator for SquaredRelu {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let [x] = inputs else { return Err(Error::bug("the squared ReLU has one input")) };
        let read = Lanes::of(x)?;
        let mut made = Fresh::unset(&x.size())?;
        let tasks = read.values().chunks(PIECE).zip(made.values().chunks_mut(PIECE)).collect();
        parallel::each(tasks, |_, (x, y)| square(x, y));
        Ok(Outputs { results: vec![made.done()], kept: vec![x.shallow_clone()] })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let ([x], [Some(grad)]) = (kept, grads) else { return Ok(vec![None]) };
        let (read, grad) = (Lanes::of(x)?, Lanes::of(grad)?);
        let mut made = Fresh::unset(&x.size())?;
        let pieces = read.values().chunks(PIECE).zip(grad.values().chunks(PIECE));
        let tasks = pieces.zip(made.values().chunks_mut(PIECE)).collect();
        parallel::each(tasks, |_, ((x, grad), dx)| square_back(x, grad, dx));
        Ok(vec![Some(made.done())])
    }
}

/// A comparison that keeps what is not a number.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn square(x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = relu(x) * relu(x));
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn square_back(x: &[f32], grad: &[f32], dx: &mut [f32]) {
    dx.iter_mut().zip(x).zip(grad).for_each(|((dx, &x), grad)| *dx = 2.0 * relu(x) * grad);
}

#[cfg(test)]
mod tests {
    use super::super::tests::agrees;
    use super::*;

    #[test]
    fn it_is_that_of_torchs_operators() {
        agrees(&[&[3, 5, 12_000]], |t| vec![squared_relu(None, &t[0]).expect("runs")]);
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let y = squared_relu(None, &Tensor::from_slice(&[f32::NAN, -1.0])).expect("runs");
        assert!(y.double_value(&[0]).is_nan() && y.double_value(&[1]) == 0.0);
    }
}
