//! From what the WKV operator read to the input of the output product: group norm over heads, the bonus of the
//! present token, and the gate.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use multiversion::multiversion;
use tch::{Kind, Tensor};

use super::super::shape::HEAD;
use super::{BLOCK, Lane, add_up, blocks_of, heads, heads_mut, is_ours, lane, sum};
use crate::autograd::{self, Operator, Outputs};
use crate::cpu::lanes::{Fresh, Lanes};
use crate::cpu::parallel;
use crate::cuda::fused::Gated;
use crate::cuda::{self, Launcher};

/// Epsilon of the group norm: 1e-5 times the square of the head size divisor, 8.
const EPSILON: f32 = 64e-5;

/// (norm(y) + (Σ r·k·r_k) v)·g, with the sum over the lanes of a head; [B, T, D].
///
/// # Errors
/// Torch's, or those of a GPU.
pub(in crate::model) fn output(launcher: Option<&Arc<dyn Launcher>>, gated: Gated<'_>) -> Result<Tensor> {
    if let Some(launcher) = launcher {
        return cuda::fused::norm_bonus_gate(launcher, gated, f64::from(EPSILON));
    }
    let Gated { y, r, k, v, g, r_k, weight, bias } = gated;
    let inputs = [y, r, k, v, g, r_k, weight, bias];
    if !is_ours(&inputs) {
        let (normed, bonus) = parts(gated);
        return Ok((normed + bonus) * g);
    }
    autograd::apply(Fused, &inputs)?.pop().ok_or_else(|| Error::bug("the output of time mixing is not there"))
}

/// The norm of y and the bonus, [B, T, D] each, in torch's operators.
pub(in crate::model) fn parts(Gated { y, r, k, v, r_k, weight, bias, .. }: Gated<'_>) -> (Tensor, Tensor) {
    let size = y.size();
    let (count, width) = (r_k.size()[0], weight.size()[0]);
    let normed = y.reshape([-1, width]).group_norm(count, Some(weight), Some(bias), f64::from(EPSILON), false);
    let heads = |x: &Tensor| x.reshape([-1, count, HEAD as i64]);
    let strength = (heads(r) * heads(k) * r_k).sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>);
    (normed.reshape(&size), (strength * heads(v)).reshape(&size))
}

/// (y, r, k, v, g, r_k, weight, bias) to the output.
struct Fused;

/// Rows of tensors and the parameters.
struct Rows<'a> {
    y: &'a [Lane],
    r: &'a [Lane],
    k: &'a [Lane],
    v: &'a [Lane],
    g: &'a [Lane],
    r_k: &'a [Lane],
    weight: &'a [Lane],
    bias: &'a [Lane],
}

impl<'a> Rows<'a> {
    /// Block `index` of the inputs.
    fn of(inputs: &'a [Lanes; 8], index: usize) -> Self {
        let [y, r, k, v, g, r_k, weight, bias] = inputs.each_ref().map(|input| heads(input.values()));
        let block = |rows: &'a [Lane]| rows.chunks(BLOCK * weight.len().max(1)).nth(index).unwrap_or_default();
        Rows { y: block(y), r: block(r), k: block(k), v: block(v), g: block(g), r_k, weight, bias }
    }
}

fn in_memory(inputs: &[Tensor]) -> Result<[Lanes; 8]> {
    let lanes: Vec<Lanes> = inputs.iter().map(Lanes::of).collect::<Result<_>>()?;
    lanes.try_into().map_err(|all: Vec<_>| Error::bug(format!("an output of time mixing of {} tensors", all.len())))
}

impl Operator for Fused {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let lanes = in_memory(inputs)?;
        let mut made = Fresh::unset(&inputs[0].size())?;
        let width = inputs[6].numel() / HEAD;
        let blocks = heads_mut(made.values()).chunks_mut((BLOCK * width).max(1));
        parallel::each(blocks.collect(), |index, out| make(&Rows::of(&lanes, index), out));
        Ok(Outputs { results: vec![made.done()], kept: inputs.iter().map(Tensor::shallow_clone).collect() })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let [Some(grad)] = grads else { return Ok((0..kept.len()).map(|_| None).collect()) };
        let (lanes, grad) = (in_memory(kept)?, Lanes::of(grad)?);
        let width = kept[6].numel() / HEAD;
        let block = (BLOCK * width).max(1);
        let grads = heads(grad.values()).chunks(block);
        let mut partial = vec![0.0; grads.len() * 3 * width * HEAD];
        let sums = heads_mut(&mut partial).chunks_mut((3 * width).max(1));
        let mut made: Vec<Fresh> = (0..5).map(|_| Fresh::unset(&kept[0].size())).collect::<Result<_>>()?;
        let tasks = grads.zip(sums).zip(blocks_of(&mut made, block)).collect();
        parallel::each(tasks, |index, ((grad, sums), parts)| {
            if let Ok(parts) = <[_; 5]>::try_from(parts) {
                make_back(&Rows::of(&lanes, index), grad, parts, sums);
            }
        });
        let sums = add_up(&partial, 3 * width * HEAD);
        let of_parameter = |(sum, like): (&[f32], &Tensor)| Some(Tensor::from_slice(sum).view_as(like));
        let parameters = sums.chunks_exact((width * HEAD).max(1)).zip(&kept[5..]).map(of_parameter);
        Ok(made.into_iter().map(|made| Some(made.done())).chain(parameters).collect())
    }
}

