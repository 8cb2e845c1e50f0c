//! Work between the products of matrices as kernels of its own (`fused.cu`), each in one pass over memory, as nodes of
//! torch's graph. A model uses them where its WKV backend has a [`Launcher`]; elsewhere it uses torch's operators, which
//! give the same up to rounding.
#![expect(unsafe_code, reason = "kernels are given pointers to tensors")]

mod lists;
mod loss;
mod terms;

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::{Arguments, Launcher, Source, Spread};
use crate::autograd::{self, Operator, Outputs};
use crate::fault;

pub use lists::{AdamTerms, LISTS, Update, adamw, norm, rounded};
pub use loss::{LOSS, LossWeights, loss_in_place};
pub use terms::{Raw, TERMS, wkv_terms};

/// The kernels of this file.
pub static FUSED: Source = Source { name: "fused.cu", text: include_str!("fused.cu") };

/// Room for mixes in the arguments of a kernel; there is one for six and one for one.
const MIXES: usize = 6;
/// Most blocks that share the rows of one column, as many parts of a parameter's gradient are added up: of mixes, and of
/// what a warp does a row of.
const STRIPS: i64 = 1024;
const ROW_BLOCKS: i64 = 256;
/// Warps of a block of the kernels that take a head at a time.
const WARPS: i64 = 4;
/// Lanes of a head.
const HEAD: i64 = 64;

/// What a kernel's name says of its numbers.
fn numbers(kind: Kind) -> Result<&'static str> {
    match kind {
        Kind::Float => Ok("f32"),
        Kind::BFloat16 => Ok("bf16"),
        other => Err(Error::bug(format!("fused kernels take f32 or bf16, not {other:?}"))),
    }
}

/// All of `tensors` as kernels take them: contiguous, of the first one's kind, on the launcher's device.
fn taken(launcher: &Arc<dyn Launcher>, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
    taken_as(launcher, tensors.first().map_or(Kind::Float, |tensor| tensor.kind()), tensors)
}

/// As [`taken`], of this kind.
fn taken_as(launcher: &Arc<dyn Launcher>, kind: Kind, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
    let one = |tensor: &&Tensor| {
        if tensor.kind() != kind || tensor.device() != launcher.device() {
            let (found, at) = (tensor.kind(), tensor.device());
            return Err(Error::bug(format!("a fused kernel for {kind:?} was given {found:?} on {at:?}")));
        }
        tensor.f_detach().and_then(|t| t.f_contiguous()).map_err(fault::torch)
    };
    tensors.iter().map(one).collect()
}

/// The gradients of results like `like`, as kernels take them: zeros where nothing depends on a result.
fn taken_gradients(launcher: &Arc<dyn Launcher>, grads: &[Option<Tensor>], like: &Tensor) -> Result<Vec<Tensor>> {
    let given = |grad: &Option<Tensor>| grad.as_ref().map_or_else(|| like.zeros_like(), Tensor::shallow_clone);
    let grads: Vec<Tensor> = grads.iter().map(given).collect();
    taken(launcher, &grads.iter().collect::<Vec<_>>())
}

fn empty_like(tensor: &Tensor) -> Result<Tensor> {
    Tensor::f_empty(tensor.size(), (tensor.kind(), tensor.device())).map_err(fault::torch)
}

/// The rows of [B, T, D] and the heads of each.
fn rows_and_heads(x: &Tensor) -> Result<(i64, i64)> {
    let (batch, time, width) = x.size3().map_err(fault::torch)?;
    Ok((batch * time, width / HEAD))
}

/// A kernel of a warp a row and a head.
fn warps_over(rows: i64, heads: i64) -> Spread {
    let blocks = (rows + WARPS - 1).div_euclid(WARPS).min(ROW_BLOCKS);
    Spread { blocks: [heads as u32, blocks as u32], threads: 32 * WARPS as u32, shared: 0 }
}

/// Room for `parts` parts of gradients of `columns` values.
fn parts(launcher: &Arc<dyn Launcher>, parts: i64, columns: &[i64]) -> Result<Tensor> {
    let size: Vec<i64> = std::iter::once(parts).chain(columns.iter().copied()).collect();
    empty_of(launcher, &size, Kind::Float)
}

fn empty_of(launcher: &Arc<dyn Launcher>, size: &[i64], kind: Kind) -> Result<Tensor> {
    Tensor::f_empty(size, (kind, launcher.device())).map_err(fault::torch)
}

/// The sums of the parts in [parts, n, ..], n tensors like `like`.
fn summed(parts: &Tensor, like: &[&Tensor]) -> Vec<Option<Tensor>> {
    let sums = parts.sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
    let each = |(n, like): (usize, &&Tensor)| Some(sums.get(n as i64).view_as(like).to_kind(like.kind()));
    like.iter().enumerate().map(each).collect()
}

