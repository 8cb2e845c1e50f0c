//! The WKV operator on CPU cores: sequential in time, one (sequence, head) a task. It computes in f32; inputs and
//! outputs may be bf16.

use midi_ingest::job::exit::{Error, Result};
use multiversion::multiversion;
use tch::Tensor;

use super::kernel::{self, CHUNK, Flavour, Head, HeadGradients, Row, Strided, rows_mut, states, states_mut};
use super::{Forward, Gradients, HEAD, Inputs, Sizes, WkvBackend};
use crate::cpu::lanes::{Fresh, Lanes};
use crate::cpu::{parallel, scalar};

/// Values that one task takes where they do not depend on each other.
const PIECE: usize = 1 << 14;

/// The implementation for the CPU. Its results do not depend on the number of threads.
#[derive(Debug)]
pub struct CpuWkv {
    flavour: Flavour,
}

impl CpuWkv {
    /// With the instructions that this CPU has.
    pub fn new() -> Self {
        CpuWkv { flavour: Flavour::detect() }
    }

    /// Without any instruction that not every machine has.
    pub fn portable() -> Self {
        CpuWkv { flavour: Flavour::Portable }
    }
}

impl Default for CpuWkv {
    fn default() -> Self {
        CpuWkv::new()
    }
}

impl WkvBackend for CpuWkv {
    fn name(&self) -> &'static str {
        match self.flavour {
            Flavour::Portable => "cpu",
            #[cfg(target_arch = "x86_64")]
            Flavour::Avx2 => "cpu-avx2",
        }
    }

    fn forward(&self, inputs: Inputs<'_>, keep: bool) -> Result<Forward> {
        let sizes = sizes_of(&inputs)?;
        let read = Read::of(&inputs)?;
        let rows = read.rows(sizes);
        let Sizes { batch, time, heads, .. } = sizes;
        let chunks = if keep { time.div_ceil(CHUNK) } else { 0 };
        let mut y = Fresh::unset(&inputs.r.size())?;
        let mut state = initial(&inputs, inputs.s0, sizes)?;
        let mut border = Fresh::unset(&[batch as i64, heads as i64, chunks as i64, HEAD, HEAD])?;

        let mut borders = states_mut(border.values());
        let tasks: Vec<_> = by_head(y.values(), sizes)
            .into_iter()
            .zip(states_mut(state.values()))
            .map(|(y, state)| (y, state, borders.split_off_mut(..chunks).unwrap_or_default()))
            .collect();
        parallel::each(tasks, |index, (mut y, state, border)| {
            kernel::forward(self.flavour, &rows.head(index), state, &mut y, border);
        });
        let kept = if keep { vec![border.done()] } else { Vec::new() };
        Ok(Forward { y: y.done().to_kind(inputs.r.kind()), state: state.done(), kept })
    }

    fn backward(
        &self,
        inputs: Inputs<'_>,
        kept: &[Tensor],
        dy: &Tensor,
        d_state: Option<&Tensor>,
    ) -> Result<Gradients> {
        let sizes = sizes_of(&inputs)?;
        let [border] = kept else { return Err(Error::bug("the cpu WKV backend kept nothing")) };
        let read = Read::of(&inputs)?;
        let rows = read.rows(sizes);
        let border = Lanes::of(border)?;
        let (borders, chunks) = (states(border.values()), sizes.time.div_ceil(CHUNK));
        if dy.size() != inputs.r.size() || borders.len() != sizes.batch * sizes.heads * chunks {
            return Err(Error::bug(format!("the gradient of the WKV operator is {:?} for {sizes:?}", dy.size())));
        }
        let dy = Lanes::of(dy)?;
        let dy = dy.values();
        let mut g = initial(&inputs, d_state, sizes)?;
        let new = || Fresh::unset(&inputs.r.size());
        let mut fresh = [new()?, new()?, new()?, new()?, new()?, new()?];
        let lists = fresh.each_mut().map(|grad| by_head(grad.values(), sizes).into_iter());
        let [mut r, mut d, mut k, mut v, mut a, mut b] = lists;
        let mut grads = Vec::new();
        while let (Some(r), Some(d), Some(k), Some(v), Some(a), Some(b)) =
            (r.next(), d.next(), k.next(), v.next(), a.next(), b.next())
        {
            grads.push(HeadGradients { r, d, k, v, a, b });
        }
        let tasks: Vec<_> = grads.into_iter().zip(states_mut(g.values())).collect();
        parallel::each(tasks, |index, (mut grads, g)| {
            let border = &borders[index * chunks..][..chunks];
            let dy = strided(dy, sizes, index);
            kernel::backward(self.flavour, &rows.head(index), border, dy, g, &mut grads);
        });
        let logs = read.log_decay.chunks(PIECE);
        let tasks = fresh[1].values().chunks_mut(PIECE).zip(read.decay.chunks(PIECE).zip(logs)).collect();
        parallel::each(tasks, |_, (grad, (decay, log))| through_decay(grad, decay, log));
        Ok(Gradients::of(fresh, inputs.r.kind(), g))
    }
}

