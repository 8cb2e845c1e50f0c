//! One optimiser step: micro-batches forward and backward, the check that all is finite, the update.

use midi_ingest::job::exit::{Error, Exit, Result};
use tch::{Tensor, no_grad};

use crate::config::{LossScaling, OptimizerConfig};
use crate::data::Batch;
use crate::dist::{Group, flat};
use crate::fault;
use crate::loss::{self, Rule};
use crate::model::{Resets, Rwkv7};
use crate::optim::{AdamW, clip_factor, global_norm};
use crate::parts::Parts;

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

/// Trains `model` on one global batch at the learning rate `lr`; `micro_batches` are the part of it that this
/// rank has. Every target token of the global batch weighs the same. The report is that of all ranks.
///
/// # Errors
/// Loss or gradients are not finite on any rank: exit code 70 on all of them, and neither model nor optimiser was
/// changed. A rank was lost: exit code 10.
pub fn step(
    model: &mut Rwkv7,
    optimizer: &mut AdamW,
    config: &OptimizerConfig,
    micro_batches: &[Batch],
    lr: f64,
    group: &mut Group,
) -> Result<StepReport> {
    model.parameters_mut().clear_gradients();
    let targets = micro_batches.iter().map(|batch| batch.targets).sum();
    let tokens = micro_batches.iter().map(|batch| batch.tokens).sum();
    let positions = micro_batches.iter().map(|batch| (batch.rows * batch.columns) as u64).sum();
    let [targets, tokens, positions] = group.sum_u64("sum of targets", [targets, tokens, positions])?;
    let rule = match config.scaling {
        LossScaling::PerToken => Rule::Corrected { targets, l2wrap: config.l2wrap },
        LossScaling::PerMicroBatch => {
            let accumulation = (micro_batches.len() * group.world()) as u64;
            Rule::Reference { accumulation, l2wrap: config.l2wrap }
        }
    };
    let step = optimizer.updates();
    let mut parts = match config.scaling {
        LossScaling::PerToken => Parts::of(model, micro_batches, threads())?,
        // This rule looks at a micro-batch as a whole.
        LossScaling::PerMicroBatch => Parts::of(model, micro_batches, 1)?,
    };
    let mut sums = Vec::new();
    for batch in micro_batches {
        sums.extend(parts.each(batch, |model, batch| forward_backward(model, batch, step, rule))?);
    }
    parts.add_gradients();
    drop(parts);
    let measured = exchange(model, optimizer, group)?;
    // A GPU is waited for only now that all is ready for what it finds.
    let updates = optimizer.prepare(model.trained(), lr)?;
    let measured = measured.double_value(&[]);
    let (grad_norm, squares) = if optimizer.is_sharded() { (measured.sqrt(), measured) } else { (measured, 0.0) };
    let cross_entropy: f64 = sums.iter().map(|sum| sum.double_value(&[])).sum();
    // Every rank learns what any of them saw, so that all stop or none does.
    let bad = !cross_entropy.is_finite() || !grad_norm.is_finite();
    let [cross_entropy, squares, bad] =
        group.sum_f64("agreement on loss and gradients", [cross_entropy, squares, f64::from(u8::from(bad))])?;
    let grad_norm = if optimizer.is_sharded() { squares.sqrt() } else { grad_norm };
    if bad > 0.0 || !cross_entropy.is_finite() || !grad_norm.is_finite() {
        let loss = cross_entropy / targets.max(1) as f64;
        return Err(Error::new(
            Exit::Diverged,
            format!("training diverged: the loss is {loss} and the gradient norm {grad_norm}"),
        ));
    }
    optimizer.apply(updates, clip_factor(grad_norm, config.clip_norm))?;
    if optimizer.is_sharded() {
        flat::all_gather_parameters(group, model.trained())?;
    }
    Ok(StepReport { cross_entropy, targets, tokens, positions, grad_norm })
}

