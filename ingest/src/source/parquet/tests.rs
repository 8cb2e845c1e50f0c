//! Parquet files made on the spot, as files, folders, patterns and data sets of the hub; whole, strange and broken.

use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::file::metadata::ParquetMetaDataWriter;

use super::*;
use crate::job::exit::Exit;
use crate::source::tests::conformance_of_units;
use crate::support::http::{Response, Server};
use crate::support::hub::{self, FakeHub};
#[path = "../../../tests/support/tables.rs"]
mod tables;
use tables::{LAYOUTS, table};

fn columns() -> Columns {
    Columns::of(None, Some("bytes"), Some("name")).expect("columns")
}

fn layout(name: &str) -> Layout {
    serde_json::from_value(name.into()).expect("a layout")
}

fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> String {
    let path = folder.path().join(name);
    fs_err::create_dir_all(path.parent().expect("a parent")).expect("makes");
    fs_err::write(&path, bytes).expect("writes");
    path.to_str().expect("utf-8").to_owned()
}

fn limits() -> Limits {
    Limits { max_file_bytes: 1000, ..Limits::default() }
}

fn open(uri: &str, columns: &Columns) -> Result<Parquet> {
    Parquet::open(uri, columns, &limits(), &Access::default())
}

fn files(source: &Parquet) -> Result<Vec<RawFile>> {
    let units: Vec<Files<'_>> = source.units().iter().map(|unit| source.read(unit)).collect::<Result<_>>()?;
    units.into_iter().flatten().collect()
}

#[test]
fn every_layout_is_a_source_of_its_row_groups() {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for (name, compression) in LAYOUTS.into_iter().zip([Compression::SNAPPY, zstd, Compression::UNCOMPRESSED]) {
        let folder = tempfile::tempdir().expect("folder");
        let large = vec![1; 1001];
        let first = [("a", Some(vec![1; 1000])), ("b", None), ("c", Some(Vec::new()))];
        let second = [("d", Some(large)), ("", Some(vec![2]))];
        let bytes = table(name, &[&first, &second], compression);
        write(&folder, "train/1.parquet", &bytes);
        write(&folder, "train/0.parquet", &table(name, &[&[("z", Some(vec![3; 70]))]], compression));
        write(&folder, "readme.txt", b"no");
        let columns = Columns::of(Some(layout(name)), None, None).expect("columns");
        let root = folder.path().to_str().expect("utf-8");
        let below = [
            "train/0.parquet/z",
            "train/1.parquet/a",
            "train/1.parquet/b",
            "train/1.parquet/c",
            "train/1.parquet/d",
            "train/1.parquet/4",
        ];
        conformance_of_units(&|| Box::new(open(root, &columns).expect("opens")), &below);
        let short: Vec<&str> = below.iter().map(|path| path.trim_start_matches("train/")).collect();
        conformance_of_units(&|| Box::new(open(&format!("{root}/train/*.parquet"), &columns).expect("opens")), &short);
        conformance_of_units(
            &|| Box::new(open(&format!("file://{root}/train/1.parquet"), &columns).expect("opens")),
            &short[1..],
        );

        let source = open(root, &columns).expect("opens");
        assert_eq!(source.units().iter().map(|unit| unit.files).collect::<Vec<_>>(), [1, 3, 2]);
        let contents: Vec<Content> = files(&source).expect("reads").into_iter().map(|file| file.content).collect();
        assert_eq!(contents[0], Content::Bytes(vec![3; 70]));
        assert_eq!(contents[1], Content::Bytes(vec![1; 1000]));
        assert!(matches!(&contents[2], Content::Unreadable { reason } if reason.contains("no bytes")));
        assert_eq!(contents[3], Content::Bytes(Vec::new()));
        assert_eq!(contents[4], Content::TooLarge { bytes: 1001, limit: MAX_FILE_BYTES });
        assert_eq!(contents[5], Content::Bytes(vec![2]));
    }
}

