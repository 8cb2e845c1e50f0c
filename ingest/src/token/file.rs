//! MidiTok's tokenizer file: read whatever it wrote in our configuration, and write what it reads.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Tokenizer;
use super::bpe::Bpe;
use super::vocabulary::{self, BASE_SIZE, SPECIAL_END};
use crate::job::exit::{Error, Result, at_path};

/// The character in front of every word.
const METASPACE: char = '\u{2581}';

/// The character that stands for base id 0; the others follow it.
const FIRST_CHARACTER: u32 = 33;

/// The character that a base id is written as.
pub(super) fn character(base: u16) -> char {
    char::from_u32(FIRST_CHARACTER + u32::from(base)).unwrap_or(METASPACE)
}

/// The parts of the file that matter here.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(rename = "_vocab_base")]
    base: HashMap<String, u16>,
    #[serde(rename = "_model")]
    model: Option<String>,
}

#[derive(Deserialize)]
struct ModelFile {
    model: BpeFile,
}

#[derive(Deserialize)]
struct BpeFile {
    vocab: HashMap<String, u32>,
    merges: Vec<MergeFile>,
}

/// A merge is a pair, or in older files one string with a space between.
enum MergeFile {
    Pair(String, String),
}

impl<'de> Deserialize<'de> for MergeFile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let error = |what: &str| serde::de::Error::custom(format!("a merge that is {what}"));
        match Value::deserialize(deserializer)? {
            Value::String(text) => {
                // Only U+0020 separates: some tokens hold characters that Unicode calls white space.
                let (left, right) = text.split_once(' ').ok_or_else(|| error("one word"))?;
                Ok(MergeFile::Pair(left.to_owned(), right.to_owned()))
            }
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(left), Value::String(right)] => Ok(MergeFile::Pair(left.clone(), right.clone())),
                _ => Err(error("no pair of strings")),
            },
            _ => Err(error("neither a pair nor a string")),
        }
    }
}

