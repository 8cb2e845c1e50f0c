//! Parquet files with a MIDI file in every row: a unit is a row group, of which only the columns with the bytes and the
//! name are read.

mod blocks;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use parquet::schema::types::SchemaDescriptor;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use self::blocks::{Blocks, Fetch};
use super::{Content, Files, MAX_FILE_BYTES, RawFile, Source, Unit};
use crate::config::Layout;
use crate::job::exit::{Error, Result};
use crate::limits::Limits;
use crate::store::Access;
use crate::store::inputs::{Input, Inputs};

/// What a Parquet file ends with.
const MAGIC: &[u8] = b"PAR1";
/// Bytes after the footer: its length, and the magic word.
const TAIL: u64 = 8;
/// Bytes that are read first from a file's end; a footer is rarely larger.
const GUESS: u64 = 64 << 10;
/// The largest footer that is taken.
const MAX_FOOTER: u64 = 256 << 20;
/// Most rows of a row group: memory is taken for a unit's rows before they are read.
const MAX_ROWS: usize = 1 << 24;
/// Rows that are decoded together.
const ROWS: usize = 32;

/// Which columns are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    midi: String,
    id: Option<String>,
}

impl Columns {
    /// The columns of a known data set, or else those given.
    ///
    /// # Errors
    /// Neither or both are given (78).
    pub fn of(layout: Option<Layout>, column: Option<&str>, id: Option<&str>) -> Result<Self> {
        match (layout, column) {
            // All three name their columns alike; what else they hold differs.
            (Some(Layout::GigaMidi100 | Layout::GigaMidi110 | Layout::GigaMidi200), None) if id.is_none() => {
                Ok(Columns { midi: "music".to_owned(), id: Some("md5".to_owned()) })
            }
            (None, Some(column)) => Ok(Columns { midi: column.to_owned(), id: id.map(str::to_owned) }),
            _ => Err(Error::mismatch("`ingest.source` says not clearly which column holds the MIDI bytes")
                .hint("give either `layout`, or `column` and perhaps `id-column`")),
        }
    }
}

/// Every row of some Parquet files, in order of the files' names.
///
/// A row without bytes is a file that cannot be read, and one above the limit is too large: neither ends the work.
#[derive(Debug)]
pub struct Parquet {
    inputs: Arc<Inputs>,
    files: Vec<Table>,
    groups: Vec<Group>,
    units: Vec<Unit>,
    limits: Limits,
    fingerprint: String,
}

/// A file, with what its footer says.
#[derive(Debug)]
struct Table {
    input: Input,
    metadata: ArrowReaderMetadata,
    /// Position of the column with the MIDI bytes among the file's leaves.
    midi: usize,
    id: Option<usize>,
    footer_sha256: [u8; 32],
}

/// A row group that has rows.
#[derive(Debug)]
struct Group {
    /// Position of its file.
    file: usize,
    /// Position in the file.
    index: usize,
    /// Rows of the file before it.
    first: usize,
}

impl Parquet {
    /// Finds the files at `uri` and reads their footers.
    ///
    /// # Errors
    /// Nothing is there, or a file is no Parquet file (65); a column is missing or of another type, or `uri` is not
    /// understood (78); the place fails (74).
    pub fn open(uri: &str, columns: &Columns, limits: &Limits, access: &Access) -> Result<Self> {
        let inputs = Arc::new(Inputs::find(uri, ".parquet", access)?);
        let files: Vec<Table> =
            inputs.files().par_iter().map(|input| Table::open(&inputs, input, columns, uri)).collect::<Result<_>>()?;
        let (mut groups, mut units) = (Vec::new(), Vec::<Unit>::new());
        let mut total = 0usize;
        for (file, table) in files.iter().enumerate() {
            let mut first = 0usize;
            for (index, group) in table.groups().iter().enumerate() {
                let rows = usize::try_from(group.num_rows()).map_err(|_| table.corrupt("a row group has no size"))?;
                if rows > MAX_ROWS {
                    return Err(table.corrupt("a row group claims more rows than can be"));
                }
                if rows > 0 {
                    let position = units.len();
                    units.push(Unit { name: format!("{position:05}"), index: position, first: total, files: rows });
                    groups.push(Group { file, index, first });
                }
                let sum = |a: usize| a.checked_add(rows).ok_or_else(|| table.corrupt("it has more rows than can be"));
                (first, total) = (sum(first)?, sum(total)?);
            }
        }
        if units.is_empty() {
            return Err(Error::data(format!("`{uri}` holds no rows")).hint("give other files with `ingest.source.uri`"));
        }
        let fingerprint = fingerprint(&files, columns);
        Ok(Parquet { inputs, files, groups, units, limits: limits.clone(), fingerprint })
    }
}

