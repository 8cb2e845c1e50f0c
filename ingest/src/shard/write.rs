//! Samples into an Arrow IPC file, uncompressed so that a reader can map it and copy nothing.

use std::sync::Arc;

use arrow::array::{ListBuilder, RecordBatch, StringArray, UInt16Builder, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::FileWriter;

use crate::job::exit::{Error, Result};

/// One training sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The song's id.
    pub song: String,
    /// Which of the song's samples this is.
    pub pass: u32,
    /// The kind of infilling: `bars` or `track`.
    pub kind: &'static str,
    /// Index of the infilled track among the sample's tracks.
    pub track: u32,
    /// First infilled bar, counted from the start of the sample's window.
    pub bar: u32,
    /// Number of infilled bars.
    pub bars: u32,
    /// Token ids, context first, then the infilled section.
    pub input_ids: Vec<u16>,
}

pub(super) fn schema() -> Schema {
    let list = DataType::List(Arc::new(Field::new("item", DataType::UInt16, false)));
    Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("pass", DataType::UInt32, false),
        Field::new("kind", DataType::Utf8, false),
        Field::new("track", DataType::UInt32, false),
        Field::new("bar", DataType::UInt32, false),
        Field::new("bars", DataType::UInt32, false),
        Field::new("input_ids", list, false),
    ])
}

/// The bytes of a shard: one record batch, the rows in the order given.
///
/// # Errors
/// Only a bug: the columns always fit the schema.
pub fn write_shard(samples: &[Sample]) -> Result<Vec<u8>> {
    let schema = Arc::new(schema());
    let mut ids =
        ListBuilder::new(UInt16Builder::new()).with_field(Arc::new(Field::new("item", DataType::UInt16, false)));
    for sample in samples {
        ids.values().append_slice(&sample.input_ids);
        ids.append(true);
    }
    let numbers = |f: fn(&Sample) -> u32| Arc::new(samples.iter().map(f).collect::<UInt32Array>());
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(StringArray::from_iter_values(samples.iter().map(|s| s.song.as_str()))),
            numbers(|s| s.pass),
            Arc::new(StringArray::from_iter_values(samples.iter().map(|s| s.kind))),
            numbers(|s| s.track),
            numbers(|s| s.bar),
            numbers(|s| s.bars),
            Arc::new(ids.finish()),
        ],
    );
    let failed = |e: arrow::error::ArrowError| Error::bug("a shard does not fit its schema").because(e);
    let mut bytes = Vec::new();
    let mut writer = FileWriter::try_new(&mut bytes, &schema).map_err(failed)?;
    writer.write(&batch.map_err(failed)?).map_err(failed)?;
    writer.finish().map_err(failed)?;
    drop(writer);
    Ok(bytes)
}
