//! The hub's client against a hub of our own: pages, tokens, redirects to another host, and failures.

use super::*;
use crate::support::hub::{COMMIT, FakeHub, NAME};

fn address(path: &str) -> Address {
    Address { name: NAME.to_owned(), revision: "main".to_owned(), path: path.to_owned() }
}

fn access(fake: &FakeHub, token: Option<&str>) -> Access {
    Access { hub: fake.url(), token: token.map(Secret::new) }
}

fn open(fake: &FakeHub, token: Option<&str>) -> Result<Hub> {
    Hub::open_patiently(&address(""), &access(fake, token), Duration::ZERO)
}

#[test]
fn addresses_are_taken_apart() {
    let of = |uri: &str| Address::of(uri).expect("well formed").expect("of the hub");
    let found = of("hf://datasets/Metacreation/GigaMIDI/v2.0.0/train/*.parquet");
    assert_eq!((found.name.as_str(), found.revision.as_str()), ("Metacreation/GigaMIDI", "main"));
    assert_eq!(found.path, "v2.0.0/train/*.parquet");
    for uri in ["hf://datasets/a/b@refs/convert/parquet/x", "hf://datasets/a/b@refs%2Fconvert%2Fparquet/x"] {
        let found = of(uri);
        assert_eq!((found.revision.as_str(), found.path.as_str()), ("refs/convert/parquet", "x"));
    }
    assert_eq!(of("hf://datasets/a/b@1f").revision, "1f");
    assert_eq!(Address::of("s3://bucket/x").expect("not ours"), None);
    for wrong in ["hf://a/b", "hf://datasets/a", "hf://datasets/a/b@/x", "hf://datasets/a/b/../x"] {
        assert_eq!(Address::of(wrong).expect_err("refused").exit(), Exit::Mismatch, "{wrong}");
    }
}

#[test]
fn files_are_listed_over_pages_and_read_in_ranges_of_the_commit() {
    let bytes: Vec<u8> = (0..200).collect();
    let names: Vec<String> = (0..7).map(|i| format!("v1/{i}.parquet")).collect();
    let fake = FakeHub::start(names.iter().map(|name| (name.as_str(), bytes.clone())), None);
    let hub = open(&fake, None).expect("opens");
    let files = hub.files("v1").expect("lists");
    assert_eq!(files.iter().map(|file| file.path.clone()).collect::<Vec<_>>(), names);
    assert!(files.iter().all(|file| file.bytes == 200));
    assert_eq!(hub.range(&files[3], 10..14).expect("reads").as_ref(), [10, 11, 12, 13]);
    assert_eq!(hub.range(&files[3], 199..200).expect("reads").as_ref(), [199]);
    assert_eq!(hub.range(&files[3], 0..201).expect_err("past the end").exit(), Exit::BadData);
    let asked = fake.seen();
    assert!(asked.iter().filter(|r| r.path().contains("/tree/")).count() >= 4, "pages of two");
    assert!(asked.iter().skip(1).all(|request| request.path().contains(COMMIT)), "one commit throughout");
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let fake = FakeHub::start([("a.parquet", vec![5; 100])], Some("secret"));
    let hub = open(&fake, Some("secret")).expect("opens");
    let file = hub.files("").expect("lists").remove(0);
    assert_eq!(hub.range(&file, 0..100).expect("reads"), vec![5; 100]);
    assert!(fake.seen().iter().all(|request| request.header("authorization") == Some("Bearer secret")));
    let elsewhere = fake.seen_elsewhere();
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].header("authorization"), None);
    assert_eq!(elsewhere[0].header("range"), Some("bytes=0-99"));
    assert!(!format!("{hub:?}").contains("secret"));
}

#[test]
fn what_is_gated_or_missing_says_what_to_do() {
    let fake = FakeHub::start([("a.parquet", vec![5; 100])], Some("secret"));
    for token in [None, Some("another")] {
        let error = open(&fake, token).expect_err("gated");
        assert_eq!(error.exit(), Exit::Storage);
        let text = error.to_string();
        assert!(text.contains("HF_TOKEN") && text.contains("https://huggingface.co/datasets/owner/music"), "{text}");
        assert!(!text.contains("another"), "{text}");
    }
    let hub = open(&fake, Some("secret")).expect("opens");
    let error = hub.files("no/such").expect_err("missing");
    assert_eq!(error.exit(), Exit::BadData);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("HF_TOKEN") && hint.contains("terms")), "{error}");
    let gone = HubFile { path: "b.parquet".to_owned(), bytes: 10 };
    assert_eq!(hub.range(&gone, 0..5).expect_err("missing").exit(), Exit::BadData);
}

#[test]
fn what_may_pass_is_tried_again_and_ends() {
    let fake = FakeHub::start([("a.parquet", vec![5; 100])], None);
    let hub = open(&fake, None).expect("opens");
    let file = hub.files("").expect("lists").remove(0);
    fake.fail(&[503, 429, 500]);
    assert_eq!(hub.range(&file, 0..3).expect("gets through"), vec![5; 3]);
    fake.fail(&[503; 100]);
    let error = hub.range(&file, 0..3).expect_err("never");
    assert_eq!(error.exit(), Exit::Storage, "{error}");
}
