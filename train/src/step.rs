//! One optimiser step: micro-batches forward and backward, the check that all is finite, the update.

use midi_ingest::job::exit::{Error, Exit, Result};
use tch::{Tensor, no_grad};

use crate::config::OptimizerConfig;
use crate::data::Batch;
use crate::fault;
use crate::loss::{self, Rule};
use crate::model::{Resets, Rwkv7};
use crate::optim::{AdamW, clip_factor, global_norm};

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Σ cross-entropy over the targets, in nats.
    pub cross_entropy: f64,
    /// Target tokens of the global batch.
    pub targets: u64,
    /// Positions that are not padding.
    pub tokens: u64,
    /// Positions, padding included.
    pub positions: u64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// Trains `model` on one global batch, given as micro-batches, at the learning rate `lr`. Every target
/// token of the global batch weighs the same.
///
/// # Errors
/// Loss or gradients are not finite: exit code 70, and neither model nor optimiser was changed.
pub fn step(
    model: &mut Rwkv7,
    optimizer: &mut AdamW,
    config: &OptimizerConfig,
    micro_batches: &[Batch],
    lr: f64,
) -> Result<StepReport> {
    model.parameters_mut().clear_gradients();
    let targets = micro_batches.iter().map(|batch| batch.targets).sum();
    let rule = Rule::Corrected { targets, l2wrap: config.l2wrap };
    let mut cross_entropy = 0.0;
    for batch in micro_batches {
        let (hidden, labels) = hidden(model, batch)?;
        let loss = loss::head_loss(&hidden, model.head(), &labels, rule)?;
        cross_entropy += loss.cross_entropy;
        loss.objective.f_backward().map_err(fault::torch)?;
    }
    let grad_norm = global_norm(model.parameters());
    if !cross_entropy.is_finite() || !grad_norm.is_finite() {
        let loss = cross_entropy / targets.max(1) as f64;
        return Err(Error::new(
            Exit::Diverged,
            format!("training diverged: the loss is {loss} and the gradient norm {grad_norm}"),
        ));
    }
    optimizer.update(model.parameters(), lr, clip_factor(grad_norm, config.clip_norm))?;
    let tokens = micro_batches.iter().map(|batch| batch.tokens).sum();
    let positions = micro_batches.iter().map(|batch| (batch.rows * batch.columns) as u64).sum();
    Ok(StepReport { cross_entropy, targets, tokens, positions, grad_norm })
}

/// Σ cross-entropy of `batch` in nats, and its target tokens, without a gradient.
///
/// # Errors
/// As the forward pass.
pub fn evaluate(model: &Rwkv7, batch: &Batch) -> Result<(f64, u64)> {
    no_grad(|| {
        let (hidden, labels) = hidden(model, batch)?;
        loss::cross_entropy(&hidden, model.head(), &labels)
    })
}

/// The input of the head for a batch, [B, T, D], and its labels, [B, T].
fn hidden(model: &Rwkv7, batch: &Batch) -> Result<(Tensor, Tensor)> {
    let size = [batch.rows as i64, batch.columns as i64];
    let (ids, labels) = (Tensor::from_slice(&batch.ids).reshape(size), Tensor::from_slice(&batch.labels).reshape(size));
    let hidden = match batch.resets.as_slice() {
        [] => model.hidden(&ids, None)?,
        places => model.hidden_of_packed(&ids, &Resets::new(batch.rows, batch.columns, places)?)?,
    };
    Ok((hidden, labels))
}
