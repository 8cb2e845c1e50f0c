//! What every WKV backend must pass, against the reference in f64: with and without an initial state,
//! with a gradient on the final state, at lengths around the chunk borders, and from one step on; on [`Terms`] also in
//! bf16, with heads of other sizes, with decays at the ends of their range, and with places where the state is forgotten.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor};

use super::{HEAD, Inputs, Reference, WkvBackend, wkv};

/// One case of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Sequences.
    pub batch: i64,
    /// Steps.
    pub time: i64,
    /// Heads.
    pub heads: i64,
    /// Whether there is an initial state.
    pub initial_state: bool,
    /// Whether the final state has a gradient.
    pub final_gradient: bool,
}

/// The largest difference of a case and where it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Case and tensor.
    pub place: String,
    /// Norm of the difference over the norm of the reference.
    pub relative: f64,
}

/// On which terms the suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The inputs' kind; they are rounded to it before the reference reads them. States are f32.
    pub kind: Kind,
    /// Lanes of a head.
    pub head: i64,
    /// Another number gives other inputs.
    pub seed: i64,
    /// Where decays lie.
    pub decays: Decays,
    /// Whether the state is forgotten at some steps, by a decay that is none.
    pub forgets: bool,
}

/// Where the decays of a suite lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decays {
    /// Over the model's whole range, from 0.54 to 1.
    Usual,
    /// At the lower end of the model's range.
    Strongest,
    /// So close to 1 that nothing decays.
    Weakest,
    /// From 1e-5 to 1.
    Any,
}

impl Default for Terms {
    fn default() -> Self {
        Terms { kind: Kind::Float, head: HEAD, seed: 0, decays: Decays::Usual, forgets: false }
    }
}

/// The cases of the suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (batch, time, heads) in [(1, 1, 1), (3, 1, 2), (2, 15, 3), (1, 16, 1), (2, 17, 2), (1, 50, 2), (2, 64, 1)] {
        for (initial_state, final_gradient) in [(false, false), (true, false), (true, true), (false, true)] {
            cases.push(Case { batch, time, heads, initial_state, final_gradient });
        }
    }
    cases
}

/// Runs all cases on `backend`, whose inputs are f32 on `device`, and returns the largest difference.
///
/// # Errors
/// The backend fails in a case.
pub fn run(backend: &Arc<dyn WkvBackend>, device: Device) -> Result<Difference> {
    run_on(backend, device, Terms::default())
}

/// As [`run`], on other terms.
///
/// # Errors
/// As [`run`].
pub fn run_on(backend: &Arc<dyn WkvBackend>, device: Device, terms: Terms) -> Result<Difference> {
    let reference: Arc<dyn WkvBackend> = Arc::new(Reference);
    let mut worst = Difference { place: String::new(), relative: 0.0 };
    for (number, case) in cases().into_iter().enumerate() {
        let inputs = draw(case, number as i64, terms);
        let truth = all_tensors(&reference, case, &inputs, Kind::Double, Device::Cpu)?;
        let found = all_tensors(backend, case, &inputs, terms.kind, device)?;
        for ((name, truth), (_, found)) in truth.iter().zip(&found) {
            let relative = relative_difference(found, truth);
            // A comparison that is not a number must not pass.
            if relative.is_nan() || relative > worst.relative {
                worst = Difference { place: format!("{name} in {case:?}"), relative };
            }
            if relative.is_nan() {
                return Ok(worst);
            }
        }
    }
    Ok(worst)
}

/// ‖found − truth‖ / ‖truth‖ in f64; where the truth is zero, the norm of what was found.
pub fn relative_difference(found: &Tensor, truth: &Tensor) -> f64 {
    let wide = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double);
    let (found, truth) = (wide(found), wide(truth));
    let norm = |tensor: &Tensor| tensor.square().sum(Kind::Double).sqrt().double_value(&[]);
    let scale = norm(&truth);
    norm(&(found - truth)) / if scale > 0.0 { scale } else { 1.0 }
}

