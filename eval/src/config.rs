//! The `[eval]` table of an experiment: what was written, with its defaults.

use std::collections::BTreeSet;
use std::fmt;

use midi_ingest::job::exit::{Error, Result};
use midi_ingest::sample::Kind;
use midi_ingest::token::control::Asked;
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
    /// The checkpoint of a model trained in this run: with `early-stop` the one of the lowest validation loss, or else the
    /// newest valid one.
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
    /// No model: the bars just before the section, copied. Not for whole tracks, whose models see no bar of theirs.
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

impl EvalConfig {
    /// What can be said about a configuration without data and without the rest of the experiment.
    ///
    /// # Errors
    /// A value that cannot be, or names that do not fit together: exit code 78, naming the key, the value and the rule.
    pub fn check(&self) -> Result<()> {
        self.check_models()?;
        self.check_comparisons()?;
        at_least_1("batch", self.batch)?;
        at_least_1("threads", self.threads.unwrap_or(1))?;
        self.prompts.check()?;
        self.sampler.check()
    }

    fn check_models(&self) -> Result<()> {
        if self.models.is_empty() {
            return Err(Error::mismatch("`eval.models` is empty; it must name at least one model")
                .hint("add an `[[eval.models]]` table; `configs/demo.toml` has three"));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let mut names = BTreeSet::new();
        for name in self.models.iter().map(EvalModel::name) {
            if name.is_empty() || !name.chars().all(fits) {
                return Err(Error::mismatch(format!(
                    "the model name `{name}` in `eval.models` must be letters, digits, `-` or `_`"
                )));
            }
            if !names.insert(name) {
                return Err(Error::mismatch(format!("`eval.models` has the name `{name}` twice")));
            }
        }
        let copies = |model: &&EvalModel| matches!(model, EvalModel::CopyBefore { .. });
        match self.models.iter().find(copies).filter(|_| self.prompts.infill == Kind::Track) {
            Some(model) => Err(Error::mismatch(format!(
                "`eval.models`: `{}` is a `copy-before`, which cannot stand beside `eval.prompts.infill = \"track\"`",
                model.name()
            ))
            .hint(
                "it would copy bars of the very track that the models do not see; leave it out, and its comparisons",
            )),
            None => Ok(()),
        }
    }

    /// Every pair is one of two known models, and comes once: each is a member of the family that Holm corrects for.
    fn check_comparisons(&self) -> Result<()> {
        let names: BTreeSet<&str> = self.models.iter().map(EvalModel::name).collect();
        let mut pairs = BTreeSet::new();
        for [baseline, candidate] in &self.comparisons {
            if let Some(name) = [baseline, candidate].into_iter().find(|name| !names.contains(name.as_str())) {
                let known: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                return Err(Error::mismatch(format!(
                    "`eval.comparisons` names `{name}`, which is not in `eval.models`"
                ))
                .hint(format!("the names are {}", known.join(", "))));
            }
            if baseline == candidate {
                return Err(Error::mismatch(format!("`eval.comparisons` compares `{baseline}` with itself")));
            }
            if !pairs.insert(BTreeSet::from([baseline, candidate])) {
                return Err(Error::mismatch(format!(
                    "`eval.comparisons` has the pair of `{baseline}` and `{candidate}` twice"
                )));
            }
        }
        Ok(())
    }
}

impl PromptConfig {
    fn check(&self) -> Result<()> {
        at_least_1("prompts.count", self.count)?;
        at_least_1("prompts.max-tokens", self.max_tokens)?;
        if self.bars.is_empty() || self.bars.contains(&0) {
            return refuse("prompts.bars", &format_args!("{:?}", self.bars), "a list of numbers from 1 up");
        }
        self.asked().map(|_| ())
    }

