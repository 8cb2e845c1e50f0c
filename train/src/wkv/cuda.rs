//! The WKV operator on a GPU: `wkv7.cu` goes step by step and is right for any decay, `wkv7_chunk.cu` takes 16 steps
//! at a time on tensor cores. Inputs are f32 or bf16; states and sums are f32.
#![expect(unsafe_code, reason = "kernels are given pointers to tensors")]

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::conformance::{Decays, Terms};
use super::{Forward, Gradients, HEAD, Inputs, Sizes, WkvBackend};
use crate::cuda::{Arguments, Launcher, Source, Spread};
use crate::fault;

/// The kernels of [`CudaWkv`], step by step.
pub static STEPS: Source = Source { name: "wkv7.cu", text: include_str!("wkv7.cu") };
/// The kernels of [`CudaWkv`], in chunks.
pub static CHUNKS: Source = Source { name: "wkv7_chunk.cu", text: include_str!("wkv7_chunk.cu") };

/// Steps between two kept states, in both forms.
const KEPT_EVERY: usize = 16;

/// How the kernels go through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Step by step: for f32, for heads of other sizes than 64, and for decays that no model of ours has.
    Steps,
    /// In chunks, with products of bf16 factors: for bf16.
    Chunks,
    /// In chunks where inputs are bf16 anyway, else step by step.
    ByKind,
}

/// A form of the kernels on terms that they must meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suite {
    /// The form.
    pub form: Form,
    /// Its inputs.
    pub terms: Terms,
    /// The largest relative difference from the reference.
    pub tolerance: f64,
}

/// What the kernels of [`CudaWkv`] are held to. f32 step by step loses what sums in f32 lose, over 64 lanes and 64 steps;
/// bf16 step by step, what outputs lose that are rounded once; chunks, what products of bf16 factors lose.
pub fn cuda_suites() -> Vec<Suite> {
    let (float, half) = (Kind::Float, Kind::BFloat16);
    let mut suites = Vec::new();
    let mut add = |form, kind, head, decays, forgets, tolerance| {
        suites.push(Suite { form, terms: Terms { kind, head, seed: 0, decays, forgets }, tolerance });
    };
    add(Form::Steps, float, HEAD, Decays::Usual, false, 4e-6);
    add(Form::Steps, float, HEAD, Decays::Any, true, 4e-6);
    for head in [32, 128] {
        add(Form::Steps, float, head, Decays::Usual, false, 4e-6);
    }
    add(Form::Steps, half, HEAD, Decays::Usual, true, 4e-3);
    for decays in [Decays::Usual, Decays::Strongest, Decays::Weakest] {
        add(Form::Chunks, half, HEAD, decays, false, 1e-2);
    }
    add(Form::Chunks, half, HEAD, Decays::Usual, true, 1e-2);
    suites
}

/// The operator on the device of a launcher.
#[derive(Debug)]
pub struct CudaWkv {
    launcher: Arc<dyn Launcher>,
    form: Form,
    poisoned: bool,
}

impl CudaWkv {
    /// On the device of `launcher`.
    pub fn new(launcher: Arc<dyn Launcher>, form: Form) -> Self {
        CudaWkv { launcher, form, poisoned: false }
    }

    /// As [`CudaWkv::new`], with outputs that are not numbers before the kernels run: what they leave out shows.
    pub fn poisoned(launcher: Arc<dyn Launcher>, form: Form) -> Self {
        CudaWkv { launcher, form, poisoned: true }
    }

    fn fresh(&self, shape: &[i64], kind: Kind) -> Result<Tensor> {
        let options = (kind, self.launcher.device());
        let made =
            if self.poisoned { Tensor::f_full(shape, f64::NAN, options) } else { Tensor::f_empty(shape, options) };
        made.map_err(fault::torch)
    }

    /// A tensor as kernels take it.
    fn taken(&self, tensor: &Tensor, kind: Kind) -> Result<Tensor> {
        if tensor.device() != self.launcher.device() {
            let (at, here) = (tensor.device(), self.launcher.device());
            return Err(Error::bug(format!("the WKV operator on {here:?} was given a tensor on {at:?}")));
        }
        tensor.f_detach().and_then(|t| t.f_to_kind(kind)).and_then(|t| t.f_contiguous()).map_err(fault::torch)
    }

    fn call(&self, inputs: &Inputs<'_>) -> Result<Call> {
        let sizes = inputs.sizes()?;
        let kind = inputs.r.kind();
        let chunked = match self.form {
            Form::Steps => false,
            Form::Chunks => true,
            Form::ByKind => kind == Kind::BFloat16 && sizes.head == HEAD as usize,
        };
        let numbers = match kind {
            Kind::Float => "f32",
            Kind::BFloat16 => "bf16",
            other => return Err(Error::bug(format!("the WKV operator on a GPU takes f32 or bf16, not {other:?}"))),
        };
        if !matches!((sizes.head, chunked, kind), (32 | 64 | 128, false, _) | (64, true, Kind::BFloat16)) {
            let (form, head) = (self.form, sizes.head);
            return Err(Error::bug(format!("the WKV operator has no kernel for {kind:?}, heads of {head}, {form:?}")));
        }
        let taken = |tensor: &Tensor| self.taken(tensor, kind);
        let Inputs { r, w, k, v, a, b, s0 } = *inputs;
        let tensors = [taken(r)?, taken(w)?, taken(k)?, taken(v)?, taken(a)?, taken(b)?];
        let s0 = s0.map(|s0| self.taken(s0, Kind::Float)).transpose()?;
        Ok(Call { sizes, kind, numbers, chunked, tensors, s0 })
    }

