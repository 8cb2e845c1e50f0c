//! What can be typed: the commands, their options and the texts of `--help`. No command reads anything here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs the pipeline of one experiment file: MIDI in, checkpoints out, result tables out.
#[derive(Debug, Parser)]
#[command(name = "midi-rwkv", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  a bug of ours
   2  the command line is wrong
  10  a peer was lost, or interrupted with nothing saved: try again
  65  the data is bad beyond the allowed share, or corrupt
  70  training diverged
  74  storage or credentials failed, or the disk is full: try again later
  75  stopped with everything saved: run the same command again
  78  configuration, vocabulary or plan mismatch, or something required is missing";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an experiment: ingest, train, eval; what is committed already is skipped
    Run(RunArgs),
    /// Print what `run` will do, and what is committed already
    Plan(PlanArgs),
    /// Print the experiment with every default filled in, as TOML that can be fed back
    Config(ExperimentArgs),
    /// Check this machine, and say what is missing and what to do about it
    Doctor(DoctorArgs),
    /// Write the manifests that run an experiment elsewhere
    Render(RenderArgs),
    /// Wait until a stage of an experiment has committed its work
    Wait(WaitArgs),
}

/// Which experiment.
#[derive(Clone, Debug, Args)]
pub struct ExperimentArgs {
    /// The experiment: a TOML file, for example configs/demo.toml
    pub config: PathBuf,
    /// Override one key, for example --set train.demo.steps=500 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// `midi-rwkv run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Which experiment.
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Only these stages, separated by commas
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub only: Vec<StageKind>,
    /// Where the stages run
    #[arg(long, value_enum, default_value_t = RunTarget::Local)]
    pub target: RunTarget,
}

/// `midi-rwkv plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which experiment.
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Only these stages, separated by commas
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub only: Vec<StageKind>,
}

/// `midi-rwkv doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Check what this experiment needs, too
    pub config: Option<PathBuf>,
    /// Override one key of the experiment (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub sets: Vec<String>,
    /// Check that this folder or URL can hold a run; a small probe object is written there
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
}

/// `midi-rwkv render`
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Which experiment.
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// For which kind of machine
    #[arg(long, value_enum)]
    pub target: RenderTarget,
    /// The folder to write into; files of an earlier rendering are replaced
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// The container image; `midi-rwkv` with this program's version if left out
    #[arg(long, value_name = "REF")]
    pub image: Option<String>,
    /// Pods of ingest, and of generation and scoring, each with its share of the models
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub workers: u32,
    /// Nodes that train one model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub nodes: u32,
    /// GPUs of a node; each is given to a pod of its own, and 0 trains on the CPU
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=16))]
    pub gpus_per_node: u32,
}

/// `midi-rwkv wait`
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Which experiment.
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// The stage to wait for; `train` means every model of the experiment
    #[arg(long = "for", value_name = "STAGE")]
    pub stage: StageKind,
    /// Of `train`, wait for this model alone
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Give up with exit code 75 after this long
    #[arg(long, value_name = "N", default_value_t = 720)]
    pub minutes: u64,
}

/// A stage of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StageKind {
    /// MIDI files to tokenized shards
    Ingest,
    /// Shards to checkpoints
    Train,
    /// Checkpoints to result tables
    Eval,
}

/// Where `run` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RunTarget {
    /// As child processes on this machine
    Local,
}

/// What `render` renders for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RenderTarget {
    /// A kustomize folder: `kubectl apply -k DIR`
    Kubernetes,
}