    /// The controls, each with the original's values.
    ///
    /// # Errors
    /// One is unknown, has a value, or comes twice (78).
    pub fn asked(&self) -> Result<Vec<Asked>> {
        let mut asked: Vec<Asked> = Vec::with_capacity(self.controls.len());
        for name in &self.controls {
            let one = Asked::parse(name, self.infill == Kind::Bars).map_err(|e| e.within("`eval.prompts.controls`"))?;
            if !one.values.is_empty() {
                return Err(Error::mismatch(format!("`eval.prompts.controls` gives a value: `{name}`"))
                    .hint("name the controls only; the values are the original's"));
            }
            if asked.contains(&one) {
                return Err(Error::mismatch(format!("`eval.prompts.controls` names `{name}` twice")));
            }
            asked.push(one);
        }
        Ok(asked)
    }
}

impl SamplerConfig {
    fn check(&self) -> Result<()> {
        let divides = |value: f64| value.is_finite() && value > 0.0;
        if !divides(self.temperature) {
            let rule = "above 0; `top-k = 1` always takes the most probable token";
            return refuse("sampler.temperature", &self.temperature, rule);
        }
        if !divides(self.repetition_penalty) {
            return refuse("sampler.repetition-penalty", &self.repetition_penalty, "above 0");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("sampler.top-p", &self.top_p, "above 0, and at most 1");
        }
        if !(0.0..1.0).contains(&self.epsilon) {
            return refuse("sampler.epsilon", &self.epsilon, "from 0 to below 1");
        }
        at_least_1("sampler.top-k", self.top_k.unwrap_or(1))?;
        at_least_1("sampler.max-tokens", self.max_tokens)
    }
}

fn refuse(key: &str, value: &dyn fmt::Display, rule: &str) -> Result<()> {
    Err(Error::mismatch(format!("`eval.{key}` is {value}; it must be {rule}")))
}

fn at_least_1(key: &str, value: usize) -> Result<()> {
    if value == 0 { refuse(key, &value, "at least 1") } else { Ok(()) }
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

/// `[eval.sampler]`: steps are applied in this order, that of the published model's generation.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use midi_ingest::job::{Exit, Experiment};

    use super::*;

    const SMALL: &str = "[eval]\ncomparisons = [['copy', 'net']]\n\
        [[eval.models]]\nkind = 'trained'\nname = 'net'\ntrain = 'm'\n\
        [[eval.models]]\nkind = 'copy-before'\nname = 'copy'\n";

    fn check(set: &str) -> Result<()> {
        let experiment = Experiment::parse(Path::new("small.toml"), SMALL, &[set.to_owned()])?;
        experiment.section::<EvalConfig>("eval")?.check()
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (set, key) in [
            ("eval.batch=0", "`eval.batch` is 0"),
            ("eval.threads=0", "`eval.threads` is 0"),
            ("eval.prompts.count=0", "`eval.prompts.count` is 0"),
            ("eval.prompts.max-tokens=0", "`eval.prompts.max-tokens` is 0"),
            ("eval.prompts.bars=[]", "`eval.prompts.bars` is []"),
            ("eval.prompts.bars=[2, 0]", "`eval.prompts.bars` is [2, 0]"),
            ("eval.sampler.temperature=0.0", "`eval.sampler.temperature` is 0; it must be above 0"),
            ("eval.sampler.temperature=inf", "`eval.sampler.temperature` is inf"),
            ("eval.sampler.repetition-penalty=0.0", "`eval.sampler.repetition-penalty` is 0"),
            ("eval.sampler.top-p=nan", "`eval.sampler.top-p` is NaN"),
            ("eval.sampler.top-p=1.1", "`eval.sampler.top-p` is 1.1"),
            ("eval.sampler.epsilon=nan", "`eval.sampler.epsilon` is NaN"),
            ("eval.sampler.epsilon=1.0", "`eval.sampler.epsilon` is 1"),
            ("eval.sampler.top-k=0", "`eval.sampler.top-k` is 0"),
            ("eval.sampler.max-tokens=0", "`eval.sampler.max-tokens` is 0"),
            ("eval.prompts.controls=['densty']", "did you mean `density`?"),
            ("eval.prompts.controls=['density=3']", "name the controls only"),
            ("eval.prompts.controls=['density', 'density']", "names `density` twice"),
            ("eval.prompts.controls=['repetition']", "no control `repetition` of bars"),
            ("eval.prompts.infill='track'", "`copy` is a `copy-before`"),
        ] {
            let error = check(set).expect_err(set);
            assert_eq!(error.exit(), Exit::Mismatch, "{set}");
            assert!(error.to_string().contains(key), "{set}: {error}");
        }
        check("eval.threads=1").expect("as it is");
        check("eval.prompts.context-factor=9223372036854775807").expect("as much context as there is");
    }

    #[test]
    fn models_and_pairs_must_fit_together() {
        let copy = |name: &str| format!("{{kind='copy-before', name='{name}'}}");
        for (set, message) in [
            ("eval.models=[]".to_owned(), "`eval.models` is empty"),
            (format!("eval.models=[{}]", copy("a b")), "the model name `a b`"),
            (format!("eval.models=[{}, {}]", copy("a"), copy("a")), "has the name `a` twice"),
            ("eval.comparisons=[['copy', 'nex']]".to_owned(), "names `nex`, which is not in `eval.models`"),
            ("eval.comparisons=[['net', 'net']]".to_owned(), "compares `net` with itself"),
            ("eval.comparisons=[['copy', 'net'], ['net', 'copy']]".to_owned(), "the pair of `net` and `copy` twice"),
        ] {
            let error = check(&set).expect_err(&set);
            assert_eq!(error.exit(), Exit::Mismatch, "{set}");
            assert!(error.to_string().contains(message), "{set}: {error}");
        }
    }
}
