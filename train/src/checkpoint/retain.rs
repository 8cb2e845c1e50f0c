//! Removing checkpoints that are no longer needed.

use std::collections::BTreeSet;

use midi_ingest::job::exit::Result;

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
        Ok(())
    }
}
