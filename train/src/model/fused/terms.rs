//! What the WKV operator takes, from what the matrix products of time mixing give: the decay, the key, the value and
//! the two vectors by which the state is edited. Letters are those of the equations.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use multiversion::multiversion;
use tch::Tensor;

use super::super::shape::HEAD;
use super::{BLOCK, Lane, add_up, blocks_of, gradients, heads, heads_mut, is_ours, lane, sum};
use crate::autograd::{self, Operator, Outputs};
use crate::cpu::lanes::{Fresh, Lanes};
use crate::cpu::{parallel, scalar};
use crate::cuda::fused::Raw;
use crate::cuda::{self, Launcher};

/// Least norm that the removal direction is divided by.
const LEAST_NORM: f32 = 1e-12;

/// What the operator takes, [B, T, D] each.
pub(in crate::model) struct Terms {
    /// ŵ = −softplus(−ω) − ½, the decay before its two exponentials.
    pub(in crate::model) w: Tensor,
    /// k = k₀·(1 + (a − 1)·k_a)
    pub(in crate::model) k: Tensor,
    /// v + (v_first − v)·σ(towards)
    pub(in crate::model) v: Tensor,
    /// −κ, where κ is k₀·k_k of unit length in each head.
    pub(in crate::model) away: Tensor,
    /// κ·a
    pub(in crate::model) back: Tensor,
}

/// The operator's terms.
pub(in crate::model) fn terms(launcher: Option<&Arc<dyn Launcher>>, raw: Raw<'_>) -> Result<Terms> {
    if let Some(launcher) = launcher {
        return Terms::of(cuda::fused::wkv_terms(launcher, raw)?, raw.v);
    }
    let inputs = raw.inputs();
    if !is_ours(&inputs) {
        return Ok(plain(raw));
    }
    Terms::of(autograd::apply(Fused, &inputs)?, raw.v)
}

impl Terms {
    /// Of (ŵ, k, −κ, κa) and, if it is not `own`, the value.
    fn of(made: Vec<Tensor>, own: &Tensor) -> Result<Self> {
        let mut made = made.into_iter();
        let mut next = || made.next().ok_or_else(|| Error::bug("the terms of the WKV operator are not all there"));
        let (w, k, away, back) = (next()?, next()?, next()?, next()?);
        Ok(Terms { w, k, v: made.next().unwrap_or_else(|| own.shallow_clone()), away, back })
    }
}

/// The same in torch's operators.
fn plain(Raw { w, k, v, a, towards, k_k, k_a }: Raw<'_>) -> Terms {
    let size = k.size();
    let a = a.sigmoid();
    let kappa = (k * k_k).reshape([-1, HEAD as i64]);
    let norm = kappa.norm_scalaropt_dim(2, [-1i64].as_slice(), true);
    let kappa = (kappa / norm.clamp_min(f64::from(LEAST_NORM))).reshape(&size);
    let unchanged: Tensor = 1.0 - k_a;
    Terms {
        // −softplus(−ω) is the logarithm of the sigmoid of ω.
        w: w.log_sigmoid() - 0.5,
        k: k * unchanged.addcmul(&a, k_a),
        v: match towards {
            Some((towards, v_first)) => v.lerp_tensor(v_first, &towards.sigmoid()),
            None => v.shallow_clone(),
        },
        away: -&kappa,
        back: kappa * a,
    }
}

/// (ω, k₀, a, k_k, k_a) and, after the first layer, (v, towards, v_first) to (ŵ, k, −κ, κa) and v.
struct Fused;

/// Rows of the inputs.
struct Rows<'a> {
    w: &'a [Lane],
    k: &'a [Lane],
    a: &'a [Lane],
    k_k: &'a [Lane],
    k_a: &'a [Lane],
    /// v, towards, v_first.
    values: Option<[&'a [Lane]; 3]>,
}

impl<'a> Rows<'a> {
    /// Block `index` of the inputs.
    fn of(inputs: &'a [Lanes], index: usize) -> Result<Self> {
        let all: Vec<&[Lane]> = inputs.iter().map(|input| heads(input.values())).collect();
        let (&[w, k, a, k_k, k_a], values) = all.split_first_chunk().ok_or_else(|| wrong_number(inputs.len()))?;
        let block = |rows: &'a [Lane]| rows.chunks(BLOCK * k_k.len().max(1)).nth(index).unwrap_or_default();
        let values = match *values {
            [] => None,
            [v, towards, v_first] => Some([block(v), block(towards), block(v_first)]),
            _ => return Err(wrong_number(inputs.len())),
        };
        Ok(Rows { w: block(w), k: block(k), a: block(a), k_k, k_a, values })
    }
}

fn wrong_number(count: usize) -> Error {
    Error::bug(format!("the terms of the WKV operator are made of {count} tensors"))
}

/// A block's rows of the inputs, and the heads of its rows of each of the tensors that are made.
type Task<'a> = (Rows<'a>, Vec<&'a mut [Lane]>);

