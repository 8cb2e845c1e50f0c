//! The trainer from end to end, on a small data set written with ingest's own writers.
#![cfg(feature = "torch")]

#[path = "support/data_set.rs"]
mod data_set;

use std::path::Path;
use std::sync::Arc;

use midi_ingest::job::exit::{Exit, Result};
use midi_ingest::job::{Progress, Shutdown};
use midi_ingest::shard::{Manifest, Split};
use midi_ingest::store::Store;
use midi_train::checkpoint::{COMMIT, Checkpoints, open_model};
use midi_train::config::OptimizerConfig;
use midi_train::data::{Batch, Dataset, NO_TARGET, unigram_loss};
use midi_train::dist::Group;
use midi_train::metrics::Line;
use midi_train::model::{Parameters, Resets, Rwkv7, Shape, init::init};
use midi_train::optim::AdamW;
use midi_train::step::step;
use midi_train::trainer::{self, Finished};
use midi_train::wkv::CpuWkv;
use tch::{Device, Kind, Tensor};

use data_set::{CONTROL, VOCABULARY, experiment, ingest};

const EVENTS: &str = "events.out.tfevents.00000000.midi-rwkv";

fn train(out: &Path, sets: &[&str]) -> Result<Finished> {
    trainer::run(&experiment(out, sets), "small", &Progress::silent(), &Shutdown::manual())
}

fn checkpoints(out: &Path) -> Checkpoints {
    Checkpoints::new(Store::open(out.to_str().expect("utf-8")).expect("opens"), "train/small")
}

fn file(out: &Path, name: &str) -> Vec<u8> {
    std::fs::read(out.join("train/small").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Runs until the step after which the stop flag is seen: one step a run.
fn one_step(out: &Path, sets: &[&str]) -> Exit {
    let shutdown = Shutdown::manual();
    shutdown.ask();
    let run = trainer::run(&experiment(out, sets), "small", &Progress::silent(), &shutdown);
    run.map_or_else(|error| error.exit(), |_| Exit::Done)
}

#[test]
fn a_run_learns_and_leaves_its_records() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    let manifest = ingest(out, "v1");
    let finished = train(out, &[]).expect("trains");
    let summary = finished.summary;
    assert!(!finished.already);
    assert_eq!(
        (summary.step, summary.parameters),
        (40, midi_train::model::Shape::new(2, 64, VOCABULARY).expect("fits").count())
    );
    let valid = summary.valid_loss.expect("there are validation samples");
    assert!(summary.train_loss.expect("logged") < 0.7 * summary.unigram_loss, "{summary:?}");
    assert!(valid < 0.7 * summary.unigram_loss, "{summary:?}");

    let lines: Vec<Line> = String::from_utf8(file(out, "metrics.jsonl"))
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .collect();
    assert_eq!(lines.iter().map(|l| l.step).collect::<Vec<_>>(), [5, 10, 15, 20, 25, 30, 35, 40]);
    assert!(lines[7].loss < 0.6 * lines[0].loss);
    assert_eq!(lines.iter().filter(|l| l.valid_loss.is_some()).map(|l| l.step).collect::<Vec<_>>(), [20, 40]);
    assert!(lines.iter().all(|l| l.tokens_per_second > 0.0 && l.grad_norm > 0.0));
    // 40 steps of 8 samples are 10 epochs and 10 samples of 31: about as many tokens as that.
    let epoch = manifest.split(Split::Train).tokens - manifest.split(Split::Train).samples;
    assert!(lines[7].tokens.abs_diff(epoch * 320 / 31) < epoch / 2);
    for name in ["config.toml", "plan.json", "env.json", "summary.json", "metrics.parquet", "report.html", EVENTS] {
        assert!(!file(out, name).is_empty());
    }
    assert_eq!(checkpoints(out).steps().expect("lists"), [30, 40], "two checkpoints stay");

    // A second run changes nothing and says so.
    let before = file(out, "metrics.jsonl");
    assert!(train(out, &[]).expect("is done").already);
    assert_eq!(file(out, "metrics.jsonl"), before);

    // Evaluation opens the model by the folder of checkpoints or by one of them.
    let open = |name: &str| {
        let backend = std::sync::Arc::new(CpuWkv::new());
        open_model(out.join(name).to_str().expect("utf-8"), backend, &mut |text| panic!("{text}"))
    };
    let (model, commit) = open("train/small").expect("opens");
    assert_eq!((commit.step, model.shape()), (40, commit.shape));
    assert_eq!(open("train/small/step-00000030").expect("opens").1.step, 30);
    assert_eq!(open("train").expect_err("no checkpoints").exit(), Exit::Mismatch);
}

#[test]
fn a_stopped_and_resumed_run_is_the_same_bit_for_bit() {
    let (whole, parts) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    ingest(whole.path(), "v1");
    ingest(parts.path(), "v1");
    train(whole.path(), &[]).expect("trains");
    // A stop after the first step, at no multiple of the checkpoint interval, then one after the next.
    assert_eq!(one_step(parts.path(), &[]), Exit::RunAgain);
    assert_eq!(checkpoints(parts.path()).steps().expect("lists"), [1]);
    assert_eq!(one_step(parts.path(), &[]), Exit::RunAgain);
    assert_eq!(checkpoints(parts.path()).steps().expect("lists"), [1, 2]);
    // The record says which trainer in turn wrote it.
    let epoch = |step| checkpoints(parts.path()).load(step).expect("loads").commit.lease_epoch;
    assert_eq!([epoch(1), epoch(2)], [Some(1), Some(2)]);
    // A line that was torn while it was written is no line.
    std::fs::write(parts.path().join("train/small/metrics.jsonl"), b"{\"step\":1,\"lo").expect("writes");
    train(parts.path(), &[]).expect("trains");
    assert_eq!(epoch(40), Some(3));
    let steps = |out: &Path| -> Vec<u64> {
        let text = String::from_utf8(file(out, "metrics.jsonl")).expect("text");
        text.lines().map(|line| serde_json::from_str::<Line>(line).expect("a line").step).collect()
    };
    assert_eq!(steps(parts.path()), steps(whole.path()));
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let name = format!("step-00000040/{name}");
        assert!(file(whole.path(), &name) == file(parts.path(), &name), "{name} differs");
    }
}

