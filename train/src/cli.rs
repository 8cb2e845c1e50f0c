//! The command line.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::{Parser, Subcommand};
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::job::{Experiment, Progress, Shutdown};
use midi_train::checkpoint::{open_model, open_parameters, write_merged};
use midi_train::config::{DistConfig, Mode, TrainConfig};
use midi_train::cuda::{self, Cache, Gpu};
use midi_train::dist::{Group, Limits, RankEnv, rendezvous};
use midi_train::format;
use midi_train::gpu_check;
use midi_train::model::Parameters;
use midi_train::trainer;
use midi_train::tuning::{TuningRecord, merged};
use midi_train::wkv::{Reference, WkvBackend};
use tch::{Device, Kind};

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
    /// Write a model tuned by LoRA as one that stands alone
    Merge {
        /// A checkpoint's folder, or a folder of checkpoints, of which the best is taken where training looks
        /// for it (early-stop), else the newest whole one
        #[arg(value_name = "CHECKPOINT_DIR")]
        checkpoint: String,
        /// The new checkpoint's folder
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
    /// Convert weights between .safetensors, .pth (PyTorch) and .bin (rwkv.cpp), tuned states also to .state (rwkv.cpp)
    Convert {
        /// A file, or a checkpoint's folder: its adapters are merged, of a tuned state the state alone is taken
        #[arg(value_name = "IN")]
        input: PathBuf,
        /// The file to write; its extension says the format
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// The numbers to write; as they are if left out (.bin and .state: fp32)
        #[arg(long)]
        dtype: Option<Dtype>,
        /// Blocks of the network whose .state is read
        #[arg(long, value_name = "L")]
        layers: Option<usize>,
    },
    /// Compare this machine's GPU with the processor: kernels, training, NCCL; no data is needed
    GpuCheck {
        /// Also measure the operator and a training step
        #[arg(long)]
        bench: bool,
    },
    /// Print what a checkpoint or a file of weights holds
    Inspect {
        /// A checkpoint's folder, a folder of checkpoints, of which the best or newest is taken as by `merge`,
        /// or a file
        #[arg(value_name = "CHECKPOINT_DIR")]
        checkpoint: String,
    },
}

/// Kinds of number.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Dtype {
    Fp16,
    Fp32,
    Bf16,
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
            let variables = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
            let variables: BTreeMap<String, String> = RankEnv::NAMES.iter().filter_map(variables).collect();
            let ran = RankEnv::resolve(&variables).and_then(|env| {
                let ran = experiment.load().and_then(|experiment| train(&env, &experiment, model.as_deref()));
                ran.map_err(|error| of_rank(&env, error))
            });
            ran.inspect_err(|error| tell_agent(variables.get(RankEnv::ERROR_FILE), error))
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
        Command::Merge { checkpoint, output } => merge(checkpoint, output),
        Command::Convert { input, output, dtype, layers } => convert(input, output, *dtype, *layers),
        Command::GpuCheck { bench } => {
            let progress = Progress::stderr("train");
            let report = gpu_check::run(*bench, Cache::new(kernel_folder()), &mut |text| progress.note(text))?;
            Ok(report.verdict()?.to_string())
        }
        Command::Inspect { checkpoint } => inspect(checkpoint),
    }
}

/// Trains as the rank that `env` says. Only the first rank speaks.
fn train(env: &RankEnv, experiment: &Experiment, model: Option<&str>) -> Result<String> {
    let model = trainer::choose(experiment, model)?;
    let config: TrainConfig = experiment.section(&format!("train.{model}"))?;
    let shutdown = Shutdown::on_signals()?;
    // Ranks meet before the plan is checked.
    let seconds = |seconds: u64| Duration::from_secs(seconds.clamp(1, DistConfig::MOST_SECONDS));
    let limits =
        Limits { first: seconds(config.dist.first_timeout_seconds), later: seconds(config.dist.timeout_seconds) };
    let gpu = match cuda::choose(config.device, env.local_rank)? {
        Device::Cpu => None,
        gpu => Some(Gpu::open(gpu, Cache::new(kernel_folder()))?),
    };
    let mut group = Group::new(rendezvous::join_on(env, gpu.clone(), limits.first, &shutdown)?, limits);
    let progress = if group.is_first() { Progress::stderr("train") } else { Progress::silent() };
    let finished = trainer::run_in(&mut group, env, gpu.as_ref(), experiment, &model, &progress, &shutdown)?;
    if !group.is_first() {
        return Ok(String::new());
    }
    Ok(format!("{}\n{}", finished.summary, finished.summary.places()))
}

