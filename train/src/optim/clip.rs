//! Gradients are scaled down together when their global norm is above a bound.

use tch::{Kind, Tensor};

use crate::model::Parameters;

/// Added to the norm before it is compared, as the reference does.
const MARGIN: f64 = 1e-6;

/// The L2 norm of all gradients together; not finite exactly when one of them is not, or overflows.
pub fn global_norm(parameters: &Parameters) -> f64 {
    let norms: Vec<Tensor> =
        parameters.iter().map(|(_, tensor)| tensor.grad()).filter(Tensor::defined).map(|grad| grad.norm()).collect();
    if norms.is_empty() {
        return 0.0;
    }
    Tensor::stack(&norms, 0).to_kind(Kind::Double).square().sum(Kind::Double).sqrt().double_value(&[])
}

/// What to multiply gradients of global norm `norm` by, so that it is at most `bound`.
pub fn clip_factor(norm: f64, bound: f64) -> f64 {
    let over = (norm + MARGIN) / bound;
    if over > 1.0 { 1.0 / over } else { 1.0 }
}
