//! Writes a Parquet file of composed songs, for `bench/memory.py`: each row is a MIDI file followed by a chunk of noise
//! that no parser looks at, so that the file is as large as asked.
#![expect(clippy::print_stdout, reason = "it says how it is called")]

use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use midi_ingest::job::draws::{Draws, Keyed};
use midi_ingest::score::smf;
use midi_ingest::source::compose;
use parquet::arrow::ArrowWriter;

/// Songs that are composed; rows repeat them with other noise.
const SONGS: usize = 2000;
/// Bytes of noise to choose from: far more than a compressor looks back.
const POOL: usize = 16 << 20;
/// Rows of one row group.
const GROUP: usize = 500;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, rows, noise] = arguments.as_slice() else {
        println!("usage: synthetic_parquet FILE ROWS NOISE_BYTES");
        return;
    };
    let (rows, noise): (usize, usize) = (rows.parse().expect("rows"), noise.parse().expect("bytes"));
    let songs: Vec<Vec<u8>> = (0..SONGS as u64).map(|index| smf::write(&compose(9, index))).collect();
    let fields = vec![Field::new("md5", DataType::Utf8, false), Field::new("music", DataType::Binary, false)];
    let schema = Arc::new(Schema::new(fields));
    let file = fs_err::File::create(path).expect("creates");
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), None).expect("begins");
    let mut draws = Keyed::new(1, "noise", 0);
    // Every row has another part of it.
    let pool: Vec<u8> = (0..POOL + noise).map(|_| draws.below(256) as u8).collect();
    for first in (0..rows).step_by(GROUP) {
        let range = first..rows.min(first + GROUP);
        let names: Vec<String> = range.clone().map(|row| format!("song{row:07}")).collect();
        let files: Vec<Vec<u8>> = range
            .map(|row| {
                let mut bytes = songs[row % SONGS].clone();
                bytes.extend(b"XNOI");
                bytes.extend((noise as u32).to_be_bytes());
                bytes.extend_from_slice(&pool[draws.below(POOL)..][..noise]);
                bytes
            })
            .collect();
        let music = BinaryArray::from_iter_values(files.iter().map(Vec::as_slice));
        let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(StringArray::from(names)), Arc::new(music)];
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch")).expect("writes");
        writer.flush().expect("ends the row group");
    }
    writer.close().expect("closes");
}