/// Leaves the gradients of a batch, and returns its Σ cross-entropy, an f64 where the network is.
fn forward_backward(model: &Rwkv7, batch: &Batch, step: u64, rule: Rule) -> Result<Tensor> {
    model.set_dropout(Some((step, batch)));
    let hidden = hidden(model, batch);
    model.set_dropout(None);
    let (hidden, labels) = hidden?;
    let loss = loss::head_loss(model.launcher(), &hidden, model.head(), &labels, rule)?;
    loss.objective.f_backward().map_err(fault::torch)?;
    Ok(loss.cross_entropy)
}

/// Adds the gradients of all ranks up. Returns their norm or, where each rank has a part of them, the sum of its squares;
/// an f64 where the network is.
fn exchange(model: &Rwkv7, optimizer: &AdamW, group: &mut Group) -> Result<Tensor> {
    if optimizer.is_sharded() {
        return flat::reduce_scatter_gradients(group, model.trained());
    }
    if group.world() > 1 {
        flat::all_reduce_gradients(group, model.trained())?;
    }
    global_norm(model.launcher(), model.trained())
}

/// Σ cross-entropy of `batch` in nats, and its target tokens, without a gradient.
///
/// # Errors
/// As the forward pass.
pub fn evaluate(model: &mut Rwkv7, batch: &Batch) -> Result<(f64, u64)> {
    let sums = Parts::of(model, std::slice::from_ref(batch), threads())?.each(batch, |model, batch| {
        no_grad(|| {
            let (hidden, labels) = hidden(model, batch)?;
            loss::cross_entropy(&hidden, model.head(), &labels)
        })
    })?;
    Ok(sums.into_iter().fold((0.0, 0), |all, part| (all.0 + part.0, all.1 + part.1)))
}

