//! Files that no musician wrote go through the whole job: each becomes a row with the verdict that stands in the
//! table of `HOSTILE.md`, beside what symusic 0.5.0 says of the same bytes.
//!
//! With `MIDI_HOSTILE=FOLDER` the files are written there, for `ingest/bench/symusic_verdicts.py` to judge; with
//! `MIDI_HOSTILE_TABLE=write` the table is written anew.

#[path = "support/hostile.rs"]
mod hostile;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use midi_ingest::job::{Experiment, Progress, Shutdown};
use midi_ingest::pipeline::{Ingest, Outcome, Worker};
use midi_ingest::score::smf;
use midi_ingest::shard::{Manifest, Status, read_songs};
use midi_ingest::store::Store;
use midi_ingest::token::{Grid, Learner};

/// Ingests the folder `music` as it stands. Every sample that can is one of a track, with controls.
fn ingest(music: &Path, out: &Path, limit: &str, tokenizer: &str) -> Manifest {
    let text = format!(
        "out = '{}'\n[ingest]\nmax-bad-fraction = 1.0\n{limit}\n[ingest.source]\nkind = 'folder'\nuri = '{}'\n\
         [ingest.tokenizer]\n{tokenizer}\n[ingest.filter]\nmin-bars = 0\nmin-notes = 0\n\
         [ingest.sample]\ntrack-infill = 1.0\ncontrols = 1.0\n",
        out.display(),
        music.display()
    );
    let experiment = Experiment::parse(Path::new("hostile.toml"), &text, &[]).expect("parses");
    let ingest = Ingest::new(&experiment).expect("opens");
    match ingest.run(Worker::ONLY, &Progress::silent(), &Shutdown::manual()).expect("no file ends the work") {
        Outcome::Complete(manifest) => *manifest,
        Outcome::Partial { .. } => panic!("one worker does all units"),
    }
}

/// The verdict on every path: `accepted`, or stage and reason.
fn verdicts(out: &Path, manifest: &Manifest) -> BTreeMap<String, String> {
    let store = Store::open(&format!("{}/ingest", out.display())).expect("opens");
    let songs = manifest
        .songs
        .iter()
        .flat_map(|table| read_songs(store.read(&table.path).expect("reads"), &table.path).expect("songs"));
    let verdict = |reason: &str| reason.split(": ").take(2).collect::<Vec<_>>().join(": ");
    let of = |song: midi_ingest::shard::Song| {
        let reason = song.reason.filter(|_| song.status == Status::Rejected);
        (song.path, reason.map_or("accepted".to_owned(), |reason| verdict(&reason)))
    };
    songs.map(of).collect()
}

/// A name as a file name.
fn file_name(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    format!("{}.mid", plain.collect::<String>())
}

fn package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_hostile_file_gets_the_verdict_of_the_table() {
    let files = hostile::files();
    assert!(files.len() >= 60, "{}", files.len());
    let kept = std::env::var_os("MIDI_HOSTILE").map(PathBuf::from);
    let music = tempfile::tempdir().expect("folder");
    for folder in kept.iter().map(PathBuf::as_path).chain([music.path()]) {
        fs_err::create_dir_all(folder).expect("makes");
        for file in &files {
            fs_err::write(folder.join(file_name(file.name)), &file.bytes).expect("writes");
        }
    }
    let out = tempfile::tempdir().expect("folder");
    let manifest = ingest(music.path(), out.path(), "", "kind = 'learn'\nvocabulary = 700");
    let verdicts = verdicts(out.path(), &manifest);
    assert_eq!(verdicts.len(), files.len(), "no two names are one file");
    let wrong: Vec<String> = files
        .iter()
        .filter(|file| verdicts[&file_name(file.name)] != file.verdict)
        .map(|file| format!("{}: {} and not {}", file.name, verdicts[&file_name(file.name)], file.verdict))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let counted: u64 =
        manifest.counts.reasons.iter().filter(|(key, _)| !key.starts_with("filter")).map(|(_, n)| n).sum();
    assert_eq!(counted, manifest.counts.rejected, "the manifest counts each by its reason");
}

