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

fn limits() -> Limits {
    Limits { max_file_bytes: 1000, ..Limits::default() }
}

/// Opens `bytes` as an archive file.
fn opened(bytes: &[u8], per_unit: usize) -> Result<Archive> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    fs_err::write(file.path(), bytes).expect("writes");
    Archive::open(file.path().to_str().expect("utf-8"), per_unit, &limits())
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

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("compresses")
}

/// A zip file with `files`, deflated.
fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(*name, zip::write::FileOptions::default()).expect("begins");
        writer.write_all(bytes).expect("writes");
    }
    writer.add_directory("folder.mid", zip::write::FileOptions::default()).expect("adds");
    writer.add_symlink("link.mid", "x/b.mid", zip::write::FileOptions::default()).expect("adds");
    writer.finish().expect("closes").into_inner()
}

#[test]
fn a_tar_in_zstd_and_a_zip_are_sources_too() {
    let plain = tar_of(&SONGS, |_| {});
    let (packed, zipped) = (zstd(&plain), zip_of(&SONGS));
    for bytes in [&packed, &zipped] {
        conformance(&|per_unit| Box::new(opened(bytes, per_unit).expect("opens")), &PATHS);
    }
    let plain = contents(&opened(&plain, 2).expect("opens"));
    assert_eq!(contents(&opened(&packed, 2).expect("opens")), plain);
    assert_eq!(contents(&opened(&zipped, 2).expect("opens")), plain);
}

#[test]
fn a_zip_keeps_the_rules_of_the_tar() {
    let bytes = zip_of(&[
        ("../up.mid", b"x"),
        ("/absolute.mid", b"x"),
        ("big.mid", &[1; 1001]),
        ("a.mid", b"first"),
        ("b.mid", &[7; 1000]),
    ]);
    let files = contents(&opened(&bytes, 9).expect("opens"));
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["big.mid", "a.mid", "b.mid"]);
    assert_eq!(files[0].content, Content::TooLarge { bytes: 1001, limit: MAX_FILE_BYTES });
    assert_eq!(files[2].content, Content::Bytes(vec![7; 1000]));
    assert_bad(&zip_of(&[("a.txt", b"x")]), "holds no .mid or .midi file");
}

#[test]
fn a_damaged_member_of_a_zip_is_told_and_the_others_are_read() {
    let noise: Vec<u8> = (0..900u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let bytes = zip_of(&[("a.mid", &noise), ("b.mid", b"whole")]);
    let mut damaged = bytes.clone();
    damaged[200] ^= 0x55;
    // Packed in a way that is not known: the method in both headers of the first member.
    let mut foreign = bytes;
    let central = foreign.windows(4).position(|w| w == b"PK\x01\x02").expect("a directory");
    foreign[8] = 97;
    foreign[central + 10] = 97;
    for bytes in [damaged, foreign] {
        let files = contents(&opened(&bytes, 9).expect("opens"));
        assert!(matches!(files[0].content, Content::Unreadable { .. }), "{:?}", files[0]);
        assert_eq!(files[1].content, Content::Bytes(b"whole".to_vec()));
    }
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
    assert_eq!(files[0].content, Content::TooLarge { bytes: 1001, limit: MAX_FILE_BYTES });
    assert_eq!(files[1].content, Content::Bytes(vec![1; 1000]));
}

fn assert_bad(bytes: &[u8], says: &str) {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    fs_err::write(file.path(), bytes).expect("writes");
    let uri = file.path().to_str().expect("utf-8");
    let error = Archive::open(uri, 1, &limits()).expect_err("refused");
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
    let (zstd, zip) = (zstd(&plain), zip_of(&SONGS));
    for cut in (4..zstd.len()).step_by(3) {
        assert_bad(&zstd[..cut], "cannot read the archive");
    }
    for cut in (4..zip.len()).step_by(7) {
        assert_bad(&zip[..cut], "cannot read the archive");
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
    assert_bad(&zstd(&bomb), "more than 200 times its size");
    let zeros = [0; 1000];
    let names: Vec<String> = (0..2000).map(|i| format!("{i}.mid")).collect();
    let flat: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &zeros[..])).collect();
    assert_eq!(contents(&opened(&zip_of(&flat), 9).expect("within the limits")).len(), 2000);

    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..1].copy_from_slice(b"a");
    header.set_size(0);
    header.set_cksum();
    let mut many = header.as_bytes().repeat(limits().max_archive_entries + 1);
    many.extend([0; 1024]);
    assert_bad(&many, "more than 200000 entries");
}

#[test]
fn a_missing_archive_is_an_error() {
    let error = Archive::open("/no/such.tar.gz", 1, &limits()).expect_err("missing");
    assert_eq!(error.exit(), Exit::BadData);
}
