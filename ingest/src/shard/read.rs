//! A shard as slices of token ids, read from a mapped file.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ListArray, RecordBatch, StringArray, UInt16Array, UInt32Array};
use arrow::buffer::Buffer;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::root_as_footer;

use super::map::map_file;
use super::write::schema;
use crate::job::exit::{Error, Result};

/// An open shard.
#[derive(Clone, Debug)]
pub struct ShardReader {
    batch: RecordBatch,
    ids: ListArray,
    values: UInt16Array,
}

impl ShardReader {
    /// Opens the shard at `path` by mapping it.
    ///
    /// # Errors
    /// It cannot be opened (74), or it is not a shard: exit code 65, with the path.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |what: &str| {
            Error::data(format!("the shard `{}` {what}", path.display()))
                .hint("it was changed after it was written; remove the run's `ingest` folder and run ingest again")
        };
        let buffer = map_file(path)?;
        let batch = decode(&buffer).map_err(|e| bad("cannot be read").because(e))?;
        if batch.schema().fields() != schema().fields() {
            return Err(bad("has other columns than this version writes"));
        }
        let column = |name: &str| batch.column_by_name(name).map(Arc::clone).ok_or_else(|| bad("misses a column"));
        let ids = column("input_ids")?
            .as_any()
            .downcast_ref::<ListArray>()
            .cloned()
            .ok_or_else(|| bad("has a wrong `input_ids` column"))?;
        let values = ids
            .values()
            .as_any()
            .downcast_ref::<UInt16Array>()
            .cloned()
            .ok_or_else(|| bad("has a wrong `input_ids` column"))?;
        Ok(ShardReader { batch, ids, values })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token ids of sample `row`.
    ///
    /// # Panics
    /// If `row` is not below [`ShardReader::len`].
    pub fn input_ids(&self, row: usize) -> &[u16] {
        let offsets = self.ids.value_offsets();
        &self.values.values()[offsets[row] as usize..offsets[row + 1] as usize]
    }

    /// The id of the song that sample `row` was drawn from.
    pub fn song(&self, row: usize) -> &str {
        let column = self.batch.column_by_name("id").and_then(|c| c.as_any().downcast_ref::<StringArray>());
        column.map_or("", |names| names.value(row))
    }

    /// A number of sample `row` by column name: `pass`, `track`, `bar` or `bars`.
    pub fn number(&self, column: &str, row: usize) -> Option<u32> {
        let column = self.batch.column_by_name(column)?.as_any().downcast_ref::<UInt32Array>()?;
        (row < column.len()).then(|| column.value(row))
    }
}

fn decode(buffer: &Buffer) -> Result<RecordBatch, Box<dyn std::error::Error + Send + Sync>> {
    const TRAILER: usize = 10;
    let trailer = buffer.len().checked_sub(TRAILER).ok_or("it is too short")?;
    let length = read_footer_length(buffer[trailer..].try_into()?)?;
    let start = trailer.checked_sub(length).ok_or("its footer is longer than the file")?;
    let footer = root_as_footer(&buffer[start..trailer]).map_err(|e| e.to_string())?;
    let schema = Arc::new(try_fb_to_schema(footer.schema().ok_or("it has no schema")?)?);
    let batches = footer.recordBatches().ok_or("it has no batch")?;
    if batches.len() != 1 {
        return Err("it has not exactly one batch".into());
    }
    let block = batches.get(0);
    let offset = usize::try_from(block.offset())?;
    let length = usize::try_from(block.bodyLength())? + usize::try_from(block.metaDataLength())?;
    if offset.checked_add(length).is_none_or(|end| end > buffer.len()) {
        return Err("its batch ends past the file".into());
    }
    let decoder = FileDecoder::new(schema, footer.version());
    let batch = decoder.read_record_batch(block, &buffer.slice_with_length(offset, length))?;
    batch.ok_or_else(|| "its batch is empty".into())
}

#[cfg(test)]
mod tests {
    use super::super::write::{Sample, write_shard};
    use super::*;
    use crate::job::exit::Exit;

    fn sample(pass: u32, ids: &[u16]) -> Sample {
        Sample { song: format!("song{pass}"), pass, kind: "bars", track: 1, bar: 2, bars: 4, input_ids: ids.to_vec() }
    }

    #[test]
    fn what_was_written_is_read_without_copies() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.arrow");
        let samples = [sample(0, &[7, 663, 399]), sample(1, &[]), sample(2, &[65535, 1])];
        fs_err::write(&path, write_shard(&samples).expect("writes")).expect("writes");
        let shard = ShardReader::open(&path).expect("opens");
        assert_eq!(shard.len(), 3);
        for (row, sample) in samples.iter().enumerate() {
            assert_eq!(shard.input_ids(row), sample.input_ids);
            assert_eq!(shard.song(row), sample.song);
            assert_eq!(shard.number("pass", row), Some(sample.pass));
        }
    }

    #[test]
    fn writing_twice_gives_the_same_bytes() {
        let samples = [sample(0, &[1, 2, 3])];
        assert_eq!(write_shard(&samples).expect("writes"), write_shard(&samples).expect("writes"));
    }

    #[test]
    fn a_cut_shard_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("cut.arrow");
        let bytes = write_shard(&[sample(0, &[1, 2, 3])]).expect("writes");
        for keep in [0, 5, 9, 40, bytes.len() / 2, bytes.len() - 1] {
            fs_err::write(&path, &bytes[..keep]).expect("writes");
            let error = ShardReader::open(&path).expect_err("cut");
            assert!(error.to_string().contains("cut.arrow"), "{error}");
            assert!(matches!(error.exit(), Exit::BadData | Exit::Storage));
        }
    }
}
