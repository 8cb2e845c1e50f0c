//! Channel mixing: a squared-ReLU feed-forward layer over a token and the one before it.

use midi_ingest::job::exit::Result;
use tch::Tensor;

use super::parameters::Parameters;
use super::resets::Resets;
use super::time_mix::shifted;

/// One layer's channel mixing: relu((x + (Δ(x) − x)∘x_k)·key)²·value, 4·D wide inside.
#[derive(Debug)]
pub(super) struct ChannelMix {
    mix: Tensor,
    key: Tensor,
    value: Tensor,
}

impl ChannelMix {
    pub(super) fn of(parameters: &Parameters, layer: usize) -> Result<Self> {
        let get = |name: &str| parameters.get(&format!("blocks.{layer}.ffn.{name}")).map(Tensor::shallow_clone);
        Ok(ChannelMix { mix: get("x_k")?, key: get("key.weight")?, value: get("value.weight")? })
    }

    /// `x` [B, T, D] after ln2, `before` the row before its first [B, D] (none: zeros), `resets` where the row
    /// before counts as zeros. Returns the output and the last row of `x`.
    pub(super) fn forward(&self, x: &Tensor, before: Option<&Tensor>, resets: Option<&Resets>) -> (Tensor, Tensor) {
        let mixed = x.addcmul(&(shifted(x, before, resets) - x), &self.mix);
        let inside = mixed.linear(&self.key, None::<&Tensor>).relu();
        let out = inside.square().linear(&self.value, None::<&Tensor>);
        (out, x.select(1, -1))
    }
}
