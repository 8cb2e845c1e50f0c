//! The loss: cross-entropy over target tokens and the L2Wrap penalty on the largest logit, joined with
//! the product of the head so that no tensor of all logits has to be kept for the backward pass.
//!
//! Two rules exist. [`Rule::Corrected`] is the default: both terms are summed over target tokens and
//! divided by the number of target tokens of the whole global batch, so a token weighs the same in
//! whatever micro-batch, rank or row it stands, and padding weighs nothing. [`Rule::Reference`] is what
//! the seed repository trains with: the mean over each micro-batch, and a penalty over all positions,
//! padding included, whose gradient is added to that of the logits as it is.

mod rows;

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor, no_grad};

use crate::autograd::{self, Operator, Outputs};
use crate::cuda::Launcher;
use crate::cuda::fused::{LossWeights as Weights, loss_in_place};
use crate::fault;

/// Logits that are in memory at a time, as a number of f32 values: as many as a processor's caches are good for, and
/// on a GPU so many that it is busy with them.
const LOGITS_AT_A_TIME: (i64, i64) = (1 << 23, 1 << 28);

/// How the terms of the loss are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// (Σ cross-entropy + ½·l2wrap·Σ max²) / targets, both sums over target tokens.
    Corrected {
        /// Target tokens of the global batch that this micro-batch is a part of.
        targets: u64,
        /// Weight of the penalty; the seed's is 1e-4.
        l2wrap: f64,
    },
    /// Σ cross-entropy / (targets of this micro-batch · accumulation); the gradient of the logits gets
    /// max·l2wrap / positions at the largest logit of every position on top.
    Reference {
        /// Micro-batches in an optimiser step.
        accumulation: u64,
        /// Weight of the penalty; the seed's is 1e-4.
        l2wrap: f64,
    },
}

/// The loss of a micro-batch.
#[derive(Debug)]
pub struct Loss {
    /// What to run backward from: a scalar joined to the graph. Its value holds the penalty under
    /// [`Rule::Corrected`] and does not under [`Rule::Reference`].
    pub objective: Tensor,
    /// Σ −ln p(target) over the target tokens, in nats: an f64 where the network is. On a GPU, whoever reads it waits for
    /// the forward pass, and for whatever was begun since.
    pub cross_entropy: Tensor,
}

/// The loss of `hidden` [.., D] under the head [V, D], for labels of as many positions (i64; -100 is no
/// target). `launcher` starts a kernel for what follows the head, where there is one.
///
/// # Errors
/// Shapes that do not agree, or a label outside the vocabulary; the kernel makes the loss no number for the latter.
pub fn head_loss(
    launcher: Option<&Arc<dyn Launcher>>,
    hidden: &Tensor,
    head: &Tensor,
    labels: &Tensor,
    rule: Rule,
) -> Result<Loss> {
    let (hidden, labels) = flatten(hidden, labels)?;
    let results = autograd::apply(HeadLoss { launcher: launcher.cloned(), rule }, &[&hidden, head, &labels])?;
    let [objective, cross_entropy] =
        <[Tensor; 2]>::try_from(results).map_err(|_| Error::bug("the loss has two results"))?;
    Ok(Loss { objective, cross_entropy })
}

/// Σ cross-entropy in nats and the number of target tokens, without a gradient; arguments as [`head_loss`].
///
/// # Errors
/// As [`head_loss`].
pub fn cross_entropy(hidden: &Tensor, head: &Tensor, labels: &Tensor) -> Result<(f64, u64)> {
    no_grad(|| {
        let (hidden, labels) = flatten(hidden, labels)?;
        let mut sum = 0.0;
        let head = head.to_kind(hidden.kind());
        for (first, rows) in chunks(&labels, head.size()[0]) {
            let logits = widened(hidden.narrow(0, first, rows).linear(&head, None::<&Tensor>));
            sum += Terms::of(&logits, &labels.narrow(0, first, rows))?.cross_entropy().double_value(&[]);
        }
        Ok((sum, count_targets(&labels)))
    })
}

/// The objective's gradient with respect to logits (N, V) for N labels, and Σ cross-entropy.
///
/// # Errors
/// As [`head_loss`].
pub fn logits_gradient(logits: &Tensor, labels: &Tensor, rule: Rule) -> Result<(Tensor, f64)> {
    no_grad(|| {
        let piece = in_torch(logits, labels, weights_of(rule, labels))?;
        Ok((piece.gradient, piece.sums.double_value(&[0])))
    })
}