/// Inputs with the statistics that a model makes: κ of unit norm, decays over their whole range.
fn draw(case: Case, number: i64, terms: Terms) -> Vec<Tensor> {
    let Case { batch, time, heads, .. } = case;
    let Terms { head, seed, .. } = terms;
    let wave = |salt: i64, shape: &[i64]| {
        // Any fixed, aperiodic numbers will do; they are the same on every machine.
        let count: i64 = shape.iter().product();
        let n = Tensor::arange(count, (Kind::Double, Device::Cpu));
        ((n + (salt * 7919 + number * 104_729 + seed * 15_485_863)) * 12.9898)
            .sin()
            .g_mul_scalar(43_758.545_3)
            .frac()
            .reshape(shape)
    };
    let rows = [batch, time, heads, head];
    let unit = |x: Tensor| &x / x.square().sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>).sqrt();
    let kappa = unit(wave(5, &rows));
    let gate = wave(6, &rows).abs();
    let state = [batch, heads, head, head];
    let w = match terms.decays {
        Decays::Usual => -0.5 - (wave(2, &rows) * 3.0).exp(),
        Decays::Strongest => wave(2, &rows).zeros_like() - 0.5,
        Decays::Weakest => wave(2, &rows) * 0.5 - 20.0,
        Decays::Any => wave(2, &rows) * 5.0 - 2.6,
    };
    if terms.forgets {
        for place in (0..batch * time).filter(|place| place % 7 == 3 || (place % 23 == 0 && time > 1)) {
            let _ = w.get(place / time).get(place % time).fill_(5.0);
        }
    }
    let state_kind = Kind::Float;
    [
        (wave(1, &rows), terms.kind),
        (w, terms.kind),
        (wave(3, &rows), terms.kind),
        (wave(4, &rows), terms.kind),
        (-&kappa, terms.kind),
        (kappa * gate, terms.kind),
        (wave(7, &state), state_kind),
        (wave(8, &rows), terms.kind),
        (wave(9, &state), state_kind),
    ]
    .into_iter()
    // Rounded once, so that both sides read the same numbers.
    .map(|(tensor, kind)| tensor.to_kind(kind))
    .collect()
}

