//! Rows in memory and Parquet bytes: what the four tables of the results have in common.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, ListArray, ListBuilder, RecordBatch, StringArray,
    UInt8Array, UInt16Array, UInt16Builder, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::shard::parquet_of;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The bytes of a Parquet file.
pub use bytes::Bytes;

/// A row of a results table.
pub trait Row: Sized {
    /// The name of the table and of its folder.
    const TABLE: &'static str;

    /// The columns, in order.
    fn fields() -> Vec<Field>;

    /// The rows as arrays, in the order of [`Row::fields`].
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;

    /// Row `index` of a batch with these columns.
    ///
    /// # Errors
    /// A column is missing, has another type, or a value that the row cannot hold.
    fn row(columns: &Columns<'_>, index: usize) -> Result<Self>;

    /// Says what is wrong with a row that must not be written.
    fn flaw(&self) -> Option<String> {
        None
    }
}

/// The Parquet bytes of a table, the rows in the order given.
///
/// # Errors
/// Only a bug: a row with a NaN, or with a missing value that has no reason.
pub fn write<R: Row>(rows: &[R]) -> Result<Vec<u8>> {
    let failed = |e: &dyn std::fmt::Display| Error::bug(format!("cannot write a {} table: {e}", R::TABLE));
    if let Some(flaw) = rows.iter().find_map(R::flaw) {
        return Err(failed(&flaw));
    }
    let batch = RecordBatch::try_new(Arc::new(Schema::new(R::fields())), R::columns(rows)).map_err(|e| failed(&e))?;
    parquet_of(&batch).map_err(|e| failed(&e))
}

/// The rows of a table; `name` is only for messages.
///
/// # Errors
/// It is not such a table: exit code 65.
pub fn read<R: Row>(bytes: Bytes, name: &str) -> Result<Vec<R>> {
    let bad = |e: &dyn std::fmt::Display| not_a_table(name, R::TABLE, e);
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build()).map_err(|e| bad(&e))?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| bad(&e))?;
        let columns = Columns { batch: &batch, name, table: R::TABLE };
        for index in 0..batch.num_rows() {
            rows.push(R::row(&columns, index)?);
        }
    }
    Ok(rows)
}

fn not_a_table(name: &str, table: &str, why: &dyn std::fmt::Display) -> Error {
    Error::data(format!("`{name}` is not a {table} table: {why}"))
}

/// The columns of a batch, by name.
#[derive(Debug)]
pub struct Columns<'a> {
    batch: &'a RecordBatch,
    name: &'a str,
    table: &'static str,
}

impl Columns<'_> {
    /// A text that is always there.
    ///
    /// # Errors
    /// There is no such column, or it has no value there. So for all that follow.
    pub fn text(&self, column: &str, row: usize) -> Result<String> {
        self.optional_text(column, row)?.ok_or_else(|| self.bad(column))
    }

    /// A text that may be missing.
    ///
    /// # Errors
    /// There is no such column.
    pub fn optional_text(&self, column: &str, row: usize) -> Result<Option<String>> {
        let array = self.array::<StringArray>(column)?;
        Ok(array.is_valid(row).then(|| array.value(row).to_owned()))
    }

    /// A number that may be missing.
    ///
    /// # Errors
    /// There is no such column.
    pub fn optional_float(&self, column: &str, row: usize) -> Result<Option<f64>> {
        let array = self.array::<Float64Array>(column)?;
        Ok(array.is_valid(row).then(|| array.value(row)))
    }

    /// A number that is always there.
    ///
    /// # Errors
    /// As [`Columns::text`].
    pub fn float(&self, column: &str, row: usize) -> Result<f64> {
        self.optional_float(column, row)?.ok_or_else(|| self.bad(column))
    }

    /// A small whole number.
    ///
    /// # Errors
    /// As [`Columns::text`].
    pub fn u8(&self, column: &str, row: usize) -> Result<u8> {
        let array = self.array::<UInt8Array>(column)?;
        array.is_valid(row).then(|| array.value(row)).ok_or_else(|| self.bad(column))
    }

    /// A whole number.
    ///
    /// # Errors
    /// As [`Columns::text`].
    pub fn u32(&self, column: &str, row: usize) -> Result<u32> {
        let array = self.array::<UInt32Array>(column)?;
        array.is_valid(row).then(|| array.value(row)).ok_or_else(|| self.bad(column))
    }

    /// A large whole number.
    ///
    /// # Errors
    /// As [`Columns::text`].
    pub fn u64(&self, column: &str, row: usize) -> Result<u64> {
        let array = self.array::<UInt64Array>(column)?;
        array.is_valid(row).then(|| array.value(row)).ok_or_else(|| self.bad(column))
    }

    /// A yes or no.
    ///
    /// # Errors
    /// As [`Columns::text`].
    pub fn bool(&self, column: &str, row: usize) -> Result<bool> {
        let array = self.array::<BooleanArray>(column)?;
        array.is_valid(row).then(|| array.value(row)).ok_or_else(|| self.bad(column))
    }

    /// Bytes that may be missing.
    ///
    /// # Errors
    /// There is no such column.
    pub fn optional_bytes(&self, column: &str, row: usize) -> Result<Option<Vec<u8>>> {
        let array = self.array::<BinaryArray>(column)?;
        Ok(array.is_valid(row).then(|| array.value(row).to_vec()))
    }

    /// Token ids.
    ///
    /// # Errors
    /// As [`Columns::text`].
    pub fn tokens(&self, column: &str, row: usize) -> Result<Vec<u16>> {
        let array = self.array::<ListArray>(column)?;
        let list = array.is_valid(row).then(|| array.value(row)).ok_or_else(|| self.bad(column))?;
        self.ids(column, &list)
    }

    /// Lists of token ids.
    ///
    /// # Errors
    /// As [`Columns::text`].
    pub fn lists_of_tokens(&self, column: &str, row: usize) -> Result<Vec<Vec<u16>>> {
        let array = self.array::<ListArray>(column)?;
        let lists = array.is_valid(row).then(|| array.value(row)).ok_or_else(|| self.bad(column))?;
        let lists = lists.as_any().downcast_ref::<ListArray>().ok_or_else(|| self.bad(column))?;
        (0..lists.len()).map(|at| self.ids(column, &lists.value(at))).collect()
    }

    fn ids(&self, column: &str, list: &dyn Array) -> Result<Vec<u16>> {
        let ids = list.as_any().downcast_ref::<UInt16Array>().ok_or_else(|| self.bad(column))?;
        Ok(ids.values().to_vec())
    }

    /// A value of `column` that the row cannot hold.
    pub fn bad(&self, column: &str) -> Error {
        not_a_table(self.name, self.table, &format_args!("column `{column}` is missing or unfit"))
    }

    fn array<T: Array + 'static>(&self, column: &str) -> Result<&T> {
        let array = self.batch.column_by_name(column);
        array.and_then(|array| array.as_any().downcast_ref::<T>()).ok_or_else(|| self.bad(column))
    }
}

