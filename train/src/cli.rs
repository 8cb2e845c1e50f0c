//! The command line.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::job::{Experiment, Progress, Shutdown};
use midi_train::checkpoint::open_model;
use midi_train::trainer;
use midi_train::wkv::{Reference, WkvBackend};

/// Trains RWKV-7 on the shards that midi-ingest made.
#[derive(Debug, Parser)]
#[command(name = "midi-train", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model to its last step, from where its checkpoints leave off
    Run {
        #[command(flatten)]
        experiment: ExperimentArgs,
        /// The model: NAME of the table [train.NAME]; may be left out if there is only one
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
    },
    /// Print what `run` would do
    Plan {
        #[command(flatten)]
        experiment: ExperimentArgs,
        /// The model; all of them if left out
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
    },
    /// Print what a checkpoint holds
    Inspect {
        /// A checkpoint's folder, or a folder of checkpoints, of which the newest whole one is taken
        #[arg(value_name = "CHECKPOINT_DIR")]
        checkpoint: String,
    },
}

#[derive(Debug, clap::Args)]
struct ExperimentArgs {
    /// The experiment's TOML file
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Set a value of the file, for example `train.small.steps=100`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl ExperimentArgs {
    fn load(&self) -> Result<Experiment> {
        Experiment::load(&self.config, &self.sets)
    }
}

/// Runs the command and returns what goes to standard output.
pub(crate) fn run(cli: &Cli) -> Result<String> {
    match &cli.command {
        Command::Run { experiment, model } => {
            let experiment = experiment.load()?;
            let model = trainer::choose(&experiment, model.as_deref())?;
            let shutdown = Shutdown::on_signals()?;
            let finished = trainer::run(&experiment, &model, &Progress::stderr("train"), &shutdown)?;
            Ok(format!("{}\ncheckpoint: {}", finished.summary, finished.summary.checkpoint))
        }
        Command::Plan { experiment, model } => {
            let experiment = experiment.load()?;
            let names = match model {
                Some(name) => vec![trainer::choose(&experiment, Some(name))?],
                None => experiment.names("train"),
            };
            if names.is_empty() {
                trainer::choose(&experiment, None)?;
            }
            let plans = names.iter().map(|name| trainer::plan(&experiment, name).map(|plan| plan.to_string()));
            Ok(plans.collect::<Result<Vec<_>>>()?.join("\n"))
        }
        Command::Inspect { checkpoint } => inspect(checkpoint),
    }
}

/// Tensors, counts, step and fingerprints of a checkpoint.
fn inspect(checkpoint: &str) -> Result<String> {
    let backend: Arc<dyn WkvBackend> = Arc::new(Reference);
    let progress = Progress::stderr("train");
    let (model, commit) = open_model(checkpoint, backend, &mut |text| progress.note(text))?;
    let mut text = String::new();
    let failed = |e: std::fmt::Error| Error::bug("cannot put a text together").because(e);
    let mut line = |key: &str, value: String| writeln!(text, "{key:<12} {value}").map_err(failed);
    line("step", commit.step.to_string())?;
    line("tokens", commit.tokens.to_string())?;
    let shape = commit.shape;
    line("shape", format!("L{} D{} V{}", shape.layers, shape.width, shape.vocabulary))?;
    line("parameters", format!("{} in {} tensors", commit.parameters, model.parameters().len()))?;
    line("vocabulary", commit.vocabulary.clone())?;
    line("config key", commit.key.clone())?;
    line("seed", commit.seed.to_string())?;
    line("valid loss", commit.valid_loss.map_or_else(|| "not taken".to_owned(), |loss| format!("{loss:.4}")))?;
    line("contents", commit.hash())?;
    for part in &commit.files {
        line("file", format!("{} ({} bytes, sha256 {})", part.name, part.bytes, part.sha256))?;
    }
    for (name, tensor) in model.parameters().iter() {
        line("tensor", format!("{name} {:?} {:?}", tensor.kind(), tensor.size()))?;
    }
    text.truncate(text.trim_end().len());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let parsed =
            Cli::try_parse_from(["midi-train", "run", "c.toml", "--model", "m", "--set", "a=1", "--set", "b=2"]);
        assert!(parsed.is_ok());
        assert!(Cli::try_parse_from(["midi-train", "inspect"]).is_err());
    }

    #[test]
    fn a_folder_without_checkpoints_says_what_to_give() {
        let error = inspect("/no/such/folder").expect_err("nothing there");
        assert!(error.to_string().contains("holds no checkpoint"), "{error}");
        assert!(!std::path::Path::new("/no/such/folder").exists());
    }
}
