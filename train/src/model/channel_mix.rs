//! Channel mixing: a squared-ReLU feed-forward layer over a token and the one before it.

use std::sync::Arc;

use midi_ingest::job::exit::Result;
use tch::Tensor;

use super::fused::{shift, squared_relu};
use super::linear::{Adapters, Linear};
use super::parameters::Parameters;
use super::resets::Resets;
use crate::wkv::WkvBackend;

/// One layer's channel mixing: relu((x + (Δ(x) − x)∘x_k)·key)²·value, 4·D wide inside.
#[derive(Debug)]
pub(super) struct ChannelMix {
    mix: Tensor,
    key: Linear,
    value: Linear,
}

impl ChannelMix {
    pub(super) fn of(parameters: &Parameters, layer: usize, adapters: &Adapters) -> Result<Self> {
        let mix = parameters.get(&format!("blocks.{layer}.ffn.x_k"))?.shallow_clone();
        let linear = |name: &str| Linear::of(parameters, format!("blocks.{layer}.ffn.{name}"), adapters);
        Ok(ChannelMix { mix, key: linear("key")?, value: linear("value")? })
    }

    /// `x` [B, T, D] after ln2, `before` the row before its first [B, D] (none: zeros), `resets` where the row
    /// before counts as zeros. Returns the output and the last row of `x`.
    ///
    /// # Errors
    /// Torch's.
    pub(super) fn forward(
        &self,
        backend: &Arc<dyn WkvBackend>,
        x: &Tensor,
        before: Option<&Tensor>,
        resets: Option<&Resets>,
    ) -> Result<(Tensor, Tensor)> {
        let launcher = backend.launcher();
        let [mixed] = shift(launcher, x, before, [&self.mix], resets)?;
        let out = self.value.forward(&squared_relu(launcher, &self.key.forward(&mixed))?);
        Ok((out, x.select(1, -1)))
    }
}
