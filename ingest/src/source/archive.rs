//! A tar or zip archive as a source: unpacked once into one plain file, from which any member is read by its offset.

mod zipped;

use std::collections::HashMap;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};

use flate2::bufread::MultiGzDecoder;
use fs_err::File;
use sha2::{Digest, Sha256};

use super::{Content, Files, MAX_FILE_BYTES, RawFile, Source, Unit, divide, is_midi_name};
use crate::job::exit::{Error, Result, at_path};
use crate::limits::Limits;
use crate::store::{LocalFile, fetch};

/// The unit in which tar files are laid out, in bytes.
const BLOCK: u64 = 512;

/// Every `.mid` and `.midi` file in a `.tar`, `.tar.gz`, `.tar.zst` or `.zip`, in the archive's order.
///
/// The kind is told by the first bytes and not by the name. Links, absolute paths and paths with `..` are left out. Of several members of one name the last counts, as it
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
    /// Why it could not be unpacked, if it could not.
    trouble: Option<String>,
}

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Tar,
    TarGz,
    TarZst,
    Zip,
}

impl Packing {
    /// By the first bytes; what begins as none of the others is taken as plain tar.
    fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Packing::TarGz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::TarZst,
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Packing::Zip,
            _ => Packing::Tar,
        }
    }
}

