//! A small data set written with ingest's own writers, and an experiment on it.

use std::collections::BTreeMap;
use std::path::Path;

use midi_ingest::job::Experiment;
use midi_ingest::shard::{
    Counts, FileRecord, MANIFEST, Manifest, Sample, Split, UnitRecord, VocabularyRecord, write_shard,
};
use midi_ingest::store::Store;

/// Size of the vocabulary.
pub(crate) const VOCABULARY: usize = 24;
/// An id that is never a target.
pub(crate) const CONTROL: u16 = 23;

/// Sequences that count up in steps of their own from a start of their own, after a control token.
fn samples(count: u32, salt: u32) -> Vec<Sample> {
    let sample = |pass: u32| {
        let (start, stride, length) = (pass * 5 + salt, 1 + pass % 3, 8 + (pass * 7 + salt) % 12);
        let ids = (0..length).map(|i| ((start + i * stride) % 20) as u16);
        let input_ids = [20 + stride as u16 - 1, CONTROL].into_iter().chain(ids).collect();
        Sample { song: format!("song{pass}"), pass, kind: "bars", track: 0, bar: 0, bars: 1, input_ids }
    };
    (0..count).map(sample).collect()
}

/// Writes the data set below `out` and returns its manifest.
pub(crate) fn ingest(out: &Path, fingerprint: &str) -> Manifest {
    let store = Store::open(out.join("ingest").to_str().expect("utf-8")).expect("opens");
    let write = |name: &str, split: Split, samples: &[Sample]| {
        let bytes = write_shard(samples).expect("a shard");
        let path = format!("shards/{}/{name}.arrow", split.name());
        store.put(&path, bytes.clone()).expect("puts");
        FileRecord::of(path, &bytes, samples.len(), samples.iter().map(|s| s.input_ids.len()).sum())
    };
    let unit = |name: &str, shards: BTreeMap<Split, FileRecord>| UnitRecord {
        key: "data".into(),
        unit: name.into(),
        songs: FileRecord::of(format!("songs/{name}.parquet"), b"", 0, 0),
        shards,
        counts: Counts::default(),
    };
    let units = [
        unit("a", BTreeMap::from([(Split::Train, write("a", Split::Train, &samples(17, 0)))])),
        unit(
            "b",
            BTreeMap::from([
                (Split::Train, write("b", Split::Train, &samples(14, 3))),
                (Split::Valid, write("b", Split::Valid, &samples(6, 9))),
            ]),
        ),
    ];
    let vocabulary = VocabularyRecord {
        file: "tokenizer.json".into(),
        size: VOCABULARY,
        fingerprint: fingerprint.into(),
        no_loss_ids: vec![CONTROL],
    };
    let manifest = Manifest::of_units("data", vocabulary, 32, &units);
    store.put(MANIFEST, serde_json::to_vec(&manifest).expect("serialises")).expect("puts");
    manifest
}

/// The experiment, with `sets` and results below `out`.
pub(crate) fn experiment(out: &Path, sets: &[&str]) -> Experiment {
    let text = "seed = 5\n[train.small]\nsteps = 40\nglobal-batch = 8\nlog-every-steps = 5\nvalid-every-steps = 20\n\
                threads = 2\n[train.small.model]\nlayers = 2\nwidth = 64\n\
                [train.small.schedule]\nlr = 0.004\nlr-final = 0.0004\nwarmup-steps = 5\n\
                [train.small.checkpoint]\nevery-steps = 10\n";
    let out = format!("out={}", out.display());
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).chain([out]).collect();
    Experiment::parse(Path::new("small.toml"), text, &sets).expect("parses")
}
