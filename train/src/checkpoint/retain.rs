//! Removing checkpoints that are no longer needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use midi_ingest::job::exit::{Result, at_path};

use super::Checkpoints;
use super::record::COMMIT;

/// Checkpoints that always stay.
const LEAST: usize = 2;

impl Checkpoints {
    /// Keeps the newest `keep` (at least 2) committed checkpoints up to `step`, whose commit must hold, and that of
    /// the step `best`, and removes all others: older ones, unfinished ones, and later ones, which a broken run left behind.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn retain(&self, step: u64, keep: usize, best: Option<u64>) -> Result<()> {
        let names = self.names()?;
        let committed: BTreeSet<u64> =
            names.iter().filter(|(s, name)| name == COMMIT && *s <= step).map(|(s, _)| *s).collect();
        let newest = committed.iter().rev().take(keep.max(LEAST));
        let kept: BTreeSet<u64> = newest.chain(committed.iter().filter(|step| best == Some(**step))).copied().collect();
        let mut removed: Vec<&(u64, String)> = names.iter().filter(|(step, _)| !kept.contains(step)).collect();
        // The record goes first: a folder that is half removed must not look like a checkpoint.
        removed.sort_by_key(|(step, name)| (*step, name != COMMIT));
        for (step, name) in removed {
            self.store.delete(&self.at(*step, name))?;
        }
        self.store.local_path(&self.folder).map_or(Ok(()), |root| sweep(&root, &kept))
    }
}

/// What a process that was killed left in the local folder `root`, and no list of objects shows: files that were never
/// finished, which are written beside their names with a `#`, and the folders of steps that are gone.
fn sweep(root: &Path, kept: &BTreeSet<u64>) -> Result<()> {
    let listed = |path: &Path| -> Result<Vec<(PathBuf, String)>> {
        let failed = at_path("list", path);
        let entries = fs_err::read_dir(path).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
        let named = |entry: fs_err::DirEntry| (entry.path(), entry.file_name().to_string_lossy().into_owned());
        Ok(entries.map_err(failed)?.into_iter().map(named).collect())
    };
    for (folder, name) in listed(root)? {
        let Some(step) = name.strip_prefix("step-").and_then(|digits| digits.parse().ok()) else { continue };
        if !kept.contains(&step) {
            fs_err::remove_dir_all(&folder).map_err(at_path("remove", &folder))?;
            continue;
        }
        for (file, _) in listed(&folder)?.into_iter().filter(|(_, name)| name.contains('#')) {
            fs_err::remove_file(&file).map_err(at_path("remove", &file))?;
        }
    }
    Ok(())
}
