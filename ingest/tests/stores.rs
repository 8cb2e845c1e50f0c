//! What every store owes, asked of a local folder always, and of the store at `MIDI_RWKV_STORE` where that is set:
//! `make test-stores` starts real servers and runs this once for each.

#![allow(clippy::print_stdout, reason = "a test says what it did")]

use midi_ingest::job::Exit;
use midi_ingest::store::{Committed, Store};

/// Writers that race for one record.
const RIVALS: usize = 8;
/// Races of each kind.
const RACES: usize = 10;

/// Asks everything of the store at `uri`, an empty folder.
fn conformance(uri: &str) {
    let store = Store::open(uri).expect("opens");
    let say = |what: &str| println!("{uri}: {what}: ok");

    store.must_refuse_a_second_create().expect("a store to commit to");
    say("a second create is refused");

    assert_eq!(store.commit("once/record.json", b"one".to_vec()).expect("commits"), Committed::Created);
    assert_eq!(store.commit("once/record.json", b"one".to_vec()).expect("commits again"), Committed::Same);
    let error = store.commit("once/record.json", b"two".to_vec()).expect_err("other content");
    assert_eq!(error.exit(), Exit::Mismatch, "{error}");
    assert_eq!(store.read("once/record.json").expect("reads").as_ref(), b"one");
    say("commit twice");

    for race in 0..RACES {
        equal_rivals(uri, &format!("race/equal-{race}.json"));
        unequal_rivals(uri, &format!("race/unequal-{race}.json"));
    }
    say(&format!("{RACES} races of {RIVALS} equal writers, {RACES} of {RIVALS} unequal ones"));

    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    store.put("parts/large.bin", bytes.clone()).expect("puts");
    let entry = store.entry("parts/large.bin").expect("looks").expect("is there");
    assert_eq!(entry.bytes, bytes.len() as u64);
    for (start, end) in [(0, 10), (1_499_999, 2_500_001), (2_999_999, 3_000_000), (7, 7)] {
        let part = store.range(&entry, start as u64..end as u64).expect("reads");
        assert_eq!(part.as_ref(), &bytes[start..end]);
    }
    assert_eq!(store.range(&entry, 2_999_999..3_000_001).expect_err("past the end").exit(), Exit::BadData);
    store.put("parts/large.bin", vec![1; 3_000_000]).expect("puts another");
    let error = store.range(&entry, 0..10).expect_err("another version");
    assert!(error.exit() == Exit::BadData && error.to_string().contains("changed"), "{error}");
    say("ranges of one version");

    assert_eq!(store.get("no/such.bin").expect("looks"), None);
    assert_eq!(store.entry("no/such.bin").expect("looks"), None);
    let names: Vec<String> = (0..40).map(|i| format!("many/{}/{i:04}.bin", i % 3)).collect();
    for name in &names {
        store.put(name, vec![1, 2, 3]).expect("puts");
    }
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(store.list("many").expect("lists"), sorted);
    assert_eq!(store.list("man").expect("lists"), [""; 0], "a folder is no beginning of a name");
    assert!(store.entries("many/1").expect("lists").iter().all(|entry| entry.bytes == 3));
    say("listing");
}

/// Rivals with the same record: one creates it, and all agree.
fn equal_rivals(uri: &str, name: &str) {
    let outcomes = race(uri, |store, _| store.commit(name, b"same".to_vec()).expect("commits"));
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Committed::Created).count(), 1, "{name}");
}

/// Rivals with different records: one creates its own, and every other is refused.
fn unequal_rivals(uri: &str, name: &str) {
    let outcomes = race(uri, |store, rival| match store.commit(name, format!("{rival}").into_bytes()) {
        Ok(_) => Some(rival),
        Err(error) => {
            assert_eq!(error.exit(), Exit::Mismatch, "{error}");
            None
        }
    });
    let winners: Vec<usize> = outcomes.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1, "{name}: {winners:?}");
    let stands = Store::open(uri).expect("opens").read(name).expect("reads");
    assert_eq!(stands.as_ref(), winners[0].to_string().as_bytes());
}

/// Lets rivals begin together, each with a connection of its own.
fn race<T: Send>(uri: &str, act: impl Fn(&Store, usize) -> T + Sync) -> Vec<T> {
    let start = std::sync::Barrier::new(RIVALS);
    std::thread::scope(|scope| {
        let (start, act) = (&start, &act);
        let rivals: Vec<_> = (0..RIVALS)
            .map(|rival| {
                scope.spawn(move || {
                    let store = Store::open(uri).expect("opens");
                    start.wait();
                    act(&store, rival)
                })
            })
            .collect();
        rivals.into_iter().map(|rival| rival.join().expect("joins")).collect()
    })
}

#[test]
fn a_local_folder_is_a_store() {
    let folder = tempfile::tempdir().expect("folder");
    conformance(folder.path().to_str().expect("utf-8"));
}

#[test]
fn the_store_that_is_named_is_one_too() {
    match std::env::var("MIDI_RWKV_STORE") {
        Ok(uri) => conformance(&uri),
        Err(_) => println!("skipped: MIDI_RWKV_STORE is not set; `make test-stores` sets it"),
    }
}
