//! The commit records: one a unit, and the manifest that makes a data set of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Split;
use crate::job::exit::{Error, Result};
use crate::score::Meter;
use crate::store::{Store, sha256_hex};

/// Where the manifest stands, relative to the ingest folder.
pub const MANIFEST: &str = "manifest.json";

/// Version of the manifest, the shards and the songs table.
const FORMAT: u32 = 1;

/// A file that a record vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileRecord {
    /// Path relative to the ingest folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 as hexadecimal digits.
    pub sha256: String,
    /// Rows: samples of a shard, files of a songs table.
    pub rows: u64,
    /// Tokens of a shard; 0 for a songs table.
    pub tokens: u64,
}

impl FileRecord {
    /// The record of `bytes` at `path`.
    pub fn of(path: String, bytes: &[u8], rows: usize, tokens: usize) -> Self {
        FileRecord {
            path,
            bytes: bytes.len() as u64,
            sha256: sha256_hex(bytes),
            rows: rows as u64,
            tokens: tokens as u64,
        }
    }
}

/// How many files became what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// Files read.
    pub files: u64,
    /// Songs taken.
    pub accepted: u64,
    /// Files that the filter left out.
    pub skipped: u64,
    /// Files that cannot be read.
    pub rejected: u64,
    /// Files by reason, for those left out or unreadable.
    pub reasons: BTreeMap<String, u64>,
    /// Songs taken, by split.
    pub songs: BTreeMap<Split, u64>,
}

impl Counts {
    /// Adds the counts of another unit.
    pub fn add(&mut self, other: &Counts) {
        self.files += other.files;
        self.accepted += other.accepted;
        self.skipped += other.skipped;
        self.rejected += other.rejected;
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
        for (split, count) in &other.songs {
            *self.songs.entry(*split).or_default() += count;
        }
    }
}

/// The commit record of one unit: `units/<unit>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UnitRecord {
    /// Fingerprint of the configuration that made it.
    pub key: String,
    /// The unit's name.
    pub unit: String,
    /// The songs table.
    pub songs: FileRecord,
    /// The shards by split; a split without samples has none.
    pub shards: BTreeMap<Split, FileRecord>,
    /// What became of the files.
    pub counts: Counts,
}

/// Which vocabulary the shards are written in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VocabularyRecord {
    /// The tokenizer file, relative to the ingest folder.
    pub file: String,
    /// Number of ids.
    pub size: usize,
    /// Fingerprint of tokens and merges; equal fingerprints mean equal ids.
    pub fingerprint: String,
    /// Ids that are never a target of the loss.
    pub no_loss_ids: Vec<u16>,
}

/// The samples of one split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SplitRecord {
    /// The shards, in unit order.
    pub shards: Vec<FileRecord>,
    /// Samples in all shards.
    pub samples: u64,
    /// Tokens in all shards.
    pub tokens: u64,
}

/// The commit record of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Fingerprint of the configuration that made it.
    pub key: String,
    /// The vocabulary.
    pub vocabulary: VocabularyRecord,
    /// The longest sample, in tokens.
    pub context_tokens: usize,
    /// What was made of the files' time signatures; whoever reads a song's MIDI bytes has to do the same.
    #[serde(default)]
    pub meter: Meter,
    /// Samples by split.
    pub splits: BTreeMap<Split, SplitRecord>,
    /// The songs tables, in unit order.
    pub songs: Vec<FileRecord>,
    /// What became of the files.
    pub counts: Counts,
}

impl Manifest {
    /// Puts the units' records together, in the order given.
    pub fn of_units(key: &str, vocabulary: VocabularyRecord, context_tokens: usize, units: &[UnitRecord]) -> Self {
        let mut manifest = Manifest {
            format: FORMAT,
            key: key.to_owned(),
            vocabulary,
            context_tokens,
            meter: Meter::default(),
            splits: BTreeMap::new(),
            songs: Vec::new(),
            counts: Counts::default(),
        };
        for unit in units {
            manifest.counts.add(&unit.counts);
            manifest.songs.push(unit.songs.clone());
            for (split, shard) in &unit.shards {
                let record = manifest.splits.entry(*split).or_default();
                record.samples += shard.rows;
                record.tokens += shard.tokens;
                record.shards.push(shard.clone());
            }
        }
        manifest
    }

    /// The manifest in `store`, which is open at the ingest folder.
    ///
    /// # Errors
    /// It is missing or unreadable (65), of another format version (78), or the store fails (74).
    pub fn load(store: &Store) -> Result<Self> {
        let bytes = store.get(MANIFEST)?.ok_or_else(|| {
            Error::data(format!("`{}` has no {MANIFEST}: ingest has not finished there", store.shown()))
                .hint("run `midi-ingest run` first, or `midi-rwkv run` for the whole pipeline")
        })?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| Error::data(format!("`{}/{MANIFEST}` is not a manifest", store.shown())).because(e))?;
        if manifest.format != FORMAT {
            return Err(Error::mismatch(format!(
                "`{}` is of data format {}; this version reads {FORMAT}",
                store.shown(),
                manifest.format
            ))
            .hint("remove the folder, or choose another `out`, and run ingest again"));
        }
        Ok(manifest)
    }

    /// The record of a split; an empty one if it has no samples.
    pub fn split(&self, split: Split) -> SplitRecord {
        self.splits.get(&split).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::exit::Exit;

    #[test]
    fn units_add_up_and_the_manifest_reads_back() {
        let shard = |n: &str| FileRecord::of(format!("shards/train/{n}.arrow"), b"abc", 2, 10);
        let unit = |n: &str| UnitRecord {
            key: "k".into(),
            unit: n.into(),
            songs: FileRecord::of(format!("songs/{n}.parquet"), b"x", 3, 0),
            shards: BTreeMap::from([(Split::Train, shard(n))]),
            counts: Counts { files: 3, accepted: 2, rejected: 1, ..Counts::default() },
        };
        let vocabulary =
            VocabularyRecord { file: "tokenizer.json".into(), size: 9, fingerprint: "f".into(), no_loss_ids: vec![3] };
        let manifest = Manifest::of_units("k", vocabulary, 64, &[unit("a"), unit("b")]);
        assert_eq!(manifest.split(Split::Train).tokens, 20);
        assert_eq!(manifest.split(Split::Valid).samples, 0);
        assert_eq!(manifest.counts.files, 6);

        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
        let missing = Manifest::load(&store).expect_err("no manifest yet");
        assert_eq!(missing.exit(), Exit::BadData);
        store.put(MANIFEST, serde_json::to_vec(&manifest).expect("serialises")).expect("puts");
        assert_eq!(Manifest::load(&store).expect("loads"), manifest);
        let older = Manifest { format: 0, ..manifest };
        store.put(MANIFEST, serde_json::to_vec(&older).expect("serialises")).expect("puts");
        let error = Manifest::load(&store).expect_err("another format");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.hint_text().is_some_and(|hint| hint.starts_with("remove the folder")), "{error}");
    }
}
