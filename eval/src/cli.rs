//! The command line.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use midi_eval::config::SamplerConfig;
use midi_eval::generate::{Answer, Question, answer};
use midi_eval::job::Eval;
use midi_eval::prompt::{Piece, Prompt, Request};
use midi_eval::rewrite::rewrite;
use midi_eval::splice::{bars_of, section, splice};
use midi_ingest::job::exit::{Error, Result, at_path};
use midi_ingest::job::{Experiment, Progress, Shutdown};
use midi_ingest::sample::Kind;
use midi_ingest::score::{Meter, smf};
use midi_ingest::shard::{MANIFEST, Manifest};
use midi_ingest::store::Store;
use midi_ingest::token::Tokenizer;
use midi_ingest::token::control::Asked;
use midi_train::checkpoint::open_model;
use midi_train::model::Rwkv7;
use midi_train::wkv::{CpuWkv, WkvBackend};

/// Most tokens of a bar in an answer, on average.
const TOKENS_OF_A_BAR: usize = 256;

/// Infills test music with every model under comparison and measures the answers.
#[derive(Debug, Parser)]
#[command(name = "midi-eval", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do all of plan, generate, score and compare
    Run(ExperimentArgs),
    /// Choose the prompts
    Plan(ExperimentArgs),
    /// Let the models answer the prompts
    Generate(WorkerArgs),
    /// Measure the answers
    Score(WorkerArgs),
    /// Compare the models and write the report
    Compare(ExperimentArgs),
    /// Infill bars of one MIDI file
    ///
    /// Only the section's notes are changed: all else is in the file that is written as it was. Where that cannot be done,
    /// the file holds the piece's notes, metres and tempos alone, on the model's grid, and a message says so.
    Infill(InfillArgs),
}

#[derive(Debug, clap::Args)]
struct ExperimentArgs {
    /// The experiment's TOML file
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Set a value of the file, for example `eval.prompts.count=100`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct WorkerArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Number of this worker, from 0
    #[arg(long, value_name = "I", env = "JOB_COMPLETION_INDEX", default_value_t = 0)]
    worker: usize,
    /// How many workers share the models
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
}

#[derive(Debug, clap::Args)]
struct InfillArgs {
    /// The MIDI file
    #[arg(value_name = "IN.mid")]
    input: PathBuf,
    /// The track, counted from 0 among those with notes
    #[arg(long, value_name = "T")]
    track: usize,
    /// The bars, counted from 0: `8:12` are bars 8, 9, 10 and 11
    #[arg(long, value_name = "A:B", required_unless_present = "whole_track")]
    bars: Option<Bars>,
    /// Write the whole track anew, or its bars `--bars`, from the other tracks alone
    #[arg(long, conflicts_with = "context_bars")]
    whole_track: bool,
    /// What it is to be like: `density=8`, `polyphony=1-3`, `durations=quarter+eighth`, with --whole-track also
    /// `repetition=0.8`. Values for several bars stand between commas; a name alone means the original's
    #[arg(long = "control", value_name = "NAME[=VALUE]")]
    controls: Vec<String>,
    /// A model's checkpoint, or the folder of all of them, or a file of weights (.safetensors, .pth, .bin); a path or URL
    #[arg(long, value_name = "DIR_OR_FILE")]
    checkpoint: String,
    /// Its tokenizer; if left out, that of the run, or NAME.tokenizer.json beside NAME.safetensors
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Read bars of one beat as bars of four, as the model's data set did; a run's manifest says so itself
    #[arg(long)]
    regroup: bool,
    /// Bars of context on each side; four times the section if left out
    #[arg(long, value_name = "BARS")]
    context_bars: Option<usize>,
    /// Another number, another answer
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to write the infilled file
    #[arg(short, long, value_name = "OUT.mid")]
    output: PathBuf,
}

/// A half-open range of bars, `A:B`.
#[derive(Clone, Debug)]
struct Bars(Range<usize>);

impl FromStr for Bars {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().ok();
        match text.split_once(':').map(|(start, end)| (number(start), number(end))) {
            Some((Some(start), Some(end))) if start < end => Ok(Bars(start..end)),
            _ => Err("give two numbers, the first below the second, such as 8:12".to_owned()),
        }
    }
}

impl ExperimentArgs {
    fn load(&self) -> Result<Experiment> {
        Experiment::load(&self.config, &self.sets)
    }
}

