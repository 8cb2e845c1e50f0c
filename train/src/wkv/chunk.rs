//! The WKV operator in chunks of 16 steps on a processor (the WY form of the delta rule): what `wkv7_chunk.cu` computes
//! on tensor cores, with the same tiles and, if asked for, the same roundings. It is slow; it is there to be compared
//! with, the kernel's algebra with [`Reference`](super::Reference) and the kernel with this.
//!
//! With c the running sum of the logarithms of the decays inside a chunk, c⁻ without the step's own:
//!
//! ```text
//! q = r e^c   ã = a e^c⁻   k̃ = k e^−c   b̃ = b e^−c   kf = k e^(c_last − c)   bf = b e^(c_last − c)   f = e^c_last
//! A_qk = tril(q k̃ᵀ)   A_qb = tril(q b̃ᵀ)   A_ak = stril(ã k̃ᵀ)   A_ab = stril(ã b̃ᵀ)
//! (I − A_ab) u = A_ak v + ã Sᵀ     y = A_qk v + A_qb u + q Sᵀ     S ← S f + vᵀ kf + uᵀ bf
//! ```
//!
//! The state is forgotten where the decay of a step's first lane is as good as zero: before and after do not see
//! each other. Elsewhere logarithms are at least −5, so that e^−c stays a number; the model's are above −0.61.

use midi_ingest::job::exit::{Error, Result};
use tch::Tensor;

use super::{Forward, Gradients, HEAD, Inputs, Sizes, WkvBackend};
use crate::cpu::lanes::{Fresh, Lanes};

const STEPS: usize = 16;
const N: usize = HEAD as usize;
/// A logarithm of a decay below which the state counts as forgotten.
const FORGETS: f32 = -20.0;
/// The least logarithm of a decay otherwise.
const LEAST: f32 = -5.0;

/// In what numbers the factors of products are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factors {
    /// f32: nothing is rounded.
    Float,
    /// bf16, as tensor cores take them.
    BFloat16,
}

/// The chunked form on a processor.
#[derive(Clone, Copy, Debug)]
pub struct ChunkWkv {
    factors: Factors,
}

impl ChunkWkv {
    /// With products of such factors.
    pub fn new(factors: Factors) -> Self {
        ChunkWkv { factors }
    }

    fn rounded(self, x: f32) -> f32 {
        match self.factors {
            Factors::Float => x,
            Factors::BFloat16 => {
                let bits = x.to_bits();
                f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
            }
        }
    }
}

/// Rows of numbers.
#[derive(Clone, Debug)]
struct Matrix {
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn of(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let values = (0..rows * columns).map(|at| value(at / columns, at % columns)).collect();
        Matrix { columns, values }
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.columns + column]
    }

    fn map(&self, to: impl Fn(usize, usize, f32) -> f32) -> Self {
        Matrix::of(self.rows(), self.columns, |i, j| to(i, j, self.at(i, j)))
    }

    fn turned(&self) -> Self {
        Matrix::of(self.columns, self.rows(), |i, j| self.at(j, i))
    }

    /// self · y
    fn times(&self, y: &Matrix) -> Self {
        Matrix::of(self.rows(), y.columns, |i, j| (0..self.columns).map(|k| self.at(i, k) * y.at(k, j)).sum())
    }

    fn plus(&self, y: &Matrix) -> Self {
        self.map(|i, j, x| x + y.at(i, j))
    }

    /// With zeros in the rows that `keep` does not keep.
    fn where_row(&self, keep: impl Fn(usize) -> bool) -> Self {
        self.map(|i, _, x| if keep(i) { x } else { 0.0 })
    }
}