impl Tokenizer {
    /// Reads a tokenizer file.
    ///
    /// # Errors
    /// It cannot be read, is not in MidiTok's format, or has another base vocabulary: exit code 78, with the path.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs_err::read_to_string(path).map_err(|e| {
            Error::mismatch(format!("cannot read the tokenizer `{}`", path.display()))
                .because(e)
                .hint("give the path of a tokenizer.json in MidiTok's format, or learn one with `midi-ingest vocab`")
        })?;
        Self::parse(&text).map_err(|e| Error::mismatch(format!("in the tokenizer `{}`", path.display())).because(e))
    }

    /// As [`Tokenizer::load`], on text that was read already.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn parse(text: &str) -> Result<Self> {
        let file: TokenizerFile =
            serde_json::from_str(text).map_err(|e| Error::mismatch("it is not a MidiTok tokenizer").because(e))?;
        for (id, name) in vocabulary::names().into_iter().enumerate() {
            if file.base.get(&name).copied().map(usize::from) != Some(id) {
                let found = file.base.get(&name).map_or("no id".to_owned(), |id| format!("id {id}"));
                return Err(Error::mismatch(format!("token `{name}` has {found} where {id} is expected"))
                    .hint("only MMM over REMI in the configuration of the published tokenizer is supported"));
            }
        }
        if file.base.len() != usize::from(BASE_SIZE) {
            return Err(Error::mismatch(format!("it has {} base tokens, not {BASE_SIZE}", file.base.len())));
        }
        let model = file.model.ok_or_else(|| {
            Error::mismatch("it was never trained").hint("learn its byte-pair merges first, with `midi-ingest vocab`")
        })?;
        let model: ModelFile =
            serde_json::from_str(&model).map_err(|e| Error::mismatch("its byte-pair model is broken").because(e))?;
        let merges: Vec<(String, String)> =
            model.model.merges.into_iter().map(|MergeFile::Pair(left, right)| (left, right)).collect();
        Self::of_model(model.model.vocab, &merges)
    }

    /// A tokenizer of a byte-pair model whose tokens are strings of base characters.
    pub(super) fn of_model(vocab: HashMap<String, u32>, merges: &[(String, String)]) -> Result<Self> {
        let size = vocab.len();
        if size > usize::from(u16::MAX) + 1 {
            return Err(Error::mismatch(format!("it has {size} tokens; at most 65536 fit a shard")));
        }
        if merges.len() > Bpe::MOST_MERGES {
            return Err(Error::mismatch(format!(
                "it has {} merges; at most {} can be used",
                merges.len(),
                Bpe::MOST_MERGES
            )));
        }
        let mut pieces = vec![None; size];
        for (text, id) in &vocab {
            let place = pieces.get_mut(*id as usize).filter(|place| place.is_none());
            *place.ok_or_else(|| Error::mismatch(format!("id {id} is out of order")))? = Some(piece_of(text)?);
        }
        let id_of = |text: &str| {
            let id = vocab.get(text).map(|id| *id as u16);
            id.ok_or_else(|| Error::mismatch(format!("a merge uses `{text}`, which is not in the vocabulary")))
        };
        let triple =
            |(left, right): &(String, String)| Ok((id_of(left)?, id_of(right)?, id_of(&format!("{left}{right}"))?));
        let triples = merges.iter().map(triple).collect::<Result<Vec<_>>>()?;
        let pieces: Vec<(Vec<u16>, bool)> = pieces.into_iter().flatten().collect();
        let fingerprint = crate::job::config::key_of(&(&pieces, &triples));
        Ok(Tokenizer::new(Bpe::new(pieces, &triples), triples, fingerprint))
    }

    /// The tokenizer as the text of a file that MidiTok loads.
    pub fn to_file(&self) -> String {
        let pieces = (0..self.size()).map(|id| self.text_of(id as u16));
        let vocab: Vec<(String, usize)> = pieces.enumerate().map(|(id, text)| (text, id)).collect();
        let merges = self.merges.iter().map(|(left, right, _)| [self.text_of(*left), self.text_of(*right)]);
        let special = |id: u16| {
            json!({"id": id, "content": character(id).to_string(), "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        };
        let spacing = json!({"type": "Metaspace", "replacement": METASPACE.to_string(), "prepend_scheme": "always",
                             "split": true});
        let model = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": (0..SPECIAL_END).map(special).collect::<Vec<_>>(),
            "normalizer": null,
            "pre_tokenizer": spacing,
            "post_processor": null,
            "decoder": spacing,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": InOrder(&vocab),
                "merges": merges.collect::<Vec<_>>(),
            },
        });
        let names = vocabulary::names();
        let base: Vec<(String, usize)> = names.iter().cloned().enumerate().map(|(id, name)| (name, id)).collect();
        let characters: BTreeMap<String, &String> =
            names.iter().enumerate().map(|(id, name)| (character(id as u16).to_string(), name)).collect();
        let file = json!({
            "config": config(),
            "tokenization": "MMM",
            "miditok_version": "3.0.5.post1",
            "symusic_version": "0.5.0",
            "hf_tokenizers_version": "0.21.0",
            "_vocab_base": InOrder(&base),
            "_model": model.to_string(),
            "_vocab_base_byte_to_token": characters,
        });
        format!("{file:#}\n")
    }

    /// Writes the tokenizer to a file.
    ///
    /// # Errors
    /// The file cannot be written: exit code 74.
    pub fn save(&self, path: &Path) -> Result<()> {
        fs_err::write(path, self.to_file()).map_err(at_path("write", path))
    }

    fn text_of(&self, id: u16) -> String {
        let begin = self.bpe().begins_word(id).then_some(METASPACE);
        begin.into_iter().chain(self.bpe().piece(id).iter().map(|base| character(*base))).collect()
    }
}

/// The base ids that a token of the byte-pair model stands for, and whether it begins a word.
fn piece_of(text: &str) -> Result<(Vec<u16>, bool)> {
    let base_of = |character: char| {
        let base = u32::from(character).checked_sub(FIRST_CHARACTER).and_then(|base| u16::try_from(base).ok());
        let base = base.filter(|base| *base < BASE_SIZE);
        base.ok_or_else(|| Error::mismatch(format!("its token `{text}` holds {character:?}, which is no base token")))
    };
    let base = text.chars().filter(|character| *character != METASPACE).map(base_of).collect::<Result<_>>()?;
    Ok((base, text.starts_with(METASPACE)))
}

/// A map that keeps its order when it is written.
struct InOrder<'a>(&'a [(String, usize)]);

impl Serialize for InOrder<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// MidiTok's configuration of the published tokenizer: the only one that the base vocabulary belongs to.
fn config() -> Value {
    let programs = |last: i16| (0..=last).chain([-1]).collect::<Vec<i16>>();
    let mut config: Value = serde_json::from_str(include_str!("miditok-config.json")).unwrap_or_default();
    config["special_tokens"] = json!(vocabulary::names()[..usize::from(SPECIAL_END)]);
    config["use_note_duration_programs"] = json!(programs(127));
    config["programs"] = json!(programs(126));
    config
}
