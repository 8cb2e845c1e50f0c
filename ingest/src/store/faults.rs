//! Commits against a store that loses acknowledgements, answers with conflicts, or has no conditional writes: a bucket
//! of our own, served over HTTP, that misbehaves as told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::support::http::{Request, Response, Server};

type Objects = BTreeMap<String, Vec<u8>>;

/// A bucket whose answer to the nth write is `fault`'s, or an honest one where that is `None`.
fn bucket(fault: impl Fn(usize, &Request, &mut Objects) -> Option<u16> + Send + Sync + 'static) -> (Server, Store) {
    bucket_with(&[], fault)
}

fn bucket_with(
    more: &[(&str, &str)],
    fault: impl Fn(usize, &Request, &mut Objects) -> Option<u16> + Send + Sync + 'static,
) -> (Server, Store) {
    let state = Mutex::new((0, Objects::new()));
    let server = Server::start(move |request| {
        let (writes, objects) = &mut *state.lock().expect("state");
        let name = request.path().to_owned();
        if request.method == "PUT" {
            *writes += 1;
            if let Some(status) = fault(*writes, request, objects) {
                return Response::new(status, "").with("etag", "\"f\"");
            }
            if request.header("if-none-match") == Some("*") && objects.contains_key(&name) {
                return Response::new(412, "");
            }
            objects.insert(name, request.body.clone());
            return Response::new(200, "").with("etag", "\"1\"");
        }
        match objects.get(&name) {
            Some(bytes) => Response::ranged(request, bytes)
                .with("etag", "\"1\"")
                .with("last-modified", "Tue, 01 Jul 2025 00:00:00 GMT"),
            None => Response::new(404, ""),
        }
    });
    let endpoint = server.url();
    let options = [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_allow_http", "true"),
        ("aws_region", "here"),
        ("aws_access_key_id", "key"),
        ("aws_secret_access_key", "secret"),
    ];
    let options = options.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let url = url::Url::parse("s3://bucket/run").expect("url");
    let (inner, prefix) = connect::connect(&url, options, connect::SHORT_REQUEST).expect("connects");
    let runtime = runtime().expect("starts");
    let store = Store {
        large: Arc::clone(&inner),
        inner,
        prefix,
        shown: url.to_string(),
        local: None,
        runtime,
        pause: Duration::ZERO,
    };
    (server, store)
}

#[test]
fn an_honest_bucket_commits_once_and_passes_the_probe() {
    let (_server, store) = bucket(|_, _, _| None);
    assert_eq!(store.commit("m", b"x".to_vec()).expect("commits"), Committed::Created);
    assert_eq!(store.commit("m", b"x".to_vec()).expect("commits"), Committed::Same);
    assert_eq!(store.commit("m", b"y".to_vec()).expect_err("other content").exit(), Exit::Mismatch);
    store.must_refuse_a_second_create().expect("fit");
    store.must_refuse_a_second_create().expect("fit again, beside the first probe");
}

#[test]
fn a_lost_acknowledgement_is_found_out_by_reading() {
    let (_server, store) = bucket(|_, request, objects| {
        objects.insert(request.path().to_owned(), request.body.clone());
        Some(400)
    });
    assert_eq!(store.commit("m", b"x".to_vec()).expect("it is there"), Committed::Same);
}

#[test]
fn a_conflict_over_nothing_is_tried_again() {
    let (server, store) = bucket(|write, _, _| (write <= 3).then_some(409));
    assert_eq!(store.commit("m", b"x".to_vec()).expect("commits"), Committed::Created);
    assert_eq!(server.seen().iter().filter(|request| request.method == "PUT").count(), 4);
}

#[test]
fn a_conflict_that_a_rival_wins_is_decided_by_the_bytes() {
    let rival = |bytes: &'static [u8]| {
        bucket(move |write, request, objects| {
            if write == 2 {
                objects.insert(request.path().to_owned(), bytes.to_vec());
            }
            Some(409)
        })
    };
    assert_eq!(rival(b"x").1.commit("m", b"x".to_vec()).expect("same bytes"), Committed::Same);
    assert_eq!(rival(b"z").1.commit("m", b"x".to_vec()).expect_err("other bytes").exit(), Exit::Mismatch);
}

#[test]
fn a_create_without_an_answer_is_tried_again_or_found_done() {
    for stored in [false, true] {
        let more = [("aws_timeout", "300ms"), ("timeout", "none of the store's")];
        let (server, store) = bucket_with(&more, move |write, request, objects| {
            if write > 1 {
                return None;
            }
            if stored {
                objects.insert(request.path().to_owned(), request.body.clone());
            }
            std::thread::sleep(Duration::from_secs(1));
            Some(500)
        });
        let committed = store.commit("m", b"x".to_vec()).expect("commits");
        assert_eq!(committed, if stored { Committed::Same } else { Committed::Created });
        let puts = server.seen().iter().filter(|request| request.method == "PUT").count();
        assert_eq!(puts, if stored { 1 } else { 2 });
    }
}

#[test]
fn conflicts_without_end_are_a_failure_of_storage() {
    let (_server, store) = bucket(|_, _, _| Some(409));
    let error = store.commit("m", b"x".to_vec()).expect_err("never gets through");
    assert_eq!(error.exit(), Exit::Storage, "{error}");
}

#[test]
fn a_store_that_replaces_or_does_not_know_conditions_is_refused() {
    let replaces = bucket(|_, request, objects| {
        objects.insert(request.path().to_owned(), request.body.clone());
        Some(200)
    });
    let error = replaces.1.must_refuse_a_second_create().expect_err("unfit");
    assert_eq!(error.exit(), Exit::Mismatch, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("conditional writes")));
    let (_server, ignorant) = bucket_with(&[("aws_conditional_put", "disabled")], |_, _, _| None);
    let error = ignorant.must_refuse_a_second_create().expect_err("unfit");
    assert!(error.exit() == Exit::Mismatch && error.to_string().contains("no conditional writes"), "{error}");
}

#[test]
fn rights_that_are_missing_are_told_with_a_hint() {
    let (_server, store) = bucket(|_, _, _| Some(403));
    let error = store.commit("m", b"x".to_vec()).expect_err("denied");
    assert_eq!(error.exit(), Exit::Storage);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("credentials")), "{error}");
}

#[test]
fn of_eight_rivals_one_creates_and_all_agree() {
    let (_server, store) = bucket(|_, _, _| None);
    let store = Arc::new(store);
    let outcomes: Vec<Committed> = std::thread::scope(|scope| {
        let commit = || store.commit("race.json", b"same".to_vec()).expect("commits");
        let rivals: Vec<_> = (0..8).map(|_| scope.spawn(commit)).collect();
        rivals.into_iter().map(|rival| rival.join().expect("joins")).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Committed::Created).count(), 1);
}
