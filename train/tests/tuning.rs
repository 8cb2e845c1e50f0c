//! Training that begins at a base: the first state and low-rank adapters on top of it, and all of its weights.
#![cfg(feature = "torch")]

#[path = "support/data_set.rs"]
#[allow(dead_code)]
mod data_set;

use std::path::Path;
use std::sync::Arc;

use data_set::{experiment, ingest};
use midi_ingest::job::exit::{Exit, Result};
use midi_ingest::job::{Experiment, Progress, Shutdown};
use midi_ingest::store::Store;
use midi_ingest::token::Tokenizer;
use midi_train::checkpoint::{Checkpoints, Loaded, open_model, write_merged};
use midi_train::metrics::Line;
use midi_train::model::{Rwkv7, is_tuning};
use midi_train::trainer::{self, Finished};
use midi_train::wkv::CpuWkv;
use tch::{Device, Kind, Tensor};

/// A base, and a model of every way to tune it.
fn models(out: &Path, sets: &[&str]) -> Experiment {
    let tuned = |name: &str, mode: &str| {
        [
            format!("train.{name}.mode={mode}"),
            format!("train.{name}.base=small"),
            format!("train.{name}.steps=12"),
            format!("train.{name}.global-batch=8"),
            format!("train.{name}.micro-batch=4"),
            format!("train.{name}.threads=1"),
            format!("train.{name}.log-every-steps=4"),
            format!("train.{name}.checkpoint.every-steps=4"),
            format!("train.{name}.model.layers=2"),
            format!("train.{name}.model.width=64"),
            format!("train.{name}.schedule.lr=0.05"),
            format!("train.{name}.schedule.lr-final=0.01"),
            format!("train.{name}.schedule.warmup-steps=0"),
        ]
    };
    let modes = ["state", "lora", "full"];
    let mut all: Vec<String> = modes.iter().flat_map(|mode| tuned(mode, mode)).collect();
    all.extend(["train.lora.lora.r=4", "train.lora.lora.alpha=8", "train.lora.lora.dropout=0.1"].map(str::to_owned));
    all.extend(
        ["train.lora.schedule.lr=0.01", "train.full.schedule.lr=0.001", "train.small.threads=1"].map(str::to_owned),
    );
    all.extend(sets.iter().map(|set| (*set).to_owned()));
    experiment(out, &all.iter().map(String::as_str).collect::<Vec<_>>())
}

fn run(experiment: &Experiment, name: &str) -> Result<Finished> {
    trainer::run(experiment, name, &Progress::silent(), &Shutdown::manual())
}

fn store(out: &Path) -> Store {
    Store::open(out.to_str().expect("utf-8")).expect("opens")
}

fn load(out: &Path, name: &str, step: u64) -> Loaded {
    Checkpoints::new(store(out), &format!("train/{name}")).load(step).expect("loads")
}

fn open(out: &Path, name: &str) -> Rwkv7 {
    let uri = out.join(name);
    let backend = Arc::new(CpuWkv::new());
    open_model(uri.to_str().expect("utf-8"), backend, &mut |_| ()).expect("opens").0
}

fn losses(out: &Path, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(out.join(format!("train/{name}/metrics.jsonl"))).expect("a log");
    text.lines().map(|line| serde_json::from_str::<Line>(line).expect("a line").loss).collect()
}

fn logits(model: &Rwkv7) -> Tensor {
    let ids = (Tensor::arange(30, (Kind::Int64, Device::Cpu)) * 7).remainder(20).reshape([2, 15]);
    model.prefill_all(&ids, None).expect("runs").0
}

