//! Checkpoints under faults: whatever moment a machine dies at, the next run goes on to the same weights.
#![cfg(feature = "torch")]
#![allow(clippy::print_stderr, reason = "the tests say how many points they tried")]

#[path = "support/data_set.rs"]
#[allow(dead_code)]
mod data_set;
#[path = "../../ingest/tests/support/faults.rs"]
mod faults;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use data_set::{experiment, ingest};
use faults::{Death, Fault, Mortal};
use midi_ingest::job::exit::{Exit, Result};
use midi_ingest::job::{Progress, Shutdown};
use midi_ingest::store::Store;
use midi_train::checkpoint::{Checkpoints, open_model};
use midi_train::metrics::Line;
use midi_train::stopping::Lowest;
use midi_train::trainer::{self, Finished};
use midi_train::wkv::Reference;
use object_store::local::LocalFileSystem;

/// Six steps with a checkpoint every second: the third save removes the first checkpoint.
const SHORT: [&str; 7] = [
    "train.small.steps=6",
    "train.small.checkpoint.every-steps=2",
    "train.small.valid-every-steps=3",
    "train.small.global-batch=2",
    "train.small.threads=1",
    "train.small.model.layers=2",
    "train.small.log-every-steps=3",
];

fn open(out: &Path) -> Store {
    Store::open(out.to_str().expect("utf-8")).expect("opens")
}

fn run(out: &Path, store: &Store) -> Result<Finished> {
    trainer::run_on(store, &experiment(out, &SHORT), "small", &Progress::silent(), &Shutdown::manual())
}

/// The weights and moments of a step.
fn state(out: &Path, step: u64) -> Vec<Vec<u8>> {
    let folder = out.join(format!("train/small/step-{step:08}"));
    ["model.safetensors", "optimizer.safetensors"]
        .map(|name| std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}")))
        .to_vec()
}

/// The operations of saving and finding checkpoints.
fn of_checkpoints(name: &str) -> bool {
    name == "train/small" || name.starts_with("train/small/step-")
}

#[test]
fn a_machine_may_die_at_every_operation_of_every_save() {
    let whole = tempfile::tempdir().expect("folder");
    ingest(whole.path(), "v1");
    let mortal = |out: &Path, at: Option<u64>, death: Death| {
        let disk = LocalFileSystem::new_with_prefix(out).expect("opens").with_automatic_cleanup(true);
        let store = Arc::new(Mortal::new(disk, Fault { counts: of_checkpoints, at, death }));
        (Store::over(store.clone(), "mortal").expect("opens"), store)
    };
    let (store, counter) = mortal(whole.path(), None, Death::Before);
    run(whole.path(), &store).expect("trains");
    let operations = counter.count();
    let expected = state(whole.path(), 6);

    let (mut tried, mut survived) = (0, 0);
    for at in 0..operations {
        for death in [Death::Before, Death::AfterApply, Death::Torn] {
            let folder = tempfile::tempdir().expect("folder");
            let out = folder.path();
            ingest(out, "v1");
            let (store, fault) = mortal(out, Some(at), death);
            let ended = run(out, &store);
            if !fault.struck() {
                continue;
            }
            tried += 1;
            assert_eq!(ended.expect_err("its machine died").exit(), Exit::Storage, "{death:?} at {at}");
            let resumed = run(out, &open(out)).unwrap_or_else(|e| panic!("{death:?} at {at}: {e}"));
            assert_eq!(resumed.summary.step, 6);
            assert!(state(out, 6) == expected, "{death:?} at {at}: other weights");
            let left = Checkpoints::new(open(out), "train/small").steps().expect("lists");
            assert_eq!(left, [4, 6], "{death:?} at {at}");
            survived += 1;
        }
    }
    assert!(operations > 20 && tried > operations, "{operations} operations, {tried} points");
    eprintln!("kill points of saving: {operations} operations, {tried} points tried, {survived} survived");
    assert_eq!(tried, survived);
}

#[test]
fn a_killed_program_goes_on_to_the_same_weights() {
    let whole = tempfile::tempdir().expect("folder");
    ingest(whole.path(), "v1");
    run(whole.path(), &open(whole.path())).expect("trains");

    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let config = out.join("small.toml");
    std::fs::write(&config, experiment(out, &SHORT).resolved()).expect("writes");
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_midi-train"));
        command.arg("run").arg(&config).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // Killed after times from a seeded generator, until one run gets through.
    let (mut seed, mut kills) = (20_251_125u64, 0);
    while kills < 4 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = program().spawn().expect("starts");
        std::thread::sleep(std::time::Duration::from_millis(20 + (seed >> 33) % 400));
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
        kills += 1;
    }
    let output = program().output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(state(out, 6) == state(whole.path(), 6), "other weights\n{said}");
    eprintln!("killed {kills} times, went on to the same weights");
}