#[test]
fn a_run_in_bf16_keeps_f32_weights_and_resumes_bit_for_bit() {
    let bf16 = ["train.small.precision=\"bf16\"", "train.small.steps=12"];
    let folder = || tempfile::tempdir().expect("folder");
    let (plain, whole, parts) = (folder(), folder(), folder());
    for out in [&plain, &whole, &parts] {
        ingest(out.path(), "v1");
    }
    let plain = train(plain.path(), &["train.small.steps=12"]).expect("trains").summary;
    let summary = train(whole.path(), &bf16).expect("trains").summary;
    let [found, truth] = [&summary, &plain].map(|summary| summary.train_loss.expect("logged"));
    let apart = (found / truth - 1.0).abs();
    assert!(apart > 0.0 && apart < 1e-2, "{found} in bf16, {truth} in f32");
    assert_eq!(one_step(parts.path(), &bf16), Exit::RunAgain);
    train(parts.path(), &bf16).expect("goes on");
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let name = format!("step-00000012/{name}");
        assert!(file(whole.path(), &name) == file(parts.path(), &name), "{name} differs");
    }
    let loaded =
        checkpoints(whole.path()).newest_valid(&mut |text| panic!("{text}")).expect("loads").expect("is there");
    let head = loaded.parameters.get("head.weight").expect("is there");
    assert_eq!(head.kind(), Kind::Float);
    assert!(!head.equal(&head.to_kind(Kind::BFloat16).to_kind(Kind::Float)), "more than bf16 is kept");
    let error = train(whole.path(), &["train.small.steps=12"]).expect_err("another precision is another run");
    assert_eq!(error.exit(), Exit::Mismatch);
}

#[test]
fn micro_batches_give_the_same_model_to_rounding() {
    let (whole, parts) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    ingest(whole.path(), "v1");
    ingest(parts.path(), "v1");
    let whole = train(whole.path(), &["train.small.steps=6"]).expect("trains").summary;
    let parts = train(parts.path(), &["train.small.steps=6", "train.small.micro-batch=3"]).expect("trains").summary;
    assert_eq!(whole.key, parts.key);
    let [a, b] = [&whole, &parts].map(|summary| summary.train_loss.expect("logged"));
    assert!((a - b).abs() < 1e-4, "{whole:?} {parts:?}");
}

