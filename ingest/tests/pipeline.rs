//! The ingest job as a whole: the same data set from any number of workers, and nothing lost to bad files.

use std::path::Path;

use midi_ingest::job::{Exit, Experiment, Progress, Shutdown};
use midi_ingest::pipeline::{Ingest, Outcome, Worker};
use midi_ingest::sample::{Kind, disassemble};
use midi_ingest::score::{Note, Score, Track, smf};
use midi_ingest::shard::{Manifest, ShardReader, Song, Split, Status, read_songs};
use midi_ingest::source::compose;
use midi_ingest::store::Store;
use midi_ingest::token::Tokenizer;
use midi_ingest::token::vocabulary::Token;

fn experiment(out: &Path, source: &str) -> Experiment {
    experiment_with(out, source, &[])
}

fn experiment_with(out: &Path, source: &str, sets: &[&str]) -> Experiment {
    let text = format!(
        "seed = 3\nout = '{}'\n[ingest]\nfiles-per-unit = 6\nmax-bad-fraction = 0.5\n[ingest.source]\n{source}\n\
         [ingest.tokenizer]\nkind = 'learn'\nvocabulary = 800\n[ingest.split]\nvalid = 0.2\ntest = 0.2\n\
         [ingest.sample]\ncontext-tokens = 512\n",
        out.display()
    );
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Experiment::parse(Path::new("test.toml"), &text, &sets).expect("parses")
}

const SYNTH: &str = "kind = 'synth'\nsongs = 20";

fn run(experiment: &Experiment, worker: Worker) -> midi_ingest::job::Result<Outcome> {
    Ingest::new(experiment)?.run(worker, &Progress::silent(), &Shutdown::manual())
}

fn complete(outcome: Outcome) -> Manifest {
    match outcome {
        Outcome::Complete(manifest) => *manifest,
        Outcome::Partial { committed, units } => panic!("{committed} of {units} units"),
    }
}

#[test]
fn two_workers_write_the_bytes_of_one() {
    let (one, two) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let alone = complete(run(&experiment(one.path(), SYNTH), Worker::ONLY).expect("runs"));
    let shared = experiment(two.path(), SYNTH);
    let partial = run(&shared, Worker { index: 1, of: 2 }).expect("runs");
    assert!(matches!(partial, Outcome::Partial { committed: 2, units: 4 }), "{partial}");
    let together = complete(run(&shared, Worker { index: 0, of: 2 }).expect("runs"));
    // The output folder is no part of the data set's key.
    assert_eq!(alone, together);
    let again = complete(run(&shared, Worker::ONLY).expect("a second run finds it done"));
    assert_eq!(again, together);
}

/// The ids of all training samples.
fn samples(root: &Path, manifest: &Manifest) -> Vec<Vec<u16>> {
    let shards = manifest.split(Split::Train).shards.into_iter();
    let shards = shards.map(|record| ShardReader::open(&root.join(&record.path)).expect("opens"));
    shards.flat_map(|shard| (0..shard.len()).map(|row| shard.input_ids(row).to_vec()).collect::<Vec<_>>()).collect()
}

#[test]
fn samples_hold_tracks_and_controls_where_they_are_asked_for() {
    let folder = tempfile::tempdir().expect("folder");
    let sets = ["ingest.sample.controls=0.5", "ingest.sample.track-infill=0.4"];
    let manifest = complete(run(&experiment_with(folder.path(), SYNTH, &sets), Worker::ONLY).expect("runs"));
    let root = folder.path().join("ingest");
    let tokenizer = Tokenizer::load(&root.join(&manifest.vocabulary.file)).expect("loads");
    assert!(tokenizer.has_controls());
    let is_control = |id: &u16| matches!(Token::of(*id), Some(Token::Control(_)));
    let (mut all, mut tracks, mut controlled) = (0, 0, 0);
    for ids in samples(&root, &manifest) {
        let parts = disassemble(&tokenizer.bpe().decode(&ids)).expect("a whole infilling");
        all += 1;
        tracks += usize::from(parts.kind == Kind::Track);
        controlled += usize::from(ids.iter().any(is_control));
    }
    assert!(all > 30 && tracks * 5 > all && tracks * 2 < all, "{tracks} tracks of {all}");
    assert!(controlled * 3 > all && controlled * 3 < all * 2, "{controlled} with controls of {all}");
    let masked = &manifest.vocabulary.no_loss_ids;
    assert!((0..tokenizer.size() as u16).filter(is_control).all(|id| masked.contains(&id)), "controls are no targets");
}