/// Output, final state and all gradients of a case through the graph, by name.
fn all_tensors(
    backend: &Arc<dyn WkvBackend>,
    case: Case,
    drawn: &[Tensor],
    kind: Kind,
    device: Device,
) -> Result<Vec<(&'static str, Tensor)>> {
    let [r, w, k, v, a, b, s0, dy, d_state] = drawn else { return Err(Error::bug("nine tensors are drawn")) };
    // States are f32 whatever the inputs are, unless all is in f64.
    let state_kind = if kind == Kind::Double { kind } else { Kind::Float };
    let placed = |tensor: &Tensor, kind| tensor.to_device(device).to_kind(kind).detach().copy().set_requires_grad(true);
    let leaf = |tensor: &Tensor| placed(tensor, kind);
    let leaves: Vec<Tensor> = [r, w, k, v, a, b].into_iter().map(leaf).collect();
    let [r, w, k, v, a, b] = leaves.as_slice() else { return Err(Error::bug("six leaves were made")) };
    let s0 = case.initial_state.then(|| placed(s0, state_kind));
    let (y, state) = wkv(backend, Inputs { r, w, k, v, a, b, s0: s0.as_ref() }, true)?;
    let weigh =
        |tensor: &Tensor, weight: &Tensor| (tensor * weight.to_device(device).to_kind(tensor.kind())).sum(state_kind);
    let mut loss = weigh(&y, dy);
    if case.final_gradient {
        loss += weigh(&state, d_state);
    }
    loss.f_backward().map_err(crate::fault::torch)?;
    let mut tensors = vec![("y", y.detach()), ("state", state.detach())];
    tensors.extend(["dr", "dw", "dk", "dv", "da", "db"].into_iter().zip(leaves.iter().map(Tensor::grad)));
    tensors.extend(s0.map(|s0| ("ds0", s0.grad())));
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::super::{ChunkWkv, CpuWkv, Factors};
    use super::*;

    fn passes(backend: impl WkvBackend + 'static) {
        let backend: Arc<dyn WkvBackend> = Arc::new(backend);
        let worst = run(&backend, Device::Cpu).expect("runs");
        assert!(worst.relative > 0.0 && worst.relative < 2e-6, "{}: {worst:?}", backend.name());
    }

    #[test]
    fn the_reference_conforms_in_f32() {
        passes(Reference);
    }

    #[test]
    fn the_cpu_backend_conforms() {
        passes(CpuWkv::new());
    }

    #[test]
    fn the_portable_cpu_backend_conforms() {
        passes(CpuWkv::portable());
    }

    /// The worst difference of a backend on all terms that models have.
    fn worst(backend: impl WkvBackend + 'static, kind: Kind) -> f64 {
        let backend: Arc<dyn WkvBackend> = Arc::new(backend);
        let mut worst: f64 = 0.0;
        for (decays, forgets) in
            [(Decays::Usual, false), (Decays::Strongest, false), (Decays::Weakest, false), (Decays::Usual, true)]
        {
            let terms = Terms { kind, decays, forgets, ..Terms::default() };
            let found = run_on(&backend, Device::Cpu, terms).expect("runs");
            assert!(found.relative.is_finite(), "{}: {found:?}", backend.name());
            worst = worst.max(found.relative);
        }
        worst
    }

    #[test]
    fn the_chunked_form_is_the_operator() {
        let worst = worst(ChunkWkv::new(Factors::Float), Kind::Float);
        assert!(worst < 2e-6, "{worst:e}");
    }

    #[test]
    fn the_chunked_form_on_tensor_cores_loses_what_bf16_loses() {
        let worst = worst(ChunkWkv::new(Factors::BFloat16), Kind::BFloat16);
        assert!(worst < 1e-2, "{worst:e}");
    }

    #[test]
    fn the_cpu_backend_takes_bf16_and_forgets() {
        let worst = worst(CpuWkv::new(), Kind::BFloat16);
        assert!(worst < 4e-3, "{worst:e}");
    }

    #[test]
    fn the_reference_gradient_is_that_of_torch() {
        let case = Case { batch: 2, time: 19, heads: 2, initial_state: true, final_gradient: true };
        let drawn = draw(case, 0, Terms::default());
        let by_hand =
            all_tensors(&(Arc::new(Reference) as Arc<dyn WkvBackend>), case, &drawn, Kind::Double, Device::Cpu)
                .expect("runs");
        let leaf = |tensor: &Tensor| tensor.to_kind(Kind::Double).set_requires_grad(true);
        let leaves: Vec<Tensor> = drawn[..7].iter().map(leaf).collect();
        let [r, w, k, v, a, b, s0] = leaves.as_slice() else { unreachable!("seven leaves") };
        // The forward pass of the reference is made of torch's own operators, so torch can differentiate it.
        let out = Reference.forward(Inputs { r, w, k, v, a, b, s0: Some(s0) }, false).expect("runs");
        ((out.y * &drawn[7]).sum(Kind::Double) + (out.state * &drawn[8]).sum(Kind::Double)).backward();
        for ((name, by_hand), leaf) in by_hand[2..].iter().zip(&leaves) {
            let relative = relative_difference(by_hand, &leaf.grad());
            assert!(relative < 1e-12, "{name}: {relative:e}");
        }
    }

    #[test]
    fn inputs_that_do_not_agree_are_refused() {
        let x = Tensor::zeros([1, 2, 1, HEAD], (Kind::Float, Device::Cpu));
        let short = Tensor::zeros([1, 1, 1, HEAD], (Kind::Float, Device::Cpu));
        let inputs = Inputs { r: &x, w: &x, k: &short, v: &x, a: &x, b: &x, s0: None };
        let error = CpuWkv::new().forward(inputs, false).expect_err("refuses");
        assert!(error.to_string().contains("k is [1, 1, 1, 64]"), "{error}");
    }
}
