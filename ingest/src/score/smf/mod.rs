//! Standard MIDI files in and out. Reading follows the reference's parser (symusic 0.5.0) to the note:
//! which files are accepted and how notes pair decides the tokens, and so do its quirks.

mod budget;
mod bytes;
mod read;
mod sort;
mod tracks;
mod write;

pub use read::{read, read_within};
pub use write::write;