/// y without its mean, divided by its deviation, and one over that.
#[inline(always)]
fn normalised(y: &Lane) -> (Lane, f32) {
    const SHARE: f32 = 1.0 / HEAD as f32;
    let mean = sum(*y) * SHARE;
    let centred = lane(|l| y[l] - mean);
    let variance = sum(lane(|l| centred[l] * centred[l])) * SHARE;
    let scale = 1.0 / (variance + EPSILON).sqrt();
    (lane(|l| centred[l] * scale), scale)
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn make(rows: &Rows<'_>, out: &mut [Lane]) {
    let width = rows.weight.len();
    for (at, out) in out.iter_mut().enumerate() {
        let (r, k, v, g) = (&rows.r[at], &rows.k[at], &rows.v[at], &rows.g[at]);
        let (r_k, weight, bias) = (&rows.r_k[at % width], &rows.weight[at % width], &rows.bias[at % width]);
        let (unit, _) = normalised(&rows.y[at]);
        let strength = sum(lane(|l| r[l] * k[l] * r_k[l]));
        *out = lane(|l| (unit[l] * weight[l] + bias[l] + strength * v[l]) * g[l]);
    }
}

/// Gradients of y, r, k, v and g into `made`; those of r_k, weight and bias are added to `sums`, one after the other.
#[multiversion(targets("x86_64+avx2+fma"))]
fn make_back(rows: &Rows<'_>, grad: &[Lane], made: [&mut [Lane]; 5], sums: &mut [Lane]) {
    const SHARE: f32 = 1.0 / HEAD as f32;
    let [dy, dr, dk, dv, dg] = made;
    let width = rows.weight.len();
    let (d_r_k, sums) = sums.split_at_mut(width);
    let (d_weight, d_bias) = sums.split_at_mut(width);
    for (at, grad) in grad.iter().enumerate() {
        let h = at % width;
        let (r, k, v, g) = (&rows.r[at], &rows.k[at], &rows.v[at], &rows.g[at]);
        let (r_k, weight, bias) = (&rows.r_k[h], &rows.weight[h], &rows.bias[h]);
        let (unit, scale) = normalised(&rows.y[at]);
        let strength = sum(lane(|l| r[l] * k[l] * r_k[l]));
        let inside = lane(|l| grad[l] * g[l]);
        let d_strength = sum(lane(|l| inside[l] * v[l]));
        let d_unit = lane(|l| inside[l] * weight[l]);
        let mean = sum(d_unit) * SHARE;
        let along = sum(lane(|l| d_unit[l] * unit[l])) * SHARE;
        dy[at] = lane(|l| scale * (d_unit[l] - mean - unit[l] * along));
        dr[at] = lane(|l| d_strength * k[l] * r_k[l]);
        dk[at] = lane(|l| d_strength * r[l] * r_k[l]);
        dv[at] = lane(|l| inside[l] * strength);
        dg[at] = lane(|l| grad[l] * (unit[l] * weight[l] + bias[l] + strength * v[l]));
        for l in 0..HEAD {
            d_r_k[h][l] += d_strength * r[l] * k[l];
            d_weight[h][l] += inside[l] * unit[l];
            d_bias[h][l] += inside[l];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::agrees;
    use super::*;

    #[test]
    fn it_is_that_of_torchs_operators() {
        let (row, parameter): (&[i64], &[i64]) = (&[2, 37, 128], &[128]);
        agrees(&[row, row, row, row, row, &[2, 64], parameter, parameter], |t| {
            let [y, r, k, v, g, r_k, weight, bias] = t else { return Vec::new() };
            vec![output(None, Gated { y, r, k, v, g, r_k, weight, bias }).expect("runs")]
        });
    }
}
