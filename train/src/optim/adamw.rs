//! AdamW: Adam with bias correction and decoupled weight decay, on parameter groups.

use std::ops::Range;
use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use multiversion::multiversion;
use tch::{Device, Kind, Tensor, no_grad};

use super::groups::{Group, group};
use crate::config::OptimizerConfig;
use crate::cpu::lanes::{InPlace, Lanes};
use crate::cpu::parallel;
use crate::cuda::Launcher;
use crate::cuda::fused::{self, AdamTerms, Update};
use crate::dist::{Group as Ranks, shard};
use crate::model::Parameters;

/// The optimiser's state: two moments a parameter, and the number of updates done.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    updates: u64,
    slots: Vec<Slot>,
    /// Whether the slots are this rank's part only.
    sharded: bool,
    /// What starts the kernel that updates parameters, where there is one.
    launcher: Option<Arc<dyn Launcher>>,
}

/// One parameter's part.
#[derive(Debug)]
struct Slot {
    name: String,
    group: Group,
    /// The elements of the flattened parameter, where they are a part of it.
    part: Option<Range<i64>>,
    first: Tensor,
    second: Tensor,
}

/// Prefix of the first moments' names in a checkpoint.
const FIRST: &str = "m.";
/// Prefix of the second moments' names in a checkpoint.
const SECOND: &str = "v.";

impl AdamW {
    /// With zero moments for `parameters`.
    pub fn new(config: OptimizerConfig, parameters: &Parameters) -> Self {
        let slot = |(name, tensor): (&str, &Tensor)| Slot {
            name: name.to_owned(),
            group: group(name, &tensor.size()),
            part: None,
            first: tensor.detach().zeros_like(),
            second: tensor.detach().zeros_like(),
        };
        AdamW { config, updates: 0, slots: parameters.iter().map(slot).collect(), sharded: false, launcher: None }
    }

    /// The same optimiser, which updates parameters by a kernel.
    #[must_use]
    pub fn with_kernels(self, launcher: Arc<dyn Launcher>) -> Self {
        AdamW { launcher: Some(launcher), ..self }
    }

    /// This optimiser's part on a rank: the moments of its [`shard`] of all elements, in the order of `parameters`.
    pub fn into_shard(self, ranks: &Ranks) -> Self {
        let length = |slot: &Slot| slot.first.numel();
        let mine = shard(self.slots.iter().map(length).sum(), ranks.world(), ranks.rank());
        let mut begin = 0;
        let part = |slot: Slot| {
            let (from, to) = (mine.start.max(begin), mine.end.min(begin + length(&slot)));
            let part = (from.saturating_sub(begin)) as i64..(to.saturating_sub(begin)) as i64;
            begin += length(&slot);
            let (at, count) = (part.start, part.end - part.start);
            let cut = |moment: &Tensor| moment.reshape([-1]).narrow(0, at, count).copy();
            (from < to).then(|| Slot { first: cut(&slot.first), second: cut(&slot.second), part: Some(part), ..slot })
        };
        let slots = self.slots.into_iter().filter_map(part).collect();
        AdamW { slots, sharded: true, ..self }
    }

    /// Whether this is one rank's part.
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    /// The whole optimiser from the parts of all ranks, for a checkpoint that knows nothing of ranks.
    ///
    /// # Errors
    /// A rank was lost (10).
    pub fn gathered(&self, parameters: &Parameters, ranks: &mut Ranks) -> Result<Self> {
        let mut whole = AdamW::new(self.config.clone(), parameters);
        whole.updates = self.updates;
        let elements = whole.slots.iter().map(|slot| slot.first.numel()).sum();
        for second in [false, true] {
            let moment = |slot: &Slot| if second { slot.second.shallow_clone() } else { slot.first.shallow_clone() };
            let parts: Vec<Tensor> = self.slots.iter().map(moment).collect();
            let device = whole.slots.first().map_or(Device::Cpu, |slot| slot.first.device());
            let part =
                if parts.is_empty() { Tensor::zeros([0], (Kind::Float, device)) } else { Tensor::cat(&parts, 0) };
            let flat = ranks.all_gather("all-gather of moments", &part, elements)?;
            let mut at = 0;
            for slot in &whole.slots {
                let mut moment = moment(slot);
                let count = moment.numel() as i64;
                moment.copy_(&flat.narrow(0, at, count).view_as(&moment));
                at += count;
            }
        }
        Ok(whole)
    }

    /// Counts an update that was left out.
    pub fn skip(&mut self) {
        self.updates += 1;
    }