#[test]
fn a_broken_checkpoint_is_passed_over() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    train(out, &[]).expect("trains");
    let model = file(out, "step-00000040/model.safetensors");
    std::fs::remove_file(out.join("train/small/summary.json")).expect("removes");
    let path = out.join("train/small/step-00000040/model.safetensors");
    let mut wrong = model.clone();
    wrong[5000] ^= 1;
    std::fs::write(&path, wrong).expect("writes");

    let mut said = Vec::new();
    let loaded = checkpoints(out).newest_valid(&mut |text| said.push(text.to_owned())).expect("finds").expect("one");
    assert_eq!(loaded.commit.step, 30);
    assert!(said[0].contains("checkpoint 40") && said[0].contains("model.safetensors"), "{said:?}");
    // The run goes on from the one before and repairs the broken one.
    train(out, &[]).expect("trains");
    assert!(file(out, "step-00000040/model.safetensors") == model);

    // Without its record a folder is no checkpoint; when every one is broken, nothing starts over in silence.
    std::fs::remove_file(out.join("train/small/step-00000040").join(COMMIT)).expect("removes");
    assert_eq!(checkpoints(out).steps().expect("lists"), [30]);
    std::fs::write(out.join("train/small/step-00000030/optimizer.safetensors"), b"").expect("writes");
    let error = train(out, &[]).expect_err("all are broken");
    assert_eq!(error.exit(), Exit::BadData);
    assert!(error.to_string().contains("none of the 1 checkpoints"), "{error}");
}

#[test]
fn another_configuration_or_vocabulary_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    train(out, &["train.small.steps=2"]).expect("trains");
    let error = train(out, &["train.small.steps=3"]).expect_err("another schedule");
    assert_eq!(error.exit(), Exit::Mismatch);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("another name")), "{error}");
    let error = train(out, &["train.small.steps=2", "train.small.model.width=128"]).expect_err("another shape");
    assert!(error.to_string().contains("L2 D64 V24") && error.to_string().contains("L2 D128 V24"), "{error}");
    ingest(out, "v2");
    let error = train(out, &["train.small.steps=2"]).expect_err("another vocabulary");
    assert_eq!(error.exit(), Exit::Mismatch);
    assert!(error.to_string().contains("v1") && error.to_string().contains("v2"), "{error}");
}

#[test]
fn a_diverged_run_stops_and_names_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let often = "train.small.checkpoint.every-steps=1";
    let error = train(out, &["train.small.schedule.lr=1e30", often]).expect_err("diverges");
    assert_eq!(error.exit(), Exit::Diverged);
    let text = error.to_string();
    assert!(text.contains("step 1: ") && text.contains("there is no good checkpoint yet"), "{error}");

    // The weights are good until the fourth update.
    std::fs::remove_dir_all(out.join("train")).expect("removes");
    let late = ["train.small.schedule.warmup-steps=0", "train.small.schedule.lr-final=1e30", "train.small.steps=4"];
    let error = train(out, &[often, late[0], late[1], late[2]]).expect_err("diverges");
    let text = error.to_string();
    assert!(text.contains("step-0000000") && text.contains("remove the later ones"), "{error}");
    let named = text.split("step-").nth(1).and_then(|rest| rest.get(..8)).expect("a step").parse().expect("a number");
    let good = checkpoints(out).load(named).expect("loads").parameters;
    assert!(
        good.iter()
            .all(|(_, tensor)| tensor.isfinite().all().int64_value(&[]) == 1
                && tensor.abs().max().double_value(&[]) < 1e3)
    );
}

#[test]
fn a_validation_loss_that_is_no_number_is_divergence() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let sets = ["train.small.schedule.lr=1e30", "train.small.schedule.warmup-steps=0", "train.small.steps=1"];
    let error = train(out, &sets).expect_err("diverges");
    assert_eq!(error.exit(), Exit::Diverged, "{error}");
    assert!(error.to_string().contains("the validation loss is"), "{error}");
    assert!(checkpoints(out).steps().expect("lists").is_empty(), "nothing of it is saved");
}