#[test]
fn the_published_recipe_has_its_own_numbers() {
    let folder = tempfile::tempdir().expect("folder");
    let sets = ["ingest.sample.recipe='midi-rwkv'"];
    let manifest = complete(run(&experiment_with(folder.path(), SYNTH, &sets), Worker::ONLY).expect("runs"));
    let found = samples(&folder.path().join("ingest"), &manifest);
    assert!(found.len() > 30 && found.iter().all(|ids| ids.len() <= 512));

    let error = |sets: &[&str]| {
        let error = Ingest::new(&experiment_with(folder.path(), SYNTH, sets)).expect_err("a mistake");
        assert_eq!(error.exit(), Exit::Mismatch);
        error.to_string()
    };
    assert!(error(&[sets[0], "ingest.sample.controls=0.5"]).contains("leave out all but `passes`"));
    assert!(error(&["ingest.sample.controls=1.5"]).starts_with("`ingest.sample.controls` is 1.5"));
    assert!(error(&["ingest.sample.recipe='published'"]).contains("unknown variant"));
}

#[test]
fn shards_hold_whole_samples_of_the_right_splits() {
    let folder = tempfile::tempdir().expect("folder");
    let manifest = complete(run(&experiment(folder.path(), SYNTH), Worker::ONLY).expect("runs"));
    let root = folder.path().join("ingest");
    let tokenizer = Tokenizer::load(&root.join(&manifest.vocabulary.file)).expect("loads");
    assert_eq!(tokenizer.fingerprint(), manifest.vocabulary.fingerprint);
    assert_eq!(manifest.counts.accepted, 20);
    assert!(manifest.split(Split::Train).samples > 30);
    assert_eq!(manifest.split(Split::Test).samples, 0, "test songs are not trained on");
    for split in [Split::Train, Split::Valid] {
        for record in manifest.split(split).shards {
            let shard = ShardReader::open(&root.join(&record.path)).expect("opens");
            for row in 0..shard.len() {
                let ids = shard.input_ids(row);
                assert!(ids.len() <= 512);
                disassemble(&tokenizer.bpe().decode(ids)).expect("a whole infilling");
            }
        }
    }
}

#[test]
fn another_configuration_is_refused_where_a_data_set_stands() {
    let folder = tempfile::tempdir().expect("folder");
    run(&experiment(folder.path(), SYNTH), Worker::ONLY).expect("runs");
    let error = run(&experiment(folder.path(), "kind = 'synth'\nsongs = 21"), Worker::ONLY).expect_err("refused");
    assert_eq!(error.exit(), Exit::Mismatch);
}

#[test]
fn bad_files_are_rows_and_too_many_of_them_an_error() {
    let music = tempfile::tempdir().expect("folder");
    for index in 0..8 {
        let bytes = smf::write(&compose(1, index));
        fs_err::write(music.path().join(format!("{index}.mid")), bytes).expect("writes");
    }
    fs_err::write(music.path().join("broken.mid"), b"MThd and then nothing").expect("writes");
    fs_err::write(music.path().join("empty.mid"), b"").expect("writes");
    let source = format!("kind = 'folder'\nuri = '{}'", music.path().display());
    let out = tempfile::tempdir().expect("folder");
    let manifest = complete(run(&experiment(out.path(), &source), Worker::ONLY).expect("runs"));
    assert_eq!((manifest.counts.accepted, manifest.counts.rejected), (8, 2));
    assert_eq!(manifest.counts.reasons["parse: no-header"], 1);
    let songs = songs(out.path(), &manifest);
    assert_eq!(songs.len(), 10);
    assert_eq!(songs.iter().filter(|song| song.status == Status::Rejected && song.reason.is_some()).count(), 2);

    for index in 0..40 {
        fs_err::write(music.path().join(format!("bad{index}.mid")), b"no").expect("writes");
    }
    let out = tempfile::tempdir().expect("folder");
    let error = run(&experiment(out.path(), &source), Worker::ONLY).expect_err("too many");
    assert_eq!(error.exit(), Exit::BadData);
    // As the hint says; the units are kept.
    let more = experiment_with(out.path(), &source, &["ingest.max-bad-fraction=0.9"]);
    assert_eq!(complete(run(&more, Worker::ONLY).expect("goes on")).counts.rejected, 42);
}

