//! A matrix, and where LoRA tunes it a low-rank adapter beside it: y = x Wᵀ + (α/r)·(dropout(x) Aᵀ) Bᵀ
//! (Hu and others, "LoRA: Low-Rank Adaptation of Large Language Models", 2021).

use std::sync::Arc;

use midi_ingest::job::exit::Result;
use tch::Tensor;

use super::dropout::Dropout;
use super::parameters::Parameters;

/// Ending of the name of A, [r, in].
pub const LORA_A: &str = ".lora_A";
/// Ending of the name of B, [out, r].
pub const LORA_B: &str = ".lora_B";

/// What the adapters of a network have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Adapters {
    /// α / r.
    pub(super) scale: f64,
    pub(super) dropout: Arc<Dropout>,
}

/// x ↦ x Wᵀ, adapted or not.
#[derive(Debug)]
pub(super) struct Linear {
    name: String,
    weight: Tensor,
    /// A and B.
    adapter: Option<(Tensor, Tensor)>,
    adapters: Adapters,
}

impl Linear {
    /// The matrix `<name>.weight`, with its adapter if there is one.
    pub(super) fn of(parameters: &Parameters, name: String, adapters: &Adapters) -> Result<Self> {
        let weight = parameters.get(&format!("{name}.weight"))?.shallow_clone();
        let adapter = match parameters.find(&format!("{name}{LORA_A}")) {
            Some(a) => Some((a.shallow_clone(), parameters.get(&format!("{name}{LORA_B}"))?.shallow_clone())),
            None => None,
        };
        Ok(Linear { name, weight, adapter, adapters: adapters.clone() })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        let y = x.linear(&self.weight, None::<&Tensor>);
        let Some((a, b)) = &self.adapter else { return y };
        let low = self.adapters.dropout.apply(x, &self.name).linear(a, None::<&Tensor>);
        y + low.linear(b, None::<&Tensor>) * self.adapters.scale
    }
}
