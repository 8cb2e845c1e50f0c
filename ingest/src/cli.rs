//! The command line.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use midi_ingest::config::TokenizerConfig;
use midi_ingest::inspect::{Look, Window, inspect, midi_of, svg, verify};
use midi_ingest::job::exit::{Error, Exit, Result, at_path};
use midi_ingest::job::{Experiment, Progress, Shutdown};
use midi_ingest::pipeline::{Ingest, Worker};
use midi_ingest::reject::{Reject, Stage};
use midi_ingest::score::bars::{Until, bar_ticks, beat_ticks};
use midi_ingest::score::smf;
use midi_ingest::store::{Access, Store, sha256_hex};
use midi_ingest::token::control::{Compat, Control};
use midi_ingest::token::vocabulary::Token;
use midi_ingest::token::{Grid, Tokenizer, decode};
use serde_json::{Value, json};

/// Streams MIDI data sets into tokenized Arrow shards.
#[derive(Debug, Parser)]
#[command(name = "midi-ingest", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ingest the experiment's source, or go on where an earlier run stopped
    Run {
        #[command(flatten)]
        experiment: ExperimentArgs,
        /// Number of this worker, from 0
        #[arg(long, value_name = "I", env = "JOB_COMPLETION_INDEX", default_value_t = 0)]
        worker: usize,
        /// How many workers share the units
        #[arg(long, value_name = "N", default_value_t = 1)]
        workers: usize,
    },
    /// Print what `run` would do
    Plan {
        #[command(flatten)]
        experiment: ExperimentArgs,
    },
    /// Learn a vocabulary from the experiment's training songs and write it as MidiTok's tokenizer file
    Vocab {
        #[command(flatten)]
        experiment: ExperimentArgs,
        /// Tokens in all, the 663 base tokens included
        #[arg(long, value_name = "TOKENS", default_value_t = 4000)]
        size: usize,
        /// At most this many songs are read
        #[arg(long, value_name = "SONGS", default_value_t = 2000)]
        songs: usize,
        /// Where to write it
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Print the tokens of MIDI files
    Tokenize {
        /// A tokenizer file; without one there are base tokens only
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,
        /// One JSON object a file and line instead of text
        #[arg(long)]
        json: bool,
        /// With --json: the same with every attribute control, by the published rules
        #[arg(long, requires = "json")]
        controls: bool,
        /// MIDI files
        #[arg(value_name = "MIDI", required = true)]
        files: Vec<PathBuf>,
    },
    /// Show what a file holds: a shard, a songs table, a manifest or a unit's record as text, music as a piano roll
    Inspect {
        /// A .arrow, .parquet, .json, .mid or .midi file, or a run's folder
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// One row of a shard (as tokens) or of a songs table (with its music), from 0
        #[arg(long, value_name = "I")]
        row: Option<usize>,
        /// The tokenizer of a shard; the one of its data set if left out
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,
        /// First bar of a piano roll, from 1
        #[arg(long, value_name = "BAR", default_value_t = Window::default().from)]
        from: usize,
        /// Bars of a piano roll
        #[arg(long, value_name = "BARS", default_value_t = Window::default().bars)]
        bars: usize,
        /// Draw the whole piece into an SVG file instead
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Check every file that the records of a data set name: that it is there, its size and its hash
    Verify {
        /// The folder or URL of a run, or of its `ingest` folder
        #[arg(value_name = "OUT")]
        out: String,
    },
    /// Write the MIDI files of JSON lines as `tokenize --json` prints them
    Detokenize {
        /// The tokenizer of the lines; needed where they hold byte-pair ids only
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,
        /// JSON lines; `-` reads standard input
        #[arg(value_name = "LINES")]
        input: PathBuf,
        /// The folder to write to; files are named after the line's `file`, and its number where two are alike
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct ExperimentArgs {
    /// The experiment's TOML file
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Set a value of the file, for example `ingest.source.uri=/data/pop909.tar.gz`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl ExperimentArgs {
    fn load(&self) -> Result<Experiment> {
        Experiment::load(&self.config, &self.sets)
    }
}

/// Runs the command; what it has to say goes to `out`.
///
/// # Errors
/// Those of the command; or `out` cannot take what there is to say (74).
pub(crate) fn run(cli: &Cli, out: &mut dyn Write) -> Result<Exit> {
    let exit = execute(&cli.command, out)?;
    written(out.flush())?;
    Ok(exit)
}

fn execute(command: &Command, out: &mut dyn Write) -> Result<Exit> {
    match command {
        Command::Run { experiment, worker, workers } => {
            let experiment = experiment.load()?;
            let shutdown = Shutdown::on_signals()?;
            let worker = Worker { index: *worker, of: *workers };
            let outcome =
                Ingest::with_access(&experiment, &access())?.run(worker, &Progress::stderr("ingest"), &shutdown)?;
            say(out, &outcome)
        }
        Command::Plan { experiment } => say(out, Ingest::with_access(&experiment.load()?, &access())?.plan()),
        Command::Vocab { experiment, size, songs, output } => {
            let wanted = TokenizerConfig::Learn { vocabulary: *size, songs: *songs };
            let experiment = experiment.load()?.with_section("ingest.tokenizer", &wanted)?;
            let shutdown = Shutdown::on_signals()?;
            has_folder(output)?;
            let ingest = Ingest::with_access(&experiment, &access())?;
            let tokenizer = ingest.vocabulary(*size, *songs, &Progress::stderr("vocab"), &shutdown)?;
            tokenizer.save(output)?;
            say(out, &format!("{} tokens, fingerprint {}", tokenizer.size(), tokenizer.fingerprint()))
        }
        Command::Tokenize { tokenizer, json, controls, files } => {
            let tokenizer = load(tokenizer.as_deref())?;
            let mut failed = 0;
            for path in files {
                let record = tokenize_file(path, tokenizer.as_ref(), *controls);
                failed += usize::from(record.get("error").is_some());
                if *json {
                    say(out, &record)?
                } else {
                    say(out, &text_of(&record))?
                };
            }
            Ok(if failed > 0 { Exit::BadData } else { Exit::Done })
        }
        Command::Inspect { path, row, tokenizer, from, bars, svg: None } => {
            let window = Window { from: *from, bars: *bars };
            let text = inspect(path, &Look { row: *row, tokenizer: tokenizer.clone(), window })?;
            say(out, &text.trim_end())
        }
        Command::Inspect { path, row, svg: Some(file), .. } => {
            let cannot = |e: Reject| Error::data(format!("cannot draw `{}`", path.display())).because(e);
            let drawing = smf::read(&midi_of(path, *row)?).and_then(|score| svg(&score)).map_err(cannot)?;
            fs_err::write(file, drawing).map_err(at_path("write", file))?;
            say(out, &file.display())
        }
        Command::Verify { out: place } => {
            let store = Store::open_existing(place)?.ok_or_else(|| {
                Error::data(format!("there is no folder `{place}`"))
                    .hint("give a run, such as `runs/demo`, or the folder `ingest` in it")
            })?;
            let verified = verify(&store)?;
            say(out, &verified)?;
            Ok(if verified.mismatches.is_empty() { Exit::Done } else { Exit::BadData })
        }
        Command::Detokenize { tokenizer, input, output } => {
            let tokenizer = load(tokenizer.as_deref())?;
            detokenize(input, output, tokenizer.as_ref(), out)
        }
    }
}

/// With what rights sources are read: this is the one place that looks the token up.
fn access() -> Access {
    Access::of(|name| std::env::var(name).ok())
}

fn say(out: &mut dyn Write, text: &dyn std::fmt::Display) -> Result<Exit> {
    written(writeln!(out, "{text}"))?;
    Ok(Exit::Done)
}

/// Output that is lost is an error (74), unless the reader closed the pipe: it has seen what it wanted.
fn written(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::storage("cannot write to standard output", e)),
        _ => Ok(()),
    }
}

/// # Errors
/// The folder that `path` is to be in is not there (74): better said before the work than after it.
fn has_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match folder.is_dir() {
        true => Ok(()),
        false => Err(Error::new(Exit::Storage, format!("cannot write `{}`: its folder is not there", path.display()))
            .hint(format!("make the folder `{}` first", folder.display()))),
    }
}

fn load(path: Option<&Path>) -> Result<Option<Tokenizer>> {
    path.map(Tokenizer::load).transpose()
}

/// The record of the file at `path`, which may not be there.
fn tokenize_file(path: &Path, tokenizer: Option<&Tokenizer>, controls: bool) -> Value {
    let file = path.to_string_lossy();
    match std::fs::read(path) {
        Ok(bytes) => tokenize(&file, &bytes, tokenizer, controls),
        Err(e) => json!({"file": file, "error": Reject::new(Stage::Read, "unreadable", e.to_string()).to_string()}),
    }
}

/// The record of one file: how it was read and its tokens, or `error`.
fn tokenize(file: &str, bytes: &[u8], tokenizer: Option<&Tokenizer>, controls: bool) -> Value {
    let mut record = json!({"file": file, "sha256": sha256_hex(bytes)});
    if let Err(reject) = fill(&mut record, bytes, tokenizer, controls) {
        record["error"] = reject.to_string().into();
    }
    record
}

fn fill(record: &mut Value, bytes: &[u8], tokenizer: Option<&Tokenizer>, controls: bool) -> Result<(), Reject> {
    let source = smf::read(bytes)?;
    record["src_tpq"] = source.ticks_per_quarter.into();
    record["src_tracks"] =
        source.tracks.iter().map(|track| json!([track.program, track.is_drum, track.notes.len()])).collect();
    let grid = Grid::of(&source)?;
    record["tpq"] = grid.score.ticks_per_quarter.into();
    record["bar_ticks"] = json!(grid.bars);
    record["bar_ticks_end"] = json!(bar_ticks(&grid.score, Until::End)?);
    record["n_beats"] = beat_ticks(&grid.score, Until::LastOnset)?.len().into();
    let encoded = grid.encode()?;
    let tracks = encoded.iter().enumerate().map(|(index, tokens)| {
        let track = grid.score.tracks.get(index);
        let names = tokens.ids.iter().filter_map(|id| Token::of(*id)).map(|token| token.to_string());
        let mut value = json!({
            "program": track.map(|track| track.program_or_drums()),
            "is_drum": track.map(|track| track.is_drum),
            "base": tokens.ids,
            "tokens": names.collect::<Vec<_>>(),
            "groups": tokens.groups,
        });
        if let Some(tokenizer) = tokenizer {
            value["bpe"] = json!(tokenizer.encode(tokens));
        }
        value
    });
    record["tracks"] = tracks.collect();
    if controls {
        add_controls(record, &grid, tokenizer)?;
    }
    Ok(())
}

/// All controls on all bars of every track, and those of training on four bars from a third of the track on.
fn add_controls(record: &mut Value, grid: &Grid, tokenizer: Option<&Tokenizer>) -> Result<(), Reject> {
    let (mut tracks, mut windows) = (Vec::new(), Vec::new());
    let all: Vec<usize> = (0..grid.bars.len()).collect();
    for (index, track) in grid.score.tracks.iter().enumerate() {
        let controls = grid.controls(index, &Control::ALL, &all, Compat::MidiRwkv)?;
        let tokens = grid.encode_track(index, &controls)?;
        let mut value = json!({"base": tokens.ids, "groups": tokens.groups});
        if let Some(tokenizer) = tokenizer {
            value["bpe"] = json!(tokenizer.encode(&tokens));
        }
        tracks.push(value);
        let last = track.notes.last().map_or(0, |note| note.tick);
        let own = grid.bars.iter().filter(|bar| **bar <= last).count();
        let bars: Vec<usize> = (own / 3..own.min(own / 3 + 4)).collect();
        let wanted = Control::of_bars(track.is_drum);
        let numbers = wanted.iter().filter_map(|control| Control::ALL.iter().position(|other| other == control));
        let numbers: Vec<usize> = numbers.collect();
        let found = grid.controls(index, wanted, &bars, Compat::MidiRwkv)?.bars;
        let events = found.iter().map(|(tick, id)| json!([tick, Token::of(*id).map(|token| token.to_string())]));
        let events: Vec<Value> = events.collect();
        windows.push(json!({"track": index, "bars": bars, "acs": numbers, "events": events}));
    }
    record["ac_tracks"] = tracks.into();
    record["ac_window"] = windows.into();
    Ok(())
}

/// A record for reading: a line a track and bar.
fn text_of(record: &Value) -> String {
    let mut text = record["file"].as_str().unwrap_or_default().to_owned();
    if let Some(error) = record["error"].as_str() {
        return format!("{text}: {error}");
    }
    for track in record["tracks"].as_array().into_iter().flatten() {
        for token in track["tokens"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let breaks = matches!(token, "Track_Start" | "Bar_None" | "Track_End");
            text.push(if breaks { '\n' } else { ' ' });
            text.push_str(token);
        }
    }
    text
}

/// Writes the music of each line, and under a name of its own. A line that tells of an error has none.
fn detokenize(input: &Path, output: &Path, tokenizer: Option<&Tokenizer>, out: &mut dyn Write) -> Result<Exit> {
    let reader: Box<dyn BufRead> = if input == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(fs_err::File::open(input).map_err(at_path("open", input))?))
    };
    fs_err::create_dir_all(output).map_err(at_path("make the folder", output))?;
    let (mut names, mut failed) = (HashSet::new(), 0);
    for (number, line) in reader.lines().enumerate() {
        let place = || format!("`{}` line {}", input.display(), number + 1);
        let line = line.map_err(|e| Error::storage(format!("cannot read {}", place()), e))?;
        let record: Value =
            serde_json::from_str(&line).map_err(|e| Error::data(format!("{} is not JSON", place())).because(e))?;
        if let Some(error) = record["error"].as_str() {
            say(out, &format!("{}: {error}", place()))?;
            failed += 1;
            continue;
        }
        let base = base_ids(&record, tokenizer).map_err(|e| Error::data(place()).because(e))?;
        let name = record["file"].as_str().and_then(|file| Path::new(file).file_stem()).map(|stem| stem.to_owned());
        let mut name = name.map_or_else(|| format!("{number:05}"), |stem| stem.to_string_lossy().into_owned());
        while !names.insert(name.clone()) {
            name = format!("{name}-{number:05}");
        }
        let path = output.join(format!("{name}.mid"));
        fs_err::write(&path, smf::write(&decode(&base))).map_err(at_path("write", &path))?;
        say(out, &path.display())?;
    }
    Ok(if failed > 0 { Exit::BadData } else { Exit::Done })
}