/// Runs the command and returns what goes to standard output.
pub(crate) fn run(cli: &Cli) -> Result<String> {
    let progress = Progress::stderr("eval");
    match &cli.command {
        Command::Run(experiment) => {
            let experiment = experiment.load()?;
            let shutdown = Shutdown::on_signals()?;
            let eval = Eval::new(&experiment)?;
            eval.generate(0, 1, &progress, &shutdown)?;
            eval.score(0, 1)?;
            Ok(format!("{}\nreport: {}/report.html", eval.compare()?.terminal(), experiment.out))
        }
        Command::Plan(experiment) => {
            let experiment = experiment.load()?;
            let eval = Eval::new(&experiment)?;
            let (chosen, wanted) = (eval.prompts()?.len(), eval.plan().prompts);
            let fewer = if chosen < wanted { format!(" of {wanted}") } else { String::new() };
            Ok(format!("{chosen}{fewer} prompts in {}/eval/prompts", experiment.out))
        }
        Command::Generate(WorkerArgs { experiment, worker, workers }) => {
            let experiment = experiment.load()?;
            Eval::new(&experiment)?.generate(*worker, *workers, &progress, &Shutdown::on_signals()?)?;
            Ok(format!("answers in {}/eval/generations", experiment.out))
        }
        Command::Score(WorkerArgs { experiment, worker, workers }) => {
            let experiment = experiment.load()?;
            Eval::new(&experiment)?.score(*worker, *workers)?;
            Ok(format!("metrics in {}/eval/metrics", experiment.out))
        }
        Command::Compare(experiment) => Ok(Eval::new(&experiment.load()?)?.compare()?.terminal()),
        Command::Infill(args) => infill(args, &progress),
    }
}

fn infill(args: &InfillArgs, progress: &Progress) -> Result<String> {
    let weights = Path::new(&args.checkpoint);
    let near = [
        weights.join("../../ingest/tokenizer.json"),
        weights.join("../../../ingest/tokenizer.json"),
        weights.with_extension("tokenizer.json"),
    ];
    let found = args.tokenizer.clone().or_else(|| near.into_iter().find(|path| path.is_file()));
    let found = found.ok_or_else(|| {
        Error::mismatch(format!("there is no tokenizer near the checkpoint `{}`", args.checkpoint))
            .hint("give the one that the model was trained with: `--tokenizer FILE`")
    })?;
    let tokenizer = Tokenizer::load(&found)?;
    let model = model(args, &tokenizer, progress)?;

    let meter = if args.regroup { Meter::Regroup } else { meter_beside(&found)? };
    let shown = args.input.display();
    let bytes = fs_err::read(&args.input).map_err(|e| Error::data("cannot read the MIDI file").because(e))?;
    let unreadable = |e| Error::data(format!("`{shown}` cannot be infilled")).because(e);
    let piece = Piece::read_as(&bytes, meter).map_err(unreadable)?;
    let Some(track) = piece.tracks.get(args.track).filter(|_| args.track < piece.score.tracks.len()) else {
        return Err(Error::data(format!("`{shown}` has no track {}", args.track))
            .hint(format!("it has {} tracks with notes, counted from 0", piece.score.tracks.len())));
    };
    let kind = if args.whole_track { Kind::Track } else { Kind::Bars };
    let (owner, count) = match kind {
        Kind::Bars => (format!("track {} of `{shown}`", args.track), track.bars.len()),
        Kind::Track => (format!("`{shown}`"), piece.bars()),
    };
    let bars = args.bars.as_ref().map_or(0..count, |Bars(bars)| bars.clone());
    if bars.end > count {
        return Err(Error::data(format!("{owner} has no bar {}", bars.end - 1))
            .hint(format!("it has {count} bars, counted from 0")));
    }
    let prompt = prompt(args, kind, bars.clone(), &piece, &tokenizer)?;
    let question = Question { id: shown.to_string(), prompt, kind, bars: bars.len() };
    let sampler = sampler(bars.len());
    let answers = answer(&model, &tokenizer, &[question], &sampler, args.seed, 1, &mut |_, _| Ok(()))?;
    let Some(answer) = answers.first() else { return Err(Error::bug("a question has no answer")) };
    let fill = bars_of(&tokenizer.bpe().decode(&answer.ids));
    let written = written(answer, fill.len(), &bars)?;
    let score = splice(&piece, args.track, written.clone(), &fill);
    let within = rewrite(&bytes, meter, args.track, &section(&piece, &written), &score);
    let (file, alone) = within.map_or_else(|why| (smf::write(&score), Some(why)), |file| (file, None));
    fs_err::write(&args.output, file).map_err(at_path("write", &args.output))?;
    let mut said =
        format!("bars {}:{} of track {} -> {}", written.start, written.end, args.track, args.output.display());
    if let Some(why) = alone {
        said += &format!("\nthe file holds notes, metres and tempos alone, on the model's grid, since {why}");
    }
    if written.end < bars.end {
        said += &format!("\nbars {}:{} are as they were: the answer stopped before them", written.end, bars.end);
        said += &format!("; ask for them with `--bars {}:{}`", written.end, bars.end);
    }
    Ok(said)
}

