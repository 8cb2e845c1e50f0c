//! Failures of torch as errors of this system.

use midi_ingest::job::exit::Error;
use tch::TchError;

/// A failure of torch: a bug of ours, or memory that ran out. Keeps the first line of torch's text; the
/// rest of it is a C++ backtrace.
pub(crate) fn torch(error: TchError) -> Error {
    let text = match error {
        TchError::Torch(text) => text,
        other => other.to_string(),
    };
    Error::bug(format!("torch: {}", first_line(&text)))
}

/// The part of torch's text that is meant for people.
fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("an error without text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backtrace_is_left_out() {
        let error = torch(TchError::Torch("\n shape [2] is wrong\nException raised from x.cpp:3\nframe #0".into()));
        assert_eq!(error.to_string(), "torch: shape [2] is wrong");
    }
}
