//! The WKV recurrence of one head on one core: plain loops over 64 lanes that the compiler turns into
//! vector instructions, compiled once for any x86-64 or other machine and once for AVX2 with FMA.
//!
//! A head's state is 64 rows (value lanes) of 64 key lanes. The forward pass takes row after row: a row
//! needs two dot products and one update, and rows do not depend on each other. The backward pass runs
//! the forward again inside a chunk from the state kept at its border, so the gradients are exact.
#![expect(unsafe_code, reason = "a function compiled for AVX2 may be called only after asking the CPU for it")]

/// Lanes of a head.
pub(super) const N: usize = 64;

/// Steps between two kept states. A chunk's states (a sixteenth of a MiB each quarter) stay in the
/// second-level cache.
pub(super) const CHUNK: usize = 16;

/// Lanes summed side by side in a dot product, and columns treated together in the backward pass.
const WIDE: usize = 16;

/// One value a lane.
pub(super) type Row = [f32; N];

/// A head's state: [value lane][key lane].
pub(super) type State = [Row; N];

/// The inputs of one head, a row a step; `d` is the decay after its exponentials.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    pub(super) r: Strided<'a>,
    pub(super) d: Strided<'a>,
    pub(super) k: Strided<'a>,
    pub(super) v: Strided<'a>,
    pub(super) a: Strided<'a>,
    pub(super) b: Strided<'a>,
}

/// One head's rows inside a tensor [B, T, H, 64].
#[derive(Clone, Copy, Debug)]
pub(super) struct Strided<'a> {
    rows: &'a [Row],
    stride: usize,
}

impl<'a> Strided<'a> {
    /// The rows of head `head` in a sequence's values [T, H, 64].
    pub(super) fn new(sequence: &'a [Row], heads: usize, head: usize) -> Self {
        Strided { rows: &sequence[head..], stride: heads }
    }

    #[inline(always)]
    fn at(&self, t: usize) -> &'a Row {
        &self.rows[t * self.stride]
    }
}

/// Where the gradients of one head go, a row a step; `d` is that of the decay after its exponentials.
#[derive(Debug)]
pub(super) struct HeadGradients<'a> {
    pub(super) r: Vec<&'a mut Row>,
    pub(super) d: Vec<&'a mut Row>,
    pub(super) k: Vec<&'a mut Row>,
    pub(super) v: Vec<&'a mut Row>,
    pub(super) a: Vec<&'a mut Row>,
    pub(super) b: Vec<&'a mut Row>,
}

/// Which compilation of the loops runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// Any machine.
    Portable,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Flavour {
    /// The fastest one that this CPU runs.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Flavour::Avx2;
        }
        Flavour::Portable
    }
}

/// Runs a head forward from `state`, which becomes the final one. `border`, unless it is empty, gets the
/// state before each chunk.
pub(super) fn forward(flavour: Flavour, head: &Head<'_>, state: &mut State, y: &mut [&mut Row], border: &mut [State]) {
    match flavour {
        Flavour::Portable => forward_of::<false>(head, state, y, border),
        // SAFETY: `Flavour::detect` made this value after the CPU said that it has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Flavour::Avx2 => unsafe { forward_avx2(head, state, y, border) },
    }
}