#[test]
fn both_ways_learn_leave_the_base_alone_and_open_with_it() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let all = models(out, &[]);
    let error = run(&all, "state").expect_err("there is no base yet");
    assert_eq!(error.exit(), Exit::Mismatch, "{error}");
    run(&all, "small").expect("trains the base");
    let base = logits(&open(out, "train/small"));
    for (name, trained) in [("state", 2), ("lora", 2 * 6 * 2 + 2 * 6 + 4)] {
        let finished = run(&all, name).expect("tunes");
        assert_eq!(finished.summary.step, 12);
        let curve = losses(out, name);
        assert!(curve.last() < curve.first(), "{name}: {curve:?}");
        let saved = load(out, name, 12);
        assert_eq!(saved.parameters.len(), trained, "{name}: a checkpoint holds what was trained and nothing else");
        assert_eq!(saved.moments.len(), 2 * trained);
        let model = open(out, &format!("train/{name}"));
        assert!(!logits(&model).allclose(&base, 1e-3, 1e-3, false), "{name} is not its base");
        assert!(logits(&open(out, &format!("train/{name}/step-00000012"))).equal(&logits(&model)));
        let kept = model.parameters().iter().filter(|(n, _)| !is_tuning(n) && !n.contains("ln"));
        let before = load(out, "small", 40).parameters;
        for (n, tensor) in kept {
            assert!(tensor.equal(before.get(n).expect("there")), "{name} changed {n}");
        }
    }
    assert!(logits(&open(out, "train/small")).equal(&base));

    // However the place is named, the base is found.
    let program = env!("CARGO_BIN_EXE_midi-train");
    for (here, name) in [("train/state", "."), ("train/state", "step-00000012"), ("train/state/step-00000012", ".")] {
        let output = std::process::Command::new(program).current_dir(out.join(here)).args(["inspect", name]).output();
        let output = output.expect("starts");
        assert!(output.status.success(), "{here} {name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn all_weights_of_a_base_are_trained_to_a_model_that_stands_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let all = models(out, &["train.small.steps=12"]);
    run(&all, "small").expect("trains the base");
    let before = losses(out, "small");
    run(&all, "full").expect("trains on");
    let curve = losses(out, "full");
    let (begin, end) = (curve.first().expect("logged"), curve.last().expect("logged"));
    assert!(begin < before.first().expect("logged") && end < before.last().expect("logged"), "{before:?} {curve:?}");
    let saved = load(out, "full", 12);
    assert!(saved.commit.tuning.is_none());
    let base = load(out, "small", 12);
    assert_eq!(saved.parameters.len(), base.parameters.len());
    // Without its base: nothing of it is needed any more.
    std::fs::remove_dir_all(out.join("train/small")).expect("removes");
    assert!(!logits(&open(out, "train/full")).allclose(&logits_of(base), 1e-3, 1e-3, false));
    let env = std::fs::read_to_string(out.join("train/full/env.json")).expect("is there");
    assert!(env.contains("../small/step-00000012 ("), "{env}");
}

fn logits_of(loaded: Loaded) -> Tensor {
    logits(&Rwkv7::new(loaded.parameters, Arc::new(CpuWkv::new())).expect("a network"))
}

#[test]
fn a_file_of_weights_is_a_base_and_a_model() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    run(&models(out, &["train.small.steps=4"]), "small").expect("trains");
    for file in ["given.safetensors", "given.pth"] {
        convert(out, &["train/small", file]).expect("exports");
    }
    let truth = logits(&open(out, "train/small"));
    assert!(logits(&open(out, "given.pth")).equal(&truth) && logits(&open(out, "given.safetensors")).equal(&truth));

    let given = out.join("given.pth").display().to_string();
    let bases = ["state", "full"].map(|name| format!("train.{name}.base={given}"));
    let all = models(out, &bases.each_ref().map(String::as_str));
    for name in ["state", "full"] {
        run(&all, name).expect("trains on the file");
        assert!(!logits(&open(out, &format!("train/{name}"))).allclose(&truth, 1e-4, 1e-4, false), "{name}");
    }
    // A state is opened together with its base, which must still be the one of then.
    std::fs::copy(out.join("given.safetensors"), out.join("given.pth")).expect("copies");
    let backend = || Arc::new(CpuWkv::new());
    let state = out.join("train/state").display().to_string();
    let error = open_model(&state, backend(), &mut |_| ()).expect_err("that is no .pth");
    assert_eq!(error.exit(), Exit::BadData, "{error}");
    convert(out, &["train/full", "given.pth"]).expect("exports");
    let error = open_model(&state, backend(), &mut |_| ()).expect_err("another base");
    assert_eq!(error.exit(), Exit::Mismatch, "{error}");

    // The tokenizer beside a file says which vocabulary it speaks.
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../eval/models/pop909-small.tokenizer.json");
    std::fs::copy(&tokenizer, out.join("given.tokenizer.json")).expect("copies");
    let fingerprint = Tokenizer::load(&tokenizer).expect("loads").fingerprint().to_owned();
    let commit = open_model(&given, backend(), &mut |_| ()).expect("opens").1;
    let size = commit.shape.vocabulary;
    assert!(commit.expect_vocabulary(&fingerprint, size).is_ok() && commit.expect_vocabulary("any", size).is_err());
    std::fs::remove_file(out.join("given.tokenizer.json")).expect("removes");
    let commit = open_model(&given, backend(), &mut |_| ()).expect("opens").1;
    assert!(commit.expect_vocabulary("any", size).is_ok() && commit.expect_vocabulary("any", size + 1).is_err());
    let missing = out.join("none.pth").display().to_string();
    let error = open_model(&missing, backend(), &mut |_| ()).expect_err("is not there");
    assert!(error.to_string().contains("there is no file"), "{error}");
}