    /// With the moments that [`AdamW::moments`] gave, after `updates` updates of `parameters`.
    ///
    /// # Errors
    /// A moment is missing or of another shape: exit code 78.
    pub fn resume(
        config: OptimizerConfig,
        parameters: &Parameters,
        moments: &Parameters,
        updates: u64,
    ) -> Result<Self> {
        let mut optimizer = AdamW::new(config, parameters);
        optimizer.updates = updates;
        for slot in &mut optimizer.slots {
            for (prefix, moment) in [(FIRST, &mut slot.first), (SECOND, &mut slot.second)] {
                let name = format!("{prefix}{}", slot.name);
                let saved = moments.get(&name)?;
                if saved.size() != moment.size() {
                    return Err(Error::mismatch(format!(
                        "the optimiser's `{name}` is {:?} instead of {:?}",
                        saved.size(),
                        moment.size()
                    )));
                }
                moment.copy_(saved);
            }
        }
        Ok(optimizer)
    }

    /// The moments by name: `m.<parameter>` and `v.<parameter>`. They share memory with the optimiser.
    pub fn moments(&self) -> Parameters {
        let both = |slot: &Slot| {
            [
                (format!("{FIRST}{}", slot.name), slot.first.shallow_clone()),
                (format!("{SECOND}{}", slot.name), slot.second.shallow_clone()),
            ]
        };
        self.slots.iter().flat_map(both).collect()
    }

    /// Updates done.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Changes `parameters`, the ones that the optimiser was made for, by their gradients multiplied by
    /// `factor`, at the learning rate `lr`. A parameter without a gradient stays as it is: its moments are
    /// zero, and no such parameter decays.
    ///
    /// # Errors
    /// A parameter is missing.
    pub fn update(&mut self, parameters: &Parameters, lr: f64, factor: f64) -> Result<()> {
        let updates = self.prepare(parameters, lr)?;
        self.apply(updates, factor)
    }

    /// What [`AdamW::apply`] takes: parameters with their gradients and moments, which share memory with these. Nothing is
    /// changed, so that this can be done while a GPU is still busy with the gradients.
    ///
    /// # Errors
    /// A parameter is missing.
    pub fn prepare(&self, parameters: &Parameters, lr: f64) -> Result<Vec<Update>> {
        let correction = self.correction(self.config.beta1);
        let mut updates = Vec::with_capacity(self.slots.len());
        no_grad(|| {
            for slot in &self.slots {
                let mut parameter = parameters.get(&slot.name)?.shallow_clone();
                let mut gradient = parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                if let Some(part) = &slot.part {
                    let count = part.end - part.start;
                    parameter = parameter.view(-1).narrow(0, part.start, count);
                    gradient = gradient.reshape([-1]).narrow(0, part.start, count);
                }
                let rate = lr * slot.group.rate;
                let keep = if slot.group.decays { 1.0 - rate * self.config.weight_decay } else { 1.0 };
                let moments = [slot.first.shallow_clone(), slot.second.shallow_clone()];
                updates.push(Update { parameter, gradient, moments, keep, rate: rate / correction });
            }
            Ok(updates)
        })
    }

    /// Does what [`AdamW::prepare`] prepared, with gradients multiplied by `factor`.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn apply(&mut self, updates: Vec<Update>, factor: f64) -> Result<()> {
        let OptimizerConfig { beta1, beta2, epsilon, .. } = self.config;
        let correction = self.correction(beta2);
        self.updates += 1;
        no_grad(|| {
            if let Some(launcher) = &self.launcher {
                return fused::adamw(launcher, &updates, AdamTerms { beta1, beta2, epsilon, factor, correction });
            }
            for Update { mut parameter, gradient, moments: [mut first, mut second], keep, rate } in updates {
                let change = Change {
                    factor,
                    share: 1.0 - beta1,
                    share_of_squares: 1.0 - beta2,
                    correction_of_squares: correction,
                    epsilon,
                    kept: keep,
                    rate,
                };
                change.apply(&mut parameter, &gradient, &mut first, &mut second)?;
            }
            Ok(())
        })
    }

    /// What the next update divides a moment of this decay by.
    fn correction(&self, beta: f64) -> f64 {
        1.0 - beta.powf((self.updates + 1) as f64)
    }
}

/// One update of one parameter, all its numbers known.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// What gradients are multiplied by.
    factor: f64,
    /// The share of the new gradient in the first moment.
    share: f64,
    /// The share of its square in the second.
    share_of_squares: f64,
    /// What the second moment is divided by.
    correction_of_squares: f64,
    epsilon: f64,
    /// What decay leaves of the parameter.
    kept: f64,
    /// The learning rate, with the correction of the first moment.
    rate: f64,
}

/// Values that one task takes.
const PIECE: usize = 1 << 15;

impl Change {
    /// In one pass over memory on the CPU, else in torch's operators.
    fn apply(self, parameter: &mut Tensor, grad: &Tensor, first: &mut Tensor, second: &mut Tensor) -> Result<()> {
        if grad.kind() == Kind::Float && grad.device() == Device::Cpu {
            let all = (InPlace::of(parameter), InPlace::of(first), InPlace::of(second));
            if let (Some(mut parameter), Some(mut first), Some(mut second)) = all {
                let grad = Lanes::of(grad)?;
                let moments = first.values().chunks_mut(PIECE).zip(second.values().chunks_mut(PIECE));
                let pieces = parameter.values().chunks_mut(PIECE).zip(grad.values().chunks(PIECE)).zip(moments);
                parallel::each(pieces.collect(), |_, ((parameter, grad), (first, second))| {
                    update(self, parameter, grad, first, second);
                });
                return Ok(());
            }
        }
        let grad = if self.factor == 1.0 { grad.shallow_clone() } else { grad * self.factor };
        let _ = first.lerp_(&grad, self.share);
        let _ = second.lerp_(&grad.square(), self.share_of_squares);
        let root = (&*second / self.correction_of_squares).sqrt_() + self.epsilon;
        let _ = parameter.g_mul_scalar_(self.kept);
        *parameter -= &*first / root * self.rate;
        Ok(())
    }
}

