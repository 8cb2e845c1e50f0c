//! Exit codes are an interface: schedulers act on them, so every error carries the one it ends with.

use std::fmt;
use std::path::Path;

/// What a process of this system tells its scheduler when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// The work is done.
    Done = 0,
    /// An error that should not happen: a bug of ours.
    Bug = 1,
    /// The command line was wrong.
    Usage = 2,
    /// A peer was lost, or the process was interrupted with nothing saved: count and retry.
    PeerLost = 10,
    /// The data is bad beyond the allowed share, or corrupt.
    BadData = 65,
    /// Training diverged: loss or gradients are not finite.
    Diverged = 70,
    /// Storage or credentials failed after all retries, or the disk is full: retry with delay.
    Storage = 74,
    /// All ranks agree that the state is committed: run again, free of charge.
    RunAgain = 75,
    /// Configuration, vocabulary or plan mismatch, or an unfit store.
    Mismatch = 78,
}

impl Exit {
    /// Every exit code, in ascending order.
    pub const ALL: [Exit; 9] = [
        Exit::Done,
        Exit::Bug,
        Exit::Usage,
        Exit::PeerLost,
        Exit::BadData,
        Exit::Diverged,
        Exit::Storage,
        Exit::RunAgain,
        Exit::Mismatch,
    ];

    /// The number given to the operating system.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The exit for a child's code; an unknown one is `None`.
    pub fn from_code(code: i32) -> Option<Exit> {
        Exit::ALL.into_iter().find(|exit| i32::from(exit.code()) == code)
    }
}

/// The error type of every stage: a message, the exit code it leads to, and what to do about it.
///
/// Messages are lower-case fragments that name the path or the key; `Display` prints the chain of
/// causes after them, and the hint on a line of its own.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

/// A result of this system.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that ends the process with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Error { exit, message: message.into(), hint: None, source: None }
    }

    /// A bug of ours.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Exit::Bug, message)
    }

    /// Configuration, vocabulary or plan mismatch.
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(Exit::Mismatch, message)
    }

    /// Bad or corrupt data.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Exit::BadData, message)
    }

    /// A failure of storage, with its cause.
    pub fn storage(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        Self::new(Exit::Storage, message).because(source)
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, said of `place`: `place: message`.
    #[must_use]
    pub fn within(self, place: impl fmt::Display) -> Self {
        Error { message: format!("{place}: {}", self.message), ..self }
    }

    /// The exit code this error leads to.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause: Option<&(dyn std::error::Error + 'static)> = self.source.as_deref().map(|s| s as _);
        let mut said = self.message.clone();
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

/// Gives an input/output error the path it happened at and the storage exit code.
pub fn at_path(doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let message = format!("cannot {doing} `{}`", path.display());
    move |source| Error::storage(message, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones_and_round_trip() {
        let codes: Vec<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
        assert_eq!(codes, [0, 1, 2, 10, 65, 70, 74, 75, 78]);
        for exit in Exit::ALL {
            assert_eq!(Exit::from_code(i32::from(exit.code())), Some(exit));
        }
        assert_eq!(Exit::from_code(3), None);
    }

    #[test]
    fn an_error_shows_its_causes_once_and_its_hint_last() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::storage("cannot write `x`", io).hint("use water");
        assert_eq!(error.to_string(), "cannot write `x`: disk on fire\nhint: use water");
        assert_eq!(error.exit(), Exit::Storage);
    }
}
