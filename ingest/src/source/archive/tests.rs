//! Archives made on the spot: good ones, strange ones and broken ones.

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use super::*;
use crate::job::exit::Exit;
use crate::source::tests::conformance;

/// A tar file with `files`, then whatever `more` adds.
fn tar_of(files: &[(&str, &[u8])], more: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        add(&mut builder, name, EntryType::Regular, bytes);
    }
    more(&mut builder);
    builder.into_inner().expect("closes")
}

/// Adds a member whose name is written as it is, however unsafe.
fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: EntryType, bytes: &[u8]) {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_cksum();
    builder.append(&header, bytes).expect("appends");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("closes")
}

/// Opens `bytes` as an archive file.
fn opened(bytes: &[u8], per_unit: usize) -> Result<Archive> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    fs_err::write(file.path(), bytes).expect("writes");
    Archive::open(file.path().to_str().expect("utf-8"), per_unit, 1000)
}

fn contents(source: &dyn Source) -> Vec<RawFile> {
    let files = source.units().iter().flat_map(|unit| source.read(unit).expect("reads"));
    files.map(|file| file.expect("a file")).collect()
}

const SONGS: [(&str, &[u8]); 5] =
    [("x/b.mid", b"one"), ("./x/a.MID", b"two"), ("x/readme.txt", b"no"), ("c.midi", &[7; 700]), ("x/empty.mid", b"")];
const PATHS: [&str; 4] = ["x/b.mid", "x/a.MID", "c.midi", "x/empty.mid"];

#[test]
fn a_tar_is_a_source_and_so_is_a_gzipped_one() {
    let plain = tar_of(&SONGS, |_| {});
    let packed = gzip(&plain);
    for bytes in [&plain, &packed] {
        conformance(&|per_unit| Box::new(opened(bytes, per_unit).expect("opens")), &PATHS);
    }
    let (plain, packed) = (opened(&plain, 2).expect("opens"), opened(&packed, 2).expect("opens"));
    assert_eq!(contents(&plain), contents(&packed));
    assert_eq!(contents(&plain)[2].content, Content::Bytes(vec![7; 700]));
    assert_ne!(plain.fingerprint(), packed.fingerprint());
}

#[test]
fn members_that_lead_elsewhere_are_left_out() {
    let strange = tar_of(&SONGS, |builder| {
        add(builder, "../up.mid", EntryType::Regular, b"x");
        add(builder, "x/../../up.mid", EntryType::Regular, b"x");
        add(builder, "/absolute.mid", EntryType::Regular, b"x");
        add(builder, "link.mid", EntryType::Symlink, b"");
        add(builder, "hard.mid", EntryType::Link, b"");
        add(builder, "folder.mid", EntryType::Directory, b"");
    });
    let paths: Vec<String> = contents(&opened(&strange, 9).expect("opens")).into_iter().map(|f| f.path).collect();
    assert_eq!(paths, PATHS);
}

#[test]
fn long_names_and_repeated_names_are_read_as_tar_does() {
    let long = format!("{}/song.mid", "deep".repeat(60));
    let bytes = tar_of(&SONGS, |builder| {
        let mut header = Header::new_gnu();
        header.set_size(4);
        builder.append_data(&mut header, &long, &b"long"[..]).expect("appends");
        add(builder, "x/b.mid", EntryType::Regular, b"later");
    });
    let files = contents(&opened(&bytes, 2).expect("opens"));
    assert_eq!(files.len(), 5);
    assert_eq!(files[3], RawFile { path: long, content: Content::Bytes(b"long".to_vec()) });
    assert_eq!(files[4], RawFile { path: "x/b.mid".into(), content: Content::Bytes(b"later".to_vec()) });
}

#[test]
fn a_large_member_is_told_and_not_read() {
    let bytes = tar_of(&[("big.mid", &[1; 1001]), ("fits.mid", &[1; 1000])], |_| {});
    let files = contents(&opened(&bytes, 2).expect("opens"));
    assert_eq!(files[0].content, Content::TooLarge { bytes: 1001 });
    assert_eq!(files[1].content, Content::Bytes(vec![1; 1000]));
}

fn assert_bad(bytes: &[u8], says: &str) {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    fs_err::write(file.path(), bytes).expect("writes");
    let uri = file.path().to_str().expect("utf-8");
    let error = Archive::open(uri, 1, 1000).expect_err("refused");
    assert_eq!(error.exit(), Exit::BadData, "{error}");
    assert!(error.to_string().contains(says) && error.to_string().contains(uri), "{error}");
    assert!(error.hint_text().is_some(), "{error}");
}

#[test]
fn a_cut_archive_is_an_error_wherever_it_is_cut() {
    let plain = tar_of(&SONGS, |_| {});
    let packed = gzip(&plain);
    let members_end = plain.len() - 1024;
    for cut in (0..members_end).step_by(64) {
        assert_bad(&plain[..cut], "cannot read the archive");
    }
    for cut in (0..packed.len()).step_by(3) {
        assert_bad(&packed[..cut], "cannot read the archive");
    }
    // The compressed stream is whole, what it holds is not.
    assert_bad(&gzip(&plain[..1024]), "it ends too early");
}

#[test]
fn a_damaged_archive_is_an_error() {
    let plain = tar_of(&SONGS, |_| {});
    let mut damaged = gzip(&plain);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    assert_bad(&damaged, "cannot read the archive");
    let mut header = plain;
    header[3] ^= 0x55;
    assert_bad(&header, "checksum");
    assert_bad(&[42; 2000], "cannot read the archive");
}

#[test]
fn an_archive_without_midi_files_is_an_error() {
    assert_bad(&tar_of(&[("a.txt", b"x")], |_| {}), "holds no .mid or .midi file");
}

#[test]
fn the_limits_are_named() {
    let bomb = tar_of(&[("zeros.mid", &vec![0; 4 << 20])], |_| {});
    assert_bad(&gzip(&bomb), "more than 200 times its size");

    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..1].copy_from_slice(b"a");
    header.set_size(0);
    header.set_cksum();
    let mut many = header.as_bytes().repeat(MAX_ENTRIES + 1);
    many.extend([0; 1024]);
    assert_bad(&many, "more than 200000 entries");
}

#[test]
fn a_missing_archive_is_an_error() {
    let error = Archive::open("/no/such.tar.gz", 1, 1).expect_err("missing");
    assert_eq!(error.exit(), Exit::BadData);
}
