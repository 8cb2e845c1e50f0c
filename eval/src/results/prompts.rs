//! The prompts table: what every model of a run was asked, one row a prompt.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BooleanArray, UInt8Array};
use arrow::datatypes::{DataType, Field};
use midi_ingest::job::exit::Result;
use midi_ingest::sample::Kind;

use super::table::{Columns, Row, lists_of_tokens, required, texts, token_list, token_lists, tokens, u32s};
use crate::metric::Section;

/// A section of a song that is to be infilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptRow {
    /// The run.
    pub run_id: String,
    /// Of the run's configuration.
    pub config_hash: String,
    /// The prompt's name, unique in the run.
    pub prompt_id: String,
    /// The song's identity.
    pub song_id: String,
    /// The song's path inside its source.
    pub path: String,
    /// The track, counted among those with notes.
    pub track: u32,
    /// The track's program.
    pub program: u8,
    /// Whether it is percussion.
    pub is_drum: bool,
    /// The first infilled bar.
    pub bar_start: u32,
    /// One past the last infilled bar.
    pub bar_end: u32,
    /// Bars of context on each side.
    pub context_bars: u32,
    /// Whether bars are infilled or a whole track.
    pub kind: Kind,
    /// The prompt as the models read it.
    pub tokens: Vec<u16>,
    /// With what each bar of the answer begins where bars have controls, see [`crate::prompt::Prompt`].
    pub openings: Vec<Vec<u16>>,
    /// The original song, as a MIDI file.
    pub midi: Vec<u8>,
    /// The resolution of the original.
    pub ticks_per_quarter: u32,
}

impl PromptRow {
    /// The section, as the metrics take it.
    pub fn section(&self) -> Section {
        Section {
            track: self.track as usize,
            bars: self.bar_start as usize..self.bar_end as usize,
            context: self.context_bars as usize,
        }
    }
}

impl Row for PromptRow {
    const TABLE: &'static str = "prompts";

    fn fields() -> Vec<Field> {
        vec![
            required("run_id", DataType::Utf8),
            required("config_hash", DataType::Utf8),
            required("prompt_id", DataType::Utf8),
            required("song_id", DataType::Utf8),
            required("path", DataType::Utf8),
            required("track", DataType::UInt32),
            required("program", DataType::UInt8),
            required("is_drum", DataType::Boolean),
            required("bar_start", DataType::UInt32),
            required("bar_end", DataType::UInt32),
            required("context_bars", DataType::UInt32),
            required("kind", DataType::Utf8),
            required("tokens", token_list()),
            required("openings", token_lists()),
            required("midi", DataType::Binary),
            required("ticks_per_quarter", DataType::UInt32),
        ]
    }

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            texts(rows.iter().map(|r| r.run_id.as_str())),
            texts(rows.iter().map(|r| r.config_hash.as_str())),
            texts(rows.iter().map(|r| r.prompt_id.as_str())),
            texts(rows.iter().map(|r| r.song_id.as_str())),
            texts(rows.iter().map(|r| r.path.as_str())),
            u32s(rows.iter().map(|r| r.track)),
            Arc::new(UInt8Array::from_iter_values(rows.iter().map(|r| r.program))),
            Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.is_drum)))),
            u32s(rows.iter().map(|r| r.bar_start)),
            u32s(rows.iter().map(|r| r.bar_end)),
            u32s(rows.iter().map(|r| r.context_bars)),
            texts(rows.iter().map(|r| r.kind.name())),
            tokens(rows.iter().map(|r| r.tokens.as_slice())),
            lists_of_tokens(rows.iter().map(|r| r.openings.as_slice())),
            Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| &r.midi))),
            u32s(rows.iter().map(|r| r.ticks_per_quarter)),
        ]
    }

    fn row(columns: &Columns<'_>, row: usize) -> Result<Self> {
        Ok(PromptRow {
            run_id: columns.text("run_id", row)?,
            config_hash: columns.text("config_hash", row)?,
            prompt_id: columns.text("prompt_id", row)?,
            song_id: columns.text("song_id", row)?,
            path: columns.text("path", row)?,
            track: columns.u32("track", row)?,
            program: columns.u8("program", row)?,
            is_drum: columns.bool("is_drum", row)?,
            bar_start: columns.u32("bar_start", row)?,
            bar_end: columns.u32("bar_end", row)?,
            context_bars: columns.u32("context_bars", row)?,
            kind: Kind::from_name(&columns.text("kind", row)?).ok_or_else(|| columns.bad("kind"))?,
            tokens: columns.tokens("tokens", row)?,
            openings: columns.lists_of_tokens("openings", row)?,
            midi: columns.optional_bytes("midi", row)?.ok_or_else(|| columns.bad("midi"))?,
            ticks_per_quarter: columns.u32("ticks_per_quarter", row)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::round_trip;
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let row = PromptRow {
            run_id: "r".into(),
            config_hash: "c".into(),
            prompt_id: "p0".into(),
            song_id: "00ff".into(),
            path: "a/b.mid".into(),
            track: 2,
            program: 33,
            is_drum: false,
            bar_start: 8,
            bar_end: 12,
            context_bars: 16,
            kind: Kind::Track,
            tokens: vec![1, 0, 65535],
            openings: vec![vec![9, 535], vec![], vec![9]],
            midi: b"MThd".to_vec(),
            ticks_per_quarter: 480,
        };
        assert_eq!(row.section(), Section { track: 2, bars: 8..12, context: 16 });
        round_trip(&[
            row.clone(),
            PromptRow { is_drum: true, kind: Kind::Bars, tokens: vec![], openings: vec![], ..row },
        ]);
    }
}