/// One chunk of one head, all factors rounded.
struct Chunk {
    /// The logarithms of the decays, 0 where the state is forgotten.
    slope: Matrix,
    forgets: [bool; STEPS],
    /// Inclusive running sums, and f.
    c: Matrix,
    f: Vec<f32>,
    q: Matrix,
    a: Matrix,
    k: Matrix,
    b: Matrix,
    kf: Matrix,
    bf: Matrix,
    v: Matrix,
    a_qk: Matrix,
    a_qb: Matrix,
    a_ak: Matrix,
    /// Not rounded.
    a_ab: Matrix,
}

impl Chunk {
    /// Whether step t sees what step s wrote.
    fn sees(&self, t: usize, s: usize) -> bool {
        s <= t && !self.forgets[s + 1..=t].iter().any(|&forgets| forgets)
    }

    fn asks(&self, t: usize, s: usize) -> bool {
        s < t && self.sees(t - 1, s)
    }

    fn sees_before(&self, t: usize) -> bool {
        !self.forgets[..=t].iter().any(|&forgets| forgets)
    }

    fn asks_before(&self, t: usize) -> bool {
        t == 0 || self.sees_before(t - 1)
    }

    /// c⁻ of a step.
    fn before(&self, t: usize, j: usize) -> f32 {
        if t == 0 { 0.0 } else { self.c.at(t - 1, j) }
    }

    /// e^(c_last − c) where the end of the chunk sees the step.
    fn to_end(&self, s: usize, j: usize) -> f32 {
        if self.sees(STEPS - 1, s) { (self.c.at(STEPS - 1, j) - self.c.at(s, j)).exp() } else { 0.0 }
    }
}

impl ChunkWkv {
    /// The chunk of inputs r, w, k, v, a, b [16, 64], of which the first `left` steps are there.
    fn chunk(self, inputs: [&Matrix; 6], left: usize) -> Chunk {
        let [r, w, k, v, a, b] = inputs;
        let mut slope = w.map(|s, _, w| if s < left { -w.exp() } else { 0.0 });
        let mut forgets = [false; STEPS];
        for (s, forgets) in forgets.iter_mut().enumerate() {
            *forgets = slope.at(s, 0) < FORGETS;
        }
        slope = slope.map(|_, _, x| if x < FORGETS { 0.0 } else { x });
        let mut c = slope.map(|_, _, x| x.max(LEAST));
        for at in N..STEPS * N {
            c.values[at] += c.values[at - N];
        }
        let empty = || Matrix::of(STEPS, STEPS, |_, _| 0.0);
        let f = (0..N).map(|j| if forgets.contains(&true) { 0.0 } else { c.at(STEPS - 1, j).exp() }).collect();
        let (zero, v) = (Matrix::of(STEPS, N, |_, _| 0.0), v.map(|_, _, x| self.rounded(x)));
        let [q, kf, bf] = [zero.clone(), zero.clone(), zero.clone()];
        let [a_qk, a_qb, a_ak, a_ab] = [empty(), empty(), empty(), empty()];
        let mut chunk = Chunk {
            slope,
            forgets,
            c,
            f,
            q,
            a: zero.clone(),
            k: zero.clone(),
            b: zero,
            kf,
            bf,
            v,
            a_qk,
            a_qb,
            a_ak,
            a_ab,
        };
        let here = &chunk;
        let scaled = |x: &Matrix, by: &dyn Fn(usize, usize) -> f32| x.map(|s, j, x| self.rounded(x * by(s, j)));
        let into = |s: usize, j: usize| here.c.at(s, j).exp();
        let ask = |s: usize, j: usize| here.before(s, j).exp();
        let out = |s: usize, j: usize| (-here.c.at(s, j)).exp();
        let to_end = |s: usize, j: usize| here.to_end(s, j);
        let (q, a_s, k_s, b_s) = (scaled(r, &into), scaled(a, &ask), scaled(k, &out), scaled(b, &out));
        let (kf, bf) = (scaled(k, &to_end), scaled(b, &to_end));
        let seen = |x: Matrix| x.map(|t, s, x| if here.sees(t, s) { self.rounded(x) } else { 0.0 });
        let asked = |x: Matrix| x.map(|t, s, x| if here.asks(t, s) { x } else { 0.0 });
        let (k_t, b_t) = (k_s.turned(), b_s.turned());
        let (a_qk, a_qb) = (seen(q.times(&k_t)), seen(q.times(&b_t)));
        let (a_ak, a_ab) = (asked(a_s.times(&k_t)).map(|_, _, x| self.rounded(x)), asked(a_s.times(&b_t)));
        (chunk.q, chunk.a, chunk.k, chunk.b, chunk.kf, chunk.bf) = (q, a_s, k_s, b_s, kf, bf);
        (chunk.a_qk, chunk.a_qb, chunk.a_ak, chunk.a_ab) = (a_qk, a_qb, a_ak, a_ab);
        chunk
    }

