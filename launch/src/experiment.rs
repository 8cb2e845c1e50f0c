//! A whole experiment, typed: every table of the file is read strictly before anything starts, so that a typo in
//! `[eval]` is found now and not after hours of training.

use std::collections::BTreeMap;
use std::path::Path;

use midi_eval::config::{EvalConfig, EvalModel};
use midi_ingest::config::IngestConfig;
use midi_ingest::job::exit::{Error, Result};
use midi_train::config::TrainConfig;
use serde::Serialize;

/// An experiment file with the configuration of all its stages.
#[derive(Clone, Debug, Serialize)]
pub struct Experiment {
    /// The run's name.
    pub name: String,
    /// The seed of everything random.
    pub seed: u64,
    /// Where everything is written: a folder or a URL.
    pub out: String,
    /// `[ingest]`, if the file has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest: Option<IngestConfig>,
    /// `[train.<model>]` by model.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub train: BTreeMap<String, TrainConfig>,
    /// `[eval]`, if the file has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<EvalConfig>,
}

impl Experiment {
    /// The models in the order in which they can be trained: a base before those that are tuned on it, and by
    /// name otherwise.
    ///
    /// # Errors
    /// Models are based on each other in a circle: exit code 78.
    pub fn in_order(&self) -> Result<Vec<(&String, &TrainConfig)>> {
        let mut left: Vec<(&String, &TrainConfig)> = self.train.iter().collect();
        let mut ordered: Vec<(&String, &TrainConfig)> = Vec::new();
        while !left.is_empty() {
            let waits = |(_, train): &(&String, &TrainConfig)| {
                train.base.as_ref().is_some_and(|base| left.iter().any(|(name, _)| *name == base))
            };
            let Some(next) = left.iter().position(|model| !waits(model)) else {
                let names: Vec<String> = left.iter().map(|(name, _)| format!("`{name}`")).collect();
                return Err(Error::mismatch(format!("the models {} are based on each other", names.join(", ")))
                    .hint("`base` of a `[train.NAME]` names a model that is trained before it"));
            };
            ordered.push(left.remove(next));
        }
        Ok(ordered)
    }

    /// The models that are trained from weights which the experiment does not make, and where those are: paths or URLs.
    pub fn bases(&self) -> impl Iterator<Item = (&str, &str)> {
        let bases = self.train.iter().filter_map(|(model, train)| Some((model.as_str(), train.base.as_deref()?)));
        bases.filter(|(_, base)| !self.train.contains_key(*base))
    }

    /// Reads the file at `path`, applies `sets` and types every table.
    ///
    /// # Errors
    /// What [`midi_ingest::job::Experiment::load`] refuses, unknown or missing keys in any table, and names that
    /// do not fit together: all with exit code 78.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        let file = midi_ingest::job::Experiment::load(path, sets)?;
        Self::typed(&file).map_err(|error| error.within(format_args!("in `{}`", path.display())))
    }

    /// Types every table of a file that was read already.
    ///
    /// # Errors
    /// As [`Experiment::load`].
    pub fn typed(file: &midi_ingest::job::Experiment) -> Result<Self> {
        let ingest = if file.has("ingest") { Some(file.section("ingest")?) } else { None };
        let mut train = BTreeMap::new();
        for model in file.names("train") {
            let config = file.section(&format!("train.{model}"))?;
            train.insert(model, config);
        }
        let eval = if file.has("eval") { Some(file.section("eval")?) } else { None };
        let experiment =
            Experiment { name: file.name.clone(), seed: file.seed, out: file.out.clone(), ingest, train, eval };
        experiment.check()?;
        Ok(experiment)
    }

    /// The experiment as TOML with every default filled in; it feeds back unchanged.
    ///
    /// # Errors
    /// Never for what [`Experiment::load`] read; a failure is a bug.
    pub fn resolved(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::bug("the experiment cannot be written as TOML").because(e))
    }

    /// What no single key can check: the names that tables use of one another, and how a batch is shared.
    fn check(&self) -> Result<()> {
        if self.ingest.is_none() && self.train.is_empty() && self.eval.is_none() {
            return Err(Error::mismatch("the experiment has no stage")
                .hint("give it `[ingest]`, `[train.NAME]` or `[eval]`; `configs/demo.toml` has all three"));
        }
        for (model, train) in &self.train {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if model.is_empty() || model.len() > 40 || !model.chars().all(fits) {
                return Err(Error::mismatch(format!(
                    "the model name `{model}` in `[train]` must be 1 to 40 letters, digits, `-` or `_`"
                )));
            }
            let (batch, nproc) = (train.global_batch, train.dist.nproc);
            if nproc == 0 || !batch.is_multiple_of(nproc) {
                return Err(Error::mismatch(format!(
                    "`train.{model}.dist.nproc` is {nproc}; it must be a divisor of `global-batch`, which is {batch}"
                )));
            }
        }
        match &self.eval {
            Some(eval) => self.check_eval(eval),
            None => Ok(()),
        }
    }

    fn check_eval(&self, eval: &EvalConfig) -> Result<()> {
        eval.check()?;
        for model in &eval.models {
            if let EvalModel::Trained { train, .. } | EvalModel::Untrained { train, .. } = model
                && !self.train.contains_key(train)
            {
                return Err(Error::mismatch(format!(
                    "`eval.models`: `{}` asks for `[train.{train}]`, which the experiment does not have",
                    model.name()
                ))
                .hint(known("models in `[train]`", self.train.keys().map(String::as_str))));
            }
        }
        Ok(())
    }
}

