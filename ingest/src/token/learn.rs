//! Learning byte-pair merges from music, with HF tokenizers' trainer.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Trainer as _};

use super::Tokenizer;
use super::encode::TrackTokens;
use super::file::character;
use super::vocabulary::{BASE_SIZE, SPECIAL_END};
use crate::job::exit::{Error, Result};

/// The longest word that is learned from, in base ids: the trainer's time grows with the square of it. A bar of music
/// has some hundred.
const LONGEST: usize = 4096;

/// Counts the words of a corpus, then learns the merges that shorten it most.
#[derive(Clone, Debug, Default)]
pub struct Learner {
    words: HashMap<String, u64>,
}

impl Learner {
    /// Adds a track: each run of ordinary tokens in a group is a word, unless it is endless.
    pub fn add(&mut self, tokens: &TrackTokens) {
        let ends = tokens.groups.iter().skip(1).copied().chain([tokens.ids.len()]);
        for (start, end) in tokens.groups.iter().zip(ends) {
            let runs = tokens.ids[*start..end].split(|id| *id < SPECIAL_END);
            for run in runs.filter(|run| (1..=LONGEST).contains(&run.len())) {
                let word: String = std::iter::once('\u{2581}').chain(run.iter().map(|id| character(*id))).collect();
                *self.words.entry(word).or_default() += 1;
            }
        }
    }

    /// Whether a vocabulary of `size` tokens can be learned at all.
    ///
    /// # Errors
    /// `size` leaves nothing to learn, or its ids do not fit a shard (78).
    pub fn check(size: usize) -> Result<()> {
        let least = usize::from(BASE_SIZE) + 2;
        if !(least..=65_536).contains(&size) {
            return Err(Error::mismatch(format!("a vocabulary of {size} tokens cannot be learned"))
                .hint(format!("the base vocabulary has {BASE_SIZE}; choose from {least} to 65536")));
        }
        Ok(())
    }

    /// Learns a vocabulary of at most `size` tokens, the 663 base tokens and the metaspace among them. The
    /// same words give the same vocabulary, in whatever order they came.
    ///
    /// # Errors
    /// As [`Learner::check`] (78), or there is no music to learn from (65).
    pub fn learn(&self, size: usize) -> Result<Tokenizer> {
        Self::check(size)?;
        if self.words.is_empty() {
            return Err(Error::data("there is no music to learn a vocabulary from"));
        }
        let mut words: Vec<(&String, &u64)> = self.words.iter().collect();
        words.sort();
        let failed =
            |e: Box<dyn std::error::Error + Send + Sync>| Error::bug("learning the vocabulary failed").because(e);
        let special = (0..SPECIAL_END).map(|id| AddedToken::from(character(id).to_string(), true)).collect();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(size)
            .show_progress(false)
            .special_tokens(special)
            .initial_alphabet((0..BASE_SIZE).map(character).collect())
            .build();
        let repeated = words.into_iter().flat_map(|(word, count)| std::iter::repeat_n(word.as_str(), *count as usize));
        trainer.feed(repeated, |word| Ok(vec![word.to_owned()])).map_err(failed)?;
        let mut model = BPE::default();
        trainer.train(&mut model).map_err(failed)?;
        let json = serde_json::to_value(&model).map_err(|e| failed(e.into()))?;
        let merges: Vec<(String, String)> =
            serde_json::from_value(json["merges"].clone()).map_err(|e| failed(e.into()))?;
        let vocab = model.get_vocab().into_iter().collect();
        Tokenizer::of_model(vocab, &merges)
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;
    use crate::job::draws::{Draws, Keyed};

    /// Bars with habits, so that there is something to merge.
    fn corpus() -> Vec<TrackTokens> {
        let mut draws = Keyed::new(3, "corpus", 0);
        let mut track = || {
            let mut tokens = TrackTokens { ids: vec![7, 399], groups: vec![0], ..TrackTokens::default() };
            for bar in 0..20 {
                if bar > 0 {
                    tokens.groups.push(tokens.ids.len());
                }
                tokens.ids.extend([9, 535]);
                let notes = 1 + draws.below(6);
                for _ in 0..notes {
                    let pitch = 40 + draws.below(5) as u16;
                    tokens.ids.extend([146 + 12 * draws.below(4) as u16, pitch, 110, 133]);
                }
            }
            tokens.ids.push(8);
            tokens
        };
        (0..30).map(|_| track()).collect()
    }

    fn learned() -> (Vec<TrackTokens>, Tokenizer) {
        let corpus = corpus();
        let mut learner = Learner::default();
        corpus.iter().for_each(|track| learner.add(track));
        (corpus, learner.learn(800).expect("learns"))
    }

    #[test]
    fn the_layout_of_a_learned_vocabulary_is_the_published_one() {
        let (_, tokenizer) = learned();
        assert_eq!(tokenizer.size(), 800);
        for id in 0..BASE_SIZE {
            assert_eq!(tokenizer.bpe().piece(id), [id]);
        }
        assert!(tokenizer.bpe().begins_word(BASE_SIZE) && tokenizer.bpe().piece(BASE_SIZE).is_empty());
    }

    #[test]
    fn learning_twice_gives_the_same_vocabulary_and_files_read_back() {
        let (_, first) = learned();
        let (_, second) = learned();
        assert_eq!(first.fingerprint(), second.fingerprint());
        let read = Tokenizer::parse(&first.to_file()).expect("parses");
        assert_eq!(read.fingerprint(), first.fingerprint());
        assert_eq!(read.to_file(), first.to_file());
    }

    #[test]
    fn our_encoder_gives_the_ids_of_hf_tokenizers() {
        let (corpus, tokenizer) = learned();
        let file: serde_json::Value = serde_json::from_str(&tokenizer.to_file()).expect("json");
        let model = file["_model"].as_str().expect("a model");
        let oracle = tokenizers::Tokenizer::from_str(model).expect("HF tokenizers reads the file");
        let mut compared = 0;
        for track in &corpus {
            let ends = track.groups.iter().skip(1).copied().chain([track.ids.len()]);
            let groups: Vec<String> = track
                .groups
                .iter()
                .zip(ends)
                .map(|(start, end)| track.ids[*start..end].iter().map(|id| character(*id)).collect())
                .collect();
            let expected = oracle.encode(groups, false).expect("encodes");
            let expected: Vec<u16> = expected.get_ids().iter().map(|id| *id as u16).collect();
            let got = tokenizer.bpe().encode(&track.ids, &track.groups);
            assert_eq!(got, expected);
            assert!(got.len() < track.ids.len(), "something merges");
            assert_eq!(tokenizer.bpe().decode(&got), track.ids);
            compared += got.len();
        }
        assert!(compared > 1000);
    }

    #[test]
    fn a_size_without_room_is_refused() {
        let error = Learner::default().learn(100).expect_err("too small");
        assert!(error.to_string().contains("663"), "{error}");
    }
}
