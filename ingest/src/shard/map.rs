//! The one place that maps files into memory.
#![expect(unsafe_code, reason = "mapping a file is unsafe: another process could change it")]

use std::path::Path;

use arrow::buffer::Buffer;
use bytes::Bytes;

use crate::job::exit::{Result, at_path};

/// The file's bytes, mapped; pages are read when they are touched.
pub(super) fn map_file(path: &Path) -> Result<Buffer> {
    let file = fs_err::File::open(path).map_err(at_path("open", path))?;
    // SAFETY: shards are written whole under their final name and never changed afterwards; the
    // manifest that named this file gave its size and hash. Changing it under a running reader is
    // outside the contract, as for every mapped data set.
    let map = unsafe { memmap2::Mmap::map(file.file()) }.map_err(at_path("map", path))?;
    Ok(Buffer::from(Bytes::from_owner(map)))
}
