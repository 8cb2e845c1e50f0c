//! What `run` will do: the stages in order, the command of each, the numbers that follow from the configuration,
//! where it writes, and what stands there already. `plan` prints it and `run` executes the same value.

use std::fmt::Write;
use std::path::Path;

use midi_eval::config::EvalConfig;
use midi_ingest::config::{IngestConfig, SourceConfig, TokenizerConfig};
use midi_ingest::job::exit::{Error, Result};
use midi_train::config::{Mode, TrainConfig};

use crate::cli::{ExperimentArgs, StageKind};
use crate::committed::{Committed, Output};
use crate::experiment::Experiment;

/// One stage of one experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// MIDI files to tokenized shards.
    Ingest,
    /// Shards to the checkpoints of one model.
    Train {
        /// The `<model>` of `[train.<model>]`.
        model: String,
    },
    /// Checkpoints to result tables.
    Eval,
}

impl Stage {
    /// Which kind it is.
    pub fn kind(&self) -> StageKind {
        match self {
            Stage::Ingest => StageKind::Ingest,
            Stage::Train { .. } => StageKind::Train,
            Stage::Eval => StageKind::Eval,
        }
    }

    /// Its name in headings and messages, and its folder below `<out>`: `train/demo`.
    pub fn title(&self) -> String {
        match self {
            Stage::Ingest => "ingest".to_owned(),
            Stage::Train { model } => format!("train/{model}"),
            Stage::Eval => "eval".to_owned(),
        }
    }

    /// The program that does it.
    pub fn program(&self) -> &'static str {
        match self {
            Stage::Ingest => "midi-ingest",
            Stage::Train { .. } => "midi-train",
            Stage::Eval => "midi-eval",
        }
    }
}

/// A stage with everything that is known before it starts.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// Which stage.
    pub stage: Stage,
    /// How many processes of its program run together on this machine.
    pub processes: usize,
    /// The arguments of its program.
    pub arguments: Vec<String>,
    /// What follows from the configuration: a name and a value, for people.
    pub facts: Vec<(&'static str, String)>,
    /// What it writes, below `<out>`.
    pub writes: Vec<String>,
    /// What it has committed already.
    pub committed: Committed,
}

/// Everything that `run` will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The experiment's name.
    pub name: String,
    /// Where everything is written.
    pub out: String,
    /// The experiment's seed.
    pub seed: u64,
    /// The stages in the order in which they run.
    pub stages: Vec<StagePlan>,
}

impl Plan {
    /// Plans the stages of `experiment` that `only` names; all of them if it names none.
    ///
    /// # Errors
    /// A stage in `only` that the experiment does not have (78), or a store that fails while it is looked at (74).
    pub fn new(experiment: &Experiment, args: &ExperimentArgs, only: &[StageKind]) -> Result<Self> {
        let wanted = |kind| only.is_empty() || only.contains(&kind);
        let output = Output::open(&experiment.out)?;
        let mut stages = Vec::new();
        let processes = |stage: &Stage| match stage {
            Stage::Train { model } => experiment.train.get(model).map_or(1, |train| train.dist.nproc.max(1)),
            Stage::Ingest | Stage::Eval => 1,
        };
        let mut add = |stage: Stage, facts, writes: &[&str]| -> Result<()> {
            if wanted(stage.kind()) {
                let committed = output.of(&stage)?;
                let writes = writes.iter().map(|name| (*name).to_owned()).collect();
                let arguments = arguments(&stage, args);
                let processes = processes(&stage);
                stages.push(StagePlan { stage, processes, arguments, facts, writes, committed });
            }
            Ok(())
        };
        if let Some(ingest) = &experiment.ingest {
            add(Stage::Ingest, ingest_facts(ingest), &["ingest/songs", "ingest/shards", "ingest/manifest.json"])?;
        }
        for (model, train) in experiment.in_order()? {
            let folder = format!("train/{model}");
            let facts = train_facts(train, experiment.ingest.as_ref());
            add(Stage::Train { model: model.clone() }, facts, &[&folder])?;
        }
        if let Some(eval) = &experiment.eval {
            let tables = ["eval/prompts", "eval/generations", "eval/metrics", "eval/comparisons", "report.html"];
            add(Stage::Eval, eval_facts(eval), &tables)?;
        }
        for kind in only {
            if !stages.iter().any(|planned| planned.stage.kind() == *kind) {
                let table = format!("{kind:?}").to_lowercase();
                return Err(Error::mismatch(format!("`--only {table}`: the experiment has no `[{table}]`"))
                    .hint("leave `--only` out to run the stages that it has"));
            }
        }
        Ok(Plan { name: experiment.name.clone(), out: experiment.out.clone(), seed: experiment.seed, stages })
    }

    /// The plan as text for people.
    pub fn text(&self, config: &Path) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "experiment  {} ({}), seed {}", self.name, config.display(), self.seed);
        let _ = writeln!(text, "writes to   {}", self.out);
        for (i, planned) in self.stages.iter().enumerate() {
            let _ = writeln!(text, "\n{} of {}  {}", i + 1, self.stages.len(), planned.stage.title());
            let _ = writeln!(text, "  {:<12}{}", "command", planned.command());
            for (name, value) in &planned.facts {
                let _ = writeln!(text, "  {name:<12}{value}");
            }
            let _ = writeln!(text, "  {:<12}{}", "writes", planned.writes.join(", "));
            let _ = writeln!(text, "  {:<12}{}", "committed", planned.committed_text());
        }
        text
    }
}