impl Archive {
    /// Fetches, unpacks and indexes the archive at `uri`: a path, or a `file`, `http` or `https` URL.
    ///
    /// # Errors
    /// It is missing, truncated, no archive, past a limit, or holds no MIDI file (65); the transfer or the temporary
    /// file fails (74).
    pub fn open(uri: &str, files_per_unit: usize, limits: &Limits) -> Result<Self> {
        let fetched = fetch(uri)?;
        let mut magic = Vec::new();
        let path = fetched.path();
        let head = File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic));
        head.map_err(at_path("read", path))?;
        let packing = Packing::of(&magic);
        let (plain, sha256, members) = if packing == Packing::Zip {
            zipped::unpack(uri, path, limits)?
        } else {
            let (plain, sha256) = unpack(uri, path, packing, limits)?;
            let members = index(uri, &plain, limits)?;
            (plain, sha256, members)
        };
        if members.is_empty() {
            return Err(Error::data(format!("`{uri}` holds no .mid or .midi file"))
                .hint("give another archive with `--set ingest.source.uri=PATH`"));
        }
        Ok(Archive {
            plain,
            units: divide(members.len(), files_per_unit),
            members,
            max_file_bytes: limits.max_file_bytes,
            fingerprint: format!("archive:{sha256}"),
            _fetched: fetched,
        })
    }

    fn take(&self, member: &Member) -> RawFile {
        let content = if let Some(reason) = &member.trouble {
            Content::Unreadable { reason: reason.clone() }
        } else if member.bytes > self.max_file_bytes {
            Content::TooLarge { bytes: member.bytes, limit: MAX_FILE_BYTES }
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
        .hint("give a whole .tar, .tar.gz, .tar.zst or .zip; a download may have been cut short")
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
fn unpack(uri: &str, path: &Path, packing: Packing, limits: &Limits) -> Result<(File, String)> {
    let file = File::open(path).map_err(at_path("open", path))?;
    let size = file.metadata().map_err(at_path("read", path))?.len();
    let mut hashed = Hashed { inner: file, hash: Sha256::new() };
    if packing == Packing::Tar {
        std::io::copy(&mut hashed, &mut std::io::sink()).map_err(at_path("read", path))?;
        return Ok((hashed.inner, hex::encode(hashed.hash.finalize())));
    }
    let mut spool = Spool::new(uri, size, limits)?;
    let mut buffered = BufReader::with_capacity(1 << 16, hashed);
    if packing == Packing::TarGz {
        spool.fill(&mut MultiGzDecoder::new(&mut buffered), path)?;
    } else {
        let mut decoder = zstd::Decoder::with_buffer(&mut buffered).map_err(|e| corrupt(uri, &e.to_string()))?;
        spool.fill(&mut decoder, path)?;
    }
    Ok((spool.close()?, hex::encode(buffered.into_inner().hash.finalize())))
}

/// The temporary file that an archive is unpacked to, with its limit.
struct Spool<'a> {
    uri: &'a str,
    file: tempfile::NamedTempFile,
    written: u64,
    /// Bytes of the packed archive.
    packed: u64,
    /// How many times as many bytes may come out.
    max_ratio: u64,
}

impl<'a> Spool<'a> {
    fn new(uri: &'a str, packed: u64, limits: &Limits) -> Result<Self> {
        let file = tempfile::NamedTempFile::new().map_err(|e| Error::storage("cannot make a temporary file", e))?;
        Ok(Spool { uri, file, written: 0, packed, max_ratio: limits.max_archive_ratio })
    }

    /// Appends all that comes out of `decoder`, which reads the archive at `path`.
    fn fill(&mut self, decoder: &mut dyn Read, path: &Path) -> Result<()> {
        let mut chunk = vec![0u8; 1 << 16];
        loop {
            let read = match decoder.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Err(corrupt(self.uri, "it ends too early")),
                // The zstd decoder says `Other` of bad data; an error of the system has a number.
                Err(e) if e.raw_os_error().is_none() => return Err(corrupt(self.uri, &e.to_string())),
                Err(e) => return Err(at_path("read", path)(e)),
            };
            self.append(&chunk[..read])?;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.packed.saturating_mul(self.max_ratio) {
            let Spool { uri, packed, max_ratio, .. } = self;
            return Err(Error::data(format!(
                "the archive `{uri}` unpacks to more than {max_ratio} times its size of {packed} bytes"
            ))
            .hint("such an archive is no music collection; if it is, raise `ingest.limits.max-archive-ratio`"));
        }
        self.file.as_file().write_all(bytes).map_err(at_path("write", self.file.path()))
    }

    /// The unpacked file. It needs no name: it goes when the last handle does.
    fn close(self) -> Result<File> {
        File::open(self.file.path()).map_err(at_path("open", self.file.path()))
    }
}

fn too_many(uri: &str, most: usize) -> Error {
    Error::data(format!("the archive `{uri}` has more than {most} entries"))
        .hint("split it, unpack it and set `kind = \"folder\"`, or raise `ingest.limits.max-archive-entries`")
}

/// Where the MIDI files of a plain tar file lie, in its order.
fn index(uri: &str, plain: &File, limits: &Limits) -> Result<Vec<Member>> {
    let whole = plain.metadata().map_err(|e| Error::storage(format!("cannot read `{uri}`"), e))?.len();
    let bad = |e: std::io::Error| corrupt(uri, &e.to_string());
    // A seek counts from where the hashing pass left the handle.
    std::io::Seek::rewind(&mut plain.file()).map_err(bad)?;
    let mut tar = tar::Archive::new(plain.file());
    let mut members: Vec<Member> = Vec::new();
    let mut end = 0;
    for (count, entry) in tar.entries_with_seek().map_err(bad)?.enumerate() {
        let entry = entry.map_err(bad)?;
        if count >= limits.max_archive_entries {
            return Err(too_many(uri, limits.max_archive_entries));
        }
        let (offset, bytes) = (entry.raw_file_position(), entry.size());
        end = offset.saturating_add(bytes.next_multiple_of(BLOCK));
        if offset.saturating_add(bytes) > whole {
            return Err(corrupt(uri, "it ends too early"));
        }
        let Some(path) = safe_path(&entry.path_bytes()) else { continue };
        if entry.header().entry_type().is_file() && is_midi_name(&path) {
            members.push(Member { path, offset, bytes, trouble: None });
        }
    }
    // Without its closing block of zeros, an archive was cut between two members.
    let mut closing = [1u8; BLOCK as usize];
    let closed = plain.file().read_exact_at(&mut closing, end).is_ok() && closing.iter().all(|byte| *byte == 0);
    if !closed {
        return Err(corrupt(uri, "it ends too early"));
    }
    keep_the_last(&mut members);
    Ok(members)
}

/// Of several members of one name the last counts.
fn keep_the_last(members: &mut Vec<Member>) {
    let last: HashMap<String, usize> =
        members.iter().enumerate().map(|(position, member)| (member.path.clone(), position)).collect();
    let mut position = 0;
    members.retain(|member| {
        position += 1;
        last.get(&member.path) == Some(&(position - 1))
    });
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
