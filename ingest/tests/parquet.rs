//! The ingest job on Parquet files: rejects for rows without music, and the same data set from any number of workers,
//! killed ones included.

use std::collections::BTreeMap;
use std::path::Path;

use midi_ingest::job::{Exit, Experiment, Progress, Shutdown};
use midi_ingest::pipeline::{Ingest, Outcome, Worker};
use midi_ingest::score::smf;
use midi_ingest::shard::{Manifest, Status, read_songs};
use midi_ingest::source::compose;
use midi_ingest::store::{Access, Secret, Store};
use parquet::basic::Compression;

#[path = "support/http.rs"]
mod http;
#[path = "support/hub.rs"]
mod hub;
#[path = "support/tables.rs"]
mod tables;
use hub::FakeHub;
use tables::{LAYOUTS, Row, table};

/// Twenty songs in five row groups, with three rows that hold no song.
fn music(layout: &str) -> Vec<u8> {
    let names: Vec<String> = (0..20).map(|index| format!("{index:032x}")).collect();
    let song = |index: usize| (names[index].as_str(), Some(smf::write(&compose(1, index as u64))));
    let mut groups: Vec<Vec<Row<'_>>> = (0..5).map(|group| (group * 4..group * 4 + 4).map(song).collect()).collect();
    groups[1].extend([("null", None), ("empty", Some(Vec::new()))]);
    groups[3].insert(0, ("large", Some(vec![0; 1_000_001])));
    let groups: Vec<&[Row<'_>]> = groups.iter().map(Vec::as_slice).collect();
    table(layout, &groups, Compression::SNAPPY)
}

fn experiment(out: &Path, uri: &str, layout: &str) -> Experiment {
    let text = format!(
        "seed = 3\nout = '{}'\n[ingest]\nmax-bad-fraction = 0.5\nlimits.max-file-bytes = 1000000\n\
         [ingest.source]\nkind = 'parquet'\nuri = '{uri}'\nlayout = '{layout}'\n\
         [ingest.tokenizer]\nkind = 'learn'\nvocabulary = 800\n[ingest.split]\nvalid = 0.2\ntest = 0.2\n\
         [ingest.sample]\ncontext-tokens = 512\n",
        out.display()
    );
    Experiment::parse(Path::new("test.toml"), &text, &[]).expect("parses")
}

fn run(experiment: &Experiment, worker: Worker, access: &Access) -> Outcome {
    let ingest = Ingest::with_access(experiment, access).expect("opens");
    ingest.run(worker, &Progress::silent(), &Shutdown::manual()).expect("runs")
}

fn complete(outcome: Outcome) -> Manifest {
    match outcome {
        Outcome::Complete(manifest) => *manifest,
        Outcome::Partial { committed, units } => panic!("{committed} of {units} units"),
    }
}

/// Everything that is data, by name.
fn data(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let store = Store::open(&format!("{}/ingest", out.display())).expect("opens");
    let names = store.list("").expect("lists");
    let data = names.into_iter().filter(|name| {
        ["songs/", "shards/", "units/", "manifest.json", "tokenizer.json"].iter().any(|head| name.starts_with(head))
    });
    data.map(|name| (name.clone(), store.read(&name).expect("reads").to_vec())).collect()
}

#[test]
fn every_layout_is_ingested_and_rows_without_music_are_rejects() {
    let mut all = Vec::new();
    for layout in LAYOUTS {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("songs.parquet");
        fs_err::write(&file, music(layout)).expect("writes");
        let experiment = experiment(folder.path(), file.to_str().expect("utf-8"), layout);
        let manifest = complete(run(&experiment, Worker::ONLY, &Access::default()));
        let counts = &manifest.counts;
        assert_eq!((counts.files, counts.accepted, counts.rejected), (23, 20, 3), "{counts:?}");
        assert_eq!(manifest.songs.len(), 5, "a row group is a unit");
        let store = Store::open(&format!("{}/ingest", folder.path().display())).expect("opens");
        let songs = manifest
            .songs
            .iter()
            .flat_map(|table| read_songs(store.read(&table.path).expect("reads"), &table.path).expect("songs"));
        let mut rejects: Vec<(String, String)> = Vec::new();
        for song in songs.filter(|song| song.status == Status::Rejected) {
            rejects.push((song.path, song.reason.expect("a reason")));
        }
        let reason = |name: &str| {
            let path = format!("songs.parquet/{name}");
            rejects.iter().find(|reject| reject.0 == path).map(|reject| reject.1.as_str()).expect("a reject")
        };
        assert!(reason("null").starts_with("read: unreadable"), "{rejects:?}");
        assert!(reason("empty").starts_with("parse: "), "{rejects:?}");
        assert!(reason("large").starts_with("read: max-file-bytes: 1000001 bytes"), "{rejects:?}");
        all.push(data(folder.path()).into_iter().filter(|(name, _)| name.starts_with("s")).collect::<Vec<_>>());
    }
    assert_eq!(all[0], all[1], "the layout leaves no trace in songs and shards");
    assert_eq!(all[0], all[2]);
}

#[test]
fn two_workers_write_the_bytes_of_one_from_disk_and_from_the_hub() {
    let (one, two, far) = (
        tempfile::tempdir().expect("folder"),
        tempfile::tempdir().expect("folder"),
        tempfile::tempdir().expect("folder"),
    );
    let layout = "gigamidi-v2.0.0";
    let file = one.path().join("train/songs.parquet");
    fs_err::create_dir_all(one.path().join("train")).expect("makes");
    fs_err::write(&file, music(layout)).expect("writes");
    let pattern = format!("{}/train/*.parquet", one.path().display());
    complete(run(&experiment(one.path(), &pattern, layout), Worker::ONLY, &Access::default()));
    let shared = experiment(two.path(), &pattern, layout);
    let partial = run(&shared, Worker { index: 1, of: 2 }, &Access::default());
    assert!(matches!(partial, Outcome::Partial { committed: 2, units: 5 }), "{partial}");
    complete(run(&shared, Worker { index: 0, of: 2 }, &Access::default()));
    assert_eq!(data(one.path()), data(two.path()));

    let fake = FakeHub::start([("train/songs.parquet", music(layout))], Some("secret"));
    let access = Access { hub: fake.url(), token: Some(Secret::new("secret")) };
    let remote = experiment(far.path(), &format!("hf://datasets/{}/train/*.parquet", hub::NAME), layout);
    complete(run(&remote, Worker::ONLY, &access));
    let songs = |out: &Path| data(out).into_iter().filter(|(name, _)| name.starts_with('s')).collect::<Vec<_>>();
    assert_eq!(songs(one.path()), songs(far.path()), "the place leaves no trace in songs and shards");

    let stranger = Access { token: None, ..access };
    let error = Ingest::with_access(&remote, &stranger).expect_err("gated");
    assert!(error.exit() == Exit::Storage && error.to_string().contains("HF_TOKEN"), "{error}");
}

#[test]
fn a_killed_workers_rerun_writes_the_same_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    let layout = "gigamidi-v1.0.0";
    let file = folder.path().join("songs.parquet");
    fs_err::write(&file, music(layout)).expect("writes");
    let experiment = experiment(folder.path(), file.to_str().expect("utf-8"), layout);
    complete(run(&experiment, Worker::ONLY, &Access::default()));
    let whole = data(folder.path());
    let root = folder.path().join("ingest");
    // What a killed worker leaves: no record of its last unit, and of that unit's files none, some, or other bytes.
    for unit in 0..5 {
        for leftover in [None, Some(&b"torn"[..])] {
            for name in whole.keys().filter(|name| name.contains(&format!("/{unit:05}.")) || *name == "manifest.json") {
                let path = root.join(name);
                match leftover.filter(|_| name.starts_with("songs/") || name.starts_with("shards/train")) {
                    Some(bytes) => fs_err::write(&path, bytes).expect("tears"),
                    None => fs_err::remove_file(&path).expect("removes"),
                }
            }
            complete(run(&experiment, Worker::ONLY, &Access::default()));
            assert_eq!(data(folder.path()), whole, "unit {unit}");
        }
    }
}
