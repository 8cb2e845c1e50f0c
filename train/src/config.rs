//! The `[train.<model>]` tables of an experiment: what was written, with its defaults.

use std::net::SocketAddr;

use midi_ingest::job::exit::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};

/// `[train.<model>]`: one model and how it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainConfig {
    /// What is trained.
    #[serde(default)]
    pub mode: Mode,
    /// The model that is tuned: another table's name, or the path or URL of a checkpoint or of a file of weights. For
    /// modes other than `pretrain`.
    #[serde(default)]
    pub base: Option<String>,
    /// The adapters of the mode `lora`.
    #[serde(default)]
    pub lora: LoraConfig,
    /// The network's shape.
    pub model: ModelConfig,
    /// Sequences in one optimiser step, over all ranks.
    #[serde(default = "defaults::global_batch")]
    pub global_batch: usize,
    /// Sequences in one forward and backward pass; gradients of several are added up to a global batch.
    /// The whole global batch in one pass if left out.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// How samples become batches.
    #[serde(default)]
    pub data: DataConfig,
    /// Optimiser steps.
    pub steps: u64,
    /// The learning rate over the run.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// AdamW.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// When checkpoints are written and how many stay.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// Steps between two log lines.
    #[serde(default = "defaults::log_every_steps")]
    pub log_every_steps: u64,
    /// Steps between two passes over the validation split; never if left out.
    #[serde(default)]
    pub valid_every_steps: Option<u64>,
    /// When to stop before the last step; never if left out.
    #[serde(default)]
    pub early_stop: Option<EarlyStopConfig>,
    /// Threads of the process; if left out, the machine's cores shared among its processes.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Steps whose loss or gradients may be not finite before training stops; each is left out, on all ranks.
    /// Counted over the whole run, however often it was started. 0 stops at the first.
    #[serde(default)]
    pub skip_nonfinite: u64,
    /// Where each machine's first process shows its numbers to Prometheus, at `/metrics`, while it trains, such as
    /// `0.0.0.0:9464`; nowhere if left out.
    #[serde(default, deserialize_with = "address")]
    pub metrics_address: Option<SocketAddr>,
    /// Where the model is trained.
    #[serde(default)]
    pub device: DeviceChoice,
    /// The numbers in which it is computed; weights, their sums of gradients and moments are f32 in any case.
    #[serde(default)]
    pub precision: Precision,
    /// Several processes.
    #[serde(default)]
    pub dist: DistConfig,
}

/// `precision` of `[train.<model>]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 throughout.
    #[default]
    F32,
    /// bf16 copies of the weights, made anew in each pass, and bf16 activations; loss and WKV states are f32.
    Bf16,
}

/// `device` of `[train.<model>]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceChoice {
    /// On a GPU if one can be used, else on the processor.
    #[default]
    Auto,
    /// On the processor.
    Cpu,
    /// On a GPU; it is an error if none can be used.
    Cuda,
}

/// `[train.<model>.dist]`: training in several processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DistConfig {
    /// Processes that `midi-rwkv run` starts on this machine.
    pub nproc: usize,
    /// How long ranks wait for one another; then the run ends with exit code 10 and says who is missing.
    pub timeout_seconds: u64,
    /// The same to meet, in the first step, and while a checkpoint is written.
    pub first_timeout_seconds: u64,
}

impl DistConfig {
    /// The longest that ranks can be told to wait for one another: 30 days.
    pub const MOST_SECONDS: u64 = 30 * 24 * 3600;
}

impl Default for DistConfig {
    fn default() -> Self {
        DistConfig { nproc: 1, timeout_seconds: 100, first_timeout_seconds: 300 }
    }
}

impl TrainConfig {
    /// The base, in the modes that have one.
    ///
    /// # Errors
    /// `mode` and `base` do not go together: exit code 78.
    pub fn begins_at(&self) -> Result<Option<&str>> {
        match (self.mode, self.base.as_deref()) {
            (Mode::Pretrain, None) => Ok(None),
            (Mode::Pretrain, Some(_)) => Err(Error::mismatch("`base` is for the modes `full`, `state` and `lora`")
                .hint("set `mode`, or leave `base` out to train from the first values")),
            (_, Some(base)) => Ok(Some(base)),
            (_, None) => Err(Error::mismatch("`base` is missing").hint("name the model to tune, or its checkpoint")),
        }
    }
}

/// `mode` of `[train.<model>]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// All weights, from their first values.
    #[default]
    Pretrain,
    /// All weights, from those of `base`.
    Full,
    /// The WKV state that every sequence begins from, and nothing else.
    State,
    /// Low-rank adapters beside the matrices.
    Lora,
}

/// `[train.<model>.lora]`: the mode `lora`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the adapters.
    pub r: usize,
    /// The adapters' output is scaled by alpha / r.
    pub alpha: f64,
    /// The share of the adapters' input that becomes zero in training.
    pub dropout: f64,
    /// The matrices that get one.
    pub target_modules: Vec<LoraTarget>,
    /// Whether the weights and biases of all norms are trained too, as RWKV-PEFT does.
    pub norms: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig { r: 32, alpha: 32.0, dropout: 0.0, target_modules: LoraTarget::ALL.to_vec(), norms: true }
    }
}