#[test]
fn other_content_is_another_input_and_the_place_is_none_of_it() {
    let print = |rows: &[tables::Row<'_>]| {
        let folder = tempfile::tempdir().expect("folder");
        let uri = write(&folder, "a.parquet", &table("own", &[rows], Compression::SNAPPY));
        open(&uri, &columns()).expect("opens").fingerprint()
    };
    let first = print(&[("a", Some(vec![1; 50]))]);
    assert_eq!(first, print(&[("a", Some(vec![1; 50]))]));
    assert_ne!(first, print(&[("a", Some(vec![1; 51]))]));
    assert_ne!(first, print(&[("b", Some(vec![1; 50]))]));
}

#[test]
fn of_a_data_set_on_the_hub_only_the_columns_that_count_are_read() {
    let groups: Vec<Vec<tables::Row<'_>>> = (0..3).map(|i| vec![("x", Some(vec![i; 900])); 4]).collect();
    let groups: Vec<&[tables::Row<'_>]> = groups.iter().map(Vec::as_slice).collect();
    let bytes = table("own", &groups, Compression::SNAPPY);
    assert!(bytes.len() > 2_000_000);
    let names = ["v/0.parquet", "v/1.parquet", "v/2.parquet", "other/0.parquet", "v/readme.md"];
    let fake = FakeHub::start(names.map(|name| (name, bytes.clone())), Some("secret"));
    let access = Access { hub: fake.url(), token: Some(crate::store::Secret::new("secret")) };
    let of = |path: &str| {
        let uri = format!("hf://datasets/{}@main/{path}", hub::NAME);
        Parquet::open(&uri, &columns(), &limits(), &access).expect("opens")
    };
    let source = of("v/*.parquet");
    assert_eq!(source.units().len(), 9);
    assert_eq!(files(&source).expect("reads").len(), 36);
    let read: u64 = fake
        .seen_elsewhere()
        .iter()
        .map(|request| {
            let range = request.header("range").expect("a range").trim_start_matches("bytes=");
            let (start, last) = range.split_once('-').expect("bounds");
            last.parse::<u64>().expect("number") + 1 - start.parse::<u64>().expect("number")
        })
        .sum();
    // Three footers, and 36 rows of 900 bytes that compress well.
    assert!(read < 3 * (GUESS + 10_000), "{read} of {} bytes", 3 * bytes.len());

    assert_eq!((of("v").units().len(), of("").units().len(), of("v/1.parquet").units().len()), (9, 12, 3));
    assert_eq!(of("*/0.parquet").units().len(), 6);
    let folder = tempfile::tempdir().expect("folder");
    for name in &names[..3] {
        write(&folder, name, &bytes);
    }
    let local = open(folder.path().join("v").to_str().expect("utf-8"), &columns()).expect("opens");
    assert_eq!(local.fingerprint(), source.fingerprint(), "a copy is the same input");
    assert_eq!(files(&local).expect("reads"), files(&source).expect("reads"));
}

#[test]
fn a_file_on_a_web_server_is_read_in_ranges_and_one_with_a_query_is_refused_by_name() {
    let bytes = table("own", &[&[("a", Some(vec![1; 50]))], &[("b", Some(vec![2; 60]))]], Compression::SNAPPY);
    let served = bytes.clone();
    let server = Server::start(move |request| match request.path() {
        "/music/x.parquet" => Response::ranged(request, &served),
        _ => Response::new(404, ""),
    });
    let uri = format!("{}/music/x.parquet", server.url());
    let found = files(&open(&uri, &columns()).expect("opens")).expect("reads");
    assert_eq!(found.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["x.parquet/a", "x.parquet/b"]);
    let asked = server.seen();
    assert!(asked.iter().all(|request| request.method == "HEAD" || request.header("range").is_some()));
    let error = open(&format!("{uri}?sig=secret"), &columns()).expect_err("refused");
    assert_eq!(error.exit(), Exit::Mismatch, "{error}");
    assert!(error.to_string().contains("has a query") && !error.to_string().contains("secret"), "{error}");
    assert_eq!(server.seen().len(), asked.len(), "it is not asked for");
}

#[test]
fn a_file_may_be_called_anything() {
    let folder = tempfile::tempdir().expect("folder");
    for name in ["ä~b.parquet", "a#b%c.parquet", "[1]*?.parquet"] {
        let uri = write(&folder, name, &table("own", &[&[("a", Some(vec![1]))]], Compression::SNAPPY));
        let found = files(&open(&uri, &columns()).expect("opens")).expect("reads");
        assert_eq!(found[0].path, format!("{name}/a"));
    }
}

#[test]
fn a_row_group_that_claims_more_rows_than_can_be_is_corrupt() {
    let folder = tempfile::tempdir().expect("folder");
    let bytes = table("own", &[&[("a", Some(vec![1; 50]))]], Compression::SNAPPY);
    let read = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(bytes.clone())).expect("metadata");
    for rows in [(MAX_ROWS as i64) + 1, 1 << 58, i64::MAX, -1] {
        let group = read.row_group(0).clone().into_builder().set_num_rows(rows).build().expect("a row group");
        let claims = read.clone().into_builder().set_row_groups(vec![group]).build();
        let mut lying = bytes.clone();
        ParquetMetaDataWriter::new(&mut lying, &claims).finish().expect("writes");
        let uri = write(&folder, "x.parquet", &lying);
        let error = open(&uri, &columns()).expect_err("refused");
        assert_eq!(error.exit(), Exit::BadData, "{error}");
        assert!(error.to_string().contains("a row group"), "{error}");
    }
}