impl Source for Parquet {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn read(&self, unit: &Unit) -> Result<Files<'_>> {
        let known = self.units.get(unit.index).filter(|own| *own == unit).and(self.groups.get(unit.index));
        let group = known.ok_or_else(|| super::foreign(unit))?;
        let table = self.files.get(group.file).ok_or_else(|| super::foreign(unit))?;
        let bytes = table.unpacked(group);
        if bytes > self.limits.max_row_group_bytes {
            let content = Content::TooLarge { bytes, limit: "max-row-group-bytes" };
            let row = move |row: usize| (format!("{}/{}", table.input.name, group.first + row), content.clone());
            return Ok(Box::new((0..unit.files).map(row).map(|(path, content)| Ok(RawFile { path, content }))));
        }
        Ok(Box::new(Rows::open(&self.inputs, table, group, unit.files, &self.limits)?))
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

impl Table {
    fn open(inputs: &Inputs, input: &Input, columns: &Columns, uri: &str) -> Result<Self> {
        let bad = |what: &str| corrupt(&input.name, what);
        let footer = footer(inputs, input)?;
        let metadata = ParquetMetaDataReader::decode_metadata(&footer)
            .map_err(|e| bad("its footer cannot be understood").because(e))?;
        // The types of the file itself, and not those that its writer had in memory.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), options)
            .map_err(|e| bad("its schema cannot be understood").because(e))?;
        let schema = metadata.parquet_schema();
        let midi = leaf(schema, &columns.midi, &input.name, uri)?;
        if !is_bytes(schema, midi) {
            return Err(Error::mismatch(format!("column `{}` of `{}` holds no bytes", columns.midi, input.name))
                .hint("name the column with the MIDI bytes as `ingest.source.column`"));
        }
        let id = columns.id.as_ref().map(|name| leaf(schema, name, &input.name, uri)).transpose()?;
        let footer_sha256 = Sha256::digest(&footer).into();
        let table = Table { input: input.clone(), midi, id, footer_sha256, metadata };
        for group in table.groups() {
            for span in table.spans(group)? {
                if span.end > table.input.bytes {
                    return Err(table.corrupt("a column ends after the file"));
                }
            }
        }
        Ok(table)
    }

    fn groups(&self) -> &[RowGroupMetaData] {
        self.metadata.metadata().row_groups()
    }

    /// The leaves that are read.
    fn leaves(&self) -> impl Iterator<Item = usize> {
        std::iter::once(self.midi).chain(self.id)
    }

    /// Where their bytes lie.
    fn spans(&self, group: &RowGroupMetaData) -> Result<Vec<Range<u64>>> {
        let span = |leaf: usize| {
            let column = group.columns().get(leaf)?;
            let start = column.dictionary_page_offset().filter(|at| *at > 0).unwrap_or(i64::MAX);
            let start = u64::try_from(start.min(column.data_page_offset())).ok()?;
            let length = u64::try_from(column.compressed_size()).ok()?;
            Some(start..start.checked_add(length)?)
        };
        self.leaves().map(|leaf| span(leaf).ok_or_else(|| self.corrupt("a column has no place"))).collect()
    }

    /// Bytes of the columns that are read, unpacked, as the footer has them; a negative size is an endless one.
    fn unpacked(&self, group: &Group) -> u64 {
        let columns = self.groups().get(group.index).map(RowGroupMetaData::columns).unwrap_or_default();
        let sizes = self.leaves().filter_map(|leaf| columns.get(leaf)).map(|column| column.uncompressed_size());
        sizes.fold(0, |sum: u64, size| sum.saturating_add(u64::try_from(size).unwrap_or(u64::MAX)))
    }

