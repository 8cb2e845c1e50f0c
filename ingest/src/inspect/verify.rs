//! Whether a data set is what its records say: every file's size and hash, and the records' agreement.

use std::collections::BTreeSet;
use std::fmt;

use crate::job::exit::{Error, Result};
use crate::shard::{FileRecord, MANIFEST, Manifest, UnitRecord};
use crate::store::{Store, sha256_hex};
use crate::token::Tokenizer;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Records that were read: the manifest, and one a unit.
    pub records: usize,
    /// Files that they name, each checked once.
    pub files: usize,
    /// Bytes of these files, by the records.
    pub bytes: u64,
    /// Whether the data set is committed, or units only.
    pub complete: bool,
    /// What is not as it was written; empty for a sound data set.
    pub mismatches: Vec<String>,
    /// Tables and shards that no record names: they were left by work that did not end, and nobody reads them.
    pub orphans: Vec<String>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verified { records, files, bytes, complete, mismatches, orphans } = self;
        for mismatch in mismatches {
            writeln!(f, "mismatch: {mismatch}")?;
        }
        for orphan in orphans {
            writeln!(f, "named by no record: {orphan}")?;
        }
        let state = if *complete { "" } else { "; there is no manifest yet" };
        write!(f, "{files} files of {bytes} bytes in {records} records, {} mismatches{state}", mismatches.len())
    }
}

/// Checks the data set in `store`, which is open at a run or at its ingest folder.
///
/// # Errors
/// There is no record at all (65), or the store fails (74). A file that is not what its record says is no error but a
/// mismatch in the result.
pub fn verify(store: &Store) -> Result<Verified> {
    let at = if store.entry(MANIFEST)?.is_none() && store.entry("key")?.is_none() { "ingest/" } else { "" };
    let mut checked =
        Verified { records: 0, files: 0, bytes: 0, complete: false, mismatches: Vec::new(), orphans: Vec::new() };
    let mut named: Vec<FileRecord> = Vec::new();
    let mut units: Vec<UnitRecord> = Vec::new();
    for name in store.list(&format!("{at}units"))? {
        checked.records += 1;
        match serde_json::from_slice::<UnitRecord>(&store.read(&name)?) {
            Ok(unit) => units.push(unit),
            Err(e) => checked.mismatches.push(format!("{name}: is not a unit's record: {e}")),
        }
    }
    if let Some(bytes) = store.get(&format!("{at}{MANIFEST}"))? {
        checked.records += 1;
        checked.complete = true;
        match serde_json::from_slice::<Manifest>(&bytes) {
            Ok(manifest) => {
                agreement(&manifest, &units, &mut checked.mismatches);
                vocabulary(store, at, &manifest, &mut checked.mismatches)?;
                named.extend(manifest.songs);
                named.extend(manifest.splits.into_values().flat_map(|split| split.shards));
            }
            Err(e) => checked.mismatches.push(format!("{MANIFEST}: is not a manifest: {e}")),
        }
    }
    if checked.records == 0 {
        return Err(Error::data(format!("`{}` holds no record of a data set", store.shown()))
            .hint("give the folder of a run, or its `ingest` folder"));
    }
    for unit in units {
        named.push(unit.songs);
        named.extend(unit.shards.into_values());
    }
    named.sort_by(|a, b| (&a.path, &a.sha256).cmp(&(&b.path, &b.sha256)));
    named.dedup();
    for record in &named {
        checked.files += 1;
        checked.bytes += record.bytes;
        checked.mismatches.extend(file(store, at, record)?);
    }
    let known: BTreeSet<String> = named.iter().map(|record| format!("{at}{}", record.path)).collect();
    for folder in ["songs", "shards"] {
        let there = store.list(&format!("{at}{folder}"))?;
        checked.orphans.extend(there.into_iter().filter(|name| !known.contains(name)));
    }
    Ok(checked)
}

/// What is wrong with a file, if anything is.
fn file(store: &Store, at: &str, record: &FileRecord) -> Result<Option<String>> {
    let Some(bytes) = store.get(&format!("{at}{}", record.path))? else {
        return Ok(Some(format!("{}: is not there", record.path)));
    };
    if bytes.len() as u64 != record.bytes {
        return Ok(Some(format!("{}: has {} bytes and not {}", record.path, bytes.len(), record.bytes)));
    }
    let hash = sha256_hex(&bytes);
    Ok((hash != record.sha256).then(|| format!("{}: has the hash {hash} and not {}", record.path, record.sha256)))
}

/// The manifest names what the units' records name, made by the same configuration.
fn agreement(manifest: &Manifest, units: &[UnitRecord], mismatches: &mut Vec<String>) {
    let mut of_units: BTreeSet<(&str, &str)> = BTreeSet::new();
    for unit in units {
        if unit.key != manifest.key {
            mismatches.push(format!("units/{}.json: was made by another configuration than the manifest", unit.unit));
        }
        of_units.extend(
            std::iter::once(&unit.songs).chain(unit.shards.values()).map(|r| (r.path.as_str(), r.sha256.as_str())),
        );
    }
    let of_manifest = manifest.songs.iter().chain(manifest.splits.values().flat_map(|split| &split.shards));
    let of_manifest: BTreeSet<(&str, &str)> = of_manifest.map(|r| (r.path.as_str(), r.sha256.as_str())).collect();
    for (path, _) in of_manifest.symmetric_difference(&of_units) {
        mismatches.push(format!("{path}: the manifest and the units' records do not agree"));
    }
}

fn vocabulary(store: &Store, at: &str, manifest: &Manifest, mismatches: &mut Vec<String>) -> Result<()> {
    let record = &manifest.vocabulary;
    let found = match store.get(&format!("{at}{}", record.file))? {
        None => Err("is not there".to_owned()),
        Some(bytes) => Tokenizer::parse(&String::from_utf8_lossy(&bytes)).map_err(|e| e.to_string()),
    };
    match found {
        Ok(tokenizer) if tokenizer.fingerprint() == record.fingerprint => {}
        Ok(tokenizer) => mismatches.push(format!(
            "{}: has the fingerprint {} and not {}",
            record.file,
            tokenizer.fingerprint(),
            record.fingerprint
        )),
        Err(what) => mismatches.push(format!("{}: {what}", record.file)),
    }
    Ok(())
}
