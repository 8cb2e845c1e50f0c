//! Why a file, or a piece of one, is left out: bad music is a row in a table, never a crash.

use std::fmt;

/// A reason to leave a song out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Where it failed.
    pub stage: Stage,
    /// A short name that tables count by, for example `no-header`.
    pub reason: &'static str,
    /// What exactly was found; may be empty.
    pub detail: String,
}

/// The step of ingest that a [`Reject`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Getting the bytes out of the source.
    Read,
    /// MIDI bytes to a score.
    Parse,
    /// The filter of the configuration.
    Filter,
    /// A score to tokens.
    Tokenize,
}

impl Stage {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Parse => "parse",
            Stage::Filter => "filter",
            Stage::Tokenize => "tokenize",
        }
    }
}

impl Reject {
    /// A reason with its detail.
    pub fn new(stage: Stage, reason: &'static str, detail: impl Into<String>) -> Self {
        Reject { stage, reason, detail: detail.into() }
    }

    /// A file that is no MIDI file.
    pub(crate) fn parse(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Stage::Parse, reason, detail)
    }

    /// A score that has no token sequence.
    pub(crate) fn tokenize(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(Stage::Tokenize, reason, detail)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage.name(), self.reason)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Reject {}