/// x + (x of the row before − x)·mix for each of one or six mixes [.., D] of x [B, T, D]. The row before is zero for the
/// first row of a sequence and where `anew`, [B, T, 1] of bool, is true.
///
/// # Errors
/// Kinds or devices that do not agree, or a failure of the device.
pub fn mixes(
    launcher: &Arc<dyn Launcher>,
    x: &Tensor,
    anew: Option<&Tensor>,
    mixes: &[&Tensor],
) -> Result<Vec<Tensor>> {
    // A bool is a byte, as the kernel reads it.
    let anew = anew.map(Tensor::contiguous);
    let inputs: Vec<&Tensor> = std::iter::once(x).chain(mixes.iter().copied()).chain(&anew).collect();
    autograd::apply(Mix { launcher: Arc::clone(launcher), count: mixes.len() }, &inputs)
}

/// Inputs are x, the mixes and, if there are such, the places where a sequence begins anew.
struct Mix {
    launcher: Arc<dyn Launcher>,
    /// Mixes.
    count: usize,
}

impl Mix {
    /// x, the mixes, and the places.
    fn parted<'a>(&self, inputs: &'a [Tensor]) -> Result<(&'a Tensor, &'a [Tensor], Option<&'a Tensor>)> {
        let [x, rest @ ..] = inputs else { return Err(Error::bug("a mix without x")) };
        let (mixes, anew) =
            rest.split_at_checked(self.count).ok_or_else(|| Error::bug("a mix that kept too little"))?;
        Ok((x, mixes, anew.first()))
    }

    /// Starts a pass over `inputs` and as many `outs` as there are mixes.
    fn launch(&self, pass: &str, inputs: &[Tensor], outs: &[Tensor], last: [Option<&Tensor>; 2]) -> Result<()> {
        let (x, mixes, anew) = self.parted(inputs)?;
        let (batch, time, width) = x.size3().map_err(fault::torch)?;
        if ![1, MIXES].contains(&mixes.len()) || mixes.iter().any(|mix| mix.numel() as i64 != width) {
            return Err(Error::bug(format!("{} mixes for {:?}", mixes.len(), x.size())));
        }
        let rows = batch * time;
        let list = |arguments: Arguments, tensors: &[Tensor]| {
            (0..MIXES).fold(arguments, |arguments, n| arguments.tensor_or_null(tensors.get(n)))
        };
        let first = Arguments::new().int(rows as i32).int(time as i32).int(width as i32).int(mixes.len() as i32);
        let first = list(first.tensor(x).tensor_or_null(anew), mixes);
        let arguments = last.into_iter().fold(list(first, outs), Arguments::tensor_or_null);
        let spread = Spread { blocks: [(width as u32).div_ceil(128), strips(rows)], threads: 64, shared: 0 };
        let name = format!("mix_{pass}_{}", numbers(x.kind())?);
        // SAFETY: all tensors were taken by `taken` or made here, in the shapes that the kernel walks over.
        unsafe { self.launcher.launch(&FUSED, &name, spread, &arguments) }
    }
}

/// Into how many strips of neighbouring rows a kernel of mixes parts them.
fn strips(rows: i64) -> u32 {
    (rows as u64).div_ceil(64).clamp(1, STRIPS as u64) as u32
}

impl Operator for Mix {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let (x, mixes, anew) = self.parted(inputs)?;
        let mut kept = taken(&self.launcher, &std::iter::once(x).chain(mixes).collect::<Vec<_>>())?;
        kept.extend(anew.map(Tensor::shallow_clone));
        let results = mixes.iter().map(|_| empty_like(x)).collect::<Result<Vec<_>>>()?;
        self.launch("forward", &kept, &results, [None, None])?;
        Ok(Outputs { results, kept })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let (x, mixes, anew) = self.parted(kept)?;
        let grads = taken_gradients(&self.launcher, grads, x)?;
        let dx = empty_like(x)?;
        let (count, width) = (mixes.len() as i64, mixes.first().map_or(0, |mix| mix.numel() as i64));
        let parts = parts(&self.launcher, strips(x.numel() as i64 / width.max(1)).into(), &[count, width])?;
        self.launch("backward", kept, &grads, [Some(&dx), Some(&parts)])?;
        let mixes = summed(&parts, &mixes.iter().collect::<Vec<_>>());
        Ok(std::iter::once(Some(dx)).chain(mixes).chain(anew.map(|_| None)).collect())
    }
}

/// max(x, 0)².
///
/// # Errors
/// A kind or device that there is no kernel for, or a failure of the device.
pub fn squared_relu(launcher: &Arc<dyn Launcher>, x: &Tensor) -> Result<Tensor> {
    one(autograd::apply(Square { launcher: Arc::clone(launcher) }, &[x])?)
}

fn one(results: Vec<Tensor>) -> Result<Tensor> {
    results.into_iter().next().ok_or_else(|| Error::bug("an operator gave no result"))
}

struct Square {
    launcher: Arc<dyn Launcher>,
}

impl Square {
    fn launch(&self, pass: &str, x: &Tensor, gradient: Option<&Tensor>) -> Result<Tensor> {
        let out = empty_like(x)?;
        let arguments = Arguments::new().int(count(x)?).int(0).tensor(x).tensor_or_null(gradient).tensor(&out);
        let name = format!("square_{pass}_{}", numbers(x.kind())?);
        // SAFETY: tensors of one size and kind, contiguous and on the device.
        unsafe { self.launcher.launch(&FUSED, &name, along(x), &arguments)? };
        Ok(out)
    }
}