#[test]
fn what_a_killed_process_left_of_checkpoints_is_removed() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    train(out, &["train.small.steps=10"]).expect("trains");
    let at = |name: &str| out.join("train/small").join(name);
    std::fs::create_dir_all(at("step-00000007")).expect("makes");
    for name in ["step-00000007/model.safetensors#1", "step-00000010/optimizer.safetensors#2"] {
        std::fs::write(at(name), b"half").expect("writes");
    }
    train(out, &["train.small.steps=20"]).expect_err("another run");
    std::fs::remove_file(at("summary.json")).expect("removes");
    train(out, &["train.small.steps=10"]).expect("goes on");
    assert!(!at("step-00000007").exists() && !at("step-00000010/optimizer.safetensors#2").exists());
    assert!(at("step-00000010/optimizer.safetensors").exists());
}

#[test]
fn the_configuration_beside_a_training_holds_its_defaults() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    train(out, &["train.small.steps=1"]).expect("trains");
    let text = std::fs::read_to_string(out.join("train/small/config.toml")).expect("is there");
    assert!(text.contains("[train.small.optimizer]") && text.contains("weight-decay"), "{text}");
}

#[test]
fn the_budget_of_steps_left_out_is_that_of_the_run_and_not_of_a_start() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    ingest(out, "v1");
    let sets = ["train.small.schedule.lr=1e30", "train.small.checkpoint.every-steps=1", "train.small.skip-nonfinite=2"];
    let diverge = || {
        assert_eq!(train(out, &sets).expect_err("diverges").exit(), Exit::Diverged);
        let steps = checkpoints(out).steps().expect("lists");
        checkpoints(out).load(*steps.last().expect("a checkpoint")).expect("loads").commit
    };
    let first = diverge();
    assert_eq!(first.skipped, 2);
    // Started again it has nothing left to spend, and the first step that is not finite ends it.
    assert_eq!(diverge(), first);
}

#[test]
fn batches_are_padded_shifted_and_masked() {
    let folder = tempfile::tempdir().expect("folder");
    let manifest = ingest(folder.path(), "v1");
    let store = Store::open(folder.path().join("ingest").to_str().expect("utf-8")).expect("opens");
    let data = Dataset::open(&store, &manifest, Split::Train).expect("opens");
    assert_eq!(data.len(), 31);
    let (first, second) = (data.sample(16).expect("there").to_vec(), data.sample(17).expect("there").to_vec());
    assert_ne!(first.len(), second.len());
    let batch = data.batch(&[16, 17]).expect("a batch");
    assert_eq!((batch.rows, batch.columns), (2, first.len().max(second.len()) - 1));
    for (row, sample) in [first, second].iter().enumerate() {
        for column in 0..batch.columns {
            let at = row * batch.columns + column;
            let label = sample.get(column + 1).filter(|id| **id != CONTROL).map_or(NO_TARGET, |id| i64::from(*id));
            let input = if column + 1 < sample.len() { i64::from(sample[column]) } else { 0 };
            assert_eq!((batch.ids[at], batch.labels[at]), (input, label), "row {row} column {column}");
        }
    }
    let unigram = unigram_loss(&data).expect("counts");
    assert!(unigram > 2.5 && unigram < (20f64).ln() + 1e-9, "{unigram}");
}

#[test]
fn data_that_is_not_what_the_manifest_says_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let manifest = ingest(folder.path(), "v1");
    let store = Store::open(folder.path().join("ingest").to_str().expect("utf-8")).expect("opens");
    let refused = |manifest: &Manifest| {
        let opened = Dataset::open(&store, manifest, Split::Train).and_then(|data| {
            let all: Vec<u64> = (0..data.len()).collect();
            data.batch(&all)
        });
        let error = opened.expect_err("refused");
        assert_eq!(error.exit(), Exit::BadData);
        error.to_string()
    };
    let short = Manifest { context_tokens: 9, ..manifest.clone() };
    assert!(refused(&short).contains("the context 9"));
    let mut small = manifest.clone();
    small.vocabulary.size = 21;
    assert!(refused(&small).contains("the vocabulary ends at 21"));
    let path = folder.path().join("ingest/shards/train/b.arrow");
    let bytes = std::fs::read(&path).expect("reads");
    std::fs::write(&path, &bytes[..bytes.len() - 8]).expect("writes");
    assert!(refused(&manifest).contains("shards/train/b.arrow"));
    std::fs::remove_file(&path).expect("removes");
    assert!(refused(&manifest).contains("shards/train/b.arrow"));
}