/// The rows of all songs tables.
fn songs(out: &Path, manifest: &Manifest) -> Vec<Song> {
    let store = Store::open(&format!("{}/ingest", out.display())).expect("opens");
    let tables = manifest.songs.iter();
    let rows =
        tables.flat_map(|table| read_songs(store.read(&table.path).expect("reads"), &table.path).expect("songs"));
    rows.collect()
}

/// A score at twice the ticks a quarter.
fn finer(mut score: Score) -> Score {
    score.ticks_per_quarter *= 2;
    score.time_signatures.iter_mut().for_each(|metre| metre.tick *= 2);
    score.tempos.iter_mut().for_each(|tempo| tempo.tick *= 2);
    for note in score.tracks.iter_mut().flat_map(|track| &mut track.notes) {
        (note.tick, note.duration) = (note.tick * 2, note.duration * 2);
    }
    score
}

#[test]
fn a_song_in_two_resolutions_is_one_song_and_what_is_not_read_has_no_hash() {
    let music = tempfile::tempdir().expect("folder");
    let write = |name: &str, bytes: &[u8]| fs_err::write(music.path().join(name), bytes).expect("writes");
    for index in 0..8 {
        write(&format!("{index}.mid"), &smf::write(&compose(1, index)));
        write(&format!("{index}-fine.mid"), &smf::write(&finer(compose(1, index))));
    }
    write("large-1.mid", &[0; 200_000]);
    write("large-2.mid", &[0; 200_000]);
    let source = format!("kind = 'folder'\nuri = '{}'", music.path().display());
    let out = tempfile::tempdir().expect("folder");
    let limit = ["ingest.limits.max-file-bytes=100000"];
    let manifest = complete(run(&experiment_with(out.path(), &source, &limit), Worker::ONLY).expect("runs"));
    let songs = songs(out.path(), &manifest);
    let of = |path: String| songs.iter().find(|song| song.path == path).expect("a row");
    for index in 0..8 {
        let (one, other) = (of(format!("{index}.mid")), of(format!("{index}-fine.mid")));
        assert_eq!((&one.id, one.split), (&other.id, other.split), "{index}");
        assert_ne!(one.sha256, other.sha256);
    }
    for path in ["large-1.mid", "large-2.mid"] {
        let Song { id, sha256, status, .. } = of(path.to_owned());
        assert_eq!((id.as_str(), sha256.as_str(), *status), (path, "", Status::Rejected));
    }
}

/// An override that names a tokenizer file with no id for one attribute control.
fn without_a_control(folder: &Path) -> String {
    let ingest = experiment(folder, SYNTH);
    let ingest = Ingest::new(&ingest).expect("opens");
    let whole = ingest.vocabulary(700, 8, &Progress::silent(), &Shutdown::manual()).expect("learns").to_file();
    let mut file: serde_json::Value = serde_json::from_str(&whole).expect("json");
    let mut model: serde_json::Value = serde_json::from_str(file["_model"].as_str().expect("a model")).expect("json");
    let control = (0..).find(|id| matches!(Token::of(*id), Some(Token::Control(_)))).expect("a control");
    let vocab = model["model"]["vocab"].as_object_mut().expect("a map");
    let text = vocab.iter().find(|(_, id)| **id == control).expect("its token").0.clone();
    vocab.remove(&text);
    vocab.insert(text.repeat(9), control.into());
    file["_model"] = model.to_string().into();
    let path = folder.join("without.json");
    fs_err::write(&path, file.to_string()).expect("writes");
    format!("ingest.tokenizer={{kind='file',path='{}'}}", path.display())
}

