//! The songs table: one row a file, whatever became of it. Held-out songs carry their MIDI bytes, so
//! that evaluation needs nothing but this table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, Int16Builder, ListArray, ListBuilder, RecordBatch, StringArray,
    UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Split, parquet_of};
use crate::job::exit::{Error, Result};

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its song is in the data set.
    Accepted,
    /// It is readable, but the filter left it out.
    Skipped,
    /// It cannot be read.
    Rejected,
}

impl Status {
    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Skipped => "skipped",
            Status::Rejected => "rejected",
        }
    }
}

/// A row of the songs table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Song {
    /// The song's identity: equal for all its versions and duplicates.
    pub id: String,
    /// The file's path inside the source.
    pub path: String,
    /// SHA-256 of the file; empty if its bytes were not read.
    pub sha256: String,
    /// The split of the identity.
    pub split: Split,
    /// Tracks with notes that the tokenizer takes.
    pub tracks: u32,
    /// Bars, on the tokenizer's grid.
    pub bars: u32,
    /// Notes in the file.
    pub notes: u32,
    /// Programs of the tracks; −1 for drums.
    pub programs: Vec<i16>,
    /// What became of it.
    pub status: Status,
    /// Why, if it is not in the data set: a short name, then the detail.
    pub reason: Option<String>,
    /// The file itself, for accepted songs of the valid and test splits.
    pub midi: Option<Vec<u8>>,
}

fn schema() -> Schema {
    let programs = DataType::List(Arc::new(Field::new("item", DataType::Int16, false)));
    Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("path", DataType::Utf8, false),
        Field::new("sha256", DataType::Utf8, false),
        Field::new("split", DataType::Utf8, false),
        Field::new("tracks", DataType::UInt32, false),
        Field::new("bars", DataType::UInt32, false),
        Field::new("notes", DataType::UInt32, false),
        Field::new("programs", programs, false),
        Field::new("status", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, true),
        Field::new("midi", DataType::Binary, true),
    ])
}

/// The Parquet bytes of a songs table, the rows in the order given.
///
/// # Errors
/// Only a bug: the columns always fit the schema.
pub fn write_songs(songs: &[Song]) -> Result<Vec<u8>> {
    let text = |f: fn(&Song) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(songs.iter().map(f))) };
    let number = |f: fn(&Song) -> u32| -> ArrayRef { Arc::new(songs.iter().map(f).collect::<UInt32Array>()) };
    let mut programs =
        ListBuilder::new(Int16Builder::new()).with_field(Arc::new(Field::new("item", DataType::Int16, false)));
    let mut midi = BinaryBuilder::new();
    for song in songs {
        programs.values().append_slice(&song.programs);
        programs.append(true);
        midi.append_option(song.midi.as_deref());
    }
    let failed = |e: &dyn std::fmt::Display| Error::bug(format!("a songs table does not fit its schema: {e}"));
    let batch = RecordBatch::try_new(
        Arc::new(schema()),
        vec![
            text(|s| &s.id),
            text(|s| &s.path),
            text(|s| &s.sha256),
            text(|s| s.split.name()),
            number(|s| s.tracks),
            number(|s| s.bars),
            number(|s| s.notes),
            Arc::new(programs.finish()),
            text(|s| s.status.name()),
            Arc::new(songs.iter().map(|s| s.reason.as_deref()).collect::<StringArray>()),
            Arc::new(midi.finish()),
        ],
    )
    .map_err(|e| failed(&e))?;
    parquet_of(&batch).map_err(|e| failed(&e))
}

/// The rows of a songs table; `name` is only for messages.
///
/// # Errors
/// It is not a songs table: exit code 65.
pub fn read_songs(bytes: Bytes, name: &str) -> Result<Vec<Song>> {
    let bad = |e: &dyn std::fmt::Display| Error::data(format!("`{name}` is not a songs table: {e}"));
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build()).map_err(|e| bad(&e))?;
    let mut songs = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| bad(&e))?;
        let text = |name: &'static str| -> Result<StringArray> {
            column::<StringArray>(&batch, name).ok_or_else(|| bad(&name))
        };
        let number = |name: &'static str| column::<UInt32Array>(&batch, name).ok_or_else(|| bad(&name));
        let (id, path, sha256, split) = (text("id")?, text("path")?, text("sha256")?, text("split")?);
        let (tracks, bars, notes) = (number("tracks")?, number("bars")?, number("notes")?);
        let (status, reason) = (text("status")?, text("reason")?);
        let programs = column::<ListArray>(&batch, "programs").ok_or_else(|| bad(&"programs"))?;
        let midi = column::<BinaryArray>(&batch, "midi").ok_or_else(|| bad(&"midi"))?;
        for row in 0..batch.num_rows() {
            let list = programs.value(row);
            let list = list.as_any().downcast_ref::<arrow::array::Int16Array>().ok_or_else(|| bad(&"programs"))?;
            songs.push(Song {
                id: id.value(row).to_owned(),
                path: path.value(row).to_owned(),
                sha256: sha256.value(row).to_owned(),
                split: Split::from_name(split.value(row)).ok_or_else(|| bad(&"split"))?,
                tracks: tracks.value(row),
                bars: bars.value(row),
                notes: notes.value(row),
                programs: list.values().to_vec(),
                status: [Status::Accepted, Status::Skipped, Status::Rejected]
                    .into_iter()
                    .find(|s| s.name() == status.value(row))
                    .ok_or_else(|| bad(&"status"))?,
                reason: reason.is_valid(row).then(|| reason.value(row).to_owned()),
                midi: midi.is_valid(row).then(|| midi.value(row).to_vec()),
            });
        }
    }
    Ok(songs)
}

fn column<T: Array + Clone + 'static>(batch: &RecordBatch, name: &str) -> Option<T> {
    batch.column_by_name(name)?.as_any().downcast_ref::<T>().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn songs() -> Vec<Song> {
        let song = Song {
            id: "00ff".into(),
            path: "a/b.mid".into(),
            sha256: "ab".into(),
            split: Split::Test,
            tracks: 3,
            bars: 16,
            notes: 200,
            programs: vec![0, 33, -1],
            status: Status::Accepted,
            reason: None,
            midi: Some(vec![1, 2, 3]),
        };
        let rejected = Song {
            status: Status::Rejected,
            reason: Some("header: the file is empty".into()),
            midi: None,
            split: Split::Train,
            ..song.clone()
        };
        vec![song, rejected]
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = write_songs(&songs()).expect("writes");
        assert_eq!(bytes, write_songs(&songs()).expect("writes"), "the same rows give the same bytes");
        assert_eq!(read_songs(bytes.into(), "songs").expect("reads"), songs());
    }

    #[test]
    fn garbage_is_an_error_with_its_name() {
        let error = read_songs(Bytes::from_static(b"PAR1 not really"), "x.parquet").expect_err("garbage");
        assert!(error.to_string().contains("x.parquet"), "{error}");
    }
}