#[test]
fn columns_are_named_clearly_and_must_fit() {
    let folder = tempfile::tempdir().expect("folder");
    let uri = write(&folder, "a.parquet", &table("gigamidi-v2.0.0", &[&[("a", Some(vec![1]))]], Compression::SNAPPY));
    let refused = |layout, column, id| match Columns::of(layout, column, id) {
        Ok(columns) => open(&uri, &columns).expect_err("refused"),
        Err(error) => error,
    };
    let known = Some(Layout::GigaMidi200);
    for (error, says) in [
        (refused(None, None, None), "which column"),
        (refused(known, Some("music"), None), "which column"),
        (refused(known, None, Some("md5")), "which column"),
        (refused(None, Some("midi"), None), "no plain column `midi`, but split, md5, music"),
        (refused(None, Some("music"), Some("NOMML")), "no plain column `NOMML`"),
        (refused(None, Some("md5"), None), "holds no bytes"),
        (refused(None, Some("num_tracks"), None), "holds no bytes"),
    ] {
        assert_eq!(error.exit(), Exit::Mismatch, "{error}");
        assert!(error.to_string().contains(says) && error.hint_text().is_some(), "{error}");
    }
    let numbered = Columns::of(None, Some("music"), Some("num_tracks")).expect("columns");
    assert_eq!(files(&open(&uri, &numbered).expect("opens")).expect("reads")[0].path, "a.parquet/3");
}

