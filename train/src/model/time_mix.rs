//! Time mixing: what a token takes from those before it, through the WKV state.

use std::sync::Arc;

use midi_ingest::job::exit::Result;
use tch::Tensor;

use super::fused::{Terms, output, parts, shift, terms};
use super::linear::{Adapters, Linear};
use super::parameters::Parameters;
use super::resets::Resets;
use super::shape::HEAD;
use crate::cuda::fused::{Gated, Raw};
use crate::wkv::{Inputs, WkvBackend, wkv};

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
        let launcher = backend.launcher();
        let [x_r, x_w, x_k, x_v, x_a, x_g] = shift(launcher, x, before, self.mixes.each_ref(), resets)?;

        let r = self.receptance.forward(&x_r);
        let v_own = self.value.forward(&x_v);
        let towards = v_first.map(|v_first| (self.v.apply(&x_v, |inside| inside), v_first));
        let a_raw = self.a.apply(&x_a, |inside| inside);
        let raw = Raw {
            w: &self.w.apply(&x_w, |inside| inside.tanh()),
            k: &self.key.forward(&x_k),
            v: &v_own,
            a: &a_raw,
            towards: towards.as_ref().map(|(towards, v_first)| (towards, *v_first)),
            k_k: &self.k_k,
            k_a: &self.k_a,
        };
        let Terms { w, k, v, away, back } = terms(launcher, raw)?;
        let g = self.g.apply(&x_g, |inside| inside.sigmoid());

        let heads = |x: &Tensor| x.view([batch, time, self.heads, HEAD as i64]);
        let (r_h, k_h, v_h, b_h) = (heads(&r), heads(&k), heads(&v), heads(&back));
        let (w_h, a_h) = match resets {
            Some(resets) => resets.forget(&heads(&w), &heads(&away)),
            None => (heads(&w), heads(&away)),
        };
        let inputs = Inputs { r: &r_h, w: &w_h, k: &k_h, v: &v_h, a: &a_h, b: &b_h, s0 };
        let (y, state) = wkv(backend, inputs, differentiable)?;
        let y = y.view([batch, time, width]);
        let (weight, bias) = (&self.norm_weight, &self.norm_bias);
        let gated = Gated { y: &y, r: &r, k: &k, v: &v, g: &g, r_k: &self.r_k, weight, bias };
        let out = self.output.forward(&output(launcher, gated)?);

        if let Some(stages) = stages {
            let (normed, bonus) = parts(gated);
            let all = [
                ("ln1", x),
                ("r", &r),
                ("w", &w),
                ("k", &k),
                ("v", &v),
                ("a", &a_raw.sigmoid()),
                ("g", &g),
                ("kk", &-&away),
                ("wkv", &y),
                ("gn", &normed),
                ("bonus", &bonus),
                ("att_out", &out),
            ];
            for (name, tensor) in all {
                stages(&format!("act.{}.{name}", self.layer), tensor);
            }
        }
        Ok(Mixed { out, v_first: v_first.map_or(v_own, Tensor::shallow_clone), shift: x.select(1, time - 1), state })
    }
}