/// A matrix of each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoraTarget {
    /// Of time mixing: receptance.
    #[serde(rename = "att.receptance")]
    AttReceptance,
    /// Of time mixing: key.
    #[serde(rename = "att.key")]
    AttKey,
    /// Of time mixing: value.
    #[serde(rename = "att.value")]
    AttValue,
    /// Of time mixing: output.
    #[serde(rename = "att.output")]
    AttOutput,
    /// Of channel mixing: key.
    #[serde(rename = "ffn.key")]
    FfnKey,
    /// Of channel mixing: value.
    #[serde(rename = "ffn.value")]
    FfnValue,
}

impl LoraTarget {
    /// All of them.
    pub const ALL: [LoraTarget; 6] = [
        LoraTarget::AttReceptance,
        LoraTarget::AttKey,
        LoraTarget::AttValue,
        LoraTarget::AttOutput,
        LoraTarget::FfnKey,
        LoraTarget::FfnValue,
    ];

    /// The name below its block.
    pub fn name(self) -> &'static str {
        match self {
            LoraTarget::AttReceptance => "att.receptance",
            LoraTarget::AttKey => "att.key",
            LoraTarget::AttValue => "att.value",
            LoraTarget::AttOutput => "att.output",
            LoraTarget::FfnKey => "ffn.key",
            LoraTarget::FfnValue => "ffn.value",
        }
    }
}

/// `[train.<model>.data]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DataConfig {
    /// Whether short samples share a row, each as if it had one of its own. The result is the same up to
    /// rounding; less time goes into padding.
    pub pack: bool,
}

/// `[train.<model>.model]`: the shape of an RWKV-7 network. The vocabulary's size comes from the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModelConfig {
    /// Blocks (L).
    pub layers: usize,
    /// Width (D), a multiple of 64.
    pub width: usize,
}

/// `[train.<model>.schedule]`: linear warm-up, then a cosine from `lr` to `lr-final`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// Learning rate at the last step.
    pub lr_final: f64,
    /// Steps of warm-up, from 1 % to 100 % of the rate.
    pub warmup_steps: u64,
    /// Where the warm-up stands.
    pub warmup: Warmup,
    /// Tokens, padding included, at which the cosine ends, as the seed repository counts; its recipe names so
    /// many that the rate never falls. The run's last step if left out.
    pub exit_tokens: Option<u64>,
}

/// `warmup` of `[train.<model>.schedule]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warmup {
    /// At the begin of the run, so that a resumed run is the uninterrupted one.
    #[default]
    Once,
    /// At every start of the process, as in the seed repository: each resume bends the curve.
    EachStart,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        ScheduleConfig { lr: 1e-3, lr_final: 1e-4, warmup_steps: 10, warmup: Warmup::Once, exit_tokens: None }
    }
}

/// `[train.<model>.optimizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of the matrices.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global L2 norm.
    pub clip_norm: f64,
    /// Weight of the L2Wrap penalty on the largest logit.
    pub l2wrap: f64,
    /// How loss and penalty are scaled.
    pub scaling: LossScaling,
    /// Whether each rank keeps a part of the moments and updates that part of the weights alone (ZeRO-1).
    pub shard: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-18,
            weight_decay: 0.1,
            clip_norm: 1.0,
            l2wrap: 1e-4,
            scaling: LossScaling::PerToken,
            shard: false,
        }
    }
}

/// `scaling` of `[train.<model>.optimizer]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossScaling {
    /// Every target token of the global batch weighs the same, in loss and penalty.
    #[default]
    PerToken,
    /// As in the seed repository: each micro-batch is averaged by itself, and the penalty's gradient is added
    /// over all positions, padding included. The result depends on the size of micro-batches.
    PerMicroBatch,
}

/// `[train.<model>.checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps between two checkpoints; the last step always has one.
    pub every_steps: u64,
    /// Checkpoints that stay, at least 2.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { every_steps: 500, keep: 2 }
    }
}

/// `[train.<model>.early-stop]`: training ends when passes over the validation split bring nothing more. The checkpoint
/// of the lowest validation loss is kept, and is what evaluation, merging and tuning take as the trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EarlyStopConfig {
    /// Passes in a row without a better loss after which training stops.
    pub patience: u64,
    /// How much lower than the best one a loss must be to count as better, in nats a target.
    #[serde(default)]
    pub min_delta: f64,
}

/// An address to listen at, with an error that says how one is written.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<SocketAddr>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let refuse =
        |_| serde::de::Error::custom(format!("`{text}` is not an IP address and a port, such as `127.0.0.1:9464`"));
    text.parse().map(Some).map_err(refuse)
}

mod defaults {
    pub(super) fn global_batch() -> usize {
        16
    }
    pub(super) fn log_every_steps() -> u64 {
        10
    }
}
