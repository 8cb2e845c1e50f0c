//! The WKV-7 operator: what is recurrent in RWKV-7. Per head a 64×64 state S (rows are value lanes,
//! columns are key lanes) is carried over the sequence, with d = exp(−exp(w)):
//!
//! ```text
//! s_t = S_{t−1} a_t
//! S_t = S_{t−1} diag(d_t) + s_t b_tᵀ + v_t k_tᵀ
//! y_t = S_t r_t
//! ```
//!
//! [`WkvBackend`] is the border behind which an implementation stands; [`conformance`] is what each of
//! them must pass, with [`Reference`] as the judge.

mod chunk;
pub mod conformance;
mod cpu;
mod cuda;
mod kernel;
mod reference;
mod vector;

use std::fmt::Debug;
use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use crate::autograd::{self, Operator, Outputs};
use crate::cpu::lanes::Fresh;
use crate::cuda::Launcher;

pub use chunk::{ChunkWkv, Factors};
pub use cpu::CpuWkv;
pub use cuda::{CHUNKS, CudaWkv, Form, STEPS, Suite, cuda_suites};
pub use reference::Reference;

/// Lanes of a head of the model.
pub const HEAD: i64 = 64;

/// The operator's inputs: tensors [B, T, H, 64] with T at least 1, and an initial state [B, H, 64, 64]. Some backends
/// also take heads of another size, in the place of 64, and bf16; states are f32 then too.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Receptance: what is read from the state.
    pub r: &'a Tensor,
    /// Decay before its two exponentials.
    pub w: &'a Tensor,
    /// Key.
    pub k: &'a Tensor,
    /// Value.
    pub v: &'a Tensor,
    /// Removal: what the state is asked for, to be replaced.
    pub a: &'a Tensor,
    /// Replacement: where the answer is put.
    pub b: &'a Tensor,
    /// The state before the first step; zero if left out.
    pub s0: Option<&'a Tensor>,
}

/// What the forward pass gives.
#[derive(Debug)]
pub struct Forward {
    /// The output, [B, T, H, 64].
    pub y: Tensor,
    /// The state after the last step, [B, H, 64, 64].
    pub state: Tensor,
    /// What the backend wants to have again in the backward pass; empty where that was not asked for.
    pub kept: Vec<Tensor>,
}

/// The gradients of all inputs, shaped as these.
#[derive(Debug)]
pub struct Gradients {
    /// Of the receptance.
    pub dr: Tensor,
    /// Of the decay before its exponentials.
    pub dw: Tensor,
    /// Of the key.
    pub dk: Tensor,
    /// Of the value.
    pub dv: Tensor,
    /// Of the removal.
    pub da: Tensor,
    /// Of the replacement.
    pub db: Tensor,
    /// Of the initial state.
    pub ds0: Tensor,
}

impl Gradients {
    /// Of the six inputs in their order, as numbers of `kind`, and of the initial state in f32.
    fn of(inputs: [Fresh; 6], kind: Kind, ds0: Fresh) -> Self {
        let [dr, dw, dk, dv, da, db] = inputs.map(|grad| grad.done().to_kind(kind));
        Gradients { dr, dw, dk, dv, da, db, ds0: ds0.done() }
    }
}

/// An implementation of the operator.
pub trait WkvBackend: Debug + Send + Sync {
    /// A short name for logs.
    fn name(&self) -> &'static str;

    /// What starts other kernels of this package where the backend computes; none on a processor.
    fn launcher(&self) -> Option<&Arc<dyn Launcher>> {
        None
    }