#[test]
fn the_table_in_the_documentation_is_true() {
    let symusic = fs_err::read_to_string(package("tests/fixtures/hostile/symusic.json")).expect("reads");
    let symusic: BTreeMap<String, String> = serde_json::from_str(&symusic).expect("parses");
    let mut table = "| file | bytes | symusic 0.5.0 | ours | why another |\n|---|---|---|---|---|\n".to_owned();
    for file in hostile::files() {
        let name = file_name(file.name);
        let theirs = symusic.get(&name).unwrap_or_else(|| panic!("symusic was not asked about {name}"));
        let limit = file.verdict.contains(": max-") || file.verdict.contains("too-many-bars");
        let same = (theirs == "accepts") == (file.verdict == "accepted");
        let parity = (theirs == "accepts") == smf::read(&file.bytes).is_ok();
        assert!(parity || !file.because.is_empty(), "{}: symusic {theirs}, and nothing says why we do not", file.name);
        assert!(same || limit || !file.because.is_empty(), "{}: symusic {theirs}, ours {}", file.name, file.verdict);
        let why = match (same, limit) {
            (true, _) => "",
            (false, true) => "a limit",
            (false, false) => file.because,
        };
        let ours = file.verdict.replace("parse: ", "rejected: ").replace("tokenize: ", "rejected: ");
        writeln!(table, "| {} | {} | {theirs} | {ours} | {why} |", file.name, file.bytes.len()).expect("a string");
    }
    let path = package("HOSTILE.md");
    let page = fs_err::read_to_string(&path).expect("reads");
    let (before, after) = page.split_once("<!-- table -->\n").expect("the table's place");
    let (written, rest) = after.split_once("<!-- end -->").expect("the table's end");
    if std::env::var("MIDI_HOSTILE_TABLE").as_deref() == Ok("write") {
        fs_err::write(&path, format!("{before}<!-- table -->\n{table}<!-- end -->{rest}")).expect("writes");
    } else {
        assert_eq!(written, table, "run again with MIDI_HOSTILE_TABLE=write");
    }
}

#[test]
fn every_limit_is_a_reason_of_its_own() {
    let music = tempfile::tempdir().expect("folder");
    let song = smf::write(&midi_ingest::source::compose(1, 0));
    fs_err::write(music.path().join("song.mid"), &song).expect("writes");
    let mut learner = Learner::default();
    let grid = smf::read(&song).and_then(|score| Grid::of(&score)).expect("a grid");
    grid.encode().expect("encodes").iter().for_each(|track| learner.add(track));
    let vocabulary = music.path().join("tokenizer.json");
    learner.learn(700).and_then(|tokenizer| tokenizer.save(&vocabulary)).expect("learns");
    let tokenizer = format!("kind = 'file'\npath = '{}'", vocabulary.display());
    let verdict = |limit: &str| {
        let out = tempfile::tempdir().expect("folder");
        let manifest = ingest(music.path(), out.path(), &format!("limits.{limit}"), &tokenizer);
        let verdict = verdicts(out.path(), &manifest)["song.mid"].clone();
        assert_eq!(manifest.counts.reasons.get(&verdict), Some(&1), "{limit}: {:?}", manifest.counts.reasons);
        verdict
    };
    for (limit, expected) in [
        ("max-file-bytes = 100", "read: max-file-bytes"),
        ("max-tracks = 1", "parse: max-tracks"),
        ("max-events = 100", "parse: max-events"),
        ("max-notes = 10", "parse: max-notes"),
        ("max-ticks = 100", "parse: max-ticks"),
        ("max-seconds = 1", "parse: max-seconds"),
        ("max-meta-bytes = 5", "parse: max-meta-bytes"),
        ("max-metres = 0", "parse: max-metres"),
        ("max-tokens-per-piece = 100", "tokenize: max-tokens-per-piece"),
    ] {
        assert_eq!(verdict(limit), expected);
    }
}