/// The inputs in memory, with the decay after its exponentials.
struct Read {
    r: Lanes,
    k: Lanes,
    v: Lanes,
    a: Lanes,
    b: Lanes,
    decay: Vec<f32>,
    log_decay: Vec<f32>,
}

/// The inputs as slices, which threads can share.
#[derive(Clone, Copy)]
struct Rows<'a> {
    sizes: Sizes,
    r: &'a [f32],
    d: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
}

impl Read {
    fn of(inputs: &Inputs<'_>) -> Result<Self> {
        let w = Lanes::of(inputs.w)?;
        let (mut decay, mut log_decay) = (vec![0.0; w.values().len()], vec![0.0; w.values().len()]);
        let made = decay.chunks_mut(PIECE).zip(log_decay.chunks_mut(PIECE));
        let tasks = w.values().chunks(PIECE).zip(made).collect();
        parallel::each(tasks, |_, (w, (decay, log))| decays(w, decay, log));
        Ok(Read {
            r: Lanes::of(inputs.r)?,
            k: Lanes::of(inputs.k)?,
            v: Lanes::of(inputs.v)?,
            a: Lanes::of(inputs.a)?,
            b: Lanes::of(inputs.b)?,
            decay,
            log_decay,
        })
    }

    fn rows(&self, sizes: Sizes) -> Rows<'_> {
        Rows {
            sizes,
            r: self.r.values(),
            d: &self.decay,
            k: self.k.values(),
            v: self.v.values(),
            a: self.a.values(),
            b: self.b.values(),
        }
    }
}

impl<'a> Rows<'a> {
    /// The inputs of task `index`: sequence by sequence, head by head.
    fn head(self, index: usize) -> Head<'a> {
        let rows = |values| strided(values, self.sizes, index);
        Head { r: rows(self.r), d: rows(self.d), k: rows(self.k), v: rows(self.v), a: rows(self.a), b: rows(self.b) }
    }
}

/// The decay, exp(−exp w), and its logarithm.
#[multiversion(targets("x86_64+avx2+fma"))]
fn decays(w: &[f32], decay: &mut [f32], log: &mut [f32]) {
    for ((&w, decay), log) in w.iter().zip(decay).zip(log) {
        *log = -scalar::exp(w);
        *decay = scalar::exp(*log);
    }
}

/// From the gradient of the decay to that of w, in its place: dw = dd · d · (−exp w).
#[multiversion(targets("x86_64+avx2+fma"))]
fn through_decay(grad: &mut [f32], decay: &[f32], log: &[f32]) {
    for ((grad, decay), log) in grad.iter_mut().zip(decay).zip(log) {
        *grad *= decay * log;
    }
}

/// The sizes of a call, after checking that heads are of the one size that the loops are written for.
fn sizes_of(inputs: &Inputs<'_>) -> Result<Sizes> {
    let sizes = inputs.sizes()?;
    if sizes.head == HEAD as usize {
        return Ok(sizes);
    }
    Err(Error::bug(format!("the cpu WKV backend takes heads of {HEAD} lanes, not {}", sizes.head)))
}

/// A fresh state holding `given`, or zeros.
fn initial(inputs: &Inputs<'_>, given: Option<&Tensor>, sizes: Sizes) -> Result<Fresh> {
    let shape = [sizes.batch as i64, sizes.heads as i64, HEAD, HEAD];
    let mut state = Fresh::zeros(&shape)?;
    if let Some(given) = given {
        if given.size() != shape {
            return Err(Error::bug(format!("a WKV state is {:?} for inputs {:?}", given.size(), inputs.r.size())));
        }
        state.values().copy_from_slice(Lanes::of(given)?.values());
    }
    Ok(state)
}

/// The rows of task `index` in values [B, T, H, 64].
fn strided(values: &[f32], Sizes { time, heads, .. }: Sizes, index: usize) -> Strided<'_> {
    Strided::new(&kernel::rows(values)[index / heads * time * heads..][..time * heads], heads, index % heads)
}

/// The rows of values [B, T, H, 64], a list a (sequence, head).
fn by_head(values: &mut [f32], Sizes { batch, time, heads, .. }: Sizes) -> Vec<Vec<&mut Row>> {
    let mut lists: Vec<Vec<&mut Row>> = (0..batch * heads).map(|_| Vec::with_capacity(time)).collect();
    for (index, row) in rows_mut(values).iter_mut().enumerate() {
        lists[index / (time * heads) * heads + index % heads].push(row);
    }
    lists
}
