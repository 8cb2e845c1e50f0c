//! One block: time mixing, then channel mixing, each on a normalised input and added to the stream.

use std::sync::Arc;

use midi_ingest::job::exit::Result;
use tch::Tensor;

use super::channel_mix::ChannelMix;
use super::linear::Adapters;
use super::parameters::Parameters;
use super::resets::Resets;
use super::state::LayerState;
use super::time_mix::{Mixed, Stages, TimeMix};
use crate::wkv::WkvBackend;

/// Epsilon of the layer norms.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// Weight and bias of a layer norm.
#[derive(Debug)]
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    pub(super) fn of(parameters: &Parameters, name: &str) -> Result<Self> {
        let get = |part: &str| parameters.get(&format!("{name}.{part}")).map(Tensor::shallow_clone);
        Ok(LayerNorm { weight: get("weight")?, bias: get("bias")? })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), LAYER_NORM_EPSILON, false)
    }
}

#[derive(Debug)]
pub(super) struct Block {
    layer: usize,
    ln1: LayerNorm,
    ln2: LayerNorm,
    att: TimeMix,
    ffn: ChannelMix,
}

/// What a block gives.
pub(super) struct Passed {
    pub(super) x: Tensor,
    pub(super) v_first: Tensor,
    pub(super) state: LayerState,
}

/// What a block starts from; nothing means zeros.
#[derive(Clone, Copy, Default)]
pub(super) struct Before<'a> {
    pub(super) att_shift: Option<&'a Tensor>,
    pub(super) ffn_shift: Option<&'a Tensor>,
    pub(super) wkv: Option<&'a Tensor>,
}

impl<'a> From<&'a LayerState> for Before<'a> {
    fn from(state: &'a LayerState) -> Self {
        Before { att_shift: Some(&state.att_shift), ffn_shift: Some(&state.ffn_shift), wkv: Some(&state.wkv) }
    }
}

impl Block {
    pub(super) fn of(parameters: &Parameters, layer: usize, adapters: &Adapters) -> Result<Self> {
        Ok(Block {
            layer,
            ln1: LayerNorm::of(parameters, &format!("blocks.{layer}.ln1"))?,
            ln2: LayerNorm::of(parameters, &format!("blocks.{layer}.ln2"))?,
            att: TimeMix::of(parameters, layer, adapters)?,
            ffn: ChannelMix::of(parameters, layer, adapters)?,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the operands of one layer, each by its own name")]
    pub(super) fn forward(
        &self,
        backend: &Arc<dyn WkvBackend>,
        x: &Tensor,
        v_first: Option<&Tensor>,
        before: Before<'_>,
        resets: Option<&Resets>,
        differentiable: bool,
        mut stages: Option<Stages<'_>>,
    ) -> Result<Passed> {
        let Mixed { out, v_first, shift: att_shift, state: wkv } = self.att.forward(
            backend,
            &self.ln1.forward(x),
            v_first,
            before.att_shift,
            before.wkv,
            resets,
            differentiable,
            stages.as_deref_mut().map(|s| s as _),
        )?;
        let middle = x + out;
        let (out, ffn_shift) = self.ffn.forward(backend, &self.ln2.forward(&middle), before.ffn_shift, resets)?;
        let x = &middle + &out;
        if let Some(stages) = stages {
            for (name, tensor) in [("x_mid", &middle), ("ffn_out", &out), ("out", &x)] {
                stages(&format!("act.{}.{name}", self.layer), tensor);
            }
        }
        Ok(Passed { x, v_first, state: LayerState { att_shift, ffn_shift, wkv } })
    }
}