fn flatten(hidden: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    let width = hidden.size().last().copied().unwrap_or(1);
    let hidden = hidden.f_reshape([-1, width]).map_err(fault::torch)?;
    let labels = labels.f_reshape([-1]).map_err(fault::torch)?;
    if hidden.size()[0] != labels.size()[0] {
        return Err(Error::bug(format!("{} positions and {} labels", hidden.size()[0], labels.size()[0])));
    }
    Ok((hidden, labels))
}

fn count_targets(labels: &Tensor) -> u64 {
    labels.ge(0).sum(Kind::Int64).int64_value(&[]) as u64
}

/// Logits as the loss takes them: at least f32.
fn widened(logits: Tensor) -> Tensor {
    if logits.kind() == Kind::BFloat16 { logits.to_kind(Kind::Float) } else { logits }
}

/// (first row, number of rows) of the pieces that positions are taken in.
fn chunks(labels: &Tensor, vocabulary: i64) -> impl Iterator<Item = (i64, i64)> {
    let positions = labels.numel() as i64;
    let most = if labels.device() == Device::Cpu { LOGITS_AT_A_TIME.0 } else { LOGITS_AT_A_TIME.1 };
    let rows = (most / vocabulary.max(1)).max(16);
    (0..positions).step_by(rows as usize).map(move |first| (first, rows.min(positions - first)))
}

/// The weights of a position's terms, for all labels of a micro-batch.
fn weights_of(rule: Rule, labels: &Tensor) -> Weights {
    match rule {
        Rule::Corrected { targets, l2wrap } => {
            let one = 1.0 / (targets.max(1) as f64);
            Weights { cross_entropy: one, penalty: l2wrap * one, penalty_everywhere: false }
        }
        Rule::Reference { accumulation, l2wrap } => Weights {
            cross_entropy: 1.0 / (count_targets(labels) as f64 * accumulation as f64),
            penalty: l2wrap / labels.numel() as f64,
            penalty_everywhere: true,
        },
    }
}

/// The loss of a piece of logits.
struct Piece {
    /// Σ cross-entropy and Σ max² over its target positions, two f64 where the logits are.
    sums: Tensor,
    /// The objective's gradient with respect to the logits.
    gradient: Tensor,
}

/// The loss of `logits` [N, V] for N labels, with the gradient in the place of the logits where that can be.
fn piece(launcher: Option<&Arc<dyn Launcher>>, logits: Tensor, labels: &Tensor, weights: Weights) -> Result<Piece> {
    if let Some(launcher) = launcher {
        let sums = loss_in_place(launcher, &logits, labels, weights)?;
        return Ok(Piece { sums: sums.sum_dim_intlist([0i64].as_slice(), false, Kind::Double), gradient: logits });
    }
    let logits = widened(logits);
    if rows::is_ours(&logits) { rows::piece(logits, labels, weights) } else { in_torch(&logits, labels, weights) }
}

/// The same in torch's operators.
fn in_torch(logits: &Tensor, labels: &Tensor, weights: Weights) -> Result<Piece> {
    let terms = Terms::of(logits, labels)?;
    let gradient = terms.gradient(logits, weights);
    Ok(Piece { sums: Tensor::stack(&[terms.cross_entropy(), terms.squares()], 0), gradient })
}

fn unknown_label() -> Error {
    Error::data("a label is not in the vocabulary")
}

/// Per position of a piece of logits, all [N, 1].
struct Terms {
    /// ln Σ exp(logits).
    log_sum: Tensor,
    /// The largest logit and where it is.
    largest: (Tensor, Tensor),
    /// The target's logit; of token 0 where there is no target.
    picked: Tensor,
    /// 1 where there is a target, else 0.
    is_target: Tensor,
    /// The target; 0 where there is none.
    target: Tensor,
}

impl Terms {
    fn of(logits: &Tensor, labels: &Tensor) -> Result<Self> {
        let labels = labels.unsqueeze(1);
        let target = labels.clamp_min(0);
        let picked =
            logits.f_gather(1, &target, false).map_err(|e| unknown_label().because(fault::torch(e).to_string()))?;
        Ok(Terms {
            log_sum: logits.logsumexp([1i64].as_slice(), true),
            largest: logits.max_dim(1, true),
            picked,
            is_target: labels.ge(0).to_kind(logits.kind()),
            target,
        })
    }