/// A column that is always there.
pub(super) fn required(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, false)
}

/// A column with nulls.
pub(super) fn optional(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}

/// The type of a list of token ids.
pub(super) fn token_list() -> DataType {
    DataType::List(token_field())
}

fn token_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::UInt16, false))
}

/// The type of a list of lists of token ids.
pub(super) fn token_lists() -> DataType {
    DataType::List(list_field())
}

fn list_field() -> Arc<Field> {
    Arc::new(Field::new("item", token_list(), false))
}

/// A column of texts.
pub(super) fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// A column of texts with nulls.
pub(super) fn optional_texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

/// A column of numbers with nulls.
pub(super) fn optional_floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

/// A column of whole numbers.
pub(super) fn u32s(values: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from_iter_values(values))
}

/// A column of lists of token ids.
pub(super) fn tokens<'a>(values: impl Iterator<Item = &'a [u16]>) -> ArrayRef {
    let mut lists = ListBuilder::new(UInt16Builder::new()).with_field(token_field());
    for ids in values {
        lists.values().append_slice(ids);
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// A column of lists of lists of token ids.
pub(super) fn lists_of_tokens<'a>(values: impl Iterator<Item = &'a [Vec<u16>]>) -> ArrayRef {
    let inner = ListBuilder::new(UInt16Builder::new()).with_field(token_field());
    let mut outer = ListBuilder::new(inner).with_field(list_field());
    for lists in values {
        for ids in lists {
            outer.values().values().append_slice(ids);
            outer.values().append(true);
        }
        outer.append(true);
    }
    Arc::new(outer.finish())
}

/// The flaw of a number that is not finite.
pub(super) fn not_finite<'a>(numbers: impl IntoIterator<Item = (&'a str, Option<f64>)>) -> Option<String> {
    let flawed = numbers.into_iter().find(|(_, number)| number.is_some_and(|number| !number.is_finite()));
    flawed.map(|(name, _)| format!("`{name}` is not a finite number"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Writes and reads rows, and checks that bytes are a function of them.
    pub(in crate::results) fn round_trip<R: Row + PartialEq + std::fmt::Debug>(rows: &[R]) {
        let bytes = write(rows).expect("writes");
        assert_eq!(bytes, write(rows).expect("writes"), "the same rows give the same bytes");
        assert_eq!(read::<R>(bytes.into(), "a table").expect("reads"), rows);
        let none = write::<R>(&[]).expect("writes");
        assert_eq!(read::<R>(none.into(), "an empty table").expect("reads"), []);
    }

    #[test]
    fn garbage_is_an_error_with_its_name() {
        let garbage = Bytes::from_static(b"PAR1 not really");
        let error = read::<super::super::MetricRow>(garbage, "x.parquet").expect_err("garbage");
        assert!(error.to_string().starts_with("`x.parquet` is not a metrics table: "), "{error}");
    }

    #[test]
    fn another_table_is_an_error_that_names_the_column() {
        let row = super::super::metrics::tests::row("p", "m", "cp", Some(0.5));
        let bytes = write(&[row]).expect("writes");
        let error = read::<super::super::PromptRow>(bytes.into(), "x.parquet").expect_err("another table");
        assert_eq!(error.to_string(), "`x.parquet` is not a prompts table: column `song_id` is missing or unfit");
    }
}
