//! What ingest leaves behind: one table of songs and one shard of samples a unit, a commit record for
//! each unit, and a manifest written last. Readers trust nothing that the manifest does not name.

mod manifest;
mod map;
mod read;
mod songs;
mod table;
mod write;

pub use manifest::{Counts, FileRecord, MANIFEST, Manifest, SplitRecord, UnitRecord, VocabularyRecord};
pub use read::ShardReader;
pub use songs::{Song, Status, read_songs, write_songs};
pub use table::parquet_of;
pub use write::{Sample, write_shard};

use serde::{Deserialize, Serialize};

/// The part of the data set that a song falls in, with all its versions and duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Trained on.
    Train,
    /// Watched during training.
    Valid,
    /// Kept for evaluation.
    Test,
}

impl Split {
    /// Every split.
    pub const ALL: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

    /// The name in paths and tables.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        }
    }

    /// The split of that name.
    pub fn from_name(name: &str) -> Option<Split> {
        Split::ALL.into_iter().find(|split| split.name() == name)
    }
}