/// Runs a head backward. `g` is the gradient of the final state and becomes that of the initial one.
pub(super) fn backward(
    flavour: Flavour,
    head: &Head<'_>,
    border: &[State],
    dy: Strided<'_>,
    g: &mut State,
    grads: &mut HeadGradients<'_>,
) {
    match flavour {
        Flavour::Portable => backward_of::<false>(head, border, dy, g, grads),
        // SAFETY: as in `forward`.
        #[cfg(target_arch = "x86_64")]
        Flavour::Avx2 => unsafe { backward_avx2(head, border, dy, g, grads) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn forward_avx2(head: &Head<'_>, state: &mut State, y: &mut [&mut Row], border: &mut [State]) {
    forward_of::<true>(head, state, y, border);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn backward_avx2(head: &Head<'_>, border: &[State], dy: Strided<'_>, g: &mut State, grads: &mut HeadGradients<'_>) {
    backward_of::<true>(head, border, dy, g, grads);
}

/// x·y + z; fused only where the CPU can, because elsewhere that is a slow function call.
#[inline(always)]
fn madd<const FUSED: bool>(x: f32, y: f32, z: f32) -> f32 {
    if FUSED { x.mul_add(y, z) } else { x * y + z }
}

#[inline(always)]
fn dot<const FUSED: bool>(x: &Row, y: &Row) -> f32 {
    let mut sums = [0.0; WIDE];
    for (x, y) in x.as_chunks::<WIDE>().0.iter().zip(y.as_chunks::<WIDE>().0) {
        for l in 0..WIDE {
            sums[l] = madd::<FUSED>(x[l], y[l], sums[l]);
        }
    }
    let mut width = WIDE / 2;
    while width > 0 {
        for l in 0..width {
            sums[l] += sums[l + width];
        }
        width /= 2;
    }
    sums[0]
}

/// One row of one step: returns (s_t, y_t) of its value lane.
#[inline(always)]
fn step_row<const FUSED: bool>(row: &mut Row, v: f32, r: &Row, d: &Row, k: &Row, a: &Row, b: &Row) -> (f32, f32) {
    let s = dot::<FUSED>(row, a);
    for j in 0..N {
        row[j] = madd::<FUSED>(row[j], d[j], madd::<FUSED>(s, b[j], v * k[j]));
    }
    (s, dot::<FUSED>(row, r))
}

#[inline(always)]
fn forward_of<const FUSED: bool>(head: &Head<'_>, state: &mut State, y: &mut [&mut Row], border: &mut [State]) {
    for (t, y) in y.iter_mut().enumerate() {
        if t % CHUNK == 0
            && let Some(border) = border.get_mut(t / CHUNK)
        {
            *border = *state;
        }
        let (r, d, k, v, a, b) = (head.r.at(t), head.d.at(t), head.k.at(t), head.v.at(t), head.a.at(t), head.b.at(t));
        for i in 0..N {
            (_, y[i]) = step_row::<FUSED>(&mut state[i], v[i], r, d, k, a, b);
        }
    }
}

#[inline(always)]
fn backward_of<const FUSED: bool>(
    head: &Head<'_>,
    border: &[State],
    dy: Strided<'_>,
    g: &mut State,
    grads: &mut HeadGradients<'_>,
) {
    let time = grads.r.len();
    let mut states = vec![[[0.0; N]; N]; CHUNK + 1];
    let mut removed = [[0.0; N]; CHUNK];
    for (chunk, border) in border.iter().enumerate().rev() {
        let start = chunk * CHUNK;
        let length = CHUNK.min(time - start);
        states[0] = *border;
        for n in 0..length {
            let t = start + n;
            let (d, k, v, a, b) = (head.d.at(t), head.k.at(t), head.v.at(t), head.a.at(t), head.b.at(t));
            let (before, after) = states.split_at_mut(n + 1);
            let (before, after) = (&before[n], &mut after[0]);
            for i in 0..N {
                let s = dot::<FUSED>(&before[i], a);
                removed[n][i] = s;
                for j in 0..N {
                    after[i][j] = madd::<FUSED>(before[i][j], d[j], madd::<FUSED>(s, b[j], v[i] * k[j]));
                }
            }
        }
        for n in (0..length).rev() {
            let t = start + n;
            step_back::<FUSED>(head, t, &states[n], &states[n + 1], &removed[n], dy.at(t), g, grads);
        }
    }
}

/// One step backward: the gradients at step `t`, and `g` from after it to before it.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the quantities of one step, each by its own name")]
fn step_back<const FUSED: bool>(
    head: &Head<'_>,
    t: usize,
    before: &State,
    after: &State,
    s: &Row,
    dy: &Row,
    g: &mut State,
    grads: &mut HeadGradients<'_>,
) {
    let (r, d, k, v, a, b) = (head.r.at(t), head.d.at(t), head.k.at(t), head.v.at(t), head.a.at(t), head.b.at(t));
    let mut ds: Row = [0.0; N];
    let mut dv: Row = [0.0; N];
    for i in 0..N {
        let row = &mut g[i];
        for j in 0..N {
            row[j] = madd::<FUSED>(dy[i], r[j], row[j]);
        }
        dv[i] = dot::<FUSED>(row, k);
        ds[i] = dot::<FUSED>(row, b);
    }
    *grads.v[t] = dv;
    for first in (0..N).step_by(WIDE) {
        let (mut dr, mut dd, mut dk, mut da, mut db) =
            ([0.0; WIDE], [0.0; WIDE], [0.0; WIDE], [0.0; WIDE], [0.0; WIDE]);
        let (d, a) = (part(d, first), part(a, first));
        for i in 0..N {
            let (before, after) = (part(&before[i], first), part(&after[i], first));
            let row = part_mut(&mut g[i], first);
            for l in 0..WIDE {
                dr[l] = madd::<FUSED>(after[l], dy[i], dr[l]);
                dd[l] = madd::<FUSED>(row[l], before[l], dd[l]);
                dk[l] = madd::<FUSED>(row[l], v[i], dk[l]);
                da[l] = madd::<FUSED>(before[l], ds[i], da[l]);
                db[l] = madd::<FUSED>(row[l], s[i], db[l]);
                row[l] = madd::<FUSED>(row[l], d[l], ds[i] * a[l]);
            }
        }
        *part_mut(grads.r[t], first) = dr;
        *part_mut(grads.d[t], first) = dd;
        *part_mut(grads.k[t], first) = dk;
        *part_mut(grads.a[t], first) = da;
        *part_mut(grads.b[t], first) = db;
    }
}

#[inline(always)]
fn part(row: &Row, first: usize) -> &[f32; WIDE] {
    &row.as_chunks::<WIDE>().0[first / WIDE]
}

#[inline(always)]
fn part_mut(row: &mut Row, first: usize) -> &mut [f32; WIDE] {
    &mut row.as_chunks_mut::<WIDE>().0[first / WIDE]
}