#[multiversion(targets("x86_64+avx2+fma"))]
fn update(change: Change, parameter: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32]) {
    let (factor, share, share_of_squares) = (change.factor as f32, change.share as f32, change.share_of_squares as f32);
    let (correction, epsilon) = (change.correction_of_squares as f32, change.epsilon as f32);
    let (kept, rate) = (change.kept as f32, change.rate as f32);
    for (((parameter, grad), first), second) in parameter.iter_mut().zip(grad).zip(first).zip(second) {
        let grad = grad * factor;
        *first += (grad - *first) * share;
        *second += (grad * grad - *second) * share_of_squares;
        *parameter = *parameter * kept - *first / ((*second / correction).sqrt() + epsilon) * rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wkv::conformance::relative_difference;

    fn parameters() -> Parameters {
        let leaf = |values: &[f32], size: &[i64]| Tensor::from_slice(values).reshape(size).set_requires_grad(true);
        [
            ("a.weight".to_owned(), leaf(&[1.0, -2.0, 3.0, -4.0], &[2, 2])),
            ("blocks.0.att.w0".to_owned(), leaf(&[1.0, 2.0], &[1, 1, 2])),
            ("unused".to_owned(), leaf(&[5.0], &[1])),
        ]
        .into_iter()
        .collect()
    }

    fn run_backward(parameters: &Parameters) {
        let sum = |name: &str| parameters.get(name).expect("there").square().sum(Kind::Float);
        (sum("a.weight") + sum("blocks.0.att.w0")).backward();
    }

    #[test]
    fn the_first_update_moves_every_element_by_its_rate() {
        let p = parameters();
        let config = OptimizerConfig { weight_decay: 0.5, ..OptimizerConfig::default() };
        let mut optimizer = AdamW::new(config, &p);
        run_backward(&p);
        optimizer.update(&p, 0.1, 1e-12).expect("updates");
        let values = |name: &str| Vec::<f32>::try_from(p.get(name).expect("there").flatten(0, -1)).expect("a vector");
        let near = |x: Vec<f32>, y: &[f32]| assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5), "{x:?} {y:?}");
        near(values("a.weight"), &[0.85, -1.8, 2.75, -3.7]);
        near(values("blocks.0.att.w0"), &[0.8, 1.8]);
        near(values("unused"), &[5.0]);
    }

    #[test]
    fn the_loop_over_memory_is_the_update_of_torchs_operators() {
        let change = Change {
            factor: 0.3,
            share: 0.1,
            share_of_squares: 0.01,
            correction_of_squares: 0.4,
            epsilon: 1e-8,
            kept: 0.9,
            rate: 0.02,
        };
        let run = |kind: Kind| {
            let wave =
                |salt: f64| (Tensor::arange(70_000, tch::kind::DOUBLE_CPU) * 0.7 + salt).sin().to_kind(Kind::Float);
            let [mut parameter, grad, mut first, second] = [1.0, 2.0, 3.0, 4.0].map(|salt| wave(salt).to_kind(kind));
            let mut second = second.square();
            change.apply(&mut parameter, &grad, &mut first, &mut second).expect("updates");
            [parameter, first, second]
        };
        for (found, truth) in run(Kind::Float).iter().zip(&run(Kind::Double)) {
            assert!(relative_difference(found, truth) < 3e-7);
        }
    }

    #[test]
    fn a_resumed_optimiser_continues_bit_for_bit() {
        let run = |interrupted: bool| {
            let mut p = parameters();
            let mut optimizer = AdamW::new(OptimizerConfig::default(), &p);
            for step in 0..6 {
                if interrupted && step == 3 {
                    let copies = |map: &Parameters| -> Parameters {
                        map.iter().map(|(name, tensor)| (name.to_owned(), tensor.detach().copy())).collect()
                    };
                    let (saved, moments) = (copies(&p), copies(&optimizer.moments()));
                    p = saved;
                    p.set_trainable(true);
                    optimizer = AdamW::resume(OptimizerConfig::default(), &p, &moments, 3).expect("resumes");
                }
                p.clear_gradients();
                run_backward(&p);
                optimizer.update(&p, 0.1, 0.7).expect("updates");
            }
            p
        };
        for ((name, whole), (_, parts)) in run(false).iter().zip(run(true).iter()) {
            assert!(whole.equal(parts), "{name}");
        }
    }
}