/// How tokens are drawn for so many bars, with room for dense ones.
fn sampler(bars: usize) -> SamplerConfig {
    let usual = SamplerConfig::default();
    SamplerConfig { max_tokens: usual.max_tokens.max(bars.saturating_mul(TOKENS_OF_A_BAR)), ..usual }
}

/// Which of `bars` an answer of `reached` bars is for. One that was cut off says nothing about the bars after its last.
///
/// # Errors
/// It has no bar at all: exit code 65.
fn written(answer: &Answer, reached: usize, bars: &Range<usize>) -> Result<Range<usize>> {
    match answer.stop {
        "max-tokens" | "nothing-allowed" if reached == 0 => {
            Err(Error::data("the model wrote no bar").hint("try another `--seed`"))
        }
        "max-tokens" | "nothing-allowed" => Ok(bars.start..bars.end.min(bars.start + reached)),
        _ => Ok(bars.clone()),
    }
}

/// The model that answers, after checking that it speaks the tokenizer's vocabulary.
fn model(args: &InfillArgs, tokenizer: &Tokenizer, progress: &Progress) -> Result<Rwkv7> {
    let backend: Arc<dyn WkvBackend> = Arc::new(CpuWkv::new());
    let (model, commit) = open_model(&args.checkpoint, backend, &mut |text| progress.note(text))?;
    commit.expect_vocabulary(tokenizer.fingerprint(), tokenizer.size())?;
    Ok(model)
}

/// What the model is asked.
fn prompt(args: &InfillArgs, kind: Kind, bars: Range<usize>, piece: &Piece, tokenizer: &Tokenizer) -> Result<Prompt> {
    let asked = args.controls.iter().map(|text| Asked::parse(text, kind == Kind::Bars)).collect::<Result<_>>()?;
    let controls = Asked::in_order(asked, piece.controls(kind, args.track), bars.len())?;
    if !controls.is_empty() && !tokenizer.has_controls() {
        return Err(Error::mismatch("the tokenizer has no ids for attribute controls").hint("leave out `--control`"));
    }
    let context = args.context_bars.unwrap_or(bars.len().saturating_mul(4));
    piece.prompt(tokenizer, &Request { kind, track: args.track, bars, context, controls })
}

/// The meter of the data set that a tokenizer belongs to, as the manifest beside it says; as written without one.
fn meter_beside(tokenizer: &Path) -> Result<Meter> {
    if !tokenizer.with_file_name(MANIFEST).is_file() {
        return Ok(Meter::AsWritten);
    }
    let folder = tokenizer.parent().unwrap_or(Path::new("")).to_string_lossy();
    Ok(Manifest::load(&Store::open(if folder.is_empty() { "." } else { &folder })?)?.meter)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use midi_ingest::job::Exit;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let infill =
            ["midi-eval", "infill", "a.mid", "--track", "1", "--bars", "8:12", "--checkpoint", "d", "-o", "b.mid"];
        assert!(Cli::try_parse_from(infill).is_ok());
        let track = ["midi-eval", "infill", "a.mid", "--track", "1", "--checkpoint", "d", "-o", "b.mid"];
        assert!(Cli::try_parse_from(track).is_err(), "bars, or the whole track");
        let more = ["--whole-track", "--control", "density=2-9", "--control", "repetition"];
        assert!(Cli::try_parse_from([track.as_slice(), more.as_slice()].concat()).is_ok());
        assert!("12:8".parse::<Bars>().is_err());
        assert!("8".parse::<Bars>().is_err());
    }

    #[test]
    fn an_answer_that_was_cut_off_leaves_the_bars_that_it_did_not_reach() {
        let answer = |stop| Answer { ids: Vec::new(), stop };
        let written = |stop, reached| written(&answer(stop), reached, &(8..64)).map_err(|error| error.exit());
        assert_eq!(written("max-tokens", 5), Ok(8..13));
        assert_eq!(written("max-tokens", 56), Ok(8..64));
        assert_eq!(written("nothing-allowed", 1), Ok(8..9));
        assert_eq!(written("max-tokens", 0), Err(Exit::BadData));
        assert_eq!(written("track-end", 5), Ok(8..64), "a track may end before the others do");
        assert_eq!((sampler(1).max_tokens, sampler(56).max_tokens), (512, 56 * 256));
    }
}