#[test]
fn a_second_trainer_stops_with_78_and_the_first_goes_on() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let terms = midi_train::checkpoint::Terms::default();
    let first = midi_train::checkpoint::Lease::take(&open(out), "train/small", terms, &Shutdown::manual(), &|_| ())
        .expect("free");
    let error = run(out, &open(out)).expect_err("held");
    assert_eq!(error.exit(), Exit::Mismatch);
    assert!(error.to_string().contains(&format!("is being trained by process {} on", std::process::id())), "{error}");
    assert_eq!(Checkpoints::new(open(out), "train/small").steps().expect("lists"), [0u64; 0]);
    drop(first);
    run(out, &open(out)).expect("trains");
}

/// Trains to the end, or as far as one that is asked to stop at once.
fn train(out: &Path, sets: &[&str], stop: bool) -> Result<Finished> {
    let shutdown = Shutdown::manual();
    if stop {
        shutdown.ask();
    }
    trainer::run(&experiment(out, sets), "small", &Progress::silent(), &shutdown)
}

#[test]
fn early_stopping_decides_the_same_after_a_resume() {
    let sets = [
        &SHORT[..],
        &[
            "train.small.steps=30",
            "train.small.valid-every-steps=2",
            "train.small.early-stop.patience=2",
            // No pass is better than the first by as much as this.
            "train.small.early-stop.min-delta=100.0",
        ],
    ]
    .concat();
    let train = |out: &Path, stop: bool| train(out, &sets, stop);
    let (whole, parts) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    ingest(whole.path(), "v1");
    ingest(parts.path(), "v1");
    let finished = train(whole.path(), false).expect("trains");
    assert_eq!(finished.summary.step, 6, "the passes at 2, 4 and 6");
    for _ in 0..4 {
        assert_eq!(train(parts.path(), true).expect_err("stopped").exit(), Exit::RunAgain);
    }
    assert_eq!(train(parts.path(), false).expect("trains").summary.step, 6);
    assert!(state(whole.path(), 6) == state(parts.path(), 6));
    assert!(train(parts.path(), false).expect("is done").already);
}

#[test]
fn the_best_checkpoint_stays_through_every_start_and_is_the_trained_model() {
    // A rate that spoils the model soon after its first steps.
    let sets = [
        &SHORT[..],
        &[
            "train.small.steps=30",
            "train.small.checkpoint.every-steps=100",
            "train.small.valid-every-steps=1",
            "train.small.log-every-steps=1",
            "train.small.schedule.lr=0.3",
            "train.small.early-stop.patience=4",
        ],
    ]
    .concat();
    let train = |out: &Path, stop: bool| train(out, &sets, stop);
    let (whole, parts) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let out = parts.path();
    ingest(whole.path(), "v1");
    ingest(out, "v1");
    let summary = train(whole.path(), false).expect("trains").summary;
    // Stopped after every step, each of which leaves a checkpoint.
    let last = loop {
        match train(out, true) {
            Ok(finished) => break finished.summary,
            Err(error) => assert_eq!(error.exit(), Exit::RunAgain, "{error}"),
        }
    };
    assert_eq!((last.step, last.lowest), (summary.step, summary.lowest));

    let log = std::fs::read_to_string(out.join("train/small/metrics.jsonl")).expect("a log");
    let lines: Vec<Line> = log.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    let passes = lines.iter().filter_map(|line| Some(Lowest { loss: line.valid_loss?, step: line.step }));
    let best = passes.min_by(|a, b| a.loss.total_cmp(&b.loss)).expect("passes");
    assert_eq!(last.lowest, Some(best));
    assert!(best.step + 2 < last.step, "the best one is among the newest two: {best:?} of {}", last.step);
    let checkpoints = |out: &Path| Checkpoints::new(open(out), "train/small");
    assert_eq!(checkpoints(out).steps().expect("lists"), [best.step, last.step - 1, last.step]);
    assert_eq!(checkpoints(whole.path()).steps().expect("lists").first(), Some(&best.step));
    let places = last.places();
    assert!(places.contains("train/small/report.html"), "{places}");
    assert!(places.ends_with(&format!("at step {}: {}", best.step, checkpoints(out).shown(best.step))), "{places}");

    // Whoever opens the folder gets the best one, and the last one by its own name.
    let opened = |name: &str| {
        let (mut said, uri) = (Vec::new(), out.join(name));
        let uri = uri.to_str().expect("utf-8");
        let (_, commit) = open_model(uri, Arc::new(Reference), &mut |text| said.push(text.to_owned())).expect("opens");
        (commit.step, said)
    };
    assert_eq!(opened("train/small"), (best.step, vec![]));
    assert_eq!(opened(&format!("train/small/step-{:08}", last.step)), (last.step, vec![]));
    std::fs::write(out.join(format!("train/small/step-{:08}/model.safetensors", best.step)), b"").expect("writes");
    let (step, said) = opened("train/small");
    assert_eq!(step, last.step);
    assert!(said.len() == 1 && said[0].contains(&format!("the best checkpoint {}", best.step)), "{said:?}");
}