/// The base ids of a record's tracks, one after another.
fn base_ids(record: &Value, tokenizer: Option<&Tokenizer>) -> Result<Vec<u16>, String> {
    let ids = |value: &Value| serde_json::from_value::<Vec<u16>>(value.clone()).ok();
    let tracks = record["tracks"].as_array().ok_or("it has no `tracks`")?;
    let mut base = Vec::new();
    for track in tracks {
        match (ids(&track["base"]), ids(&track["bpe"]), tokenizer) {
            (Some(ids), _, _) => base.extend(ids),
            (None, Some(ids), Some(tokenizer)) => base.extend(tokenizer.bpe().decode(&ids)),
            (None, Some(_), None) => return Err("it has byte-pair ids only; give their `--tokenizer`".to_owned()),
            (None, None, _) => return Err("a track has neither `base` nor `bpe`".to_owned()),
        }
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let run = ["midi-ingest", "run", "c.toml", "--set", "a=1", "--worker", "1", "--workers", "2"];
        assert!(Cli::try_parse_from(run).is_ok());
        assert!(Cli::try_parse_from(["midi-ingest", "tokenize"]).is_err());
    }

    #[test]
    fn what_was_tokenized_comes_back_as_music() {
        let score = midi_ingest::source::compose(1, 0);
        let record = tokenize("a/song.mid", &smf::write(&score), None, true);
        assert!(record.get("error").is_none(), "{record}");
        let folder = tempfile::tempdir().expect("folder");
        let lines = folder.path().join("lines.jsonl");
        fs_err::write(&lines, format!("{record}\n")).expect("writes");
        let mut out = Vec::new();
        detokenize(&lines, folder.path(), None, &mut out).expect("detokenizes");
        let back = smf::read(&fs_err::read(folder.path().join("song.mid")).expect("written")).expect("parses");
        assert_eq!(back.note_count(), score.note_count());
    }

    #[test]
    fn lines_of_one_name_are_files_of_their_own_and_errors_are_passed_over() {
        let song =
            |file: &str, index| tokenize(file, &smf::write(&midi_ingest::source::compose(1, index)), None, false);
        let folder = tempfile::tempdir().expect("folder");
        let lines = [
            song("a/song.mid", 0),
            tokenize("bad.mid", b"not music", None, false),
            tokenize_file(&folder.path().join("none.mid"), None, false),
            song("c/song-00004.mid", 2),
            song("b/song.mid", 1),
        ];
        assert_eq!(
            lines[2]["error"].as_str().and_then(|error| error.split(" (").next()),
            Some("read: unreadable: No such file or directory")
        );
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let input = folder.path().join("lines.jsonl");
        fs_err::write(&input, text).expect("writes");
        let exit = detokenize(&input, folder.path(), None, &mut Vec::new()).expect("goes on");
        assert_eq!(exit, Exit::BadData);
        for (name, index) in [("song.mid", 0), ("song-00004.mid", 2), ("song-00004-00004.mid", 1)] {
            let back = smf::read(&fs_err::read(folder.path().join(name)).expect("written")).expect("parses");
            assert_eq!(back.note_count(), midi_ingest::source::compose(1, index).note_count(), "{name}");
        }
    }

    /// An output that fails, at once or when it is flushed.
    struct Failing(ErrorKind, bool);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.1 { Ok(bytes.len()) } else { Err(self.0.into()) }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn output_that_is_lost_is_an_error_and_a_closed_pipe_is_none() {
        let folder = tempfile::tempdir().expect("folder");
        let song = folder.path().join("song.mid");
        fs_err::write(&song, smf::write(&midi_ingest::source::compose(1, 0))).expect("writes");
        let cli = Cli::parse_from(["midi-ingest", "tokenize", song.to_str().expect("utf-8")]);
        for late in [false, true] {
            let error = run(&cli, &mut Failing(ErrorKind::StorageFull, late)).expect_err("the disk is full");
            assert_eq!(error.exit(), Exit::Storage);
            assert_eq!(run(&cli, &mut Failing(ErrorKind::BrokenPipe, late)).expect("seen enough"), Exit::Done);
        }
    }

    #[test]
    fn a_vocabulary_is_learned_whatever_tokenizer_the_experiment_names() {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("utf-8").to_owned();
        let text =
            "[ingest.source]\nkind = 'synth'\nsongs = 8\n[ingest.tokenizer]\nkind = 'file'\npath = 'none.json'\n";
        fs_err::write(path("x.toml"), text).expect("writes");
        let vocab = |output: &str| {
            let config = path("x.toml");
            let arguments = ["midi-ingest", "vocab", &config, "--size", "700", "--songs", "4", "-o", output];
            run(&Cli::parse_from(arguments), &mut Vec::new())
        };
        let error = vocab(&path("nowhere/t.json")).expect_err("no folder");
        assert_eq!(error.exit(), Exit::Storage);
        assert!(error.to_string().contains("its folder is not there"), "{error}");
        vocab(&path("t.json")).expect("learns");
        assert_eq!(Tokenizer::load(Path::new(&path("t.json"))).expect("loads").size(), 700);
    }

    #[test]
    fn a_broken_file_is_a_record_with_its_error() {
        let record = tokenize("x.mid", b"not music", None, false);
        assert_eq!(record["error"], "parse: no-header: shorter than a header");
    }
}
