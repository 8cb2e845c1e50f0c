//! Zip archives: the MIDI members one after another in one plain file, where they are read like those of a tar.

use std::io::{ErrorKind, Read};
use std::path::Path;

use fs_err::File;
use sha2::{Digest, Sha256};
use zip::ZipArchive;
use zip::result::ZipError;

use super::{Hashed, Member, Spool, corrupt, keep_the_last, safe_path, too_many};
use crate::job::exit::{Error, Result, at_path};
use crate::limits::Limits;
use crate::source::is_midi_name;

/// Bits of a Unix mode that say what kind of file it is, and their value for a link.
const KIND: u32 = 0o170_000;
const LINK: u32 = 0o120_000;

/// Unpacks the members that are MIDI files of at most `max_file_bytes` each, and tells where they are, and the archive's
/// SHA-256. A member that is encrypted, packed in an unknown way or damaged is there without its bytes.
pub(super) fn unpack(uri: &str, path: &Path, limits: &Limits) -> Result<(File, String, Vec<Member>)> {
    let file = File::open(path).map_err(at_path("open", path))?;
    let size = file.metadata().map_err(at_path("read", path))?.len();
    let mut hashed = Hashed { inner: file, hash: Sha256::new() };
    std::io::copy(&mut hashed, &mut std::io::sink()).map_err(at_path("read", path))?;
    let mut zip = ZipArchive::new(hashed.inner).map_err(|e| failed(uri, path, e))?;
    if zip.len() > limits.max_archive_entries {
        return Err(too_many(uri, limits.max_archive_entries));
    }
    let mut spool = Spool::new(uri, size, limits)?;
    let mut members = Vec::new();
    for number in 0..zip.len() {
        // Without decoding, so that names and sizes of unreadable members are known too.
        let entry = zip.by_index_raw(number).map_err(|e| failed(uri, path, e))?;
        let link = entry.unix_mode().is_some_and(|mode| mode & KIND == LINK);
        let name = safe_path(entry.name_raw()).filter(|name| is_midi_name(name));
        let (folder, bytes) = (entry.is_dir(), entry.size());
        drop(entry);
        let Some(name) = name.filter(|_| !link && !folder) else { continue };
        let offset = spool.written;
        let mut member = Member { path: name, offset, bytes, trouble: None };
        if bytes <= limits.max_file_bytes {
            match zip.by_index(number) {
                Ok(mut entry) => {
                    let mut content = Vec::new();
                    // One byte more than it claims, to find out if it lied.
                    match entry.by_ref().take(bytes + 1).read_to_end(&mut content) {
                        Ok(read) if read as u64 == bytes => spool.append(&content)?,
                        Ok(read) => member.trouble = Some(format!("unpacks to {read} bytes and not to {bytes}")),
                        Err(e) if e.raw_os_error().is_some() => return Err(at_path("read", path)(e)),
                        Err(e) => member.trouble = Some(e.to_string()),
                    }
                }
                Err(ZipError::Io(e)) if e.raw_os_error().is_some() => return Err(failed(uri, path, ZipError::Io(e))),
                Err(e) => member.trouble = Some(e.to_string()),
            }
        }
        members.push(member);
    }
    keep_the_last(&mut members);
    Ok((spool.close()?, hex::encode(hashed.hash.finalize()), members))
}

fn failed(uri: &str, path: &Path, error: ZipError) -> Error {
    match error {
        ZipError::Io(e) if e.kind() == ErrorKind::UnexpectedEof => corrupt(uri, "it ends too early"),
        // A place before the file's beginning or past any end.
        ZipError::Io(e) if e.kind() == ErrorKind::InvalidInput => corrupt(uri, &e.to_string()),
        ZipError::Io(e) if e.raw_os_error().is_some() => at_path("read", path)(e),
        other => corrupt(uri, &other.to_string()),
    }
}
