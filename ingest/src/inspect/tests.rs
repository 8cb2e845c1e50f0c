//! What people see, held by snapshots.

use super::*;
use crate::job::{Experiment, Progress, Shutdown};
use crate::pipeline::{Ingest, Worker};
use crate::score::{Note, Score, TimeSignature, Track};
use crate::store::Store;

/// A small data set, in a folder of its own.
fn data_set() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let text = format!(
        "seed = 5\nout = '{}'\n[ingest]\nfiles-per-unit = 4\n[ingest.source]\nkind = 'synth'\nsongs = 8\n\
         [ingest.tokenizer]\nkind = 'learn'\nvocabulary = 700\n[ingest.split]\nvalid = 0.2\ntest = 0.3\n\
         [ingest.sample]\ncontext-tokens = 256\npasses = 2\n",
        folder.path().display()
    );
    let experiment = Experiment::parse(Path::new("test.toml"), &text, &[]).expect("parses");
    let ingest = Ingest::new(&experiment).expect("opens");
    ingest.run(Worker::ONLY, &Progress::silent(), &Shutdown::manual()).expect("runs");
    folder
}

/// Two tracks of two bars: a scale in steps of an eighth over a held fifth, and drums.
fn scale() -> Score {
    let note = |tick, duration, pitch| Note { tick, duration, pitch, velocity: 80 };
    let mut notes: Vec<Note> = (0..8u8).map(|k| note(i64::from(k) * 240, 240, 60 + 2 * k)).collect();
    notes.extend([note(1920, 1440, 48), note(1920, 1440, 55)]);
    let drums = (0..8).map(|k| note(k * 480, 60, if k % 2 == 0 { 36 } else { 38 })).collect();
    Score {
        ticks_per_quarter: 480,
        tracks: vec![
            Track { program: 3, notes, ..Track::default() },
            Track { is_drum: true, notes: drums, ..Track::default() },
        ],
        time_signatures: vec![TimeSignature { tick: 0, numerator: 4, denominator: 4 }],
        ..Score::default()
    }
}

#[test]
fn a_score_is_drawn_in_half_blocks_and_as_a_drawing() {
    let whole = roll(&scale(), Window::default()).expect("a roll");
    let second = roll(&scale(), Window { from: 2, bars: 1 }).expect("a roll");
    insta::assert_snapshot!("rolls", format!("{whole}\n---\n{second}"));
    insta::assert_snapshot!("drawing", svg(&scale()).expect("a drawing"));
    let none = roll(&scale(), Window { from: 99, bars: 1 }).expect("a roll");
    assert_eq!(none.lines().count(), 1, "{none}");
    let all = roll(&scale(), Window { from: 2, bars: usize::MAX }).expect("a roll");
    assert_eq!(all, second, "there are no more");
}

#[test]
fn every_file_of_a_data_set_can_be_shown() {
    let folder = data_set();
    let root = folder.path().join("ingest");
    let show = |name: &str, row: Option<usize>| {
        let look = Look { row, window: Window { from: 1, bars: 2 }, ..Look::default() };
        inspect(&root.join(name), &look).expect("shows")
    };
    let manifest = show(MANIFEST, None);
    assert_eq!(inspect(folder.path(), &Look::default()).expect("shows"), manifest, "a folder is its manifest");
    let parts = [
        manifest,
        show("units/00000.json", None),
        show("songs/00000.parquet", None),
        show("shards/train/00000.arrow", None),
        show("shards/train/00000.arrow", Some(0)),
    ];
    // Keys hold the version; samples of one seed are the same everywhere.
    let text = parts.join("---\n");
    let text = regex::Regex::new("key [0-9a-f]{12}").expect("a pattern").replace_all(&text, "key KEY");
    insta::assert_snapshot!("data_set", text);
}

#[test]
fn the_ending_of_a_name_counts_in_any_case() {
    let folder = tempfile::tempdir().expect("folder");
    let shown = |name: &str| {
        let path = folder.path().join(name);
        fs_err::write(&path, crate::score::smf::write(&scale())).expect("writes");
        inspect(&path, &Look::default()).expect("shows").replace(name, "")
    };
    assert_eq!(shown("X.MID"), shown("x.mid"));
    assert_eq!(shown("x.Midi"), shown("x.mid"));
}

#[test]
fn what_cannot_be_shown_is_told() {
    let folder = data_set();
    let root = folder.path().join("ingest");
    let message = |path: &Path, row: Option<usize>| {
        let error = inspect(path, &Look { row, ..Look::default() }).expect_err("refused");
        error.to_string().replace(&root.display().to_string(), "INGEST")
    };
    fs_err::write(root.join("x.mid"), b"MThd").expect("writes");
    let messages = [
        message(&root.join("key"), None),
        message(&root.join("config.toml"), None),
        message(&root.join("plan.json"), None),
        message(&root.join("x.mid"), None),
        message(&root.join("shards/train/00000.arrow"), Some(999)),
        message(&root.join("songs/00000.parquet"), Some(999)),
    ];
    insta::assert_snapshot!("errors", messages.join("\n---\n"));
}

#[test]
fn a_data_set_that_was_touched_is_told_file_by_file() {
    let folder = data_set();
    let root = folder.path().join("ingest");
    let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
    let sound = verify(&store).expect("verifies");
    assert!(sound.mismatches.is_empty() && sound.orphans.is_empty() && sound.complete, "{sound}");
    assert_eq!(sound.records, 3, "two units and the manifest");
    let inside = verify(&Store::open(root.to_str().expect("utf-8")).expect("opens")).expect("verifies");
    assert_eq!(inside, sound, "a run is its ingest folder");

    let flip = |name: &str, at: usize| {
        let mut bytes = fs_err::read(root.join(name)).expect("reads");
        bytes[at] ^= 1;
        fs_err::write(root.join(name), bytes).expect("writes");
    };
    flip("songs/00000.parquet", 50);
    let shard = fs_err::read(root.join("shards/train/00001.arrow")).expect("reads");
    fs_err::write(root.join("shards/train/00001.arrow"), &shard[..shard.len() - 1]).expect("writes");
    fs_err::remove_file(root.join("songs/00001.parquet")).expect("removes");
    fs_err::write(root.join("songs/00009.parquet"), b"left over").expect("writes");
    let tokenizer = fs_err::read_to_string(root.join("tokenizer.json")).expect("reads");
    fs_err::write(root.join("tokenizer.json"), tokenizer.replacen("MMM", "", 1).replacen('{', "", 1)).expect("writes");
    let touched = verify(&store).expect("verifies");
    assert_eq!(touched.mismatches.len(), 4, "{touched}");
    for name in [
        "songs/00000.parquet: has the hash",
        "00001.arrow: has",
        "songs/00001.parquet: is not there",
        "tokenizer.json: ",
    ] {
        assert!(touched.mismatches.iter().any(|mismatch| mismatch.contains(name)), "{name}: {touched}");
    }
    assert_eq!(touched.orphans, ["ingest/songs/00009.parquet"]);

    let empty = tempfile::tempdir().expect("folder");
    let error = verify(&Store::open(empty.path().to_str().expect("utf-8")).expect("opens")).expect_err("nothing");
    assert_eq!(error.exit(), crate::job::exit::Exit::BadData);
}