#[test]
fn a_run_without_data_says_to_run_ingest() {
    let folder = tempfile::tempdir().expect("folder");
    let error = train(folder.path(), &[]).expect_err("no data");
    assert_eq!(error.exit(), Exit::BadData);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("midi-ingest run")), "{error}");
}

#[test]
fn packed_rows_are_separate_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let manifest = ingest(folder.path(), "a");
    let store = Store::open(folder.path().join("ingest").to_str().expect("utf-8")).expect("opens");
    let data = Dataset::open(&store, &manifest, Split::Train).expect("opens");
    let samples: Vec<u64> = (3..20).collect();
    let (apart, packed) = (data.batch(&samples).expect("a batch"), data.packed_batch(&samples).expect("a batch"));
    assert_eq!((apart.tokens, apart.targets), (packed.tokens, packed.targets));
    assert!(apart.resets.is_empty() && packed.rows < apart.rows && packed.columns == apart.columns);
    assert_eq!(packed.resets.len() + packed.rows, samples.len());

    // The first values leave some branches at zero; here every parameter takes part.
    let shape = Shape::new(2, 64, VOCABULARY).expect("fits");
    let stirred = |(name, tensor): (&str, &Tensor)| {
        let n = Tensor::arange(tensor.numel() as i64, (Kind::Float, Device::Cpu)).reshape(tensor.size());
        (name.to_owned(), tensor + (n * 0.7 + name.len() as f64).sin() * 0.1)
    };
    let config = OptimizerConfig { l2wrap: 1e-2, ..OptimizerConfig::default() };
    let gradients = |batch: Batch| {
        let parameters: Parameters = init(shape, 3).iter().map(stirred).collect();
        let mut model = Rwkv7::new(parameters, Arc::new(CpuWkv::new())).expect("a network");
        model.set_trainable(true);
        let mut optimizer = AdamW::new(config.clone(), model.parameters());
        let report = step(&mut model, &mut optimizer, &config, &[batch], 1e-3, &mut Group::solo()).expect("steps");
        let grads = model.parameters().iter().map(|(name, tensor)| (name.to_owned(), tensor.grad()));
        // The first layer has a value of its own only, so its `v…` parameters take no part.
        let grads: Vec<(String, Tensor)> = grads.filter(|(_, grad)| grad.defined()).collect();
        assert_eq!(grads.len(), model.parameters().len() - 3);
        (report.cross_entropy, grads)
    };
    let ((loss, apart), (packed_loss, packed)) = (gradients(apart), gradients(packed));
    assert!((loss - packed_loss).abs() < 1e-5 * loss, "{loss} {packed_loss}");
    for ((name, expected), (_, found)) in apart.iter().zip(&packed) {
        let norm = expected.norm().double_value(&[]);
        let error = (expected - found).norm().double_value(&[]);
        assert!(error <= 2e-5 * norm + 1e-9, "{name}: {error:e} of {norm:e}");
    }

    // What stands in front of a reset changes nothing behind it, to the bit.
    let model = Rwkv7::new(init(shape, 3).iter().map(stirred).collect(), Arc::new(CpuWkv::new()));
    let model = model.expect("a network");
    let resets = Resets::new(1, 9, &[4]).expect("fits");
    let ids = |first: [i64; 4]| Tensor::from_slice(&[first.as_slice(), &[5, 6, 7, 8, 9]].concat()).reshape([1, 9]);
    let run = |ids: Tensor| model.hidden_of_packed(&ids, &resets).expect("runs").narrow(1, 4, 5);
    assert!(run(ids([1, 2, 3, 4])).equal(&run(ids([11, 3, 0, 17]))));
    assert!(Resets::new(1, 9, &[9]).is_err());
}
