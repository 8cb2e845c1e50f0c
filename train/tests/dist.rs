//! Several processes train one model: the same numbers as one, one checkpoint, and nobody waits for the lost.
#![cfg(feature = "torch")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use midi_ingest::shard::{
    Counts, FileRecord, MANIFEST, Manifest, Sample, Split, UnitRecord, VocabularyRecord, write_shard,
};
use midi_ingest::store::Store;
use midi_train::checkpoint::Checkpoints;
use midi_train::dist::store::{Client, Server};
use midi_train::metrics::Line;

/// A folder with a data set and an experiment.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let store = Store::open(folder.path().join("run/ingest").to_str().expect("utf-8")).expect("opens");
    let shard = |split: Split, count: u32, salt: u32| {
        let sample = |pass: u32| {
            let (start, stride, length) = (pass * 5 + salt, 1 + pass % 3, 8 + (pass * 7 + salt) % 12);
            let input_ids = (0..length).map(|i| ((start + i * stride) % 20) as u16).collect();
            Sample { song: format!("song{pass}"), pass, kind: "bars", track: 0, bar: 0, bars: 1, input_ids }
        };
        let samples: Vec<Sample> = (0..count).map(sample).collect();
        let bytes = write_shard(&samples).expect("a shard");
        let path = format!("shards/{}/a.arrow", split.name());
        store.put(&path, bytes.clone()).expect("puts");
        (split, FileRecord::of(path, &bytes, samples.len(), samples.iter().map(|s| s.input_ids.len()).sum()))
    };
    let unit = UnitRecord {
        key: "data".into(),
        unit: "a".into(),
        songs: FileRecord::of("songs/a.parquet".into(), b"", 0, 0),
        shards: BTreeMap::from([shard(Split::Train, 31, 0), shard(Split::Valid, 6, 9)]),
        counts: Counts::default(),
    };
    let vocabulary =
        VocabularyRecord { file: "t.json".into(), size: 24, fingerprint: "v1".into(), no_loss_ids: vec![23] };
    let manifest = Manifest::of_units("data", vocabulary, 32, &[unit]);
    store.put(MANIFEST, serde_json::to_vec(&manifest).expect("serialises")).expect("puts");
    let text = "seed = 5\nout = \"run\"\n[train.small]\nsteps = 12\nglobal-batch = 8\nlog-every-steps = 1\nthreads = 1\n\
                [train.small.model]\nlayers = 2\nwidth = 64\n[train.small.schedule]\nlr = 0.004\nwarmup-steps = 5\n\
                [train.small.checkpoint]\nevery-steps = 4\n[train.small.dist]\ntimeout-seconds = 60\n";
    fs_err::write(folder.path().join("small.toml"), text).expect("writes");
    folder
}

/// One rank, and where its standard error goes.
struct Rank {
    child: Child,
    log: std::path::PathBuf,
}

