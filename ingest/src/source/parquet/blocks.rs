//! A Parquet file as its reader wants it, over ranged reads: only the spans that are needed are read, in blocks, of
//! which a few stay in memory. A page that claims to be huge is refused before anything is made room for.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};

use crate::job::exit::{Error, Result};

/// Bytes of one read.
const BLOCK: u64 = 4 << 20;
/// Blocks in memory: of each of two columns the current one and the next.
const KEPT: usize = 4;
/// The largest page that is taken, compressed or not. Writers aim at one MiB.
pub(super) const MAX_PAGE: u64 = 512 << 20;

/// Bytes of a page's header that hold its sizes for certain: three fields of at most six bytes.
const HEADER: u64 = 18;

/// Reads some of the file's bytes.
pub(super) type Fetch = Arc<dyn Fn(Range<u64>) -> Result<Bytes> + Send + Sync>;

/// The parts of one file that may be read. Clones share the blocks.
#[derive(Clone)]
pub(super) struct Blocks {
    fetch: Fetch,
    size: u64,
    spans: Arc<[Range<u64>]>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Start and bytes, the last used at the back.
    blocks: VecDeque<(u64, Bytes)>,
    /// Why a read failed: the Parquet reader would keep no more than the text.
    failure: Option<Error>,
}

impl Blocks {
    /// A file of `size` bytes, of which `spans` may be read.
    pub(super) fn new(size: u64, spans: Vec<Range<u64>>, fetch: Fetch) -> Self {
        Blocks { fetch, size, spans: spans.into(), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error behind a failed read, if a read failed.
    pub(super) fn failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// The bytes from `at` to the end of their block.
    fn from(&self, at: u64) -> ParquetResult<Bytes> {
        let outside = || ParquetError::General(format!("byte {at} is in no column that is read"));
        let span = self.spans.iter().find(|span| span.contains(&at)).ok_or_else(outside)?;
        let start = at - (at - span.start) % BLOCK;
        let mut state = self.state();
        let bytes = match state.blocks.iter().position(|(other, _)| *other == start) {
            Some(place) => state.blocks.remove(place).map(|(_, bytes)| bytes).unwrap_or_default(),
            None => match (self.fetch)(start..span.end.min(start.saturating_add(BLOCK))) {
                Ok(bytes) => bytes,
                Err(error) => {
                    let text = error.to_string();
                    state.failure.get_or_insert(error);
                    return Err(ParquetError::General(text));
                }
            },
        };
        if state.blocks.len() >= KEPT {
            state.blocks.pop_front();
        }
        state.blocks.push_back((start, bytes.clone()));
        let inside = usize::try_from(at - start).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(inside..))
    }
}

impl Length for Blocks {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Blocks {
    type T = From;

