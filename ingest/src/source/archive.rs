//! A tar archive as a source: unpacked once into one plain file, from which any member is read by its offset.

use std::collections::HashMap;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};

use flate2::bufread::MultiGzDecoder;
use fs_err::File;
use sha2::{Digest, Sha256};

use super::{Content, Files, RawFile, Source, Unit, divide, is_midi_name};
use crate::job::exit::{Error, Result, at_path};
use crate::store::{LocalFile, fetch};

/// Most entries that an archive may have, folders and other files included.
const MAX_ENTRIES: usize = 200_000;
/// An archive may not unpack to more than this many times its size.
const MAX_RATIO: u64 = 200;
/// The unit in which tar files are laid out, in bytes.
const BLOCK: u64 = 512;

/// Every `.mid` and `.midi` file in a `.tar` or `.tar.gz`, in the archive's order.
///
/// Links, absolute paths and paths with `..` are left out. Of several members of one name the last counts, as it
/// does for tar itself.
#[derive(Debug)]
pub struct Archive {
    /// The uncompressed archive.
    plain: File,
    members: Vec<Member>,
    units: Vec<Unit>,
    max_file_bytes: u64,
    fingerprint: String,
    /// Keeps a downloaded archive until the source is dropped.
    _fetched: LocalFile,
}

#[derive(Debug)]
struct Member {
    path: String,
    offset: u64,
    bytes: u64,
}

impl Archive {
    /// Fetches, unpacks and indexes the archive at `uri`: a path, or a `file`, `http` or `https` URL.
    ///
    /// # Errors
    /// It is missing, truncated, no archive, past a limit, or holds no MIDI file (65); the transfer or the temporary
    /// file fails (74).
    pub fn open(uri: &str, files_per_unit: usize, max_file_bytes: u64) -> Result<Self> {
        let fetched = fetch(uri)?;
        let (plain, sha256) = unpack(uri, fetched.path())?;
        let members = index(uri, &plain)?;
        if members.is_empty() {
            return Err(Error::data(format!("`{uri}` holds no .mid or .midi file"))
                .hint("give another archive with `--set ingest.source.uri=PATH`"));
        }
        Ok(Archive {
            plain,
            units: divide(members.len(), files_per_unit),
            members,
            max_file_bytes,
            fingerprint: format!("archive:{sha256}"),
            _fetched: fetched,
        })
    }

    fn take(&self, member: &Member) -> RawFile {
        let content = if member.bytes > self.max_file_bytes {
            Content::TooLarge { bytes: member.bytes }
        } else {
            // The index made sure that the member lies inside the file.
            let mut bytes = vec![0; member.bytes as usize];
            match self.plain.file().read_exact_at(&mut bytes, member.offset) {
                Ok(()) => Content::Bytes(bytes),
                Err(e) => Content::Unreadable { reason: e.to_string() },
            }
        };
        RawFile { path: member.path.clone(), content }
    }
}

impl Source for Archive {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn read(&self, unit: &Unit) -> Result<Files<'_>> {
        let members = self.members.get(unit.range()).ok_or_else(|| super::foreign(unit))?;
        Ok(Box::new(members.iter().map(|member| Ok(self.take(member)))))
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

fn corrupt(uri: &str, what: &str) -> Error {
    Error::data(format!("cannot read the archive `{uri}`: {what}"))
        .hint("give a whole .tar or .tar.gz; a download may have been cut short")
}

/// Passes bytes on and hashes them.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hash.update(&into[..read]);
        Ok(read)
    }
}