    fn factor(self, x: &Matrix) -> Matrix {
        x.map(|_, _, x| self.rounded(x))
    }

    /// u of (I − A_ab) u = A_ak v + ã Sᵀ, rounded; `state` is.
    fn solve(self, chunk: &Chunk, state: &Matrix) -> Matrix {
        let asked = chunk.a.times(&state.turned()).where_row(|t| chunk.asks_before(t));
        let mut u = asked.plus(&chunk.a_ak.times(&chunk.v));
        for t in 0..STEPS {
            for i in 0..N {
                u.values[t * N + i] += (0..t).map(|s| chunk.a_ab.at(t, s) * u.at(s, i)).sum::<f32>();
            }
        }
        self.factor(&u)
    }

    /// The output of a chunk, and the state after it in the place of that before it.
    fn advance(self, chunk: &Chunk, state: &mut Matrix) -> Matrix {
        let before = self.factor(state);
        let u = self.solve(chunk, &before);
        let seen = chunk.q.times(&before.turned()).where_row(|t| chunk.sees_before(t));
        let y = seen.plus(&chunk.a_qk.times(&chunk.v)).plus(&chunk.a_qb.times(&u));
        *state = state
            .map(|_, j, x| x * chunk.f[j])
            .plus(&chunk.v.turned().times(&chunk.kf))
            .plus(&u.turned().times(&chunk.bf));
        y
    }

