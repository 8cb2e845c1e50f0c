//! Time mixing: what a token takes from those before it, through the WKV state.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::linear::{Adapters, Linear};
use super::parameters::Parameters;
use super::resets::Resets;
use super::shape::HEAD;
use crate::cuda::fused::{self, Gated};
use crate::wkv::{Inputs, WkvBackend, wkv};

/// Epsilon of the group norm: 1e-5 times the square of the head size divisor, 8.
const GROUP_NORM_EPSILON: f64 = 64e-5;

/// Least norm that the removal direction is divided by.
const LEAST_NORM: f64 = 1e-12;

/// One layer's time mixing. Comments name the letters of the equations; shapes are [B, T, D] unless said.
#[derive(Debug)]
pub(super) struct TimeMix {
    layer: usize,
    heads: i64,
    /// The mixes of r, w, k, v, a and g, each [1, 1, D].
    mixes: [Tensor; 6],
    w: LowRankPair,
    a: LowRankPair,
    v: LowRankPair,
    g: LowRankPair,
    k_k: Tensor,
    k_a: Tensor,
    r_k: Tensor,
    receptance: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm_weight: Tensor,
    norm_bias: Tensor,
}

/// x ↦ bias + f(x·down)·up, stored [in, rank] and [rank, out].
#[derive(Debug)]
struct LowRankPair {
    down: Tensor,
    up: Tensor,
    bias: Option<Tensor>,
}

impl LowRankPair {
    fn of(parameters: &Parameters, prefix: &str, letter: &str, biased: bool) -> Result<Self> {
        let get = |part: &str| parameters.get(&format!("{prefix}{letter}{part}")).map(Tensor::shallow_clone);
        Ok(LowRankPair { down: get("1")?, up: get("2")?, bias: if biased { Some(get("0")?) } else { None } })
    }

    fn apply(&self, x: &Tensor, inner: impl Fn(Tensor) -> Tensor) -> Tensor {
        let inside = inner(x.linear(&self.down.tr(), None::<&Tensor>));
        inside.linear(&self.up.tr(), self.bias.as_ref().map(|bias| bias.flatten(0, -1)))
    }
}

/// What time mixing carries: v of the first layer on the way in, and everything on the way out.
pub(super) struct Mixed {
    pub(super) out: Tensor,
    pub(super) v_first: Tensor,
    /// The last row of the input, [B, D].
    pub(super) shift: Tensor,
    /// The WKV state after the last token, [B, H, 64, 64].
    pub(super) state: Tensor,
}

/// Receives intermediate values by name, for comparison with reference activations.
pub type Stages<'a> = &'a mut dyn FnMut(&str, &Tensor);

impl TimeMix {
    pub(super) fn of(parameters: &Parameters, layer: usize, adapters: &Adapters) -> Result<Self> {
        let prefix = format!("blocks.{layer}.att.");
        let get = |name: &str| parameters.get(&format!("{prefix}{name}")).map(Tensor::shallow_clone);
        let pair = |letter, biased| LowRankPair::of(parameters, &prefix, letter, biased);
        let linear = |name: &str| Linear::of(parameters, format!("{prefix}{name}"), adapters);
        let r_k = get("r_k")?;
        Ok(TimeMix {
            layer,
            heads: r_k.size()[0],
            mixes: [get("x_r")?, get("x_w")?, get("x_k")?, get("x_v")?, get("x_a")?, get("x_g")?],
            w: pair("w", true)?,
            a: pair("a", true)?,
            v: pair("v", true)?,
            g: pair("g", false)?,
            k_k: get("k_k")?,
            k_a: get("k_a")?,
            r_k,
            receptance: linear("receptance")?,
            key: linear("key")?,
            value: linear("value")?,
            output: linear("output")?,
            norm_weight: get("ln_x.weight")?,
            norm_bias: get("ln_x.bias")?,
        })
    }

