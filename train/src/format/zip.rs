//! The part of the zip format that PyTorch's files use: stored entries, no compression, no encryption.

use std::collections::HashMap;
use std::ops::Range;

use midi_ingest::job::exit::{Error, Result};

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
/// Data begins at multiples of this, as PyTorch writes it, so that it can be mapped.
const ALIGNMENT: usize = 64;

/// Where the data of each entry lies in `bytes`; `name` is only for messages.
///
/// # Errors
/// It is not a zip archive, it is cut, or an entry is compressed: exit code 65.
pub(super) fn entries(bytes: &[u8], name: &str) -> Result<HashMap<String, Range<usize>>> {
    let bad = |what: &str| Error::data(format!("`{name}` is not a readable PyTorch archive: {what}"));
    let cut = || bad("it is cut, or not a zip file");
    let number = |at: usize, count: usize| -> Result<usize> {
        let part = at.checked_add(count).and_then(|end| bytes.get(at..end)).ok_or_else(cut)?;
        let value = part.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).map_err(|_| cut())
    };
    let is = |at: usize, magic: u32| number(at, 4).is_ok_and(|found| found == magic as usize);
    let first = bytes.len().saturating_sub(22 + 65_535);
    let end = (first..=bytes.len().saturating_sub(22)).rev().find(|&at| is(at, END)).ok_or_else(cut)?;
    let (mut count, mut at) = (number(end + 10, 2)?, number(end + 16, 4)?);
    // The 64-bit record is found through its locator, 20 bytes before the plain one.
    if let Some(locator) = end.checked_sub(20)
        && is(locator, 0x0706_4b50)
    {
        let end = number(locator + 8, 8)?;
        if !is(end, END_64) {
            return Err(cut());
        }
        (count, at) = (number(end.saturating_add(32), 8)?, number(end.saturating_add(48), 8)?);
    }
    let mut found = HashMap::new();
    for _ in 0..count {
        if !is(at, CENTRAL) {
            return Err(cut());
        }
        let (method, flags) = (number(at + 10, 2)?, number(at + 8, 2)?);
        let (mut size, mut local) = (number(at + 24, 4)?, number(at + 42, 4)?);
        let [name_length, extra, comment] = [28, 30, 32].map(|offset| number(at + offset, 2));
        let (name_length, extra, comment) = (name_length?, extra?, comment?);
        let entry = bytes.get(at + 46..at + 46 + name_length).ok_or_else(cut)?;
        let entry = String::from_utf8(entry.to_vec()).map_err(|_| bad("a name that is not text"))?;
        // The 64-bit field holds those of sizes and offset that are all ones in the record itself.
        let mut field = at + 46 + name_length;
        let fields = field + extra;
        while field + 4 <= fields {
            let (id, length) = (number(field, 2)?, number(field + 2, 2)?);
            if id == 1 {
                let mut value = field + 4;
                if size == u32::MAX as usize {
                    (size, value) = (number(value, 8)?, value + 8);
                }
                if number(at + 20, 4)? == u32::MAX as usize {
                    value += 8;
                }
                if local == u32::MAX as usize {
                    local = number(value, 8)?;
                }
            }
            field += 4 + length;
        }
        if method != 0 || flags & 1 != 0 {
            return Err(bad(&format!("`{entry}` is compressed or encrypted")));
        }
        if !is(local, LOCAL) {
            return Err(cut());
        }
        let begin = local + 30 + number(local + 26, 2)? + number(local + 28, 2)?;
        let range = begin..begin.checked_add(size).filter(|&end| end <= bytes.len()).ok_or_else(cut)?;
        found.insert(entry, range);
        at += 46 + name_length + extra + comment;
    }
    Ok(found)
}

/// An archive of `entries` in their order, which does not depend on the time.
///
/// # Errors
/// It would be 4 GiB or more, which would need the 64-bit records: exit code 78.
pub(super) fn archive(entries: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let (mut bytes, mut central) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = bytes.len();
        let (at_32, size) = (small(at)?, small(data.len())?);
        let padding = (ALIGNMENT - (at + 30 + name.len() + 4) % ALIGNMENT) % ALIGNMENT;
        let crc = crc32(data);
        // Version 2.0, no flags, stored, 1 January 1980.
        let mut common = Vec::new();
        for half in [20u16, 0, 0, 0, 0x21] {
            common.extend(half.to_le_bytes());
        }
        for word in [crc, size, size] {
            common.extend(word.to_le_bytes());
        }
        common.extend((name.len() as u16).to_le_bytes());
        bytes.extend(LOCAL.to_le_bytes());
        bytes.extend(&common);
        bytes.extend((padding as u16 + 4).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(*b"FB");
        bytes.extend((padding as u16).to_le_bytes());
        bytes.extend(std::iter::repeat_n(b'Z', padding));
        bytes.extend(data);
        central.extend(CENTRAL.to_le_bytes());
        central.extend(20u16.to_le_bytes());
        central.extend(&common);
        // No extra field, comment, disk or attributes.
        central.extend([0u8; 12]);
        central.extend(at_32.to_le_bytes());
        central.extend(name.as_bytes());
    }
    let (begin, length, count) = (small(bytes.len())?, small(central.len())?, entries.len() as u16);
    bytes.extend(central);
    bytes.extend(END.to_le_bytes());
    bytes.extend([0u8; 4]);
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(begin.to_le_bytes());
    bytes.extend([0u8; 2]);
    Ok(bytes)
}

fn small(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|e| {
        Error::mismatch("a .pth file of 4 GiB or more is not written").hint("write .safetensors").because(e)
    })
}

/// The checksum of zip files.
fn crc32(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            let (mut value, mut bit) = (n as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[n] = value;
            n += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc: u32, &byte| TABLE[((crc ^ u32::from(byte)) & 0xff) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_and_its_data_aligned() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let files = [("a/b".to_owned(), b"xyz".to_vec()), ("a/data/0".to_owned(), vec![7; 100])];
        let bytes = archive(&files).expect("writes");
        let found = entries(&bytes, "x").expect("reads");
        for (name, data) in &files {
            assert_eq!(&bytes[found[name].clone()], data.as_slice());
            assert_eq!(found[name].start % ALIGNMENT, 0);
        }
        for cut in 0..bytes.len() {
            assert!(entries(&bytes[..cut], "x").is_err(), "{cut}");
        }
    }
}
