//! The WKV recurrence of one head on one core, compiled once for any machine and once for AVX2 with FMA.
//!
//! A head's state is 64 rows (value lanes) of 64 key lanes. Rows do not depend on each other within a
//! step, so products of the state with a vector take eight rows at a time. The backward pass runs the
//! forward again inside a chunk from the state kept at its border, so the gradients are exact.
#![expect(unsafe_code, reason = "a function compiled for AVX2 may be called only after asking the CPU for it")]

use super::vector::LANES;

/// Lanes of a head.
const N: usize = 64;

/// Groups of lanes in a row.
const GROUPS: usize = N / LANES;

/// Steps between two kept states. The states of a chunk, 16 KiB each, stay in the second-level cache.
pub(super) const CHUNK: usize = 16;

/// One value a lane, in groups.
pub(super) type Row = [[f32; LANES]; GROUPS];

/// A head's state: [value lane][key lane].
pub(super) type State = [Row; N];

/// Values as rows of 64.
pub(super) fn rows(values: &[f32]) -> &[Row] {
    values.as_chunks().0.as_chunks().0
}

/// Values as rows of 64, to be written.
pub(super) fn rows_mut(values: &mut [f32]) -> &mut [Row] {
    values.as_chunks_mut().0.as_chunks_mut().0
}

/// Values as states.
pub(super) fn states(values: &[f32]) -> &[State] {
    rows(values).as_chunks().0
}

/// Values as states, to be written.
pub(super) fn states_mut(values: &mut [f32]) -> &mut [State] {
    rows_mut(values).as_chunks_mut().0
}

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
    /// x86-64 with AVX2 and FMA. Made by [`Flavour::detect`] only.
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
        Flavour::Portable => portable::forward(head, state, y, border),
        // SAFETY: `Flavour::detect` made this value after the CPU said that it has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Flavour::Avx2 => unsafe { avx2::forward(head, state, y, border) },
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
        Flavour::Portable => portable::backward(head, border, dy, g, grads),
        // SAFETY: as in `forward`.
        #[cfg(target_arch = "x86_64")]
        Flavour::Avx2 => unsafe { avx2::backward(head, border, dy, g, grads) },
    }
}

/// x·y, summed in f64: such products are what a state's first steps consist of, and the normalisation after
/// the operator amplifies an error of theirs where they nearly cancel.
#[inline]
fn dot(x: &Row, y: &Row) -> f32 {
    let mut sums = [0.0f64; LANES];
    for (x, y) in x.iter().zip(y) {
        for l in 0..LANES {
            sums[l] += f64::from(x[l]) * f64::from(y[l]);
        }
    }
    sums.iter().sum::<f64>() as f32
}