    /// Output and final state; with `keep`, also what [`WkvBackend::backward`] needs.
    ///
    /// # Errors
    /// Inputs of a kind, device or shape that the backend does not take.
    fn forward(&self, inputs: Inputs<'_>, keep: bool) -> Result<Forward>;

    /// Gradients from those of the output, `dy` [B, T, H, 64], and of the final state, [B, H, 64, 64].
    ///
    /// # Errors
    /// As [`WkvBackend::forward`].
    fn backward(&self, inputs: Inputs<'_>, kept: &[Tensor], dy: &Tensor, d_state: Option<&Tensor>)
    -> Result<Gradients>;
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Sequences.
    pub batch: usize,
    /// Steps.
    pub time: usize,
    /// Heads.
    pub heads: usize,
    /// Lanes of a head.
    pub head: usize,
}

impl Inputs<'_> {
    /// The sizes, after checking that all inputs agree.
    ///
    /// # Errors
    /// They do not agree.
    pub fn sizes(&self) -> Result<Sizes> {
        let shape = self.r.size();
        let &[batch, time, heads, head] = shape.as_slice() else {
            return Err(Error::bug(format!("the WKV operator wants [B, T, H, {HEAD}], not {shape:?}")));
        };
        for (name, tensor) in [("w", self.w), ("k", self.k), ("v", self.v), ("a", self.a), ("b", self.b)] {
            if tensor.size() != shape {
                return Err(Error::bug(format!("the WKV operator's {name} is {:?}, its r {shape:?}", tensor.size())));
            }
        }
        if time < 1 {
            return Err(Error::bug("the WKV operator wants at least one step"));
        }
        if let Some(s0) = self.s0
            && s0.size() != [batch, heads, head, head]
        {
            return Err(Error::bug(format!("the WKV operator's state is {:?} for inputs {shape:?}", s0.size())));
        }
        Ok(Sizes { batch: batch as usize, time: time as usize, heads: heads as usize, head: head as usize })
    }

    fn list(&self) -> Vec<&Tensor> {
        [self.r, self.w, self.k, self.v, self.a, self.b].into_iter().chain(self.s0).collect()
    }

    fn of_list(list: &[Tensor]) -> Result<Inputs<'_>> {
        match list {
            [r, w, k, v, a, b] => Ok(Inputs { r, w, k, v, a, b, s0: None }),
            [r, w, k, v, a, b, s0] => Ok(Inputs { r, w, k, v, a, b, s0: Some(s0) }),
            _ => Err(Error::bug(format!("the WKV operator got {} tensors", list.len()))),
        }
    }
}

/// Runs the operator: (output, final state). With `differentiable` the results are joined to the graph.
///
/// # Errors
/// As [`WkvBackend::forward`].
pub fn wkv(backend: &Arc<dyn WkvBackend>, inputs: Inputs<'_>, differentiable: bool) -> Result<(Tensor, Tensor)> {
    if !differentiable {
        let Forward { y, state, .. } = backend.forward(inputs, false)?;
        return Ok((y, state));
    }
    let list = inputs.list();
    let operator = WkvOperator { backend: Arc::clone(backend), n_inputs: list.len() };
    let results: [Tensor; 2] = autograd::apply(operator, &list)?
        .try_into()
        .map_err(|_| Error::bug("the WKV operator did not give two results"))?;
    let [y, state] = results;
    Ok((y, state))
}

struct WkvOperator {
    backend: Arc<dyn WkvBackend>,
    n_inputs: usize,
}

impl Operator for WkvOperator {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let Forward { y, state, kept } = self.backend.forward(Inputs::of_list(inputs)?, true)?;
        let kept = inputs.iter().map(Tensor::shallow_clone).chain(kept).collect();
        Ok(Outputs { results: vec![y, state], kept })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let (inputs, kept) = kept
            .split_at_checked(self.n_inputs)
            .ok_or_else(|| Error::bug("the WKV operator's kept tensors are gone"))?;
        let inputs = Inputs::of_list(inputs)?;
        let [dy, d_state] = grads else { return Err(Error::bug("the WKV operator has two results")) };
        let dy = dy.as_ref().map_or_else(|| inputs.r.zeros_like(), Tensor::shallow_clone);
        let Gradients { dr, dw, dk, dv, da, db, ds0 } = self.backend.backward(inputs, kept, &dy, d_state.as_ref())?;
        let grads = [dr, dw, dk, dv, da, db, ds0].into_iter().map(Some);
        Ok(grads.take(self.n_inputs).collect())
    }
}