/// The archive as plain tar, and the SHA-256 of the archive as it is. A plain one is used where it lies.
fn unpack(uri: &str, path: &Path) -> Result<(File, String)> {
    let open = || File::open(path).map_err(at_path("open", path));
    let mut magic = [0u8; 2];
    let gzip = open()?.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    let file = open()?;
    let size = file.metadata().map_err(at_path("read", path))?.len();
    let mut hashed = Hashed { inner: file, hash: Sha256::new() };
    if !gzip {
        std::io::copy(&mut hashed, &mut std::io::sink()).map_err(at_path("read", path))?;
        return Ok((hashed.inner, hex::encode(hashed.hash.finalize())));
    }

    let spool = tempfile::NamedTempFile::new().map_err(|e| Error::storage("cannot make a temporary file", e))?;
    let spool_path = spool.path().to_owned();
    let limit = size.saturating_mul(MAX_RATIO);
    let mut buffered = BufReader::with_capacity(1 << 16, hashed);
    let mut decoder = MultiGzDecoder::new(&mut buffered);
    let mut chunk = vec![0u8; 1 << 16];
    let mut written = 0u64;
    loop {
        let read = match decoder.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(corrupt(uri, "it ends too early")),
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                return Err(corrupt(uri, &e.to_string()));
            }
            Err(e) => return Err(at_path("read", path)(e)),
        };
        written += read as u64;
        if written > limit {
            return Err(Error::data(format!(
                "the archive `{uri}` unpacks to more than {MAX_RATIO} times its size of {size} bytes"
            ))
            .hint("such an archive is no music collection; unpack it yourself and set `kind = \"folder\"`"));
        }
        spool.as_file().write_all(&chunk[..read]).map_err(at_path("write", &spool_path))?;
    }
    drop(decoder);
    // The unpacked copy needs no name: it goes when the last handle does.
    let plain = File::open(&spool_path).map_err(at_path("open", &spool_path))?;
    Ok((plain, hex::encode(buffered.into_inner().hash.finalize())))
}

/// Where the MIDI files of a plain tar file lie, in its order.
fn index(uri: &str, plain: &File) -> Result<Vec<Member>> {
    let whole = plain.metadata().map_err(|e| Error::storage(format!("cannot read `{uri}`"), e))?.len();
    let bad = |e: std::io::Error| corrupt(uri, &e.to_string());
    // A seek counts from where the hashing pass left the handle.
    std::io::Seek::rewind(&mut plain.file()).map_err(bad)?;
    let mut tar = tar::Archive::new(plain.file());
    let mut members: Vec<Member> = Vec::new();
    let mut by_path: HashMap<String, usize> = HashMap::new();
    let mut end = 0;
    for (count, entry) in tar.entries_with_seek().map_err(bad)?.enumerate() {
        let entry = entry.map_err(bad)?;
        if count >= MAX_ENTRIES {
            return Err(Error::data(format!("the archive `{uri}` has more than {MAX_ENTRIES} entries"))
                .hint("split it, or unpack it and set `kind = \"folder\"` under `[ingest.source]`"));
        }
        let (offset, bytes) = (entry.raw_file_position(), entry.size());
        end = offset.saturating_add(bytes.next_multiple_of(BLOCK));
        if offset.saturating_add(bytes) > whole {
            return Err(corrupt(uri, "it ends too early"));
        }
        let Some(path) = safe_path(&entry.path_bytes()) else { continue };
        if entry.header().entry_type().is_file() && is_midi_name(&path) {
            by_path.insert(path.clone(), members.len());
            members.push(Member { path, offset, bytes });
        }
    }
    // Without its closing block of zeros, an archive was cut between two members.
    let mut closing = [1u8; BLOCK as usize];
    let closed = plain.file().read_exact_at(&mut closing, end).is_ok() && closing.iter().all(|byte| *byte == 0);
    if !closed {
        return Err(corrupt(uri, "it ends too early"));
    }
    let mut position = 0;
    members.retain(|member| {
        position += 1;
        by_path.get(&member.path) == Some(&(position - 1))
    });
    Ok(members)
}

/// A member's path with `/` between its parts and without a leading `./`; `None` if it leads out of the archive.
fn safe_path(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = Vec::new();
    for component in Path::new(text.as_ref()).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests;
