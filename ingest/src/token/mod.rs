//! Scores to token ids and back: the base vocabulary, the event language, and byte-pair encoding.

mod bpe;
pub mod control;
mod decode;
mod encode;
mod file;
mod learn;
pub mod vocabulary;

pub use bpe::Bpe;
pub use decode::{TICKS_PER_QUARTER, decode, decode_tracks};
pub use encode::{Grid, TrackControls, TrackTokens};
pub(crate) use encode::{groups_of as encode_groups_of, most_tokens};
pub use learn::Learner;

/// A tokenizer: the base vocabulary, which is always the same, and byte-pair merges.
#[derive(Debug)]
pub struct Tokenizer {
    bpe: Bpe,
    merges: Vec<(u16, u16, u16)>,
    fingerprint: String,
}

impl Tokenizer {
    fn new(bpe: Bpe, merges: Vec<(u16, u16, u16)>, fingerprint: String) -> Self {
        Tokenizer { bpe, merges, fingerprint }
    }

    /// The byte-pair model.
    pub fn bpe(&self) -> &Bpe {
        &self.bpe
    }

    /// Number of ids (V).
    pub fn size(&self) -> usize {
        self.bpe.size()
    }

    /// SHA-256 over tokens and merges; equal fingerprints mean equal ids for every score.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The ids of one track's tokens.
    pub fn encode(&self, tokens: &TrackTokens) -> Vec<u16> {
        self.bpe.encode(&tokens.ids, &tokens.groups)
    }

    /// Whether every attribute control has an id. In some published files they have none.
    pub fn has_controls(&self) -> bool {
        let is_control = |base: &u16| matches!(vocabulary::Token::of(*base), Some(vocabulary::Token::Control(_)));
        let mut ids = Vec::new();
        (0..vocabulary::BASE_SIZE).filter(is_control).all(|base| {
            ids.clear();
            self.bpe.encode_group(&[base], &mut ids);
            self.bpe.decode(&ids) == [base]
        })
    }

    /// Ids that are never a target of the loss, ascending.
    pub fn no_loss_ids(&self) -> Vec<u16> {
        let base = vocabulary::no_loss_ids();
        let alone = |id: &u16| matches!(self.bpe.piece(*id), [one] if base.contains(one));
        (0..self.size()).map(|id| id as u16).filter(alone).collect()
    }
}