impl Rank {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill starts").success());
    }

    /// The exit code and what was said; a rank that a signal ended has none.
    fn end(&mut self) -> (Option<i32>, String) {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return (status.code(), fs_err::read_to_string(&self.log).unwrap_or_default());
            }
            assert!(Instant::now() < until, "a rank does not end: {}", fs_err::read_to_string(&self.log).expect("log"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &Path, sets: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_midi-train"));
    command.current_dir(folder).args(["run", "small.toml"]).stdin(Stdio::null()).stdout(Stdio::null());
    for set in sets {
        command.args(["--set", set]);
    }
    command
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

/// Starts `world` ranks by hand, with the store of `server`, or of rank 0 on `port`.
fn start(folder: &Path, world: usize, port: u16, served: bool, sets: &[&str]) -> Vec<Rank> {
    (0..world).map(|rank| start_rank(folder, rank, world, port, served, sets)).collect()
}

fn start_rank(folder: &Path, rank: usize, world: usize, port: u16, served: bool, sets: &[&str]) -> Rank {
    let log = folder.join(format!("rank-{rank}.log"));
    let mut command = command(folder, sets);
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", world.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    if served {
        command.env("TORCHELASTIC_USE_AGENT_STORE", "True");
    }
    let child = command.stderr(fs_err::File::create(&log).expect("log").into_file()).spawn().expect("starts");
    Rank { child, log }
}

/// Runs `world` ranks to their end; all must end with `code`. Returns what they said.
fn run(folder: &Path, world: usize, code: i32, sets: &[&str]) -> Vec<String> {
    let server = Server::local().expect("serves");
    let ends: Vec<_> = start(folder, world, server.port(), true, sets).iter_mut().map(Rank::end).collect();
    assert!(ends.iter().all(|end| end.0 == Some(code)), "expected {code}: {ends:?}");
    ends.into_iter().map(|end| end.1).collect()
}

fn alone(folder: &Path, sets: &[&str]) {
    let output = command(folder, sets).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn lines(folder: &Path) -> Vec<Line> {
    let text = fs_err::read_to_string(folder.join("run/train/small/metrics.jsonl")).expect("reads");
    text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
}

/// That both runs saw the same tokens at every step, and the same losses to rounding.
fn same_run(a: &Path, b: &Path) {
    let (a, b) = (lines(a), lines(b));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert_eq!((a.step, a.tokens), (b.step, b.tokens));
        for (a, b) in [(a.loss, b.loss), (a.grad_norm, b.grad_norm)] {
            assert!((a - b).abs() <= 1e-5 * b.abs(), "{a} {b}");
        }
        assert_eq!(a.valid_loss.is_some(), b.valid_loss.is_some());
    }
}

fn steps(folder: &Path) -> Vec<u64> {
    let store = Store::open(folder.join("run").to_str().expect("utf-8")).expect("opens");
    Checkpoints::new(store, "train/small").steps().expect("lists")
}

/// Stops the run after `steps` steps at most, by asking one rank of `world`.
fn stop_one_after(folder: &Path, world: usize, lines_before: usize, sets: &[&str]) {
    let server = Server::local().expect("serves");
    let mut ranks = start(folder, world, server.port(), true, sets);
    let log = folder.join("run/train/small/metrics.jsonl");
    let until = Instant::now() + Duration::from_secs(120);
    while fs_err::read_to_string(&log).unwrap_or_default().lines().count() <= lines_before {
        assert!(Instant::now() < until, "{}", fs_err::read_to_string(&ranks[0].log).expect("log"));
        std::thread::sleep(Duration::from_millis(5));
    }
    ranks[world - 1].signal("TERM");
    let ends: Vec<_> = ranks.iter_mut().map(Rank::end).collect();
    assert!(ends.iter().all(|end| end.0 == Some(75)), "{ends:?}");
    assert!(ends[0].1.contains("is saved in"), "{ends:?}");
}

/// More steps than pass between a look at the log and a signal.
const LONG: &str = "train.small.steps=400";

#[test]
fn a_run_that_goes_from_one_to_four_to_two_processes_is_the_run_of_one() {
    let (whole, parts) = (folder(), folder());
    alone(whole.path(), &[]);
    run(parts.path(), 4, 0, &[]);
    same_run(whole.path(), parts.path());
    assert_eq!(steps(parts.path()), [8, 12]);
    // Two processes take the four's checkpoint of step 8, then one takes the two's.
    for world in [2, 1] {
        fs_err::remove_dir_all(parts.path().join("run/train/small/step-00000012")).expect("removes");
        fs_err::remove_file(parts.path().join("run/train/small/summary.json")).expect("removes");
        run(parts.path(), world, 0, &[]);
        same_run(whole.path(), parts.path());
    }
}

#[test]
fn shards_of_the_optimiser_make_the_same_run_and_the_same_checkpoints() {
    let (whole, parts) = (folder(), folder());
    alone(whole.path(), &[]);
    run(parts.path(), 2, 0, &["train.small.optimizer.shard=true"]);
    same_run(whole.path(), parts.path());
    // What the shards saved is loaded by four other shards, and by one process without.
    for (world, shard) in [(4, "true"), (1, "false")] {
        fs_err::remove_dir_all(parts.path().join("run/train/small/step-00000012")).expect("removes");
        fs_err::remove_file(parts.path().join("run/train/small/summary.json")).expect("removes");
        run(parts.path(), world, 0, &[&format!("train.small.optimizer.shard={shard}")]);
        same_run(whole.path(), parts.path());
    }
}

#[test]
fn a_signal_to_one_rank_stops_both_and_the_run_goes_on() {
    let folder = folder();
    let sets = ["train.small.steps=60"];
    stop_one_after(folder.path(), 2, 2, &sets);
    let stopped = steps(folder.path());
    assert!(stopped.last().is_some_and(|step| *step < 60), "{stopped:?}");
    run(folder.path(), 2, 0, &sets);
    assert_eq!(steps(folder.path()).last(), Some(&60));
}

#[test]
fn ranks_that_would_ask_for_other_things_do_not_begin() {
    let folder = folder();
    let server = Server::local().expect("serves");
    let sets = ["train.small.valid-every-steps=4", "train.small.valid-every-steps=3"];
    let start = |rank: usize| start_rank(folder.path(), rank, 2, server.port(), true, &sets[rank..=rank]);
    let ends: Vec<_> = [start(0), start(1)].iter_mut().map(Rank::end).collect();
    assert!(ends.iter().all(|end| end.0 == Some(78)) && ends[1].1.contains("another configuration"), "{ends:?}");
}

#[test]
fn a_signal_ends_a_rank_that_waits_for_others() {
    let folder = folder();
    let server = Server::local().expect("serves");
    let mut rank = start_rank(folder.path(), 0, 2, server.port(), true, &[]);
    let soon = Instant::now() + Duration::from_secs(60);
    let mut store =
        Client::connect("127.0.0.1", server.port(), soon, Duration::from_secs(20), &|| false).expect("connects");
    while store.get("midi-train/0/joined/0").expect("answers").is_none() {
        assert!(Instant::now() < soon, "the rank does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
    rank.signal("TERM");
    let (code, text) = rank.end();
    assert!(code == Some(10) && text.contains("stopped on request"), "{code:?} {text}");
}

/// What one process alone leaves in the file `name` when it diverges.
fn list_of_one(sets: &[&str], name: &str) -> serde_json::Value {
    let folder = folder();
    let output = command(folder.path(), sets).output().expect("runs");
    assert_eq!(output.status.code(), Some(70), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs_err::read(folder.path().join("run/train/small").join(name)).expect("is there");
    serde_json::from_slice(&text).expect("json")
}

#[test]
fn divergence_stops_both_before_the_update_and_lists_the_samples() {
    let folder = folder();
    let sets = ["train.small.schedule.lr=1e30", "train.small.checkpoint.every-steps=1"];
    let said = run(folder.path(), 2, 70, &sets);
    // The one checkpoint that there is holds what the first update made of the weights.
    let saved = *steps(folder.path()).last().expect("a checkpoint");
    let says = |text: &String| text.contains("training diverged") && text.contains("there is no good checkpoint yet");
    assert!(said.iter().all(says), "{said:?}");
    let list = folder.path().join(format!("run/train/small/diverged-step-{saved}.json"));
    let list: serde_json::Value = serde_json::from_slice(&fs_err::read(list).expect("is there")).expect("json");
    assert_eq!(list["samples"].as_array().map(Vec::len), Some(8));
    let store = Store::open(folder.path().join("run").to_str().expect("utf-8")).expect("opens");
    assert!(Checkpoints::new(store, "train/small").load(saved).is_ok());
    // One process alone had the same samples in that step.
    let of_one = list_of_one(&sets, &format!("diverged-step-{saved}.json"));
    assert_eq!(of_one["samples"], list["samples"]);
    // With a budget the same step is left out, and the next one breaks it.
    let more = [&sets[..], &["train.small.skip-nonfinite=1"]].concat();
    let said = run(folder.path(), 2, 70, &more);
    assert!(said[0].contains("is left out (1 of 1)"), "{said:?}");
    assert!(lines(folder.path()).iter().all(|line| line.step <= saved && line.loss.is_finite() && line.loss > 0.0));
}

#[test]
fn a_killed_and_a_stopped_rank_are_named_by_the_others() {
    let cases = [("KILL", true, 2), ("STOP", true, 2), ("KILL", false, 2), ("KILL", false, 0), ("STOP", false, 0)];
    for (signal, served, victim) in cases {
        let folder = folder();
        let server = Server::local().expect("serves");
        let sets = [LONG, "train.small.dist.timeout-seconds=6"];
        let port = if served { server.port() } else { free_port() };
        let mut ranks = start(folder.path(), 4, port, served, &sets);
        let log = folder.path().join("run/train/small/metrics.jsonl");
        let until = Instant::now() + Duration::from_secs(120);
        while fs_err::read_to_string(&log).unwrap_or_default().lines().count() < 3 {
            assert!(Instant::now() < until, "{}", fs_err::read_to_string(&ranks[0].log).expect("log"));
            std::thread::sleep(Duration::from_millis(5));
        }
        ranks[victim].signal(signal);
        let at = format!("rank {victim} is missing at ");
        for rank in (0..4).filter(|rank| *rank != victim) {
            let (code, said) = ranks[rank].end();
            assert_eq!(code, Some(10), "{signal} {victim}: {said}");
            assert!(said.contains(&at) && said.contains(", step "), "{signal} {victim}: {said}");
        }
    }
}

#[test]
fn the_others_say_why_a_rank_ended() {
    let folder = folder();
    // A file stands where the first rank wants to put its second checkpoint.
    fs_err::create_dir_all(folder.path().join("run/train/small")).expect("makes");
    fs_err::write(folder.path().join("run/train/small/step-00000008"), "in the way").expect("writes");
    let ends: Vec<_> = start(folder.path(), 2, free_port(), false, &[]).iter_mut().map(Rank::end).collect();
    assert_eq!(ends.iter().map(|end| end.0).collect::<Vec<_>>(), [Some(74), Some(10)], "{ends:?}");
    assert!(ends[1].1.contains("rank 0 ended (") && ends[1].1.contains("step-00000008"), "{ends:?}");
    assert_eq!(steps(folder.path()), [4]);
}

#[test]
fn rank_0_serves_the_store_where_nobody_else_does() {
    let folder = folder();
    let port = free_port();
    let ends: Vec<_> = start(folder.path(), 2, port, false, &[]).iter_mut().map(Rank::end).collect();
    assert!(ends.iter().all(|end| end.0 == Some(0)), "{ends:?}");
    let said = run(folder.path(), 3, 78, &[]);
    assert!(said[0].contains("cannot be divided among 3 processes"), "{said:?}");
}

#[test]
fn an_error_is_left_where_torchrun_looks() {
    let folder = folder();
    let mut command = command(folder.path(), &["train.small.optimizer.beta1=2.0"]);
    let file = folder.path().join("error.json");
    let status = command.env("TORCHELASTIC_ERROR_FILE", &file).stderr(Stdio::null()).status().expect("runs");
    assert_eq!(status.code(), Some(78));
    let text: serde_json::Value = serde_json::from_slice(&fs_err::read(file).expect("is there")).expect("json");
    assert!(text["message"]["message"].as_str().is_some_and(|text| text.contains("optimizer.beta1")), "{text}");
    let half = command.env("RANK", "0").stderr(Stdio::piped()).output().expect("runs");
    assert_eq!(half.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&half.stderr).contains("WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not"));
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped check must say so")]
fn torchrun_starts_it() {
    let there = Command::new("torchrun").arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        println!("skipped: there is no torchrun on PATH");
        return;
    }
    let folder = folder();
    let ended = Command::new("torchrun")
        .current_dir(folder.path())
        .args(["--standalone", "--nproc-per-node=2", "--no-python", env!("CARGO_BIN_EXE_midi-train")])
        .args(["run", "small.toml"])
        .output()
        .expect("starts");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(steps(folder.path()), [8, 12]);
}