/// The number of elements, as kernels count them.
fn count(x: &Tensor) -> Result<i32> {
    i32::try_from(x.numel()).map_err(|_| Error::bug(format!("{} numbers are too many for a kernel", x.numel())))
}

/// A kernel that goes along all numbers of a tensor.
fn along(x: &Tensor) -> Spread {
    Spread { blocks: [(x.numel() as u32).div_ceil(256 * 8).clamp(1, 4096), 1], threads: 256, shared: 0 }
}

impl Operator for Square {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let kept = taken(&self.launcher, &inputs.iter().collect::<Vec<_>>())?;
        Ok(Outputs { results: vec![self.launch("forward", &kept[0], None)?], kept })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let ([x], [Some(gradient)]) = (kept, grads) else { return Ok(vec![None]) };
        let gradient = taken(&self.launcher, &[gradient])?;
        Ok(vec![Some(self.launch("backward", x, gradient.first())?)])
    }
}

/// What [`norm_bonus_gate`] takes: y, r, k, v and g are [B, T, D]; weight, bias and r_k hold D values.
#[derive(Clone, Copy, Debug)]
pub struct Gated<'a> {
    /// The output of the WKV operator.
    pub y: &'a Tensor,
    /// Receptance.
    pub r: &'a Tensor,
    /// Key.
    pub k: &'a Tensor,
    /// Value.
    pub v: &'a Tensor,
    /// Gate.
    pub g: &'a Tensor,
    /// Weight of the norm.
    pub weight: &'a Tensor,
    /// Bias of the norm.
    pub bias: &'a Tensor,
    /// Weight of the bonus.
    pub r_k: &'a Tensor,
}

/// (norm(y)·weight + bias + Σ(r k r_k)·v)·g: norm and sum are over the 64 lanes of each head.
///
/// # Errors
/// Kinds or devices that do not agree, or a failure of the device.
pub fn norm_bonus_gate(launcher: &Arc<dyn Launcher>, inputs: Gated<'_>, epsilon: f64) -> Result<Tensor> {
    let Gated { y, r, k, v, g, weight, bias, r_k } = inputs;
    let operator = Norm { launcher: Arc::clone(launcher), epsilon: epsilon as f32 };
    one(autograd::apply(operator, &[y, r, k, v, g, weight, bias, r_k])?)
}

struct Norm {
    launcher: Arc<dyn Launcher>,
    epsilon: f32,
}

impl Norm {
    /// Starts a pass over the eight inputs; `rest` is the gradient, the output and the gradients of the inputs.
    fn launch(&self, pass: &str, inputs: &[Tensor], rest: [Option<&Tensor>; 8]) -> Result<()> {
        let [y, r, k, v, g, weight, bias, r_k] = inputs else { return Err(Error::bug("the norm has eight inputs")) };
        let (rows, heads) = rows_and_heads(y)?;
        let wide = [r, k, v, g].iter().all(|x| x.numel() == y.numel());
        if !wide || [weight, bias, r_k].iter().any(|x| x.numel() as i64 != heads * HEAD) {
            return Err(Error::bug(format!("the norm of {:?} was given other sizes", y.size())));
        }
        let first = Arguments::new().int(rows as i32).int(heads as i32).float(self.epsilon).float(0.0);
        let arguments = inputs.iter().fold(first, Arguments::tensor);
        let arguments = rest.into_iter().fold(arguments, Arguments::tensor_or_null);
        let name = format!("norm_{pass}_{}", numbers(y.kind())?);
        // SAFETY: all tensors were taken by `taken` or made here, and their sizes were checked.
        unsafe { self.launcher.launch(&FUSED, &name, warps_over(rows, heads), &arguments) }
    }
}

impl Operator for Norm {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let kept = taken(&self.launcher, &inputs.iter().collect::<Vec<_>>())?;
        let out = empty_like(&kept[0])?;
        self.launch("forward", &kept, [None, Some(&out), None, None, None, None, None, None])?;
        Ok(Outputs { results: vec![out], kept })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let ([y, .., weight, bias, r_k], [Some(gradient)]) = (kept, grads) else {
            return Ok((0..kept.len()).map(|_| None).collect());
        };
        let gradient = taken(&self.launcher, &[gradient])?;
        let made = kept.iter().take(5).map(empty_like).collect::<Result<Vec<_>>>()?;
        let (rows, heads) = rows_and_heads(y)?;
        let blocks = i64::from(warps_over(rows, heads).blocks[1]);
        let parts = parts(&self.launcher, blocks * WARPS, &[3, heads * HEAD])?;
        let [dy, dr, dk, dv, dg] = made.as_slice() else { return Err(Error::bug("five gradients were made")) };
        let rest = [gradient.first(), None, Some(dy), Some(dr), Some(dk), Some(dv), Some(dg), Some(&parts)];
        self.launch("backward", kept, rest)?;
        Ok(made.into_iter().map(Some).chain(summed(&parts, &[weight, bias, r_k])).collect())
    }
}