/// Where compiled kernels stay from one start to the next: in the user's folder for such things, if there is one.
fn kernel_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("midi-rwkv/kernels"))
}

/// Puts the error where torchrun looks for what went wrong first.
fn tell_agent(file: Option<&String>, error: &Error) {
    let Some(file) = file.filter(|file| !file.is_empty()) else { return };
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let extra: BTreeMap<&str, String> =
        [("py_callstack", error.to_string()), ("timestamp", time.to_string())].into_iter().collect();
    let text = serde_json::json!({ "message": { "message": error.to_string(), "extraInfo": extra } });
    // The error itself is on its way to standard error.
    let _ = fs_err::write(file, text.to_string());
}

/// Says which rank an error is of, where there are several.
fn of_rank(env: &RankEnv, error: Error) -> Error {
    if env.world == 1 { error } else { error.within(format_args!("rank {}", env.rank)) }
}

fn merge(checkpoint: &str, output: &Path) -> Result<String> {
    let progress = Progress::stderr("train");
    let (model, commit) = open_model(checkpoint, Arc::new(Reference), &mut |text| progress.note(text))?;
    let commit = write_merged(&model, &commit, output)?;
    Ok(format!("{} parameters of step {} -> {}", commit.parameters, commit.step, output.display()))
}

/// The tensors of `input`, written to `output`.
fn convert(input: &Path, output: &Path, dtype: Option<Dtype>, layers: Option<usize>) -> Result<String> {
    let tensors = if input.is_dir() { standalone(&input.display().to_string())? } else { format::read(input, layers)? };
    let kind = dtype.map(|dtype| match dtype {
        Dtype::Fp16 => Kind::Half,
        Dtype::Fp32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
    });
    format::write(output, &tensors, kind)?;
    Ok(format!("{} tensors in `{}`", tensors.len(), output.display()))
}

/// What the checkpoint at `uri` trained, as files hold it without its base: adapters are merged into it.
fn standalone(uri: &str) -> Result<Parameters> {
    let progress = Progress::stderr("train");
    let (trained, commit, _) = open_parameters(uri, &mut |text| progress.note(text))?;
    match commit.tuning {
        Some(TuningRecord { mode: Mode::Lora, scale, .. }) => {
            let (model, _) = open_model(uri, Arc::new(Reference), &mut |_| ())?;
            merged(model.parameters(), scale)
        }
        _ => Ok(trained),
    }
}

/// Names, kinds and sizes of a file's tensors.
fn inspect_file(path: &Path) -> Result<String> {
    let tensors = format::read(path, None)?;
    let count: usize = tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
    let mut lines = vec![format!("{:<12} {count} in {} tensors", "parameters", tensors.len())];
    lines.extend(
        tensors.iter().map(|(name, tensor)| format!("{:<12} {name} {:?} {:?}", "tensor", tensor.kind(), tensor.size())),
    );
    Ok(lines.join("\n"))
}

/// Tensors, counts, step and fingerprints of a checkpoint.
fn inspect(checkpoint: &str) -> Result<String> {
    if Path::new(checkpoint).is_file() {
        return inspect_file(Path::new(checkpoint));
    }
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
    if let Some(tuning) = &commit.tuning {
        line("tuned", format!("{:?} on `{}` ({})", tuning.mode, tuning.base, tuning.base_hash))?;
    }
    line("valid loss", commit.valid_loss.map_or_else(|| "not taken".to_owned(), |loss| format!("{loss:.4}")))?;
    if let Some(lowest) = commit.lowest {
        line("best", format!("{:.4} at step {}", lowest.loss, lowest.step))?;
    }
    if let Some(epoch) = commit.lease_epoch {
        line("lease epoch", epoch.to_string())?;
    }
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