/// Converts with the program; returns what it says.
fn convert(out: &Path, arguments: &[&str]) -> std::result::Result<String, String> {
    let program = env!("CARGO_BIN_EXE_midi-train");
    let output = std::process::Command::new(program).current_dir(out).arg("convert").args(arguments).output();
    let output = output.expect("starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn a_tuned_state_goes_to_rwkv_cpp_and_back() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let all = models(out, &["train.small.steps=4", "train.state.steps=2"]);
    run(&all, "small").expect("trains the base");
    run(&all, "state").expect("tunes");
    let tuned = load(out, "state", 2).parameters;
    convert(out, &["train/state", "x.state"]).expect("exports");
    assert_eq!(std::fs::metadata(out.join("x.state")).expect("is there").len(), 2 * 64 * 66 * 4);
    let error = convert(out, &["x.state", "back.safetensors"]).expect_err("says nothing of layers");
    assert!(error.contains("--layers"), "{error}");
    for back in ["back.safetensors", "back.pth"] {
        convert(out, &["x.state", back, "--layers", "2"]).expect("imports");
        let read = midi_train::format::read(&out.join(back), None).expect("reads");
        assert_eq!(read.len(), tuned.len());
        assert!(tuned.iter().all(|(name, tensor)| read.get(name).expect("is there").equal(tensor)), "{back}");
        let is_zero = |tensor: &Tensor| tensor.abs().max().double_value(&[]) == 0.0;
        assert!(!read.iter().any(|(_, tensor)| is_zero(tensor)), "the state was tuned");
    }
    let error = convert(out, &["train/small", "y.state"]).expect_err("has no tuned state");
    assert!(error.contains("no tuned state"), "{error}");
}

#[test]
fn a_stopped_tuning_goes_on_bit_for_bit() {
    let (whole, parts) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    for folder in [&whole, &parts] {
        ingest(folder.path(), "v1");
        run(&models(folder.path(), &["train.small.steps=4"]), "small").expect("trains");
    }
    for name in ["state", "lora", "full"] {
        run(&models(whole.path(), &["train.small.steps=4"]), name).expect("tunes");
        run(&models(parts.path(), &["train.small.steps=4"]), name).expect("tunes");
        // As if it had been killed after step 8: its last checkpoint never came to be.
        std::fs::remove_dir_all(parts.path().join(format!("train/{name}/step-00000012"))).expect("removes");
        std::fs::remove_file(parts.path().join(format!("train/{name}/summary.json"))).expect("removes");
        run(&models(parts.path(), &["train.small.steps=4"]), name).expect("goes on");
        let (a, b) = (load(whole.path(), name, 12), load(parts.path(), name, 12));
        for (n, tensor) in a.parameters.iter().chain(a.moments.iter()) {
            let other = b.parameters.find(n).or_else(|| b.moments.find(n)).expect("there");
            assert!(tensor.equal(other), "{name}: {n}");
        }
    }
}

#[test]
fn adapters_merged_into_the_weights_compute_the_same() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let all = models(out, &["train.small.steps=4"]);
    run(&all, "small").expect("trains");
    run(&all, "lora").expect("tunes");
    run(&all, "state").expect("tunes");
    let uri = out.join("train/lora");
    let backend = || Arc::new(CpuWkv::new());
    let (model, commit) = open_model(uri.to_str().expect("utf-8"), backend(), &mut |_| ()).expect("opens");
    write_merged(&model, &commit, &out.join("merged")).expect("merges");
    let (plain, tuned) = (open(out, "merged"), logits(&model));
    assert_eq!(plain.parameters().len(), plain.shape().parameters().len());
    assert!(logits(&plain).allclose(&tuned, 1e-4, 1e-5, false));
    let again = write_merged(&model, &commit, &out.join("merged")).expect_err("is there");
    assert_eq!(again.exit(), Exit::Mismatch);
    let uri = out.join("train/state");
    let (model, commit) = open_model(uri.to_str().expect("utf-8"), backend(), &mut |_| ()).expect("opens");
    let error = write_merged(&model, &commit, &out.join("other")).expect_err("no adapters");
    assert!(error.to_string().contains("cannot be merged"), "{error}");
    assert!(!out.join("other").exists());
}

