//! Decay, key, value and the state's edits as one kernel a pass (`terms.cu`).

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::Tensor;

use super::super::{Arguments, Launcher, Source};
use super::{WARPS, empty_like, numbers, parts, rows_and_heads, summed, taken, taken_gradients, warps_over};
use crate::autograd::{self, Operator, Outputs};

/// The kernels of this file.
pub static TERMS: Source = Source { name: "terms.cu", text: include_str!("../terms.cu") };

/// What [`wkv_terms`] takes: all [B, T, D] but k_k and k_a, which hold D values.
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// ω, the decay before its activation.
    pub w: &'a Tensor,
    /// k₀, the key before its gate.
    pub k: &'a Tensor,
    /// The layer's own value.
    pub v: &'a Tensor,
    /// The in-context learning rate before its sigmoid.
    pub a: &'a Tensor,
    /// How far to go from the own value towards the first layer's, before its sigmoid, and that value. The first layer has
    /// none.
    pub towards: Option<(&'a Tensor, &'a Tensor)>,
    /// Scales the key before it becomes a direction.
    pub k_k: &'a Tensor,
    /// How far the learning rate scales the key.
    pub k_a: &'a Tensor,
}

impl<'a> Raw<'a> {
    /// As operators take them: (ω, k₀, a, k_k, k_a) and, after the first layer, (v, towards, v_first).
    pub(crate) fn inputs(self) -> Vec<&'a Tensor> {
        let Raw { w, k, v, a, towards, k_k, k_a } = self;
        let mut inputs = vec![w, k, a, k_k, k_a];
        if let Some((towards, v_first)) = towards {
            inputs.extend([v, towards, v_first]);
        }
        inputs
    }
}

/// (ŵ, k, −κ, κa), each [B, T, D], and the value if it is not the layer's own: ŵ = ln σ(ω) − ½, k = k₀(1 + (a − 1) k_a),
/// κ = k₀ k_k of unit length in each head, v + (v_first − v) σ(towards).
///
/// # Errors
/// Kinds or devices that do not agree, or a failure of the device.
pub fn wkv_terms(launcher: &Arc<dyn Launcher>, raw: Raw<'_>) -> Result<Vec<Tensor>> {
    autograd::apply(WkvTerms { launcher: Arc::clone(launcher) }, &raw.inputs())
}

/// Results of the first layer; the others have one more, the value.
const FIRST_LAYER: usize = 4;

struct WkvTerms {
    launcher: Arc<dyn Launcher>,
}

impl WkvTerms {
    /// Starts a pass: `outs` are the results or their gradients, `made` the gradients of the six inputs with rows, in the
    /// order of the arguments.
    fn launch(
        &self,
        pass: &str,
        inputs: &[Tensor],
        outs: &[Tensor],
        made: &[Tensor],
        sums: Option<&Tensor>,
    ) -> Result<()> {
        let [w, k, a, k_k, k_a, values @ ..] = inputs else { return Err(Error::bug("terms of too few tensors")) };
        let (rows, heads) = rows_and_heads(w)?;
        let wide = [k, a].into_iter().chain(values).all(|x| x.numel() == w.numel());
        if !wide
            || [k_k, k_a].iter().any(|x| x.numel() as i64 * rows != w.numel() as i64)
            || ![0, 3].contains(&values.len())
        {
            return Err(Error::bug(format!("the terms of {:?} were given other sizes", w.size())));
        }
        let list = |arguments, tensors: &[Tensor], count| {
            (0..count).fold(arguments, |arguments: Arguments, n| arguments.tensor_or_null(tensors.get(n)))
        };
        let first = Arguments::new().int(rows as i32).int(heads as i32);
        let arguments = list(list(list(first, inputs, 8), outs, 5), made, 6).tensor_or_null(sums);
        let name = format!("terms_{pass}_{}", numbers(w.kind())?);
        // SAFETY: all tensors were taken by `taken` or made here, and their sizes were checked.
        unsafe { self.launcher.launch(&TERMS, &name, warps_over(rows, heads), &arguments) }
    }
}

impl Operator for WkvTerms {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let kept = taken(&self.launcher, &inputs.iter().collect::<Vec<_>>())?;
        let count = if kept.len() > 5 { FIRST_LAYER + 1 } else { FIRST_LAYER };
        let results = (0..count).map(|_| empty_like(&kept[0])).collect::<Result<Vec<_>>>()?;
        self.launch("forward", &kept, &results, &[], None)?;
        Ok(Outputs { results, kept })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let [like, _, _, k_k, k_a, values @ ..] = kept else { return Err(Error::bug("terms that kept too little")) };
        let grads = taken_gradients(&self.launcher, grads, like)?;
        let made = (0..3 + values.len()).map(|_| empty_like(like)).collect::<Result<Vec<_>>>()?;
        let (rows, heads) = rows_and_heads(like)?;
        let blocks = i64::from(warps_over(rows, heads).blocks[1]);
        let sums = parts(&self.launcher, blocks * WARPS, &[2, k_k.numel() as i64])?;
        self.launch("backward", kept, &grads, &made, Some(&sums))?;
        let mut all: Vec<Option<Tensor>> = made.into_iter().map(Some).collect();
        let of_values = all.split_off(3);
        all.extend(summed(&sums, &[k_k, k_a]));
        all.extend(of_values);
        Ok(all)
    }
}
