//! Gradients are scaled down together when their global norm is above a bound.

use std::sync::Arc;

use midi_ingest::job::exit::Result;
use tch::{Kind, Tensor};

use crate::cuda::{Launcher, fused};
use crate::model::Parameters;

/// Added to the norm before it is compared, as the reference does.
const MARGIN: f64 = 1e-6;

/// The L2 norm of all gradients together, an f64 where these are; not finite exactly when one of them is not, or
/// overflows. `launcher` starts kernels that take many gradients at once, where there are such.
///
/// # Errors
/// A failure of the device.
pub fn global_norm(launcher: Option<&Arc<dyn Launcher>>, parameters: &Parameters) -> Result<Tensor> {
    let grads: Vec<Tensor> = parameters.iter().map(|(_, tensor)| tensor.grad()).filter(Tensor::defined).collect();
    match launcher {
        _ if grads.is_empty() => Ok(Tensor::from(0.0)),
        Some(launcher) => fused::norm(launcher, &grads),
        None => {
            let norms: Vec<Tensor> = grads.iter().map(Tensor::norm).collect();
            Ok(Tensor::stack(&norms, 0).to_kind(Kind::Double).square().sum(Kind::Double).sqrt())
        }
    }
}

/// What to multiply gradients of global norm `norm` by, so that it is at most `bound`.
pub fn clip_factor(norm: f64, bound: f64) -> f64 {
    let over = (norm + MARGIN) / bound;
    if over > 1.0 { 1.0 / over } else { 1.0 }
}