#[test]
fn what_cannot_run_is_refused_before_the_folder_is_claimed() {
    let folder = tempfile::tempdir().expect("folder");
    let without = without_a_control(folder.path());
    let refused = |sets: &[&str]| {
        let error = Ingest::new(&experiment_with(folder.path(), SYNTH, sets)).expect_err("a mistake");
        assert_eq!(error.exit(), Exit::Mismatch);
        error.to_string()
    };
    assert!(refused(&["ingest.tokenizer.vocabulary=100"]).contains("choose from 665 to 65536"));
    assert!(refused(&[&without, "ingest.sample.controls=0.5"]).starts_with("the tokenizer has no ids"));
    for nothing in ["ingest.sample.passes=0", "ingest.sample.context-tokens=63"] {
        assert!(refused(&[nothing]).contains("no room for a sample"));
    }
    assert!(!folder.path().join("ingest").exists());
    assert!(Ingest::new(&experiment_with(folder.path(), SYNTH, &[&without])).is_ok(), "no controls are asked for");
}

#[test]
fn a_data_set_without_samples_is_an_error() {
    let music = tempfile::tempdir().expect("folder");
    for pitch in 60..64 {
        // No track goes on into a second bar, and then there is no section to infill.
        let notes = (0..4).map(|beat| Note { tick: beat * 480, duration: 240, pitch, velocity: 64 }).collect();
        let tracks = vec![Track { notes, ..Track::default() }];
        let bytes = smf::write(&Score { ticks_per_quarter: 480, tracks, ..Score::default() });
        fs_err::write(music.path().join(format!("{pitch}.mid")), bytes).expect("writes");
    }
    let source = format!("kind = 'folder'\nuri = '{}'", music.path().display());
    let out = tempfile::tempdir().expect("folder");
    let sets = ["ingest.filter={min-bars=0,min-notes=0}", "ingest.split={valid=0.0,test=0.0}"];
    let error = run(&experiment_with(out.path(), &source, &sets), Worker::ONLY).expect_err("nothing to train on");
    assert_eq!(error.exit(), Exit::BadData);
    assert!(error.to_string().starts_with("none of the 4 training songs gave a sample"), "{error}");
}

#[test]
fn the_written_configuration_is_whole_and_feeds_back() {
    let folder = tempfile::tempdir().expect("folder");
    let manifest = complete(run(&experiment(folder.path(), SYNTH), Worker::ONLY).expect("runs"));
    let text = fs_err::read_to_string(folder.path().join("ingest/config.toml")).expect("reads");
    for default in ["[ingest.limits]", "max-notes = 500000", "meter = \"as-written\"", "min-bars = 8"] {
        assert!(text.contains(default), "{default} is not in\n{text}");
    }
    let again = Experiment::parse(Path::new("config.toml"), &text, &[]).expect("parses");
    assert_eq!(Ingest::new(&again).expect("opens").plan().key, manifest.key);
}

#[test]
fn a_cut_tokenizer_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let experiment = experiment(folder.path(), SYNTH);
    run(&experiment, Worker::ONLY).expect("runs");
    let root = folder.path().join("ingest");
    fs_err::remove_file(root.join("manifest.json")).expect("removes");
    fs_err::write(root.join("tokenizer.json"), "{").expect("writes");
    let error = run(&experiment, Worker::ONLY).expect_err("cut");
    assert_eq!(error.exit(), Exit::BadData);
    assert!(error.to_string().contains("ingest/tokenizer.json`"), "{error}");
}

#[test]
fn a_stop_request_leaves_a_state_to_go_on_from() {
    let folder = tempfile::tempdir().expect("folder");
    let experiment = experiment(folder.path(), SYNTH);
    let shutdown = Shutdown::manual();
    shutdown.ask();
    let ingest = Ingest::new(&experiment).expect("opens");
    let stopped = || ingest.run(Worker::ONLY, &Progress::silent(), &shutdown).expect_err("asked to stop");
    assert_eq!(stopped().exit(), Exit::PeerLost, "there is no vocabulary yet, so nothing is saved");
    let tokenizer = ingest.vocabulary(800, 8, &Progress::silent(), &Shutdown::manual()).expect("learns");
    tokenizer.save(&folder.path().join("ingest/tokenizer.json")).expect("saves");
    assert_eq!(stopped().exit(), Exit::RunAgain);
    complete(run(&experiment, Worker::ONLY).expect("goes on"));
}
