//! What a run leaves to look at, read by the tools that people look at it with.
#![cfg(feature = "torch")]
#![allow(clippy::print_stdout, reason = "tests say what they skip and what was read")]

#[path = "support/data_set.rs"]
#[allow(dead_code)]
mod data_set;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use data_set::{experiment, ingest};
use midi_ingest::job::exit::Exit;
use midi_ingest::job::{Progress, Shutdown};
use midi_ingest::store::Store;
use midi_train::metrics::Line;
use midi_train::trainer;
use midi_train::watch::tensorboard::EventFile;

/// Prints a line a tag: its steps and values, as TensorBoard has them after all files of a folder.
const READER: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
for tag in sorted(events.Tags()['scalars']):
    print(tag, *(f'{e.step}:{e.value:g}@{e.wall_time:g}' for e in events.Scalars(tag)))
";

fn line(step: u64, loss: f64, valid_loss: Option<f64>) -> Line {
    Line {
        step,
        loss,
        lr: 0.5,
        grad_norm: 0.25,
        tokens: 100 * step,
        tokens_per_second: 200.0,
        filled: 1.0,
        loader_wait: 0.0,
        valid_loss,
    }
}

fn python(script: &str, folder: &Path) -> Option<String> {
    let output = Command::new("python3").args(["-c", script]).arg(folder).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn tensorboard_reads_the_events_of_a_run_and_its_continuation() {
    let folder = tempfile::tempdir().expect("folder");
    if python("import tensorboard", folder.path()).is_none() {
        println!("skipped: no `tensorboard` for `python3`");
        return;
    }
    let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
    let lines = [line(10, 4.0, None), line(20, 3.0, Some(3.5)), line(30, 9.0, Some(9.5))];
    let mut file = EventFile::new(&store, "small", 0, &[]);
    for line in &lines {
        file.add(line).expect("adds");
    }
    // The checkpoint was that of step 20: step 30 is lost and done again.
    let mut file = EventFile::new(&store, "small", 20, &lines[..2]);
    for line in [line(30, 2.0, None), line(40, 1.0, Some(1.5))] {
        file.add(&line).expect("adds");
    }
    let read = python(READER, &folder.path().join("small")).expect("tensorboard reads");
    print!("{read}");
    assert_eq!(
        read.lines().collect::<Vec<_>>(),
        [
            "grad_norm 10:0.25@5 20:0.25@10 30:0.25@15 40:0.25@20",
            "loss/train 10:4@5 20:3@10 30:2@15 40:1@20",
            "loss/validation 20:3.5@10 40:1.5@20",
            "lr 10:0.5@5 20:0.5@10 30:0.5@15 40:0.5@20",
            "tokens_per_second 10:200@5 20:200@10 30:200@15 40:200@20",
        ]
    );
}

/// The gauges of an endpoint by name; none while nobody listens there.
fn scrape(address: &str) -> Option<std::collections::BTreeMap<String, f64>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let samples = text.lines().filter_map(|line| line.strip_prefix("midi_rwkv_")?.split_once(' '));
    Some(samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

#[test]
fn prometheus_sees_a_run_while_it_goes_on() {
    let folder = tempfile::tempdir().expect("folder");
    ingest(folder.path(), "v1");
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let at = format!("train.small.metrics-address={address}");
    // More steps than pass until the numbers are seen: the test stops the run.
    let sets = [
        at.as_str(),
        "train.small.steps=1000000",
        "train.small.threads=1",
        "train.small.global-batch=2",
        "train.small.log-every-steps=1",
        "train.small.valid-every-steps=2",
    ];
    let experiment = experiment(folder.path(), &sets);
    let shutdown = Shutdown::manual();
    let gauges = std::thread::scope(|scope| {
        let run = scope.spawn(|| trainer::run(&experiment, "small", &Progress::silent(), &shutdown));
        let until = Instant::now() + Duration::from_secs(120);
        let gauges = loop {
            let gauges = scrape(&address.to_string()).unwrap_or_default();
            let is_there = gauges.get("validation_loss").is_some_and(|loss| loss.is_finite());
            if is_there || run.is_finished() || Instant::now() > until {
                break gauges;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        shutdown.ask();
        let error = run.join().expect("no panic").expect_err("is stopped");
        assert_eq!(error.exit(), Exit::RunAgain, "{error}");
        gauges
    });
    let log = std::fs::read_to_string(folder.path().join("train/small/metrics.jsonl")).expect("a log");
    let lines: Vec<Line> = log.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    // Each number is set by itself, so a scrape between two lines may have some of each: every one is in the log.
    let seen = |name: &str, of: fn(&Line) -> Option<f64>| {
        let value = gauges.get(name).unwrap_or_else(|| panic!("{name}: {gauges:?}"));
        assert!(lines.iter().any(|line| of(line) == Some(*value)), "{name} {value}");
    };
    seen("step", |line| Some(line.step as f64));
    seen("loss", |line| Some(line.loss));
    seen("validation_loss", |line| line.valid_loss);
    seen("learning_rate", |line| Some(line.lr));
    seen("gradient_norm", |line| Some(line.grad_norm));
    seen("tokens", |line| Some(line.tokens as f64));
    seen("tokens_per_second", |line| Some(line.tokens_per_second));
    assert_eq!(gauges.get("rank"), Some(&0.0));
    assert!(scrape(&address.to_string()).is_none(), "nobody listens when the run is over");
}

#[test]
fn a_bad_metrics_address_ends_a_run_before_any_work() {
    let folder = tempfile::tempdir().expect("folder");
    ingest(folder.path(), "v1");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).expect("an address");
    for (address, says) in
        [(taken.1.as_str(), "cannot listen at"), ("localhost:9464", "is not an IP address and a port")]
    {
        let set = format!("train.small.metrics-address={address}");
        let experiment = experiment(folder.path(), &[&set]);
        let run = trainer::run(&experiment, "small", &Progress::silent(), &Shutdown::manual());
        let error = run.expect_err("cannot listen");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.to_string().contains(says) && error.to_string().contains(address), "{error}");
        assert!(error.to_string().contains("metrics-address"), "{error}");
    }
    assert!(!folder.path().join("train").exists(), "nothing was written");
}