/// One task a block.
fn tasks<'a>(inputs: &'a [Lanes], made: &'a mut [Fresh], width: usize) -> Result<Vec<Task<'a>>> {
    let blocks = blocks_of(made, BLOCK * width / HEAD).into_iter().enumerate();
    blocks.map(|(index, parts)| Ok((Rows::of(inputs, index)?, parts))).collect()
}

impl Operator for Fused {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let lanes: Vec<Lanes> = inputs.iter().map(Lanes::of).collect::<Result<_>>()?;
        let results = if inputs.len() > 5 { 5 } else { 4 };
        let size = inputs[0].size();
        let mut made: Vec<Fresh> = (0..results).map(|_| Fresh::unset(&size)).collect::<Result<_>>()?;
        let width = inputs[3].numel();
        parallel::each(tasks(&lanes, &mut made, width)?, |_, (rows, mut parts)| {
            let values = parts.split_off(4).pop();
            if let Ok([w, k, away, back]) = <[_; 4]>::try_from(parts) {
                make_keys(&rows, w, k, away, back);
            }
            if let (Some(v), Some([own, towards, first])) = (values, rows.values) {
                make_values(own.as_flattened(), towards.as_flattened(), first.as_flattened(), v.as_flattened_mut());
            }
        });
        let kept = inputs.iter().map(Tensor::shallow_clone).collect();
        Ok(Outputs { results: made.into_iter().map(Fresh::done).collect(), kept })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let lanes: Vec<Lanes> = kept.iter().map(Lanes::of).collect::<Result<_>>()?;
        let like = &kept[0];
        let (given, d_v) = match grads {
            [w, k, away, back] => ([w, k, away, back], None),
            [w, k, away, back, v] => ([w, k, away, back], Some(v)),
            _ => return Err(wrong_number(grads.len())),
        };
        let given: Vec<Lanes> = gradients(given, like).iter().map(Lanes::of).collect::<Result<_>>()?;
        let [d_v] = gradients([d_v.unwrap_or(&None)], like);
        let d_v = Lanes::of(&d_v)?;
        let results = if kept.len() > 5 { 6 } else { 3 };
        let mut made: Vec<Fresh> = (0..results).map(|_| Fresh::unset(&like.size())).collect::<Result<_>>()?;
        let width = kept[3].numel();
        let tasks = tasks(&lanes, &mut made, width)?;
        let mut partial = vec![0.0; tasks.len() * 2 * width];
        let tasks = tasks.into_iter().zip(partial.chunks_mut((2 * width).max(1))).collect();
        parallel::each(tasks, |index, ((rows, mut parts), sums)| {
            let block = |lanes: &Lanes| -> std::ops::Range<usize> {
                let first = index * BLOCK * width;
                first..lanes.values().len().min(first + BLOCK * width)
            };
            let grads = [0, 1, 2, 3].map(|i| heads(&given[i].values()[block(&given[i])]));
            let of_values = parts.split_off(3);
            let (d_k_k, d_k_a) = sums.split_at_mut(width);
            if let Ok([dw, dk, da]) = <[_; 3]>::try_from(parts) {
                make_keys_back(&rows, grads, [dw, dk, da], heads_mut(d_k_k), heads_mut(d_k_a));
            }
            if let (Ok([own, towards, first]), Some(values)) = (<[_; 3]>::try_from(of_values), rows.values) {
                let given = &d_v.values()[block(&d_v)];
                let made = [own.as_flattened_mut(), towards.as_flattened_mut(), first.as_flattened_mut()];
                make_values_back(values.map(|rows| rows.as_flattened()), given, made);
            }
        });
        let sums = add_up(&partial, 2 * width);
        let parameter = |i: usize| Some(Tensor::from_slice(&sums[i * width..][..width]).view([1, 1, -1]));
        let mut all: Vec<Option<Tensor>> = made.into_iter().map(|made| Some(made.done())).collect();
        let of_values = all.split_off(3);
        all.extend([parameter(0), parameter(1)]);
        all.extend(of_values);
        Ok(all)
    }
}