    fn get_read(&self, start: u64) -> ParquetResult<From> {
        Ok(From { blocks: self.clone(), at: start, left: Bytes::new(), begun: false })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        if length as u64 > MAX_PAGE {
            return Err(ParquetError::General(format!(
                "the page at byte {start} claims {length} bytes, more than {MAX_PAGE}"
            )));
        }
        let first = if length == 0 { Bytes::new() } else { self.from(start)? };
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut whole = BytesMut::from(first.as_ref());
        while whole.len() < length {
            let next = self.from(start + whole.len() as u64)?;
            let wanted = next.len().min(length - whole.len());
            if wanted == 0 {
                return Err(ParquetError::EOF(format!("the page at byte {start} ends too early")));
            }
            whole.extend_from_slice(&next[..wanted]);
        }
        Ok(whole.freeze())
    }
}

/// Reads on from a place in the file. Where page locations are not used, the reader reads nothing but the headers of
/// pages in this way.
pub(super) struct From {
    blocks: Blocks,
    at: u64,
    left: Bytes,
    /// Whether the sizes in the header were looked at.
    begun: bool,
}

impl From {
    fn look_ahead(&self) -> ParquetResult<()> {
        let mut head = From { blocks: self.blocks.clone(), at: self.at, left: Bytes::new(), begun: true };
        let mut bytes = Vec::new();
        head.by_ref().take(HEADER).read_to_end(&mut bytes).map_err(|e| ParquetError::General(e.to_string()))?;
        let sizes =
            page_sizes(&bytes).ok_or_else(|| ParquetError::General(format!("there is no page at byte {}", self.at)))?;
        let largest = sizes.into_iter().max().unwrap_or(0);
        if largest > MAX_PAGE {
            let what = format!("the page at byte {} claims {largest} bytes, more than {MAX_PAGE}", self.at);
            return Err(ParquetError::General(what));
        }
        Ok(())
    }
}

impl Read for From {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.begun {
            self.begun = true;
            self.look_ahead().map_err(io::Error::other)?;
        }
        if self.left.is_empty() {
            self.left = match self.blocks.from(self.at) {
                Ok(bytes) => bytes,
                // Nothing follows the end of a column.
                Err(_) if self.blocks.spans.iter().any(|span| span.end == self.at) => return Ok(0),
                Err(e) => return Err(io::Error::other(e)),
            };
        }
        let read = into.len().min(self.left.len());
        into[..read].copy_from_slice(&self.left.split_to(read));
        self.at += read as u64;
        Ok(read)
    }
}

/// Sizes of a page, uncompressed and compressed, from the first bytes of its header: a Thrift struct in the compact
/// protocol, whose first three fields are the kind and the two sizes, each a zigzag number.
fn page_sizes(header: &[u8]) -> Option<[u64; 2]> {
    /// A field whose number is one above the last, with a 32-bit number in it.
    const NEXT_I32: u8 = 0x15;
    let mut rest = header.iter().copied();
    let mut number = || {
        if rest.next()? != NEXT_I32 {
            return None;
        }
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = rest.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // An odd number is a negative one, which no size is.
                return value.is_multiple_of(2).then_some(value / 2);
            }
        }
        None
    };
    number()?;
    Some([number()?, number()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, spans: Vec<Range<u64>>) -> (Blocks, Arc<Mutex<Vec<Range<u64>>>>) {
        let asked: Arc<Mutex<Vec<Range<u64>>>> = Arc::default();
        let log = Arc::clone(&asked);
        let fetch: Fetch = Arc::new(move |range: Range<u64>| {
            log.lock().expect("log").push(range.clone());
            Ok(range.map(|at| (at % 251) as u8).collect::<Vec<u8>>().into())
        });
        (Blocks::new(size, spans, fetch), asked)
    }

    fn whole(size: u64) -> Vec<Range<u64>> {
        std::iter::once(0..size).collect()
    }

    #[test]
    fn only_the_spans_are_read_and_in_blocks() {
        let span = 100..100 + 2 * BLOCK + 50;
        let (blocks, asked) = file(4 * BLOCK, vec![span.clone()]);
        let across = blocks.get_bytes(100 + BLOCK - 2, 5).expect("reads");
        let expected: Vec<u8> = (100 + BLOCK - 2..100 + BLOCK + 3).map(|at| (at % 251) as u8).collect();
        assert_eq!(across, expected);
        blocks.get_bytes(110, 20).expect("is there already");
        blocks.get_bytes(span.end - 10, 10).expect("reads");
        let asked = asked.lock().expect("log").clone();
        assert_eq!(asked, [100..100 + BLOCK, 100 + BLOCK..100 + 2 * BLOCK, 100 + 2 * BLOCK..span.end]);
        for (start, length) in [(0, 10), (95, 10), (span.end - 5, 6)] {
            blocks.get_bytes(start, length).expect_err("outside");
        }
        assert!(blocks.failure().is_none(), "no read failed");
    }

    #[test]
    fn few_blocks_stay() {
        let (blocks, asked) = file(100 * BLOCK, whole(100 * BLOCK));
        for round in 0..3u64 {
            for block in 0..KEPT as u64 {
                blocks.get_bytes(block * BLOCK, 1).expect("reads");
            }
            assert_eq!(asked.lock().expect("log").len(), KEPT, "round {round}");
        }
        blocks.get_bytes(50 * BLOCK, 1).expect("reads");
        blocks.get_bytes(0, 1).expect("reads again");
        assert_eq!(asked.lock().expect("log").len(), KEPT + 2);
    }

    #[test]
    fn sizes_of_a_page_are_known_before_it_is_read() {
        let zigzag = |mut value: u64| {
            let mut bytes = vec![0x15];
            value *= 2;
            while value >= 0x80 {
                bytes.push((value % 0x80) as u8 | 0x80);
                value /= 0x80;
            }
            bytes.push(value as u8);
            bytes
        };
        let header = |plain: u64, packed: u64| [zigzag(0), zigzag(plain), zigzag(packed), vec![0; 20]].concat();
        assert_eq!(page_sizes(&header(1_000_000, 77)), Some([1_000_000, 77]));
        assert_eq!(page_sizes(&[0x15, 0, 0x15, 1, 0x15, 2]), None, "a negative size");
        assert_eq!(page_sizes(&[0x19, 0, 0]), None);
        assert_eq!(page_sizes(&[0x15, 0, 0x15]), None);
        for (plain, packed) in [(MAX_PAGE + 1, 5), (5, MAX_PAGE + 1)] {
            let bytes = header(plain, packed);
            let served = bytes.clone();
            let fetch: Fetch = Arc::new(move |range: Range<u64>| {
                Ok(Bytes::copy_from_slice(&served[range.start as usize..range.end as usize]))
            });
            let size = bytes.len() as u64;
            let blocks = Blocks::new(size, whole(size), fetch);
            let mut reader = blocks.get_read(0).expect("nothing is read yet");
            let error = reader.read(&mut [0]).expect_err("refused");
            assert!(error.to_string().contains("claims"), "{error}");
        }
    }

    #[test]
    fn the_reason_of_a_failed_read_is_kept() {
        let fetch: Fetch = Arc::new(|_| Err(Error::storage("cannot read `x`", io::Error::other("cut"))));
        let blocks = Blocks::new(10, whole(10), fetch);
        blocks.get_bytes(0, 5).expect_err("fails");
        assert_eq!(blocks.failure().expect("kept").exit(), crate::job::exit::Exit::Storage);
    }
}
