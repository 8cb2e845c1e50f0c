//! Where golden tests find a published tokenizer.

use std::path::{Path, PathBuf};

use midi_ingest::token::Tokenizer;

use super::golden;

/// A published tokenizer: beside the golden records, or beside the MIDI root; `None` after saying so.
pub(crate) fn tokenizer(name: &str, family: &Path) -> Option<Tokenizer> {
    let beside = golden::midi_root().and_then(|root| root.parent().map(Path::to_owned));
    let folders: Vec<PathBuf> = [Some(family.to_owned()), golden::midi_root(), beside].into_iter().flatten().collect();
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        golden::say(&format!("skipped: no published tokenizer `{name}` for the byte-pair ids"));
    }
    found.map(|path| Tokenizer::load(&path).unwrap_or_else(|e| panic!("{e}")))
}
