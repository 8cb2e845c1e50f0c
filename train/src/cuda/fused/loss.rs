//! The loss of a piece of logits as one kernel (`loss.cu`).

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::super::{Arguments, Launcher, Source, Spread};
use super::numbers;
use crate::fault;

/// The kernels of this file.
pub static LOSS: Source = Source { name: "loss.cu", text: include_str!("../loss.cu") };

/// Most blocks; each takes a row at a time.
const BLOCKS: u32 = 4096;

/// What the terms of a position are multiplied by in the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossWeights {
    /// Of the cross-entropy.
    pub cross_entropy: f64,
    /// Of the largest logit.
    pub penalty: f64,
    /// Whether positions that are no target have the penalty too.
    pub penalty_everywhere: bool,
}

/// Puts the gradient in the place of `logits`, [N, V] in f32 or bf16, for N labels (i64; negative where there is no
/// target). Returns each position's cross-entropy and the square of its largest logit, [N, 2] in f32: zero where there is no
/// target, and not a number where the vocabulary does not have the label.
///
/// # Errors
/// Shapes, kinds or devices that do not agree, or a failure of the device.
pub fn loss_in_place(
    launcher: &Arc<dyn Launcher>,
    logits: &Tensor,
    labels: &Tensor,
    weights: LossWeights,
) -> Result<Tensor> {
    let (rows, width) = logits.size2().map_err(fault::torch)?;
    let labels = labels.f_contiguous().map_err(fault::torch)?;
    let device = launcher.device();
    let fits = logits.is_contiguous() && logits.device() == device && labels.device() == device;
    if !fits || labels.kind() != Kind::Int64 || labels.numel() as i64 != rows {
        return Err(Error::bug(format!("a loss of {:?} for {:?} labels", logits.size(), labels.size())));
    }
    let sums = Tensor::f_empty([rows, 2], (Kind::Float, device)).map_err(fault::torch)?;
    let LossWeights { cross_entropy, penalty, penalty_everywhere } = weights;
    let arguments = Arguments::new()
        .int(rows as i32)
        .int(width as i32)
        .float(cross_entropy as f32)
        .float(penalty as f32)
        .int(i32::from(penalty_everywhere))
        .int(0)
        .tensor(logits)
        .tensor(&labels)
        .tensor(&sums);
    let spread = Spread { blocks: [(rows as u32).clamp(1, BLOCKS), 1], threads: 256, shared: 0 };
    // SAFETY: the sizes, kinds and places of the tensors were checked above.
    unsafe { launcher.launch(&LOSS, &format!("loss_{}", numbers(logits.kind())?), spread, &arguments)? };
    Ok(sums)
}