/// κ of unit length, and the length that k₀·k_k had.
#[inline(always)]
fn direction(k: &Lane, k_k: &Lane) -> (Lane, f32) {
    let long = lane(|l| k[l] * k_k[l]);
    let length = sum(lane(|l| long[l] * long[l])).sqrt();
    let divisor = if length < LEAST_NORM { LEAST_NORM } else { length };
    (lane(|l| long[l] / divisor), length)
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn make_keys(rows: &Rows<'_>, w: &mut [Lane], k: &mut [Lane], away: &mut [Lane], back: &mut [Lane]) {
    let parameters = rows.k_k.iter().zip(rows.k_a).cycle();
    let made = w.iter_mut().zip(k).zip(away.iter_mut().zip(back));
    for (((omega, raw), alpha), ((k_k, k_a), ((w, k), (away, back)))) in
        rows.w.iter().zip(rows.k).zip(rows.a).zip(parameters.zip(made))
    {
        let (kappa, _) = direction(raw, k_k);
        let a = lane(|l| scalar::sigmoid(alpha[l]));
        *w = lane(|l| scalar::log_sigmoid(omega[l]) - 0.5);
        *k = lane(|l| {
            // In f64 for the reason that `mix_row` has.
            let (raw, a, k_a) = (f64::from(raw[l]), f64::from(a[l]), f64::from(k_a[l]));
            (raw * ((1.0 - k_a) + a * k_a)) as f32
        });
        *away = lane(|l| -kappa[l]);
        *back = lane(|l| kappa[l] * a[l]);
    }
}

/// Gradients of ω, k₀ and a into `made`, and those of the parameters added to their sums; `grads` are those of w, k,
/// −κ and κa.
#[multiversion(targets("x86_64+avx2+fma"))]
fn make_keys_back(
    rows: &Rows<'_>,
    grads: [&[Lane]; 4],
    made: [&mut [Lane]; 3],
    d_k_k: &mut [Lane],
    d_k_a: &mut [Lane],
) {
    let [dw, dk, d_away, d_back] = grads;
    let [d_omega, d_raw, d_alpha] = made;
    let width = rows.k_k.len();
    for (at, ((omega, raw), alpha)) in rows.w.iter().zip(rows.k).zip(rows.a).enumerate() {
        let h = at % width;
        let (k_k, k_a) = (&rows.k_k[h], &rows.k_a[h]);
        let (dw, dk, d_away, d_back) = (&dw[at], &dk[at], &d_away[at], &d_back[at]);
        let (kappa, length) = direction(raw, k_k);
        let a = lane(|l| scalar::sigmoid(alpha[l]));
        // The direction's gradient, and of it what changes its direction: the length is always one.
        let d_kappa = lane(|l| d_back[l] * a[l] - d_away[l]);
        let (along, divisor) =
            if length < LEAST_NORM { (0.0, LEAST_NORM) } else { (sum(lane(|l| kappa[l] * d_kappa[l])), length) };
        let d_long = lane(|l| (d_kappa[l] - kappa[l] * along) / divisor);
        d_omega[at] = lane(|l| dw[l] * scalar::sigmoid(-omega[l]));
        d_raw[at] = lane(|l| d_long[l] * k_k[l] + dk[l] * ((1.0 - k_a[l]) + a[l] * k_a[l]));
        d_alpha[at] = lane(|l| (d_back[l] * kappa[l] + dk[l] * raw[l] * k_a[l]) * (a[l] * (1.0 - a[l])));
        for l in 0..HEAD {
            d_k_k[h][l] += d_long[l] * raw[l];
            d_k_a[h][l] += dk[l] * raw[l] * (a[l] - 1.0);
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn make_values(own: &[f32], towards: &[f32], first: &[f32], v: &mut [f32]) {
    for (((v, own), &towards), first) in v.iter_mut().zip(own).zip(towards).zip(first) {
        let (own, first, share) = (f64::from(*own), f64::from(*first), f64::from(scalar::sigmoid(towards)));
        *v = (own + (first - own) * share) as f32;
    }
}

/// Gradients of the own value, the way towards the first one, and the first one.
#[multiversion(targets("x86_64+avx2+fma"))]
fn make_values_back(values: [&[f32]; 3], given: &[f32], made: [&mut [f32]; 3]) {
    let [own, towards, first] = values;
    let [d_own, d_towards, d_first] = made;
    let made = d_own.iter_mut().zip(d_towards).zip(d_first);
    for (((d_own, d_towards), d_first), (((own, &towards), first), grad)) in
        made.zip(own.iter().zip(towards).zip(first).zip(given))
    {
        let share = scalar::sigmoid(towards);
        *d_own = grad * (1.0 - share);
        *d_towards = grad * (first - own) * (share * (1.0 - share));
        *d_first = grad * share;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::agrees;
    use super::*;

    #[test]
    fn they_are_those_of_torchs_operators() {
        let (row, parameter): (&[i64], &[i64]) = (&[2, 37, 128], &[1, 1, 128]);
        let shapes = [row, row, row, row, row, row, parameter, parameter];
        for first_layer in [true, false] {
            let shapes = if first_layer { &shapes[..8] } else { &shapes };
            agrees(shapes, |t| {
                let towards = (!first_layer).then_some((&t[4], &t[5]));
                // Values away from the middle, so that all parts of the sigmoids are seen.
                let raw =
                    Raw { w: &(&t[0] * 6.0), k: &t[1], v: &t[2], a: &(&t[3] * 9.0), towards, k_k: &t[6], k_a: &t[7] };
                let Terms { w, k, v, away, back } = terms(None, raw).expect("runs");
                let unused = (&t[4] + &t[5]) * 0.0;
                vec![w, k, v + unused, away, back]
            });
        }
    }

    #[test]
    fn a_key_of_zeros_has_no_direction_and_no_infinite_gradient() {
        let zero = Tensor::zeros([1, 1, 64], tch::kind::FLOAT_CPU);
        let key = zero.copy().set_requires_grad(true);
        let raw = Raw { w: &zero, k: &key, v: &zero, a: &zero, towards: None, k_k: &zero, k_a: &zero };
        let made = terms(None, raw).expect("runs");
        (made.away + made.back).sum(tch::Kind::Float).backward();
        assert_eq!(key.grad().isfinite().all().int64_value(&[]), 1);
    }
}
