//! Event files for TensorBoard: records in TFRecord's frame, each the few fields of the protocol buffer `Event` that a
//! curve needs (`tensorflow/core/util/event.proto`, `summary.proto`).
//!
//! No clock is read. The wall time of an event is the time that the run had spent by then, as the rates of the log have
//! it, so TensorBoard's axis "relative" is right and its dates are those of 1970.

use midi_ingest::job::exit::Result;
use midi_ingest::store::Store;

use super::Clock;
use crate::metrics::Line;

/// The event file of one run, from where it began to its last line. An object store cannot append, so it is put whole.
#[derive(Debug)]
pub struct EventFile {
    store: Store,
    name: String,
    bytes: Vec<u8>,
    clock: Clock,
}

impl EventFile {
    /// The file of a run that begins at step `begun_at`, after the lines `before`. Nothing is written yet.
    ///
    /// A resumed run has a file of its own. It first takes back the events after `begun_at` of the files before, which
    /// sort before it.
    pub fn new(store: &Store, folder: &str, begun_at: u64, before: &[Line]) -> Self {
        let mut clock = Clock::default();
        let seconds = before.iter().map(|line| clock.at(line)).last().unwrap_or(0.0);
        let mut bytes = record(&version(seconds));
        if begun_at > 0 {
            bytes.extend(record(&start(seconds, begun_at + 1)));
        }
        let name = format!("{folder}/events.out.tfevents.{begun_at:08}.midi-rwkv");
        EventFile { store: store.clone(), name, bytes, clock }
    }

    /// Adds a line of the log.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn add(&mut self, line: &Line) -> Result<()> {
        let seconds = self.clock.at(line);
        self.bytes.extend(record(&scalars(seconds, line)));
        self.store.put(&self.name, self.bytes.clone())
    }
}

/// The event that begins every file.
fn version(seconds: f64) -> Vec<u8> {
    let mut event = fixed64(1, seconds);
    event.extend(bytes(3, b"brain.Event:2"));
    event
}

/// The event of a start again: TensorBoard forgets what it has read from `step` on.
fn start(seconds: f64, step: u64) -> Vec<u8> {
    let mut event = fixed64(1, seconds);
    event.extend(varint(2, step));
    // SessionLog { status: START }
    event.extend(bytes(7, &varint(1, 1)));
    event
}

/// The event with the values of a line.
fn scalars(seconds: f64, line: &Line) -> Vec<u8> {
    let values = [
        ("loss/train", Some(line.loss)),
        ("loss/validation", line.valid_loss),
        ("lr", Some(line.lr)),
        ("grad_norm", Some(line.grad_norm)),
        ("tokens_per_second", Some(line.tokens_per_second)),
    ];
    let values: Vec<_> = values.into_iter().filter_map(|(tag, value)| Some((tag, value? as f32))).collect();
    event(seconds, line.step, &values)
}

fn event(seconds: f64, step: u64, values: &[(&str, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut pair = bytes(1, tag.as_bytes());
        pair.extend(fixed32(2, *value));
        summary.extend(bytes(1, &pair));
    }
    let mut event = fixed64(1, seconds);
    event.extend(varint(2, step));
    event.extend(bytes(5, &summary));
    event
}

/// A field of wire type 0.
fn varint(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    push_varint(&mut out, value);
    out
}

/// A field of wire type 1.
fn fixed64(field: u8, value: f64) -> Vec<u8> {
    std::iter::once((field << 3) | 1).chain(value.to_le_bytes()).collect()
}

/// A field of wire type 2: its length, then its bytes.
fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![(field << 3) | 2];
    push_varint(&mut out, value.len() as u64);
    out.extend_from_slice(value);
    out
}

/// A field of wire type 5.
fn fixed32(field: u8, value: f32) -> Vec<u8> {
    std::iter::once((field << 3) | 5).chain(value.to_le_bytes()).collect()
}

/// Seven bits a byte, the lowest first; all bytes but the last have the high bit.
fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// TFRecord's frame: length, its checksum, data, its checksum; all little-endian.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked(crc32c(&length)).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked(crc32c(data)).to_le_bytes());
    out
}

/// A checksum as TFRecord stores it: turned and shifted, as a checksum of data with checksums in it says little.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The Castagnoli polynomial's cyclic redundancy check.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// What each byte does to the checksum.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, appendix B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn records_have_these_bytes() {
        let first = b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\
            \x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2\xee\xdf\x28\xa3";
        assert_eq!(record(&version(0.0)), first);
        // At 2.0 seconds, step 300 = 0b10_0101100, the value 0.5.
        let second = b"\x19\0\0\0\0\0\0\0\x8b\xf1\x08\x28\
            \x09\0\0\0\0\0\0\0\x40\x10\xac\x02\x2a\x0b\x0a\x09\x0a\x02lr\x15\0\0\0\x3f\xd6\xe4\x9e\x1d";
        assert_eq!(record(&event(2.0, 300, &[("lr", 0.5)])), second);
    }
}