    /// dr, dw, dk, dv, da and db of a chunk; `g` goes from after it to before it. `before` is the state before it.
    fn back(self, chunk: &Chunk, dy: &Matrix, before: &Matrix, g: &mut Matrix) -> [Matrix; 6] {
        let (state, dy, g_after) = (self.factor(before), self.factor(dy), self.factor(g));
        let (u, g_t) = (self.solve(chunk, &state), g_after.turned());
        let mut dz = chunk.bf.times(&g_t).plus(&chunk.a_qb.turned().times(&dy));
        for s in (0..STEPS).rev() {
            for i in 0..N {
                dz.values[s * N + i] += (s + 1..STEPS).map(|t| chunk.a_ab.at(t, s) * dz.at(t, i)).sum::<f32>();
            }
        }
        let dz = self.factor(&dz);
        let a_qk_t = chunk.a_qk.turned();
        let dv = chunk.kf.times(&g_t).plus(&a_qk_t.times(&dy)).plus(&chunk.a_ak.turned().times(&dz));
        let seen = |x: Matrix| x.map(|t, s, x| if chunk.sees(t, s) { self.rounded(x) } else { 0.0 });
        let asked = |x: Matrix| x.map(|t, s, x| if chunk.asks(t, s) { self.rounded(x) } else { 0.0 });
        let (v_t, u_t) = (chunk.v.turned(), u.turned());
        let (d_qk, d_qb) = (seen(dy.times(&v_t)), seen(dy.times(&u_t)));
        let (d_ak, d_ab) = (asked(dz.times(&v_t)), asked(dz.times(&u_t)));
        // The gradients of the scaled inputs, which are the factors of all products.
        let d_q = dy.times(&state).where_row(|t| chunk.sees_before(t));
        let d_q = d_q.plus(&d_qk.times(&chunk.k)).plus(&d_qb.times(&chunk.b));
        let d_a = dz.times(&state).where_row(|t| chunk.asks_before(t));
        let d_a = d_a.plus(&d_ak.times(&chunk.k)).plus(&d_ab.times(&chunk.b));
        let inside = |d_q: &Matrix, d_a: &Matrix| d_q.turned().times(&chunk.q).plus(&d_a.turned().times(&chunk.a));
        let (d_k, d_b) = (inside(&d_qk, &d_ak), inside(&d_qb, &d_ab));
        let (d_kf, d_bf) = (chunk.v.times(&g_after), u.times(&g_after));
        let dr = d_q.map(|t, j, x| x * chunk.c.at(t, j).exp());
        let da = d_a.map(|t, j, x| x * chunk.before(t, j).exp());
        let joined = |inside: &Matrix, late: &Matrix| {
            inside.map(|s, j, x| x * (-chunk.c.at(s, j)).exp() + late.at(s, j) * chunk.to_end(s, j))
        };
        let (dk, db) = (joined(&d_k, &d_kf), joined(&d_b, &d_bf));
        let dy = dy.where_row(|t| chunk.sees_before(t)).turned();
        let dz = dz.where_row(|t| chunk.asks_before(t)).turned();
        *g = g.map(|_, j, x| x * chunk.f[j]).plus(&dy.times(&chunk.q)).plus(&dz.times(&chunk.a));
        // The decays, from Σ S G over the value lanes before the chunk. All terms are of the very factors of the
        // products, so that what cancels does so to f32.
        let mut dw = Matrix::of(STEPS, N, |_, _| 0.0);
        for j in 0..N {
            let mut product: f32 = (0..N).map(|i| state.at(i, j) * g.at(i, j)).sum();
            for t in 0..STEPS {
                let term = |x: &Matrix, y: &Matrix| x.at(t, j) * y.at(t, j);
                let decay = if chunk.forgets[t] { 0.0 } else { product - term(&chunk.a, &d_a) };
                let late = term(&chunk.kf, &d_kf) + term(&chunk.bf, &d_bf);
                product = decay - (term(&chunk.q, &d_q) - term(&chunk.k, &d_k) - term(&chunk.b, &d_b) - late);
                dw.values[t * N + j] = decay * chunk.slope.at(t, j);
            }
        }
        [dr, dw, dk, dv, da, db]
    }
}

/// Tensors [B, T, H, 64] in memory, cut into chunks.
struct Read {
    lanes: Vec<Lanes>,
    sizes: Sizes,
}

impl Read {
    fn of(tensors: &[&Tensor], sizes: Sizes) -> Result<Self> {
        if sizes.head != N {
            return Err(Error::bug(format!("the chunked WKV operator takes heads of {N} lanes, not {}", sizes.head)));
        }
        let lanes = tensors.iter().map(|tensor| Lanes::of(tensor)).collect::<Result<_>>()?;
        Ok(Read { lanes, sizes })
    }

    /// Where a step of a head begins.
    fn place(&self, head: usize, t: usize) -> usize {
        let Sizes { time, heads, .. } = self.sizes;
        ((head / heads * time + t) * heads + head % heads) * N
    }

    /// The 16 steps from `start` of one tensor, zeros after the last.
    fn chunk(&self, tensor: usize, head: usize, start: usize) -> Matrix {
        let values = self.lanes[tensor].values();
        let there = |t: usize| start + t < self.sizes.time;
        Matrix::of(STEPS, N, |t, j| if there(t) { values[self.place(head, start + t) + j] } else { 0.0 })
    }
}

fn state_of(values: &[f32], head: usize) -> Matrix {
    Matrix { columns: N, values: values[head * N * N..][..N * N].to_vec() }
}