    /// `x` after ln1, `before` the row before its first [B, D] (none: zeros), `s0` the WKV state before
    /// it, `resets` where both are zeros again. `v_first` is the first layer's v, and is not read in the first
    /// layer.
    #[expect(clippy::too_many_arguments, reason = "the operands of one layer, each by its own name")]
    pub(super) fn forward(
        &self,
        backend: &Arc<dyn WkvBackend>,
        x: &Tensor,
        v_first: Option<&Tensor>,
        before: Option<&Tensor>,
        s0: Option<&Tensor>,
        resets: Option<&Resets>,
        differentiable: bool,
        stages: Option<Stages<'_>>,
    ) -> Result<Mixed> {
        let (batch, time, width) = x.size3().map_err(crate::fault::torch)?;
        let [x_r, x_w, x_k, x_v, x_a, x_g] = mixed_rows(backend, x, before, resets, self.mixes.each_ref())?;

        let r = self.receptance.forward(&x_r);
        // ŵ = −softplus(−ω) − ½, and −softplus(−ω) is the logarithm of the sigmoid of ω.
        let w = self.w.apply(&x_w, |inside| inside.tanh()).log_sigmoid() - 0.5;
        let k_0 = self.key.forward(&x_k);
        let v_own = self.value.forward(&x_v);
        let (v, v_first) = match v_first {
            Some(v_first) => {
                let towards = self.v.apply(&x_v, |inside| inside).sigmoid();
                (v_own.lerp_tensor(v_first, &towards), v_first.shallow_clone())
            }
            None => (v_own.shallow_clone(), v_own),
        };
        let a = self.a.apply(&x_a, |inside| inside).sigmoid();
        let g = self.g.apply(&x_g, |inside| inside.sigmoid());

        let heads = |x: &Tensor| x.view([batch, time, self.heads, HEAD as i64]);
        let kappa = heads(&(&k_0 * &self.k_k));
        let norm = kappa.norm_scalaropt_dim(2, [-1i64].as_slice(), true);
        let kappa = kappa / norm.clamp_min(LEAST_NORM);
        // k₀·(1 + (a − 1)·k_a)
        let unchanged: Tensor = 1.0 - &self.k_a;
        let k = &k_0 * unchanged.addcmul(&a, &self.k_a);

        let (r_h, k_h, v_h, a_h) = (heads(&r), heads(&k), heads(&v), heads(&a));
        let (away, back) = (-&kappa, &kappa * a_h);
        let w_h = heads(&w);
        let (w_h, away) = match resets {
            Some(resets) => resets.forget(&w_h, &away),
            None => (w_h, away),
        };
        let inputs = Inputs { r: &r_h, w: &w_h, k: &k_h, v: &v_h, a: &away, b: &back, s0 };
        let (y, state) = wkv(backend, inputs, differentiable)?;

        let y = y.view([batch, time, width]);
        let (gated, normed, strength) = match backend.launcher() {
            Some(launcher) if stages.is_none() => {
                let (weight, bias, r_k) = (&self.norm_weight, &self.norm_bias, &self.r_k);
                let inputs = Gated { y: &y, r: &r, k: &k, v: &v, g: &g, weight, bias, r_k };
                (fused::norm_bonus_gate(launcher, inputs, GROUP_NORM_EPSILON)?, None, None)
            }
            _ => {
                let (weight, bias) = (Some(&self.norm_weight), Some(&self.norm_bias));
                let rows = y.view([batch * time, width]);
                let normed = heads(&rows.group_norm(self.heads, weight, bias, GROUP_NORM_EPSILON, false));
                let strength = (&r_h * &k_h * &self.r_k).sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>);
                let mixed = normed.addcmul(&strength, &v_h).view([batch, time, width]);
                (mixed * &g, Some(normed), Some(strength))
            }
        };
        let out = self.output.forward(&gated);

        if let (Some(stages), Some(normed), Some(strength)) = (stages, normed, strength) {
            let bonus = (&strength * &v_h).view([batch, time, width]);
            let flat = |x: &Tensor| x.reshape([batch, time, width]);
            let all = [
                ("ln1", x),
                ("r", &r),
                ("w", &w),
                ("k", &k),
                ("v", &v),
                ("a", &a),
                ("g", &g),
                ("kk", &flat(&kappa)),
                ("wkv", &flat(&y)),
                ("gn", &flat(&normed)),
                ("bonus", &bonus),
                ("att_out", &out),
            ];
            for (name, tensor) in all {
                stages(&format!("act.{}.{name}", self.layer), tensor);
            }
        }
        Ok(Mixed { out, v_first, shift: x.select(1, time - 1), state })
    }
}

/// x + (Δ(x) − x)∘mix for each mix, with Δ as in [`shifted`].
pub(super) fn mixed_rows<const N: usize>(
    backend: &Arc<dyn WkvBackend>,
    x: &Tensor,
    before: Option<&Tensor>,
    resets: Option<&Resets>,
    mixes: [&Tensor; N],
) -> Result<[Tensor; N]> {
    let Some(launcher) = backend.launcher().filter(|_| before.is_none()) else {
        let delta = shifted(x, before, resets) - x;
        return Ok(mixes.map(|mix| x.addcmul(&delta, mix)));
    };
    let rows = fused::mixes(launcher, x, resets.map(Resets::mask), &mixes)?;
    rows.try_into().map_err(|_| Error::bug("another number of rows than of mixes"))
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
