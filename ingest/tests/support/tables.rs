//! Parquet files for tests, in the layouts of known data sets: the columns that are read, and some that are not.

// Each test uses the part that it needs.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Int16Builder, Int32Array, ListBuilder, RecordBatch, StringArray,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// A row: its name, and the MIDI bytes if it has any.
pub type Row<'a> = (&'a str, Option<Vec<u8>>);

/// Names of the layouts that [`table`] writes.
pub const LAYOUTS: [&str; 3] = ["gigamidi-v1.0.0", "gigamidi-v1.1.0", "gigamidi-v2.0.0"];

/// A file in the layout `layout`, with one row group for each of `groups`.
pub fn table(layout: &str, groups: &[&[Row<'_>]], compression: Compression) -> Vec<u8> {
    let properties = WriterProperties::builder().set_compression(compression).build();
    let batches: Vec<RecordBatch> = groups.iter().map(|rows| batch(layout, rows)).collect();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).expect("a writer");
    for batch in &batches {
        writer.write(batch).expect("writes");
        // Each flush ends a row group.
        writer.flush().expect("flushes");
    }
    writer.into_inner().expect("closes")
}

fn batch(layout: &str, rows: &[Row<'_>]) -> RecordBatch {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(name, _)| *name)));
    let midi: ArrayRef = Arc::new(rows.iter().map(|(_, bytes)| bytes.as_deref()).collect::<BinaryArray>());
    let mut metric = ListBuilder::new(Int16Builder::new());
    for (row, _) in rows.iter().enumerate() {
        metric.values().append_slice(&[row as i16, 7]);
        metric.append(true);
    }
    let metric: ArrayRef = Arc::new(metric.finish());
    // Bytes that no compression makes small, and that are not asked for.
    let filler = |row: usize| {
        let mut state = row as u64 + 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        (0..100_000).map(|_| next()).collect::<Vec<u8>>()
    };
    let filler: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..rows.len()).map(filler)));
    let columns: Vec<(&str, ArrayRef)> = match layout {
        "gigamidi-v1.0.0" | "gigamidi-v1.1.0" => {
            let drums: ArrayRef = Arc::new(BooleanArray::from(vec![true; rows.len()]));
            vec![("md5", names), ("music", midi), ("is_drums", drums), ("median_metric_depth", metric)]
        }
        "gigamidi-v2.0.0" => {
            let split: ArrayRef = Arc::new(StringArray::from(vec!["train"; rows.len()]));
            let tracks: ArrayRef = Arc::new(Int32Array::from(vec![3; rows.len()]));
            vec![("split", split), ("md5", names), ("music", midi), ("NOMML", metric), ("num_tracks", tracks)]
        }
        _ => vec![("before", Arc::clone(&filler)), ("bytes", midi), ("between", filler), ("name", names)],
    };
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}
