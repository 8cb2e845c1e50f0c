//! Removing checkpoints that are no longer needed.

use std::collections::BTreeSet;

use midi_ingest::job::exit::{Result, at_path};

use super::Checkpoints;
use super::record::COMMIT;

/// Checkpoints that always stay.
const LEAST: usize = 2;

impl Checkpoints {
    /// Keeps the newest `keep` (at least 2) committed checkpoints up to `step`, whose commit must hold, and
    /// removes all others: older ones, unfinished ones, and later ones, which a broken run left behind.
    ///
    /// Only folders of the local file system are removed; in an object store all checkpoints stay.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn retain(&self, step: u64, keep: usize) -> Result<()> {
        let committed: Vec<u64> = self.steps()?.into_iter().filter(|&s| s <= step).collect();
        let kept: BTreeSet<u64> = committed.into_iter().rev().take(keep.max(LEAST)).collect();
        let all: BTreeSet<u64> = self.names()?.into_iter().map(|(step, _)| step).collect();
        for &old in all.difference(&kept) {
            let Some(folder) = self.store.local_path(self.at(old, "").trim_end_matches('/')) else { continue };
            // The record goes first: a folder that is half removed must not look like a checkpoint.
            let record = folder.join(COMMIT);
            if record.is_file() {
                fs_err::remove_file(&record).map_err(at_path("remove", &record))?;
            }
            fs_err::remove_dir_all(&folder).map_err(at_path("remove", &folder))?;
        }
        Ok(())
    }
}
