//! The generations table: what every model answered, one row a prompt and model.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, UInt64Array};
use arrow::datatypes::{DataType, Field};
use midi_ingest::job::exit::Result;

use super::table::{Columns, Row, optional, optional_texts, required, texts, token_list, tokens};

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was decoded into a score.
    Ok,
    /// It was not; the row says why.
    Failed,
}

impl Status {
    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Failed => "failed",
        }
    }

    /// The status of a name in the table.
    pub fn from_name(name: &str) -> Option<Self> {
        [Status::Ok, Status::Failed].into_iter().find(|status| status.name() == name)
    }
}

/// A model's answer to a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationRow {
    /// The run.
    pub run_id: String,
    /// The prompt.
    pub prompt_id: String,
    /// The model.
    pub model: String,
    /// Of the model's checkpoint.
    pub checkpoint_hash: String,
    /// Of the run's configuration.
    pub config_hash: String,
    /// The seed of the prompt's random stream.
    pub seed: u64,
    /// The tokens that the model drew.
    pub tokens: Vec<u16>,
    /// Why it stopped.
    pub stop_reason: String,
    /// What became of it.
    pub status: Status,
    /// Why it failed; `None` if it did not.
    pub reason: Option<String>,
    /// The infilled song, as a MIDI file; `None` if it failed.
    pub midi: Option<Vec<u8>>,
}

impl Row for GenerationRow {
    const TABLE: &'static str = "generations";

    fn fields() -> Vec<Field> {
        vec![
            required("run_id", DataType::Utf8),
            required("prompt_id", DataType::Utf8),
            required("model", DataType::Utf8),
            required("checkpoint_hash", DataType::Utf8),
            required("config_hash", DataType::Utf8),
            required("seed", DataType::UInt64),
            required("tokens", token_list()),
            required("stop_reason", DataType::Utf8),
            required("status", DataType::Utf8),
            optional("reason", DataType::Utf8),
            optional("midi", DataType::Binary),
        ]
    }

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            texts(rows.iter().map(|r| r.run_id.as_str())),
            texts(rows.iter().map(|r| r.prompt_id.as_str())),
            texts(rows.iter().map(|r| r.model.as_str())),
            texts(rows.iter().map(|r| r.checkpoint_hash.as_str())),
            texts(rows.iter().map(|r| r.config_hash.as_str())),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.seed))),
            tokens(rows.iter().map(|r| r.tokens.as_slice())),
            texts(rows.iter().map(|r| r.stop_reason.as_str())),
            texts(rows.iter().map(|r| r.status.name())),
            optional_texts(rows.iter().map(|r| r.reason.as_deref())),
            Arc::new(BinaryArray::from_iter(rows.iter().map(|r| r.midi.as_deref()))),
        ]
    }

    fn row(columns: &Columns<'_>, row: usize) -> Result<Self> {
        let status = columns.text("status", row)?;
        Ok(GenerationRow {
            run_id: columns.text("run_id", row)?,
            prompt_id: columns.text("prompt_id", row)?,
            model: columns.text("model", row)?,
            checkpoint_hash: columns.text("checkpoint_hash", row)?,
            config_hash: columns.text("config_hash", row)?,
            seed: columns.u64("seed", row)?,
            tokens: columns.tokens("tokens", row)?,
            stop_reason: columns.text("stop_reason", row)?,
            status: Status::from_name(&status).ok_or_else(|| columns.bad("status"))?,
            reason: columns.optional_text("reason", row)?,
            midi: columns.optional_bytes("midi", row)?,
        })
    }

    fn flaw(&self) -> Option<String> {
        let failed = self.status == Status::Failed;
        let of = |what: &str| Some(format!("{what} of `{}` on `{}`", self.model, self.prompt_id));
        match () {
            () if failed && self.reason.is_none() => of("no reason for the failure"),
            () if !failed && self.midi.is_none() => of("no score of the answer"),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::round_trip;
    use super::super::table::write;
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_failure_needs_its_reason() {
        let row = GenerationRow {
            run_id: "r".into(),
            prompt_id: "p0".into(),
            model: "base".into(),
            checkpoint_hash: "ab".into(),
            config_hash: "c".into(),
            seed: u64::MAX,
            tokens: vec![4, 5],
            stop_reason: "end token".into(),
            status: Status::Ok,
            reason: None,
            midi: Some(b"MThd".to_vec()),
        };
        let failed =
            GenerationRow { status: Status::Failed, reason: Some("decode: no bar".into()), midi: None, ..row.clone() };
        round_trip(&[row.clone(), failed.clone()]);
        let silent = GenerationRow { reason: None, ..failed };
        let error = write(&[silent]).expect_err("no reason");
        assert_eq!(error.to_string(), "cannot write a generations table: no reason for the failure of `base` on `p0`");
    }
}
