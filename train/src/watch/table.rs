//! The metrics log as a Parquet table: a column a field of [`Line`], a row a line.

use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch, UInt64Array};
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::shard::parquet_of;

use crate::metrics::Line;

/// The table's file.
///
/// # Errors
/// The table cannot be written: a bug.
pub fn parquet(lines: &[Line]) -> Result<Vec<u8>> {
    let failed = |e: &dyn std::fmt::Display| Error::bug(format!("cannot write the table of metrics: {e}"));
    let batch = batch(lines).map_err(|e| failed(&e))?;
    parquet_of(&batch).map_err(|e| failed(&e))
}

fn batch(lines: &[Line]) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let counts = |of: fn(&Line) -> u64| Arc::new(UInt64Array::from_iter_values(lines.iter().map(of)));
    let values = |of: fn(&Line) -> f64| Arc::new(Float64Array::from_iter_values(lines.iter().map(of)));
    let valid_loss: Float64Array = lines.iter().map(|line| line.valid_loss).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("step", counts(|line| line.step) as _, false),
        ("loss", values(|line| line.loss) as _, false),
        ("lr", values(|line| line.lr) as _, false),
        ("grad_norm", values(|line| line.grad_norm) as _, false),
        ("tokens", counts(|line| line.tokens) as _, false),
        ("tokens_per_second", values(|line| line.tokens_per_second) as _, false),
        ("filled", values(|line| line.filled) as _, false),
        ("loader_wait", values(|line| line.loader_wait) as _, false),
        ("valid_loss", Arc::new(valid_loss) as _, true),
    ])
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float64Type, UInt64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn line(step: u64, valid_loss: Option<f64>) -> Line {
        let x = step as f64;
        Line {
            step,
            loss: 5.0 / x,
            lr: 1e-3 * x,
            grad_norm: 0.1 + x,
            tokens: 100 * step,
            tokens_per_second: 50.0 + x,
            filled: 1.0 / (1.0 + x),
            loader_wait: 0.01 * x,
            valid_loss,
        }
    }

    fn read(bytes: Vec<u8>) -> Vec<Line> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).expect("a table");
        let mut lines = Vec::new();
        for batch in reader.build().expect("reads") {
            let batch = batch.expect("a batch");
            let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("{name}")).clone();
            let count = |name: &str, row: usize| column(name).as_primitive::<UInt64Type>().value(row);
            let value = |name: &str, row: usize| column(name).as_primitive::<Float64Type>().value(row);
            lines.extend((0..batch.num_rows()).map(|row| Line {
                step: count("step", row),
                loss: value("loss", row),
                lr: value("lr", row),
                grad_norm: value("grad_norm", row),
                tokens: count("tokens", row),
                tokens_per_second: value("tokens_per_second", row),
                filled: value("filled", row),
                loader_wait: value("loader_wait", row),
                valid_loss: column("valid_loss").is_valid(row).then(|| value("valid_loss", row)),
            }));
        }
        lines
    }

    #[test]
    fn a_table_reads_back_as_its_lines() {
        let lines = [line(10, None), line(20, Some(2.5)), line(25, None)];
        assert_eq!(read(parquet(&lines).expect("writes")), lines);
        assert_eq!(read(parquet(&[]).expect("writes")), []);
    }
}