impl WkvBackend for ChunkWkv {
    fn name(&self) -> &'static str {
        match self.factors {
            Factors::Float => "chunk",
            Factors::BFloat16 => "chunk-bf16",
        }
    }

    fn forward(&self, inputs: Inputs<'_>, keep: bool) -> Result<Forward> {
        let sizes = inputs.sizes()?;
        let read = Read::of(&[inputs.r, inputs.w, inputs.k, inputs.v, inputs.a, inputs.b], sizes)?;
        let first = inputs.s0.map(Lanes::of).transpose()?;
        let chunks = sizes.time.div_ceil(STEPS);
        let [batch, heads] = [sizes.batch as i64, sizes.heads as i64];
        let mut y = Fresh::zeros(&inputs.r.size())?;
        let mut last = Fresh::zeros(&[batch, heads, HEAD, HEAD])?;
        let mut border = Fresh::zeros(&[batch, heads, chunks as i64, HEAD, HEAD])?;
        for head in 0..sizes.batch * sizes.heads {
            let mut state = match &first {
                Some(first) => state_of(first.values(), head),
                None => Matrix::of(N, N, |_, _| 0.0),
            };
            for number in 0..chunks {
                border.values()[(head * chunks + number) * N * N..][..N * N].copy_from_slice(&state.values);
                let start = number * STEPS;
                let parts: [Matrix; 6] = std::array::from_fn(|tensor| read.chunk(tensor, head, start));
                let chunk = self.chunk(parts.each_ref(), sizes.time - start);
                let rows = self.advance(&chunk, &mut state);
                for t in 0..STEPS.min(sizes.time - start) {
                    y.values()[read.place(head, start + t)..][..N].copy_from_slice(&rows.values[t * N..][..N]);
                }
            }
            last.values()[head * N * N..][..N * N].copy_from_slice(&state.values);
        }
        let (kind, state) = (inputs.r.kind(), last.done());
        let kept = if keep { vec![border.done()] } else { Vec::new() };
        Ok(Forward { y: y.done().to_kind(kind), state, kept })
    }

    fn backward(
        &self,
        inputs: Inputs<'_>,
        kept: &[Tensor],
        dy: &Tensor,
        d_state: Option<&Tensor>,
    ) -> Result<Gradients> {
        let sizes = inputs.sizes()?;
        let [border] = kept else { return Err(Error::bug("the chunked WKV operator kept nothing")) };
        let read = Read::of(&[inputs.r, inputs.w, inputs.k, inputs.v, inputs.a, inputs.b, dy], sizes)?;
        let border = Lanes::of(border)?;
        let d_state = d_state.map(Lanes::of).transpose()?;
        let chunks = sizes.time.div_ceil(STEPS);
        let new = || Fresh::zeros(&inputs.r.size());
        let mut grads = [new()?, new()?, new()?, new()?, new()?, new()?];
        let mut ds0 = Fresh::zeros(&[sizes.batch as i64, sizes.heads as i64, HEAD, HEAD])?;
        for head in 0..sizes.batch * sizes.heads {
            let mut g = match &d_state {
                Some(given) => state_of(given.values(), head),
                None => Matrix::of(N, N, |_, _| 0.0),
            };
            for number in (0..chunks).rev() {
                let start = number * STEPS;
                let before = state_of(border.values(), head * chunks + number);
                let parts: [Matrix; 6] = std::array::from_fn(|tensor| read.chunk(tensor, head, start));
                let chunk = self.chunk(parts.each_ref(), sizes.time - start);
                let dy = read.chunk(6, head, start);
                let found = self.back(&chunk, &dy, &before, &mut g);
                for (found, grad) in found.iter().zip(&mut grads) {
                    for t in 0..STEPS.min(sizes.time - start) {
                        grad.values()[read.place(head, start + t)..][..N].copy_from_slice(&found.values[t * N..][..N]);
                    }
                }
            }
            ds0.values()[head * N * N..][..N * N].copy_from_slice(&g.values);
        }
        Ok(Gradients::of(grads, inputs.r.kind(), ds0))
    }
}