    fn corrupt(&self, what: &str) -> Error {
        corrupt(&self.input.name, what)
    }
}

fn corrupt(name: &str, what: &str) -> Error {
    Error::data(format!("cannot read the Parquet file `{name}`: {what}"))
        .hint("take a whole copy of the file; a download may have been cut short")
}

/// The footer of a file, without the length and the magic word after it.
fn footer(inputs: &Inputs, input: &Input) -> Result<Bytes> {
    let size = input.bytes;
    if size < TAIL + MAGIC.len() as u64 {
        return Err(corrupt(&input.name, "it is too short"));
    }
    let start = size.saturating_sub(GUESS);
    let end = inputs.range(input, start..size)?;
    let tail = end.slice(end.len() - TAIL as usize..);
    if &tail[4..] != MAGIC {
        return Err(corrupt(&input.name, "it does not end as one"));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if length > MAX_FOOTER || length > size - TAIL {
        return Err(corrupt(&input.name, &format!("its footer claims {length} bytes")));
    }
    let begins = size - TAIL - length;
    match begins.checked_sub(start) {
        Some(inside) => Ok(end.slice(inside as usize..end.len() - TAIL as usize)),
        None => inputs.range(input, begins..size - TAIL),
    }
}

/// The position of the plain column `name` among the leaves.
fn leaf(schema: &SchemaDescriptor, name: &str, file: &str, uri: &str) -> Result<usize> {
    let found = schema.columns().iter().position(|column| {
        column.path().parts() == [name.to_owned()] && column.max_rep_level() == 0 && column.max_def_level() <= 1
    });
    found.ok_or_else(|| {
        let mut roots: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
        roots.truncate(40);
        Error::mismatch(format!("`{file}` at `{uri}` has no plain column `{name}`, but {}", roots.join(", ")))
            .hint("give the right `layout`, or `column` and `id-column`, under `[ingest.source]`")
    })
}

fn is_bytes(schema: &SchemaDescriptor, leaf: usize) -> bool {
    let column = schema.column(leaf);
    column.physical_type() == Type::BYTE_ARRAY
        && !matches!(column.logical_type_ref(), Some(LogicalType::String))
        && column.converted_type() == ConvertedType::NONE
}

/// A hash of the names, sizes and footers, which say where and how large every page is.
fn fingerprint(files: &[Table], columns: &Columns) -> String {
    let mut hash = Sha256::new();
    let mut text = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    text(&columns.midi);
    text(columns.id.as_deref().unwrap_or_default());
    for file in files {
        text(&file.input.name);
        text(&format!("{} {}", file.input.bytes, hex::encode(file.footer_sha256)));
    }
    format!("parquet:{}", hex::encode(hash.finalize()))
}

/// The rows of a row group, some decoded at a time.
struct Rows<'a> {
    table: &'a Table,
    group: &'a Group,
    reader: ParquetRecordBatchReader,
    blocks: Blocks,
    ready: VecDeque<RawFile>,
    /// Rows that came out.
    taken: usize,
    rows: usize,
    limits: &'a Limits,
    ended: bool,
}

impl<'a> Rows<'a> {
    fn open(
        inputs: &Arc<Inputs>,
        table: &'a Table,
        group: &'a Group,
        rows: usize,
        limits: &'a Limits,
    ) -> Result<Rows<'a>> {
        let described = table.groups().get(group.index).ok_or_else(|| Error::bug("a row group is gone"))?;
        let (inputs, input) = (Arc::clone(inputs), table.input.clone());
        let size = input.bytes;
        let fetch: Fetch = Arc::new(move |range| inputs.range(&input, range));
        let blocks = Blocks::new(size, table.spans(described)?, fetch);
        let mask = ProjectionMask::leaves(table.metadata.parquet_schema(), table.leaves());
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(blocks.clone(), table.metadata.clone())
            .with_row_groups(vec![group.index])
            .with_projection(mask)
            .with_batch_size(ROWS)
            .build()
            .map_err(|e| table.corrupt(&format!("row group {}", group.index)).because(e))?;
        Ok(Rows { table, group, reader, blocks, ready: VecDeque::new(), taken: 0, rows, limits, ended: false })
    }

    /// The error of a read that failed, else that the row group is corrupt.
    fn failed(&self, what: impl std::fmt::Display) -> Error {
        let place = format!("row group {}, after {} of its rows: {what}", self.group.index, self.taken);
        self.blocks.failure().unwrap_or_else(|| self.table.corrupt(&place))
    }

    /// Decodes some rows more; none are left where it adds none.
    fn decode(&mut self) -> Result<()> {
        let Some(batch) = self.reader.next() else {
            return if self.taken == self.rows { Ok(()) } else { Err(self.failed("it ends too early")) };
        };
        let batch = batch.map_err(|e| self.failed(e))?;
        let schema = self.table.metadata.parquet_schema();
        let column = |leaf: usize, to: DataType| -> Result<ArrayRef> {
            let name = schema.column(leaf).name().to_owned();
            let array = batch.column_by_name(&name).ok_or_else(|| self.failed(format!("column `{name}` is gone")))?;
            cast(array, &to).map_err(|e| self.failed(format!("column `{name}`: {e}")))
        };
        let midi = column(self.table.midi, DataType::Binary)?;
        let ids = self.table.id.map(|leaf| column(leaf, DataType::Utf8)).transpose()?;
        let midi = midi.as_any().downcast_ref::<BinaryArray>().ok_or_else(|| Error::bug("bytes are no bytes"))?;
        let ids = ids.as_ref().and_then(|ids| ids.as_any().downcast_ref::<StringArray>());
        for row in 0..batch.num_rows() {
            let id = ids.filter(|ids| ids.is_valid(row)).map(|ids| ids.value(row)).filter(|id| !id.is_empty());
            let number = (self.group.first + self.taken).to_string();
            let path = format!("{}/{}", self.table.input.name, id.unwrap_or(&number));
            let content = if midi.is_null(row) {
                Content::Unreadable { reason: "the row has no bytes".to_owned() }
            } else {
                let bytes = midi.value(row);
                match bytes.len() as u64 {
                    size if size > self.limits.max_row_bytes => {
                        Content::TooLarge { bytes: size, limit: "max-row-bytes" }
                    }
                    size if size > self.limits.max_file_bytes => {
                        Content::TooLarge { bytes: size, limit: MAX_FILE_BYTES }
                    }
                    _ => Content::Bytes(bytes.to_vec()),
                }
            };
            self.ready.push_back(RawFile { path, content });
            self.taken += 1;
        }
        Ok(())
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<RawFile>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.ended {
            let before = self.taken;
            let decoded = self.decode();
            self.ended = decoded.is_err() || self.taken == before;
            if let Err(error) = decoded {
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

#[cfg(test)]
mod tests;
