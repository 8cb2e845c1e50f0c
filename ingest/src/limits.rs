//! How much a file may ask for. Music needs little; what asks for more is taken for an attack or an accident, and is
//! a row with a reason instead of a machine without memory. Every bound counts something in the bytes and none the
//! time, so that a file has the same fate on every machine; the work is bounded by what is counted.

use serde::{Deserialize, Serialize};

use crate::job::exit::{Error, Result};

/// `[ingest.limits]`. A file that goes past one of them is rejected, and the reason is the limit's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// The largest MIDI file that is read, in bytes.
    pub max_file_bytes: u64,
    /// The largest value in a Parquet row that is looked at, in bytes.
    pub max_row_bytes: u64,
    /// The largest Parquet row group whose rows are read, in bytes of the columns that are read, unpacked.
    pub max_row_group_bytes: u64,
    /// Most track chunks that a header may announce, and most tracks that may come out of them.
    pub max_tracks: usize,
    /// Most messages of a file. Events that a change of program copies into a further track count again.
    pub max_events: usize,
    /// Most notes of a file.
    pub max_notes: usize,
    /// Most changes of metre of a file.
    pub max_metres: usize,
    /// The last tick that an event may have.
    pub max_ticks: u32,
    /// The longest file, in seconds by its own tempos, each of which counts as from 4 to 1000 beats a minute.
    pub max_seconds: u64,
    /// The largest meta message, in bytes.
    pub max_meta_bytes: usize,
    /// What is done with files whose division is a time code: `reject`, or `as-published`, which takes it for 65535
    /// ticks a quarter.
    pub smpte: Smpte,
    /// Most tokens of a piece before byte-pair encoding, by an upper estimate.
    pub max_tokens_per_piece: usize,
    /// Most entries that an archive may have, folders and other files included; past it the archive is refused.
    pub max_archive_entries: usize,
    /// How many times its size an archive may unpack to; past it the archive is refused.
    pub max_archive_ratio: u64,
}

/// What is done with a division that is a time code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Smpte {
    /// The file is rejected: its ticks say nothing about beats.
    #[default]
    Reject,
    /// It is read as 65535 ticks a quarter, as the published parser does.
    AsPublished,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_file_bytes: 8 << 20,
            max_row_bytes: 16 << 20,
            max_row_group_bytes: 512 << 20,
            max_tracks: 1024,
            max_events: 2_000_000,
            max_notes: 500_000,
            max_metres: 4096,
            max_ticks: i32::MAX as u32,
            max_seconds: 7200,
            max_meta_bytes: 64 << 10,
            smpte: Smpte::Reject,
            max_tokens_per_piece: 1_000_000,
            max_archive_entries: 200_000,
            max_archive_ratio: 200,
        }
    }
}

impl Limits {
    /// What the published parser takes: everything that it can read, but for floods of copied events.
    pub const PUBLISHED: Limits = Limits {
        max_file_bytes: u64::MAX,
        max_row_bytes: u64::MAX,
        max_row_group_bytes: u64::MAX,
        max_tracks: usize::MAX,
        max_events: 1 << 26,
        max_notes: usize::MAX,
        max_metres: usize::MAX,
        max_ticks: u32::MAX,
        max_seconds: u64::MAX,
        max_meta_bytes: usize::MAX,
        smpte: Smpte::AsPublished,
        max_tokens_per_piece: usize::MAX,
        max_archive_entries: usize::MAX,
        max_archive_ratio: u64::MAX,
    };

    /// # Errors
    /// A limit is 0, which no file keeps (78).
    pub(crate) fn check(&self) -> Result<()> {
        let counts = [
            ("max-file-bytes", self.max_file_bytes),
            ("max-row-bytes", self.max_row_bytes),
            ("max-row-group-bytes", self.max_row_group_bytes),
            ("max-tracks", self.max_tracks as u64),
            ("max-events", self.max_events as u64),
            ("max-notes", self.max_notes as u64),
            ("max-ticks", u64::from(self.max_ticks)),
            ("max-seconds", self.max_seconds),
            ("max-meta-bytes", self.max_meta_bytes as u64),
            ("max-tokens-per-piece", self.max_tokens_per_piece as u64),
            ("max-archive-entries", self.max_archive_entries as u64),
            ("max-archive-ratio", self.max_archive_ratio),
        ];
        match counts.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(Error::mismatch(format!("`ingest.limits.{key}` is 0: no file is that small"))
                .hint("leave the key out for its default")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::exit::Exit;

    #[test]
    fn a_limit_of_nothing_is_refused() {
        assert!(Limits::default().check().is_ok() && Limits::PUBLISHED.check().is_ok());
        let error = Limits { max_notes: 0, ..Limits::default() }.check().expect_err("refused");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.to_string().contains("`ingest.limits.max-notes`"), "{error}");
    }
}
