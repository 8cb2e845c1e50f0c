use super::*;

const QUICK: Terms = Terms { beat: Duration::from_millis(20), stale: Duration::from_millis(200) };

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("folder");
    let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
    (folder, store)
}

fn take(store: &Store) -> Result<Lease> {
    Lease::take(store, "m", QUICK, &Shutdown::manual(), &|_| ())
}

/// Leaves the record of a holder on another machine.
fn leave(store: &Store, epoch: u64, beats: u64) {
    let holder = Process { host: "far".into(), pid: 7, started: 1, scope: "there".into() };
    let record = Record { epoch, holder, serial: 1, since: 0, beats, released: false };
    store.put(&name("m/lease", epoch), bytes_of(&record).expect("serialises")).expect("puts");
}

#[test]
fn a_second_trainer_is_told_who_holds_it_and_a_clean_end_gives_it_back() {
    let (_folder, store) = store();
    let first = take(&store).expect("free");
    let error = take(&store).expect_err("held");
    assert_eq!(error.exit(), Exit::Mismatch);
    let text = error.to_string();
    let pid = std::process::id();
    assert!(text.contains(&format!("process {pid} on ")) && text.contains("since 20"), "{text}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("SIGTERM")));
    drop(first);
    take(&store).expect("given back").check().expect("held");
    assert_eq!(epochs(&store, "m/lease").expect("lists"), [2], "earlier records are removed");
}

#[test]
fn a_silent_holder_elsewhere_is_replaced_and_a_living_one_is_not() {
    let (_folder, store) = store();
    leave(&store, 4, 0);
    let lease = take(&store).expect("silent");
    assert_eq!(lease.shared.epoch(), 5);
    drop(lease);
    leave(&store, 9, 0);
    let error = std::thread::scope(|scope| {
        let rival = scope.spawn(|| {
            let slow = Terms { stale: Duration::from_secs(600), ..QUICK };
            Lease::take(&store, "m", slow, &Shutdown::manual(), &|_| ()).expect_err("lives")
        });
        let mut beats = 0;
        while !rival.is_finished() {
            beats += 1;
            leave(&store, 9, beats);
            std::thread::sleep(QUICK.beat);
        }
        rival.join().expect("joins")
    });
    assert!(error.to_string().contains("process 7 on far, since 1970-01-01 00:00:00 UTC"), "{error}");
}

#[test]
fn who_lost_the_lease_may_not_commit() {
    let (_folder, store) = store();
    let lease = take(&store).expect("free");
    leave(&store, 2, 0);
    let error = lease.check().expect_err("lost");
    assert_eq!(error.exit(), Exit::PeerLost);
    assert!(error.to_string().contains("held by process 7 on far"), "{error}");
    drop(lease);
    assert!(!newest(&store, "m/lease").expect("reads").and_then(|n| n.1).expect("a record").released);
}

#[test]
fn of_many_rivals_one_wins() {
    let (_folder, store) = store();
    let won: Vec<Result<Lease>> = std::thread::scope(|scope| {
        let rivals: Vec<_> = (0..8).map(|_| scope.spawn(|| take(&store))).collect();
        rivals.into_iter().map(|rival| rival.join().expect("joins")).collect()
    });
    assert_eq!(won.iter().filter(|lease| lease.is_ok()).count(), 1);
}

#[test]
fn dates_read_well() {
    assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
    assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
    assert_eq!(utc(1_798_761_599), "2026-12-31 23:59:59 UTC");
}
