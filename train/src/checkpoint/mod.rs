//! Checkpoints: a folder a step, parts first and the commit record last, so that a reader trusts nothing
//! that was not finished. The newest one whose hashes hold is the one that counts.
//!
//! ```text
//! <out>/train/<model>/step-00000500/model.safetensors      weights, f32, named as the reference names them
//!                                   optimizer.safetensors  m.<parameter> and v.<parameter>
//!                                   COMMIT.json            sizes, hashes, and what it is a checkpoint of
//! ```

mod background;
mod file;
mod lease;
mod load;
mod merge;
mod process;
mod record;
mod retain;
mod save;

use midi_ingest::job::exit::Result;
use midi_ingest::store::Store;

pub use background::Saver;
pub use lease::{Lease, Terms};
pub use load::{Loaded, open_model, open_parameters};
pub use merge::write_merged;
pub use record::{COMMIT, Commit, Part};
pub use save::{Frozen, Snapshot};

/// The checkpoints of one model.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    store: Store,
    folder: String,
}

impl Checkpoints {
    /// Those below `folder` of `store`; an empty folder is the store itself.
    pub fn new(store: Store, folder: &str) -> Self {
        Checkpoints { store, folder: folder.trim_matches('/').to_owned() }
    }

    /// The steps that have a commit record, ascending. The record may still prove broken.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps: Vec<u64> =
            self.names()?.iter().filter(|(_, rest)| rest == COMMIT).map(|(step, _)| *step).collect();
        steps.sort_unstable();
        steps.dedup();
        Ok(steps)
    }

    /// The folder of a step, as people find it.
    pub fn shown(&self, step: u64) -> String {
        format!("{}/{}", self.store.shown(), self.at(step, "").trim_end_matches('/'))
    }

    /// All objects that belong to checkpoints: (step, name below its folder).
    fn names(&self) -> Result<Vec<(u64, String)>> {
        let prefix = if self.folder.is_empty() { String::new() } else { format!("{}/", self.folder) };
        let parse = |name: String| {
            let (step, rest) = name.strip_prefix(&prefix)?.split_once('/')?;
            Some((step.strip_prefix("step-")?.parse().ok()?, rest.to_owned()))
        };
        Ok(self.store.list(&self.folder)?.into_iter().filter_map(parse).collect())
    }

    /// The name of an object of a step.
    fn at(&self, step: u64, name: &str) -> String {
        let folder = if self.folder.is_empty() { String::new() } else { format!("{}/", self.folder) };
        format!("{folder}step-{step:08}/{name}")
    }
}