fn known<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { format!("there are no {what}") } else { format!("the {what} are {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midi_ingest::job::Exit;

    const SMALL: &str = r#"
[ingest]
source = { kind = "synth", songs = 10 }
tokenizer = { kind = "learn", vocabulary = 600 }
[train.small]
model = { layers = 1, width = 64 }
steps = 5
[eval]
models = [{ kind = "trained", name = "small", train = "small" }, { kind = "copy-before", name = "copy" }]
comparisons = [["copy", "small"]]
"#;

    fn parse(text: &str, sets: &[&str]) -> Result<Experiment> {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Experiment::typed(&midi_ingest::job::Experiment::parse(Path::new("small.toml"), text, &sets)?)
    }

    #[test]
    fn the_resolved_text_names_every_default_and_feeds_back_unchanged() {
        let resolved = parse(SMALL, &["train.small.micro-batch=4"]).expect("types").resolved().expect("writes");
        for key in ["files-per-unit = 128", "weight-decay = 0.1", "top-k = 20", "micro-batch = 4"] {
            assert!(resolved.contains(key), "{key} is missing in\n{resolved}");
        }
        let again = parse(&resolved, &[]).expect("feeds back").resolved().expect("writes");
        assert_eq!(again, resolved);
    }

    #[test]
    fn a_typo_in_any_stage_is_found_and_the_nearest_key_named() {
        for (set, hint) in [
            ("ingest.files-per-unti=3", "files-per-unit"),
            ("train.small.stepz=3", "steps"),
            ("eval.sampler.topk=3", "top-k"),
        ] {
            let error = parse(SMALL, &[set]).expect_err(set);
            assert_eq!(error.exit(), Exit::Mismatch);
            assert!(error.to_string().ends_with(&format!("hint: did you mean `{hint}`?")), "{error}");
        }
    }

    #[test]
    fn processes_share_a_global_batch_evenly() {
        let sets = |nproc| ["train.small.global-batch=8".to_owned(), format!("train.small.dist.nproc={nproc}")];
        let parsed = |nproc| parse(SMALL, &sets(nproc).each_ref().map(String::as_str));
        assert!([1, 2, 8].into_iter().all(|nproc| parsed(nproc).is_ok()));
        for nproc in [0, 3, 16] {
            let error = parsed(nproc).expect_err("no divisor");
            assert_eq!(error.exit(), Exit::Mismatch);
            assert!(error.to_string().starts_with(&format!("`train.small.dist.nproc` is {nproc}; it must")), "{error}");
        }
    }

    #[test]
    fn names_must_fit_together() {
        let error = parse(SMALL, &["eval.comparisons=[[\"copy\", \"large\"]]"]).expect_err("unknown name");
        assert_eq!(
            error.to_string(),
            "`eval.comparisons` names `large`, which is not in `eval.models`\nhint: the names are `copy`, `small`"
        );
        let other = SMALL.replace("train = \"small\"", "train = \"large\"");
        let error = parse(&other, &[]).expect_err("unknown model");
        assert!(error.to_string().ends_with("hint: the models in `[train]` are `small`"), "{error}");
        let twice = SMALL.replace("name = \"copy\"", "name = \"small\"");
        assert!(parse(&twice, &[]).expect_err("twice").to_string().contains("twice"));
        let error = parse(SMALL, &["eval.sampler.temperature=0.0"]).expect_err("not after hours of training");
        assert!(error.to_string().starts_with("`eval.sampler.temperature` is 0; it must be above 0"), "{error}");
        assert!(parse("", &[]).expect_err("no stage").to_string().contains("no stage"));
    }
}