#[test]
fn what_is_not_there_or_no_parquet_file_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().to_str().expect("utf-8").to_owned();
    write(&folder, "text/x.parquet", b"this is a text and not a table");
    write(&folder, "short/x.parquet", b"PAR1");
    let mut claims = b"PAR1 PAR1".to_vec();
    claims.splice(4..4, u32::MAX.to_le_bytes());
    write(&folder, "claims/x.parquet", &claims);
    fs_err::create_dir_all(folder.path().join("empty")).expect("makes");
    for (uri, exit, says) in [
        (format!("{root}/no/such"), Exit::BadData, "no such file or folder"),
        (format!("{root}/no/such.parquet"), Exit::BadData, "no such file or folder"),
        (format!("{root}/no/*.parquet"), Exit::BadData, "no such file or folder"),
        (format!("{root}/empty"), Exit::BadData, "holds no .parquet file"),
        (format!("{root}/text/*.parquet"), Exit::BadData, "does not end as one"),
        (format!("{root}/short"), Exit::BadData, "too short"),
        (format!("{root}/claims"), Exit::BadData, "its footer claims"),
        ("https://example.com/folder".to_owned(), Exit::Mismatch, "lists no files"),
    ] {
        let error = open(&uri, &columns()).expect_err("refused");
        assert_eq!(error.exit(), exit, "{error}");
        assert!(error.to_string().contains(says) && error.hint_text().is_some(), "{error}");
    }
    assert!(!folder.path().join("no").exists(), "looking makes no folder");
}

#[test]
fn a_damaged_file_is_an_error_or_reads_whole_and_never_a_panic() {
    let folder = tempfile::tempdir().expect("folder");
    let rows: Vec<tables::Row<'_>> = vec![("name", Some((0..200).collect())); 40];
    let bytes = table("gigamidi-v2.0.0", &[&rows[..20], &rows[20..]], Compression::SNAPPY);
    let columns = Columns::of(Some(Layout::GigaMidi200), None, None).expect("columns");
    let attempt = |bytes: &[u8]| {
        let uri = write(&folder, "x.parquet", bytes);
        open(&uri, &columns).and_then(|source| files(&source))
    };
    assert_eq!(attempt(&bytes).expect("whole").len(), 40);
    let mut refused = 0;
    for at in (0..bytes.len()).step_by(11) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        if let Err(error) = attempt(&damaged) {
            assert!(matches!(error.exit(), Exit::BadData | Exit::Mismatch), "{at}: {error}");
            assert!(error.to_string().contains("x.parquet"), "{at}: {error}");
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
    for cut in (0..bytes.len()).step_by(101) {
        assert_eq!(attempt(&bytes[..cut]).expect_err("cut").exit(), Exit::BadData);
    }
}

#[test]
fn large_rows_and_row_groups_are_rows_with_the_limit_that_they_break() {
    let folder = tempfile::tempdir().expect("folder");
    let noise: Vec<u8> = (0..900u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let bytes = table("own", &[&[("a", Some(noise)), ("b", Some(vec![1; 20]))]], Compression::SNAPPY);
    let uri = write(&folder, "x.parquet", &bytes);
    let read = |limits: Limits| {
        let source = Parquet::open(&uri, &columns(), &limits, &Access::default()).expect("opens");
        files(&source).expect("reads").into_iter().map(|file| file.content).collect::<Vec<_>>()
    };
    let rows = read(Limits { max_row_bytes: 899, ..limits() });
    assert_eq!(rows, [Content::TooLarge { bytes: 900, limit: "max-row-bytes" }, Content::Bytes(vec![1; 20])]);
    let rows = read(Limits { max_row_group_bytes: 900, ..limits() });
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| matches!(row, Content::TooLarge { limit: "max-row-group-bytes", .. })), "{rows:?}");
}

#[test]
fn a_file_that_changes_or_goes_before_it_is_read_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let rows = |byte: u8| table("own", &[&[("a", Some(vec![byte; 50]))]], Compression::SNAPPY);
    let uri = write(&folder, "x.parquet", &rows(1));
    let source = open(&uri, &columns()).expect("opens");
    let rewritten = table("own", &[&[("a", Some((0..60).collect()))]], Compression::SNAPPY);
    write(&folder, "x.parquet", &rewritten);
    let error = files(&source).expect_err("changed");
    assert!(error.exit() == Exit::BadData && error.to_string().contains("changed"), "{error}");
    fs_err::remove_file(&uri).expect("removes");
    let error = files(&source).expect_err("gone");
    assert!(error.exit() == Exit::BadData && error.to_string().contains("gone"), "{error}");
}
