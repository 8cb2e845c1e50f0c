//! A file of weights in the place of a checkpoint: a published model, or what `midi-train convert` wrote.

use std::path::Path;

use midi_ingest::job::exit::{Error, Result};
use midi_ingest::store::Store;
use midi_ingest::token::Tokenizer;
use tch::Kind;

use super::record::{Commit, FORMAT, Part};
use crate::format;
use crate::model::Parameters;

/// The weights of the file at `uri`, a path or a URL, as f32 and in the order of the state dictionary, and a record
/// that says what is known of them. The vocabulary is known where its tokenizer stands beside the file, as
/// NAME.tokenizer.json beside NAME.safetensors.
///
/// # Errors
/// There is no such file, it is broken (65), or it holds no RWKV-7 network (78).
pub(super) fn open(uri: &str) -> Result<(Parameters, Commit)> {
    let (folder, name) = uri.rsplit_once('/').unwrap_or((".", uri));
    let missing = || Error::mismatch(format!("there is no file `{uri}`"));
    let store = Store::open_existing(if folder.is_empty() { "/" } else { folder })?.ok_or_else(missing)?;
    let bytes = store.get(name)?.ok_or_else(missing)?;
    let read = format::of_bytes(&bytes, uri, None)?;
    let weights: Parameters =
        read.iter().map(|(name, tensor)| (name.to_owned(), tensor.to_kind(Kind::Float))).collect();
    let shape = weights.shape().map_err(|e| Error::mismatch(format!("`{uri}` is no RWKV-7 network")).because(e))?;
    let weights = weights.in_order(&shape.parameters())?;

    let beside = Path::new(name).with_extension("tokenizer.json");
    let vocabulary = match store.get(&beside.to_string_lossy())? {
        Some(text) => Some(
            Tokenizer::parse(&String::from_utf8_lossy(&text))
                .map_err(|e| Error::mismatch(format!("the tokenizer beside `{uri}` cannot be read")).because(e))?,
        ),
        None => None,
    };
    let commit = Commit {
        format: FORMAT,
        step: 0,
        shape,
        parameters: weights.iter().map(|(_, tensor)| tensor.numel() as u64).sum(),
        vocabulary: vocabulary.map(|tokenizer| tokenizer.fingerprint().to_owned()).unwrap_or_default(),
        key: String::new(),
        seed: 0,
        tokens: 0,
        valid_loss: None,
        best: None,
        lowest: None,
        skipped: 0,
        lease_epoch: None,
        tuning: None,
        files: vec![Part::of(name, &bytes)],
    };
    Ok((weights, commit))
}
