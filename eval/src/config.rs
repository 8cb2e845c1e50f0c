//! The `[eval]` table of an experiment: what was written, with its defaults.

use midi_ingest::sample::Kind;
use serde::{Deserialize, Serialize};

/// `[eval]`: which models answer which prompts, and who is compared with whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EvalConfig {
    /// The models under comparison, by name.
    pub models: Vec<EvalModel>,
    /// Pairs `[baseline, candidate]` of model names; a positive effect favours the candidate.
    #[serde(default)]
    pub comparisons: Vec<[String; 2]>,
    /// Which sections of the test songs are infilled.
    #[serde(default)]
    pub prompts: PromptConfig,
    /// How tokens are drawn.
    #[serde(default)]
    pub sampler: SamplerConfig,
    /// Prompts generated together.
    #[serde(default = "defaults::batch")]
    pub batch: usize,
    /// Threads of the process; all cores if left out.
    #[serde(default)]
    pub threads: Option<usize>,
}

/// `[[eval.models]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EvalModel {
    /// The newest valid checkpoint of a model trained in this run.
    #[serde(rename_all = "kebab-case")]
    Trained {
        /// Name in the results.
        name: String,
        /// The `<model>` of `[train.<model>]`.
        train: String,
    },
    /// The same network with its initial weights, untrained.
    #[serde(rename_all = "kebab-case")]
    Untrained {
        /// Name in the results.
        name: String,
        /// The `<model>` of `[train.<model>]`.
        train: String,
    },
    /// A model from elsewhere, for example a published one.
    #[serde(rename_all = "kebab-case")]
    Checkpoint {
        /// Name in the results.
        name: String,
        /// A folder with checkpoints, one checkpoint's folder, or a file of weights (.safetensors, .pth or .bin); a path
        /// or a URL.
        path: String,
    },
    /// No model: the bars just before the section, copied.
    #[serde(rename_all = "kebab-case")]
    CopyBefore {
        /// Name in the results.
        name: String,
    },
}

impl EvalModel {
    /// The name under which the model stands in every table.
    pub fn name(&self) -> &str {
        match self {
            EvalModel::Trained { name, .. }
            | EvalModel::Untrained { name, .. }
            | EvalModel::Checkpoint { name, .. }
            | EvalModel::CopyBefore { name } => name,
        }
    }
}

/// `[eval.prompts]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PromptConfig {
    /// How many prompts.
    pub count: usize,
    /// What is infilled: bars of a track, or a whole track as far as these bars go.
    pub infill: Kind,
    /// Numbers of bars to infill (N), used in turn.
    pub bars: Vec<usize>,
    /// Attribute controls by name; the models are given the original's values.
    pub controls: Vec<String>,
    /// Context on each side, in multiples of N. A whole track has none but the other tracks.
    pub context_factor: usize,
    /// The longest prompt, in tokens.
    pub max_tokens: usize,
    /// Fewest notes in the original section.
    pub min_notes: usize,
}

impl Default for PromptConfig {
    fn default() -> Self {
        PromptConfig {
            count: 64,
            infill: Kind::Bars,
            bars: vec![2, 4],
            controls: Vec::new(),
            context_factor: 4,
            max_tokens: 2048,
            min_notes: 2,
        }
    }
}

/// `[eval.sampler]`: steps are applied in this order, see the tokenizer documentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SamplerConfig {
    /// Logits are divided by it; 1 changes nothing.
    pub temperature: f64,
    /// Logits of tokens in the prompt or sampled before are divided by it.
    pub repetition_penalty: f64,
    /// Tokens less probable than this are dropped.
    pub epsilon: f64,
    /// Only the most probable tokens stay; all if left out.
    pub top_k: Option<usize>,
    /// Only the most probable tokens whose probabilities add up to this stay.
    pub top_p: f64,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig {
            temperature: 1.0,
            repetition_penalty: 1.2,
            epsilon: 9e-4,
            top_k: Some(20),
            top_p: 0.95,
            max_tokens: 512,
        }
    }
}

mod defaults {
    pub(super) fn batch() -> usize {
        16
    }
}