    /// Starts a pass.
    fn launch(&self, call: &Call, pass: &str, arguments: &Arguments) -> Result<()> {
        let Sizes { batch, heads, head, .. } = call.sizes;
        let (source, name) = match call.chunked {
            true => (&CHUNKS, format!("wkv7_chunk_{pass}_{}", call.numbers)),
            false => (&STEPS, format!("wkv7_{pass}_{}_{head}", call.numbers)),
        };
        let threads = match (call.chunked, head) {
            (true, _) => 128,
            (false, 32) => 64,
            (false, lanes) => 4 * lanes as u32,
        };
        // Step by step: rows of a chunk's inputs in f32, 6 forward and 14 backward. In chunks: see the kernel's end.
        let shared = match (call.chunked, pass) {
            (true, "forward") => 36 << 10,
            (true, _) => 110 << 10,
            (false, "forward") => 6 * KEPT_EVERY * head * 4,
            (false, _) => 14 * KEPT_EVERY * head * 4,
        };
        let spread = Spread { blocks: [heads as u32, batch as u32], threads, shared: shared as u32 };
        // SAFETY: `Call` holds contiguous tensors of one kind on the launcher's device, whose shapes agree, and the
        // callers make the outputs in the shapes that the kernels write.
        unsafe { self.launcher.launch(source, &name, spread, arguments) }
    }
}

/// A checked call.
struct Call {
    sizes: Sizes,
    kind: Kind,
    /// The kind's name in those of kernels.
    numbers: &'static str,
    chunked: bool,
    /// r, w, k, v, a and b.
    tensors: [Tensor; 6],
    s0: Option<Tensor>,
}

impl Call {
    fn state_shape(&self) -> [i64; 4] {
        let Sizes { batch, heads, head, .. } = self.sizes;
        [batch as i64, heads as i64, head as i64, head as i64]
    }

    fn border_shape(&self) -> [i64; 5] {
        let [batch, heads, rows, columns] = self.state_shape();
        [batch, heads, self.sizes.time.div_ceil(KEPT_EVERY) as i64, rows, columns]
    }

    /// The fields that both passes have first; `dy` belongs to the backward pass.
    fn arguments(&self, dy: Option<&Tensor>) -> Arguments {
        let first = Arguments::new().int(self.sizes.time as i32).int(self.sizes.heads as i32);
        let inputs = self.tensors.iter().fold(first, Arguments::tensor);
        inputs.tensor_or_null(dy).tensor_or_null(self.s0.as_ref())
    }
}

impl WkvBackend for CudaWkv {
    fn name(&self) -> &'static str {
        match self.form {
            Form::Steps => "cuda-steps",
            Form::Chunks => "cuda-chunks",
            Form::ByKind => "cuda",
        }
    }

    fn launcher(&self) -> Option<&Arc<dyn Launcher>> {
        Some(&self.launcher)
    }

    fn forward(&self, inputs: Inputs<'_>, keep: bool) -> Result<Forward> {
        let call = self.call(&inputs)?;
        let y = self.fresh(&inputs.r.size(), call.kind)?;
        let state = self.fresh(&call.state_shape(), Kind::Float)?;
        let border = if keep { Some(self.fresh(&call.border_shape(), Kind::Float)?) } else { None };
        let removed = if keep && !call.chunked { Some(self.fresh(&inputs.r.size(), Kind::Float)?) } else { None };
        let arguments = call
            .arguments(None)
            .tensor(&state)
            .tensor_or_null(removed.as_ref())
            .tensor_or_null(border.as_ref())
            .tensor_or_null(None)
            .tensor(&y);
        let arguments = (0..7).fold(arguments, |arguments, _| arguments.tensor_or_null(None));
        self.launch(&call, "forward", &arguments)?;
        let kept = border.map(|border| std::iter::once(border).chain(removed).collect());
        Ok(Forward { y, state, kept: kept.unwrap_or_default() })
    }

    fn backward(
        &self,
        inputs: Inputs<'_>,
        kept: &[Tensor],
        dy: &Tensor,
        d_state: Option<&Tensor>,
    ) -> Result<Gradients> {
        let call = self.call(&inputs)?;
        let (border, removed) = match (kept, call.chunked) {
            ([border], true) => (border, None),
            ([border, removed], false) => (border, Some(removed)),
            _ => return Err(Error::bug("the WKV operator on a GPU kept nothing")),
        };
        if dy.size() != inputs.r.size() || border.size() != call.border_shape() {
            return Err(Error::bug(format!(
                "the gradient of the WKV operator is {:?} for {:?}",
                dy.size(),
                call.sizes
            )));
        }
        let dy = self.taken(dy, call.kind)?;
        let d_state = d_state.map(|d_state| self.taken(d_state, Kind::Float)).transpose()?;
        let fresh = || self.fresh(&inputs.r.size(), call.kind);
        let grads = [fresh()?, fresh()?, fresh()?, fresh()?, fresh()?, fresh()?];
        let ds0 = self.fresh(&call.state_shape(), Kind::Float)?;
        let arguments = call
            .arguments(Some(&dy))
            .tensor_or_null(None)
            .tensor_or_null(removed)
            .tensor(border)
            .tensor_or_null(d_state.as_ref())
            .tensor_or_null(None);
        let arguments = grads.iter().fold(arguments, Arguments::tensor).tensor(&ds0);
        self.launch(&call, "backward", &arguments)?;
        let [dr, dw, dk, dv, da, db] = grads;
        Ok(Gradients { dr, dw, dk, dv, da, db, ds0 })
    }
}