/// The recurrence over the vector type `$wide`, compiled with the attributes given. A macro, because the
/// functions of a generic one could not be inlined where they are compiled for other instructions.
macro_rules! recurrence {
    ($wide:ident $(, #[$compiled:meta])*) => {
        use super::super::vector::{$wide as Wide, LANES};
        use super::{CHUNK, GROUPS, Head, HeadGradients, N, Row, State, Strided, dot};

        /// The state times a column: Σ_j S[i, j] x[j] for every row i.
        $(#[$compiled])*
        #[inline]
        fn product(state: &State, x: &Row) -> Row {
            let mut result = [[0.0; LANES]; GROUPS];
            for (rows, result) in state.as_chunks::<LANES>().0.iter().zip(&mut result) {
                let mut sums = [Wide::splat(0.0); LANES];
                for c in 0..GROUPS {
                    let x = Wide::load(&x[c]);
                    for i in 0..LANES {
                        sums[i] = Wide::load(&rows[i][c]).times_plus(x, sums[i]);
                    }
                }
                Wide::sums(sums).store(result);
            }
            result
        }

        /// S diag(d) + s bᵀ + v kᵀ in the place of S.
        $(#[$compiled])*
        #[inline]
        fn advance(state: &mut State, s: &Row, v: &Row, d: &Row, k: &Row, b: &Row) {
            for (i, row) in state.iter_mut().enumerate() {
                let (s, v) = (Wide::splat(s.as_flattened()[i]), Wide::splat(v.as_flattened()[i]));
                for c in 0..GROUPS {
                    let (d, k, b) = (Wide::load(&d[c]), Wide::load(&k[c]), Wide::load(&b[c]));
                    Wide::load(&row[c]).times_plus(d, s.times_plus(b, v.times(k))).store(&mut row[c]);
                }
            }
        }

        /// As `advance`, from `before` into `after`.
        $(#[$compiled])*
        #[inline]
        fn advance_into(before: &State, after: &mut State, s: &Row, v: &Row, d: &Row, k: &Row, b: &Row) {
            for (i, (before, after)) in before.iter().zip(after).enumerate() {
                let (s, v) = (Wide::splat(s.as_flattened()[i]), Wide::splat(v.as_flattened()[i]));
                for c in 0..GROUPS {
                    let (d, k, b) = (Wide::load(&d[c]), Wide::load(&k[c]), Wide::load(&b[c]));
                    Wide::load(&before[c]).times_plus(d, s.times_plus(b, v.times(k))).store(&mut after[c]);
                }
            }
        }

        $(#[$compiled])*
        pub(super) fn forward(head: &Head<'_>, state: &mut State, y: &mut [&mut Row], border: &mut [State]) {
            for (t, y) in y.iter_mut().enumerate() {
                if t % CHUNK == 0
                    && let Some(border) = border.get_mut(t / CHUNK)
                {
                    *border = *state;
                }
                let (r, d, k, v, b) = (head.r.at(t), head.d.at(t), head.k.at(t), head.v.at(t), head.b.at(t));
                let mut dr = [[0.0; LANES]; GROUPS];
                for c in 0..GROUPS {
                    Wide::load(&d[c]).times(Wide::load(&r[c])).store(&mut dr[c]);
                }
                // y = S_t r, from S_{t−1}.
                let (s, carried) = (product(state, head.a.at(t)), product(state, &dr));
                let (br, kr) = (Wide::splat(dot(b, r)), Wide::splat(dot(k, r)));
                for c in 0..GROUPS {
                    let fresh = Wide::load(&s[c]).times_plus(br, Wide::load(&v[c]).times(kr));
                    fresh.times_plus(Wide::splat(1.0), Wide::load(&carried[c])).store(&mut y[c]);
                }
                advance(state, &s, v, d, k, b);
            }
        }

        $(#[$compiled])*
        pub(super) fn backward(
            head: &Head<'_>,
            border: &[State],
            dy: Strided<'_>,
            g: &mut State,
            grads: &mut HeadGradients<'_>,
        ) {
            let time = grads.r.len();
            let mut states = vec![[[[0.0; LANES]; GROUPS]; N]; CHUNK];
            let mut removed = [[[0.0; LANES]; GROUPS]; CHUNK];
            for (chunk, border) in border.iter().enumerate().rev() {
                let start = chunk * CHUNK;
                let length = CHUNK.min(time - start);
                states[0] = *border;
                for n in 0..length {
                    let t = start + n;
                    removed[n] = product(&states[n], head.a.at(t));
                    if let [before, after, ..] = &mut states[n..length] {
                        let (v, d, k, b) = (head.v.at(t), head.d.at(t), head.k.at(t), head.b.at(t));
                        advance_into(before, after, &removed[n], v, d, k, b);
                    }
                }
                for n in (0..length).rev() {
                    let t = start + n;
                    step_back(head, t, &states[n], &removed[n], dy.at(t), g, grads);
                }
            }
        }

        /// One step backward: the gradients at step `t`, and `g` from after the step to before it. `before`
        /// is S_{t−1}, `s` is S_{t−1} a_t.
        ///
        /// The term dy rᵀ joins G before anything but dr is taken from it; here it joins on the fly, and its
        /// part in G k and G b is added as dy (r·k) and dy (r·b). dr = S_tᵀ dy is taken from S_{t−1} alike.
        $(#[$compiled])*
        #[inline]
        fn step_back(
            head: &Head<'_>,
            t: usize,
            before: &State,
            s: &Row,
            dy: &Row,
            g: &mut State,
            grads: &mut HeadGradients<'_>,
        ) {
            let (r, d, k, v) = (head.r.at(t), head.d.at(t), head.k.at(t), head.v.at(t));
            let (a, b) = (head.a.at(t), head.b.at(t));
            let (mut dv, mut ds) = (product(g, k), product(g, b));
            let (rk, rb) = (Wide::splat(dot(r, k)), Wide::splat(dot(r, b)));
            for c in 0..GROUPS {
                let dy = Wide::load(&dy[c]);
                dy.times_plus(rk, Wide::load(&dv[c])).store(&mut dv[c]);
                dy.times_plus(rb, Wide::load(&ds[c])).store(&mut ds[c]);
            }
            *grads.v[t] = dv;
            let (s_dy, v_dy) = (Wide::splat(dot(s, dy)), Wide::splat(dot(v, dy)));
            let (v, s, dy, ds) = (v.as_flattened(), s.as_flattened(), dy.as_flattened(), ds.as_flattened());
            for c in 0..GROUPS {
                let (r, d, k) = (Wide::load(&r[c]), Wide::load(&d[c]), Wide::load(&k[c]));
                let (a, b) = (Wide::load(&a[c]), Wide::load(&b[c]));
                let zero = Wide::splat(0.0);
                let (mut asked, mut dd, mut dk, mut da, mut db) = (zero, zero, zero, zero, zero);
                for i in 0..N {
                    let (dy, ds) = (Wide::splat(dy[i]), Wide::splat(ds[i]));
                    let before = Wide::load(&before[i][c]);
                    let g_row = dy.times_plus(r, Wide::load(&g[i][c]));
                    asked = before.times_plus(dy, asked);
                    dd = g_row.times_plus(before, dd);
                    dk = g_row.times_plus(Wide::splat(v[i]), dk);
                    da = before.times_plus(ds, da);
                    db = g_row.times_plus(Wide::splat(s[i]), db);
                    g_row.times_plus(d, ds.times(a)).store(&mut g[i][c]);
                }
                asked.times_plus(d, b.times_plus(s_dy, k.times(v_dy))).store(&mut grads.r[t][c]);
                dd.store(&mut grads.d[t][c]);
                dk.store(&mut grads.k[t][c]);
                da.store(&mut grads.a[t][c]);
                db.store(&mut grads.b[t][c]);
            }
        }
    };
}

mod portable {
    recurrence!(Plain);
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    recurrence!(Avx2, #[target_feature(enable = "avx2,fma")]);
}