impl StagePlan {
    /// The command as a shell would take it.
    pub fn command(&self) -> String {
        let words = self.arguments.iter().map(|word| quoted(word));
        std::iter::once(self.stage.program().to_owned()).chain(words).collect::<Vec<_>>().join(" ")
    }

    fn committed_text(&self) -> String {
        match &self.committed {
            Committed::Nothing => "nothing yet".to_owned(),
            Committed::Partly(what) => format!("{what}; it will go on from there"),
            Committed::All(what) => format!("{what}; it will be skipped if the configuration is the same"),
        }
    }
}

fn arguments(stage: &Stage, args: &ExperimentArgs) -> Vec<String> {
    let mut words = vec!["run".to_owned(), args.config.display().to_string()];
    if let Stage::Train { model } = stage {
        words.extend(["--model".to_owned(), model.clone()]);
    }
    for set in &args.sets {
        words.extend(["--set".to_owned(), set.clone()]);
    }
    words
}

/// `word` as a shell takes it, in single quotes where that is needed.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn ingest_facts(ingest: &IngestConfig) -> Vec<(&'static str, String)> {
    let source = match &ingest.source {
        SourceConfig::Synth { songs } => format!(
            "built-in composer, {songs} songs in {} units of up to {}",
            songs.div_ceil(ingest.files_per_unit.max(1)),
            ingest.files_per_unit
        ),
        SourceConfig::Folder { uri } => format!("folder {uri}, units of {} files", ingest.files_per_unit),
        SourceConfig::Archive { uri } => format!("archive {uri}, units of {} files", ingest.files_per_unit),
        SourceConfig::Parquet { uri, .. } => format!("Parquet {uri}, units of a row group"),
    };
    let vocabulary = match &ingest.tokenizer {
        TokenizerConfig::File { path } => format!("from {path}"),
        TokenizerConfig::Learn { vocabulary, songs } => {
            format!("{vocabulary} tokens, learned from up to {songs} training songs")
        }
    };
    let train = 1.0 - ingest.split.valid - ingest.split.test;
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let split =
        format!("train {}, valid {}, test {}", percent(train), percent(ingest.split.valid), percent(ingest.split.test));
    let samples = match training_samples(ingest) {
        Some(samples) => format!("about {samples} to train on"),
        None => format!("{} a training song", ingest.sample.passes),
    };
    let samples = format!("{samples}, of at most {} tokens", ingest.sample.context_tokens);
    vec![("source", source), ("vocabulary", vocabulary), ("split", split), ("samples", samples)]
}

/// About how many training samples there will be; known where the number of songs is.
fn training_samples(ingest: &IngestConfig) -> Option<u64> {
    let SourceConfig::Synth { songs } = ingest.source else { return None };
    let share = (1.0 - ingest.split.valid - ingest.split.test).clamp(0.0, 1.0);
    Some((songs as f64 * share).round() as u64 * u64::from(ingest.sample.passes))
}

fn train_facts(train: &TrainConfig, ingest: Option<&IngestConfig>) -> Vec<(&'static str, String)> {
    let model = format!("RWKV-7, {} layers, width {}", train.model.layers, train.model.width);
    let sequences = train.steps.saturating_mul(train.global_batch as u64);
    let passes = match ingest.and_then(training_samples) {
        Some(samples) if samples > 0 => format!(", about {:.1} times each sample", sequences as f64 / samples as f64),
        _ => String::new(),
    };
    let steps = format!("{} of {} sequences: {sequences} in all{passes}", train.steps, train.global_batch);
    let schedule = &train.schedule;
    let rate = format!("{:e} to {:e}, {} steps of warm-up", schedule.lr, schedule.lr_final, schedule.warmup_steps);
    let checkpoints =
        format!("every {} steps, the last {} are kept", train.checkpoint.every_steps, train.checkpoint.keep);
    let model = match (train.mode, &train.base) {
        (Mode::Pretrain, _) | (_, None) => model,
        (Mode::Full, Some(base)) => format!("{model}, from the weights of `{base}`"),
        (Mode::State, Some(base)) => format!("{model}; its first state is tuned on `{base}`"),
        (Mode::Lora, Some(base)) => format!("{model}; adapters of rank {} are tuned on `{base}`", train.lora.r),
    };
    let mut facts = vec![("model", model), ("steps", steps), ("rate", rate), ("saved", checkpoints)];
    if train.dist.nproc > 1 {
        let each = train.global_batch / train.dist.nproc;
        facts.push(("processes", format!("{} on this machine, {each} sequences of a step each", train.dist.nproc)));
    }
    facts
}

fn eval_facts(eval: &EvalConfig) -> Vec<(&'static str, String)> {
    let names: Vec<&str> = eval.models.iter().map(|model| model.name()).collect();
    let bars: Vec<String> = eval.prompts.bars.iter().map(usize::to_string).collect();
    let prompts = format!("{}, to infill {} bars", eval.prompts.count, bars.join(" or "));
    let answers = format!("{}, {} at a time", eval.prompts.count.saturating_mul(names.len()), eval.batch);
    let mut facts = vec![("models", names.join(", ")), ("prompts", prompts), ("answers", answers)];
    if !eval.comparisons.is_empty() {
        let pairs: Vec<String> = eval.comparisons.iter().map(|[base, other]| format!("{other} with {base}")).collect();
        facts.push(("compares", pairs.join(", ")));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_split_it() {
        assert_eq!(quoted("ingest.source.uri=/data/x.tar.gz"), "ingest.source.uri=/data/x.tar.gz");
        assert_eq!(quoted("out=a b"), "'out=a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