/// The threads of torch's operators.
fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// The input of the head for a batch, [B, T, D], and its labels, [B, T].
pub(crate) fn hidden(model: &Rwkv7, batch: &Batch) -> Result<(Tensor, Tensor)> {
    let size = [batch.rows as i64, batch.columns as i64];
    let both = Tensor::stack(&[&batch.ids, &batch.labels].map(|values| Tensor::from_slice(values).reshape(size)), 0);
    let both = both.to_device(model.device());
    let (ids, labels) = (both.get(0), both.get(1));
    let hidden = match batch.resets.as_slice() {
        [] => model.hidden(&ids, None)?,
        places => {
            model.hidden_of_packed(&ids, &Resets::new(batch.rows, batch.columns, places)?.to_device(model.device()))?
        }
    };
    Ok((hidden, labels))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::data::{NO_TARGET, Placed};
    use crate::dist::store::Server;
    use crate::dist::{Limits, RankEnv, rendezvous};
    use crate::model::init::init;
    use crate::model::{Parameters, Shape};
    use crate::wkv::CpuWkv;
    use crate::wkv::conformance::relative_difference;

    fn network(poisoned: bool) -> Rwkv7 {
        let parameters = init(Shape::new(2, 64, 20).expect("fits"), 3);
        if poisoned {
            let _ = no_grad(|| parameters.get("head.weight").expect("is there").shallow_clone().fill_(f64::NAN));
        }
        let mut model = Rwkv7::new(parameters, Arc::new(CpuWkv::new())).expect("fits");
        model.set_trainable(true);
        model
    }

    fn copies(parameters: &Parameters) -> Vec<Tensor> {
        parameters.iter().map(|(_, tensor)| tensor.detach().copy()).collect()
    }

    /// Four rows, with a sample each or, packed, up to three.
    fn batch(packed: bool) -> Batch {
        let (rows, columns) = (4, 12);
        let places = if packed {
            vec![(0, 5), (5, 4), (9, 3), (12, 7), (24, 12), (36, 3), (39, 2)]
        } else {
            vec![(0, 12), (12, 3), (24, 9), (36, 1)]
        };
        let sample = |(index, &(at, length)): (usize, &(usize, usize))| Placed { sample: index as u64, at, length };
        let placed: Vec<Placed> = places.iter().enumerate().map(sample).collect();
        let inside = |place: usize| placed.iter().any(|p| (p.at..p.at + p.length).contains(&place));
        let labels: Vec<i64> =
            (0..rows * columns).map(|place| if inside(place) { (place * 7 % 20) as i64 } else { NO_TARGET }).collect();
        let targets = labels.iter().filter(|&&label| label != NO_TARGET).count() as u64;
        Batch {
            rows,
            columns,
            ids: (0..rows * columns).map(|place| (place * 5 % 20) as i64).collect(),
            labels,
            resets: placed.iter().map(|p| p.at as i64).filter(|at| at % columns as i64 > 0).collect(),
            placed,
            targets,
            tokens: targets,
        }
    }

    #[test]
    fn parts_of_a_batch_have_the_gradients_of_the_whole() {
        let run = |batches: &[Batch], threads: usize| {
            let mut model = network(false);
            let rule = Rule::Corrected { targets: batches.iter().map(|batch| batch.targets).sum(), l2wrap: 0.1 };
            let mut parts = Parts::of(&mut model, batches, threads).expect("fits");
            let each = |batch| parts.each(batch, |model, batch| forward_backward(model, batch, 0, rule));
            let sums: Vec<Vec<Tensor>> = batches.iter().map(each).collect::<Result<_>>().expect("runs");
            parts.add_gradients();
            let grads = model.trained().iter().map(|(_, tensor)| tensor.grad()).collect::<Vec<_>>();
            let sum = sums.iter().flatten().map(|sum| sum.double_value(&[])).sum::<f64>();
            (sums.iter().map(Vec::len).collect::<Vec<_>>(), sum, grads)
        };
        let batches = [batch(false), batch(true)];
        let (_, cross_entropy, truth) = run(&batches, 1);
        for threads in [2, 4] {
            let (counts, found, grads) = run(&batches, threads);
            assert_eq!(counts, [threads, threads]);
            assert!((found / cross_entropy - 1.0).abs() < 1e-6);
            for (grad, truth) in grads.iter().zip(&truth).filter(|(_, truth)| truth.defined()) {
                let relative = relative_difference(grad, truth);
                assert!(relative < 2e-6 || truth.abs().max().double_value(&[]) < 1e-7, "{relative:e}");
            }
        }
        let mut model = network(false);
        let (sum, targets) = evaluate(&mut model, &batches[1]).expect("runs");
        assert_eq!(targets, batches[1].targets);
        assert!(sum > 0.0 && sum < cross_entropy);
    }

    #[test]
    fn what_one_rank_finds_stops_both_before_the_update() {
        let config = OptimizerConfig::default();
        for shard in [false, true] {
            let server = Server::local().expect("serves");
            let port = server.port();
            std::thread::scope(|scope| {
                for rank in 0..2 {
                    let config = config.clone();
                    scope.spawn(move || {
                        let host = "127.0.0.1".to_owned();
                        let env = RankEnv { rank, world: 2, host, port, served: true, ..RankEnv::alone() };
                        let time = Duration::from_secs(60);
                        let ranks = rendezvous::join(&env, time).expect("meets");
                        let mut group = Group::new(ranks, Limits { first: time, later: time });
                        let mut model = network(rank == 1);
                        let optimizer = AdamW::new(config.clone(), model.parameters());
                        let mut optimizer = if shard { optimizer.into_shard(&group) } else { optimizer };
                        let batch = Batch::full(4, vec![1, 5, 9, 2]);
                        let before = copies(model.parameters());
                        let error = step(&mut model, &mut optimizer, &config, &[batch], 0.1, &mut group);
                        assert_eq!(error.expect_err("is not finite").exit(), Exit::Diverged, "rank {rank}");
                        assert_eq!(optimizer.updates(), 0);
                        let after = copies(model.parameters());
                        let same = |(a, b): (&Tensor, &Tensor)| a.allclose(b, 0.0, 0.0, true);
                        assert!(before.iter().zip(&after).all(same), "rank {rank}");
                    });
                }
            });
        }
    }
}