    /// Σ over target positions, an f64.
    fn cross_entropy(&self) -> Tensor {
        ((&self.log_sum - &self.picked) * &self.is_target).sum(Kind::Double)
    }

    /// Σ max² over target positions, an f64.
    fn squares(&self) -> Tensor {
        (self.largest.0.square() * &self.is_target).sum(Kind::Double)
    }

    fn gradient(&self, logits: &Tensor, weights: Weights) -> Tensor {
        let weight = &self.is_target * weights.cross_entropy;
        let mut gradient = (logits - &self.log_sum).exp_() * &weight;
        let _ = gradient.scatter_add_(1, &self.target, &-weight);
        if weights.penalty != 0.0 {
            let mut penalty = &self.largest.0 * weights.penalty;
            if !weights.penalty_everywhere {
                penalty *= &self.is_target;
            }
            let _ = gradient.scatter_add_(1, &self.largest.1, &penalty);
        }
        gradient
    }
}

/// (hidden [N, D], head [V, D], labels [N]) to (objective, [Σ cross-entropy, targets]). The gradients are
/// made in the forward pass, piece by piece, while the logits of the piece are there.
struct HeadLoss {
    launcher: Option<Arc<dyn Launcher>>,
    rule: Rule,
}

impl Operator for HeadLoss {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let [hidden, head, labels] = inputs else { return Err(Error::bug("the loss has three inputs")) };
        let (wants_hidden, wants_head) = (hidden.requires_grad(), head.requires_grad());
        let (hidden, head) = (hidden.detach(), head.detach());
        let weights = weights_of(self.rule, labels);
        // They are read at the end only: a GPU does not wait for each piece.
        let mut sums = Tensor::zeros([2], (Kind::Double, labels.device()));
        let mut d_hidden = Vec::new();
        // The head may be f32 where all else is bf16; then it is rounded for the products, and its gradient is not.
        let mut d_head = head.zeros_like();
        let head = head.to_kind(hidden.kind());
        for (first, rows) in chunks(labels, head.size()[0]) {
            let (x, labels) = (hidden.narrow(0, first, rows), labels.narrow(0, first, rows));
            let piece = piece(self.launcher.as_ref(), x.linear(&head, None::<&Tensor>), &labels, weights)?;
            sums += piece.sums;
            let d_logits = piece.gradient.to_kind(hidden.kind());
            if wants_hidden {
                d_hidden.push(d_logits.matmul(&head));
            }
            if wants_head {
                if d_head.kind() == hidden.kind() {
                    let _ = d_head.addmm_(&d_logits.tr(), &x);
                } else {
                    d_head += d_logits.tr().matmul(&x);
                }
            }
        }
        let cross_entropy = sums.get(0);
        let mut objective = &cross_entropy * weights.cross_entropy;
        if let Rule::Corrected { .. } = self.rule {
            objective += sums.get(1) * (0.5 * weights.penalty);
        }
        let objective = objective.to_kind(d_head.kind());
        let nothing = || Tensor::zeros([0], (hidden.kind(), hidden.device()));
        let d_hidden = if wants_hidden { Tensor::cat(&d_hidden, 0) } else { nothing() };
        let d_head = if wants_head { d_head } else { nothing() };
        Ok(Outputs { results: vec![objective, cross_entropy.copy()], kept: vec![d_hidden, d_head] })
    }

    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let Some(Some(upstream)) = grads.first() else { return Ok(vec![None, None, None]) };
        let part = |index: usize| {
            let part = kept.get(index).filter(|tensor| wanted[index] && tensor.numel() > 0)?;
            Some(part * upstream)
        };
        Ok(vec![part(0), part(1), None])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::NO_TARGET;

    fn leaf(size: &[i64], salt: f64) -> Tensor {
        let n = Tensor::arange(size.iter().product::<i64>(), (Kind::Double, Device::Cpu));
        ((n * 12.9898 + salt).sin() * 2.0).reshape(size).set_requires_grad(true)
    }

    fn labels() -> Tensor {
        Tensor::from_slice(&[3i64, -100, 0, 6, -100, 2, 2, 1])
    }

    /// The corrected objective in torch's own operators.
    fn plain(hidden: &Tensor, head: &Tensor, labels: &Tensor, targets: f64, l2wrap: f64) -> Tensor {
        let logits = hidden.matmul(&head.tr());
        let sum =
            logits.log_softmax(-1, Kind::Double).g_nll_loss(labels, None::<&Tensor>, tch::Reduction::Sum, NO_TARGET);
        let squares = (logits.max_dim(1, false).0.square() * labels.ge(0).to_kind(Kind::Double)).sum(Kind::Double);
        (sum + squares * (0.5 * l2wrap)) / targets
    }

    fn close(x: &Tensor, y: &Tensor) {
        let worst = (x - y).abs().max().double_value(&[]);
        assert!(worst < 1e-12, "{worst:e}");
    }

    #[test]
    fn the_corrected_rule_is_what_torch_differentiates() {
        let (hidden, head) = (leaf(&[8, 5], 0.1), leaf(&[7, 5], 0.7));
        let truth = plain(&hidden, &head, &labels(), 9.0, 0.3);
        truth.backward();
        let (d_hidden, d_head) = (hidden.grad().copy(), head.grad().copy());
        let (hidden, head) = (leaf(&[8, 5], 0.1), leaf(&[7, 5], 0.7));
        let loss =
            head_loss(None, &hidden, &head, &labels(), Rule::Corrected { targets: 9, l2wrap: 0.3 }).expect("runs");
        loss.objective.backward();
        close(&loss.objective, &truth);
        close(&hidden.grad(), &d_hidden);
        close(&head.grad(), &d_head);
        let (sum, targets) = cross_entropy(&hidden, &head, &labels()).expect("runs");
        assert!((sum - loss.cross_entropy.double_value(&[])).abs() < 1e-9 && targets == 6);
    }

    #[test]
    fn the_head_can_be_trained_by_itself() {
        let rule = Rule::Corrected { targets: 6, l2wrap: 0.3 };
        let gradient = |hidden: Tensor| {
            let head = leaf(&[7, 5], 0.7);
            head_loss(None, &hidden, &head, &labels(), rule).expect("runs").objective.backward();
            head.grad()
        };
        close(&gradient(leaf(&[8, 5], 0.1).detach()), &gradient(leaf(&[8, 5], 0.1)));
    }

    #[test]
    fn micro_batches_add_up_to_the_global_batch() {
        let rule = Rule::Corrected { targets: 6, l2wrap: 0.3 };
        let (hidden, head) = (leaf(&[8, 5], 0.1), leaf(&[7, 5], 0.7));
        head_loss(None, &hidden, &head, &labels(), rule).expect("runs").objective.backward();
        let whole = head.grad().copy();
        let head = leaf(&[7, 5], 0.7);
        for (first, rows) in [(0, 2), (2, 5), (7, 1)] {
            let part = head_loss(None, &hidden.narrow(0, first, rows), &head, &labels().narrow(0, first, rows), rule);
            part.expect("runs").objective.backward();
        }
        close(&head.grad(), &whole);
    }

    #[test]
    fn padding_weighs_nothing_under_the_corrected_rule() {
        let rule = Rule::Corrected { targets: 6, l2wrap: 0.3 };
        let loss = |rows| {
            let (hidden, head) = (leaf(&[8, 5], 0.1), leaf(&[7, 5], 0.7));
            let labels =
                Tensor::cat(&[labels().narrow(0, 0, 4), Tensor::full([4], NO_TARGET, (Kind::Int64, Device::Cpu))], 0);
            head_loss(None, &hidden.narrow(0, 0, rows), &head, &labels.narrow(0, 0, rows), rule)
                .expect("runs")
                .objective
                .backward();
            head.grad().copy()
        };
        close(&loss(8), &loss(4));
    }

    #[test]
    fn a_label_outside_the_vocabulary_is_an_error() {
        let (hidden, head) = (leaf(&[1, 5], 0.1), leaf(&[7, 5], 0.7));
        let labels = Tensor::from_slice(&[7i64]);
        let rule = Rule::Corrected { targets: 1, l2wrap: 0.0 };
        let error = head_loss(None, &hidden, &head, &labels, rule).expect_err("refuses");
        assert!(error.to_string().contains("not in the vocabulary"), "{error}");
    }
}