#[test]
fn a_merged_model_is_a_base_like_any_other() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let all = models(out, &["train.small.steps=4"]);
    run(&all, "small").expect("trains");
    run(&all, "lora").expect("tunes");
    let uri = out.join("train/lora");
    let backend = Arc::new(CpuWkv::new());
    let (model, commit) = open_model(uri.to_str().expect("utf-8"), backend, &mut |_| ()).expect("opens");
    let merged = out.join("merged");
    write_merged(&model, &commit, &merged).expect("merges");
    let base = format!("train.state.base={}", merged.display());
    run(&models(out, &["train.small.steps=4", &base]), "state").expect("tunes");
    let tuned = open(out, "train/state");
    assert!(!logits(&tuned).allclose(&logits(&open(out, "merged")), 1e-3, 1e-3, false));
}

#[test]
fn another_base_or_shape_is_refused_with_both_named() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    run(&models(out, &["train.small.steps=4"]), "small").expect("trains");
    let error = run(&models(out, &["train.lora.model.layers=3"]), "lora").expect_err("another shape");
    assert_eq!(error.exit(), Exit::Mismatch);
    assert!(error.to_string().contains("L2 D64") && error.to_string().contains("L3 D64"), "{error}");
    run(&models(out, &["train.small.steps=4"]), "lora").expect("tunes");
    std::fs::remove_dir_all(out.join("train/small")).expect("removes");
    run(&models(out, &["train.small.steps=4", "train.small.schedule.lr=0.002"]), "small").expect("trains another");
    let uri = out.join("train/lora");
    let backend = Arc::new(CpuWkv::new());
    let error = open_model(uri.to_str().expect("utf-8"), backend, &mut |_| ()).expect_err("the base changed");
    assert_eq!(error.exit(), Exit::Mismatch);
    assert!(error.to_string().contains("is not the base"), "{error}");
    for (sets, text) in [
        (["train.small.base=x", "a=1"], "`base` is for the modes"),
        (["train.state.data.pack=true", "a=1"], "data.pack"),
        (["train.lora.lora.r=0", "a=1"], "lora.r"),
    ] {
        let name = sets[0].split('.').nth(1).expect("a name");
        let error = run(&models(out, &sets[..1]), name).expect_err("refused");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.to_string().contains(text), "{error}");
    }
}
