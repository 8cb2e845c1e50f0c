//! A tuned model as one that stands alone.

use std::path::Path;

use midi_ingest::job::exit::{Error, Result, at_path};
use midi_ingest::store::Store;

use super::record::{COMMIT, Commit, Part};
use super::save::MODEL;
use crate::format::safetensors;
use crate::model::Rwkv7;
use crate::tuning::merged;

/// Writes the network `model` of `commit` with its adapters merged into its weights: a checkpoint without an
/// optimiser in the new folder `folder`, which evaluation and further tuning take as they take any other.
///
/// # Errors
/// There are no adapters, or something stands at `folder` already (78); it cannot be written (74).
pub fn write_merged(model: &Rwkv7, commit: &Commit, folder: &Path) -> Result<Commit> {
    let Some(tuning) = &commit.tuning else {
        return Err(Error::mismatch("the checkpoint holds no adapters: there is nothing to merge")
            .hint("a model of the mode `pretrain` or `full` stands alone already"));
    };
    let weights = merged(model.parameters(), tuning.scale)?;
    // A folder without a record is what a merge that was interrupted left.
    if folder.exists() && (folder.join(COMMIT).exists() || !is_ours(folder)) {
        return Err(Error::mismatch(format!("`{}` exists already", folder.display())).hint("name a new folder"));
    }
    fs_err::create_dir_all(folder).map_err(at_path("create", folder))?;
    let store = Store::open(&folder.to_string_lossy())?;
    let bytes = safetensors::write(&weights, &[("step", commit.step.to_string())])?;
    let files = vec![Part::of(MODEL, &bytes)];
    store.put(MODEL, bytes)?;
    store.sync(MODEL)?;
    let commit = Commit { tuning: None, best: None, lowest: None, lease_epoch: None, files, ..commit.clone() };
    let text = serde_json::to_string_pretty(&commit)
        .map_err(|e| Error::bug("a commit record does not serialise").because(e))?;
    store.put(COMMIT, text.into_bytes())?;
    store.sync(COMMIT)?;
    Ok(commit)
}

/// Whether nothing else is in `folder` than what a merge writes before its record.
fn is_ours(folder: &Path) -> bool {
    let ours = |entry: std::io::Result<fs_err::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(MODEL))
    };
    fs_err::read_dir(folder).is_ok_and(|mut entries| entries.all(ours))
}
