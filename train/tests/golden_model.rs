//! The model, the operator, the loss and the optimiser against reference values: every safetensors file
//! of the family `model`, recognised by what it holds.
#![cfg(feature = "torch")]
#![allow(clippy::print_stdout, reason = "a golden test prints what it compared")]

#[path = "../../ingest/tests/support/golden.rs"]
#[allow(unreachable_pub, reason = "the file is shared between test programs")]
mod golden;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use midi_train::config::OptimizerConfig;
use midi_train::format::{ggml, safetensors, state};
use midi_train::loss::{self, Rule};
use midi_train::model::{Parameters, Rwkv7, State, time_state_name};
use midi_train::optim::{AdamW, Schedule, clip_factor, global_norm};
use midi_train::wkv::conformance::relative_difference;
use midi_train::wkv::{CpuWkv, Inputs, Reference, WkvBackend, wkv};
use tch::{Kind, Tensor, no_grad};

/// One file of the family.
struct File {
    path: PathBuf,
    tensors: Parameters,
    metadata: HashMap<String, String>,
}

impl File {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", path.display()));
        let (tensors, metadata) = safetensors::read(&bytes, &path.display().to_string()).expect("a golden file");
        File { path: path.to_owned(), tensors, metadata }
    }

    fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|e| panic!("{}: {e}", self.name()))
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.find(name).is_some()
    }

    fn number(&self, name: &str) -> f64 {
        self.get(name).double_value(&[])
    }

    /// Names that begin with `prefix`, without it, and their tensors.
    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        self.tensors.iter().filter_map(move |(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)))
    }

    /// The file that holds weights and batch: this one, or the sibling that its note names.
    fn base(&self) -> File {
        if self.under("w.").next().is_some() {
            return File::read(&self.path);
        }
        let note = self.metadata.get("note").map_or("", String::as_str);
        let sibling = note
            .split(|c: char| c.is_whitespace() || c == ',' || c == ';')
            .find(|word| word.ends_with(".safetensors"))
            .unwrap_or_else(|| panic!("{} has no weights and names no file that has", self.name()));
        File::read(&self.path.with_file_name(sibling))
    }

    /// The weights that the file's values are of.
    fn weights(&self) -> Parameters {
        self.base().under("w.").map(|(name, tensor)| (name.to_owned(), tensor.copy())).collect()
    }

    fn model(&self, backend: &Arc<dyn WkvBackend>) -> Rwkv7 {
        let mut model = Rwkv7::new(self.weights(), Arc::clone(backend)).expect("the weights make a network");
        model.set_trainable(true);
        model
    }

    /// The tuned states by layer, if the file has them.
    fn time_state(&self, layers: usize) -> Option<Vec<Tensor>> {
        let layer = |layer| self.tensors.find(&format!("time_state.{layer}")).map(|t| t.copy().set_requires_grad(true));
        (0..layers).map(layer).collect()
    }

    /// Tolerances of logits (absolute) and of gradients (relative L2): tight for the tiny network.
    fn tolerances(&self) -> (f64, f64) {
        if self.name().starts_with("tiny") { (1e-5, 1.4e-5) } else { (1e-4, 1e-4) }
    }
}

/// The files of the family that hold `what`, as `fits` recognises them.
fn files(what: &str, fits: impl Fn(&File) -> bool) -> Vec<File> {
    let Some(family) = golden::family("model") else { return Vec::new() };
    let is_tensors = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    let files: Vec<File> =
        golden::entries(&family).into_iter().filter(is_tensors).map(|path| File::read(&path)).collect();
    assert!(!files.is_empty(), "`{}` holds nothing to test", family.display());
    let files: Vec<File> = files.into_iter().filter(fits).collect();
    if files.is_empty() {
        println!("skipped: no golden data for model {what} in `{}`", family.display());
    }
    files
}

fn backends() -> Vec<Arc<dyn WkvBackend>> {
    vec![Arc::new(Reference), cpu()]
}

/// The backend that programs use.
fn cpu() -> Arc<dyn WkvBackend> {
    Arc::new(CpuWkv::new())
}

/// The largest of several errors, with its place. An error that is not a number counts as infinite.
#[derive(Default)]
struct Worst(f64, String);

impl Worst {
    fn see(&mut self, error: f64, place: impl Into<String>) {
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if self.1.is_empty() || error > self.0 {
            *self = Worst(error, place.into());
        }
    }

    fn report(self, what: &str, kind: &str, tolerance: f64) {
        golden::within(what, kind, (self.0, self.1), tolerance);
    }
}

fn absolute(found: &Tensor, truth: &Tensor) -> f64 {
    assert_eq!(found.size(), truth.size(), "shapes");
    (found.detach().to_kind(Kind::Double) - truth.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// The gradient of `tensor`; zeros where nothing flowed.
fn gradient(tensor: &Tensor) -> Tensor {
    let grad = tensor.grad();
    if grad.defined() { grad } else { tensor.detach().zeros_like() }
}

const SEED_RULE: Rule = Rule::Reference { accumulation: 1, l2wrap: 1e-4 };

#[test]
fn golden_model_forward_and_backward() {
    for file in files("networks", |file| file.has("idx") && file.has("logits")) {
        for backend in backends() {
            let what = |family: &str| format!("model/{} {family} [{}]", file.name(), backend.name());
            let (logits_tolerance, gradient_tolerance) = file.tolerances();
            let model = file.model(&backend);
            let layers = model.shape().layers;
            let time_state = file.time_state(layers);
            let (ids, targets) = (file.get("idx"), file.get("targets"));

            let mut activations = Worst::default();
            let mut seen = 0;
            let mut stage = |name: &str, tensor: &Tensor| {
                if let Some(truth) = file.tensors.find(name) {
                    activations.see(relative_difference(tensor, truth), name);
                    seen += 1;
                }
            };
            let (hidden, state) =
                model.hidden_with_stages(ids, time_state.as_deref(), Some(&mut stage)).expect("the forward pass runs");
            assert_eq!(seen, file.under("act.").count(), "every activation is compared");
            let logits = model.logits(&hidden);
            let loss = loss::head_loss(None, &hidden, model.head(), targets, SEED_RULE).expect("the loss runs");
            loss.objective.f_backward().expect("the backward pass runs");

            if seen > 0 {
                activations.report(&what("activations"), "rel", logits_tolerance);
            }
            let mut worst = Worst::default();
            worst.see(absolute(&logits, file.get("logits")), "logits");
            worst.report(&what("logits"), "abs", logits_tolerance);
            let mut worst = Worst::default();
            worst.see((loss.objective.double_value(&[]) - file.number("loss")).abs(), "loss");
            worst.report(&what("loss"), "abs", logits_tolerance);

            let mut worst = Worst::default();
            for (layer, state) in state.layers.iter().enumerate() {
                let all = [("att_shift", &state.att_shift), ("ffn_shift", &state.ffn_shift), ("wkv", &state.wkv)];
                for (part, tensor) in all {
                    let name = format!("state.{layer}.{part}");
                    if let Some(truth) = file.tensors.find(&name) {
                        worst.see(relative_difference(tensor, truth), name);
                    }
                }
            }
            worst.report(&what("states"), "rel", logits_tolerance);

            let mut worst = Worst::default();
            for (name, truth) in file.under("grad.") {
                let found = match name.strip_prefix("time_state.") {
                    Some(layer) => {
                        let layer: usize = layer.parse().expect("a layer");
                        gradient(&time_state.as_ref().expect("time states")[layer])
                    }
                    None => gradient(model.parameters().get(name).expect("a parameter")),
                };
                worst.see(relative_difference(&found, truth), name);
            }
            worst.report(&what("gradients"), "rel", gradient_tolerance);

            let mut worst = Worst::default();
            let plain = Rule::Reference { accumulation: 1, l2wrap: 0.0 };
            for (name, rule) in [("dlogits", SEED_RULE), ("dlogits_no_l2wrap", plain)] {
                if let Some(truth) = file.tensors.find(name) {
                    let width = logits.size()[2];
                    let (found, _) =
                        loss::logits_gradient(&logits.detach().reshape([-1, width]), &targets.flatten(0, -1), rule)
                            .expect("the gradient of the logits");
                    worst.see(relative_difference(&found.view_as(truth), truth), name);
                }
            }
            if file.under("grad_no_l2wrap.").next().is_some() {
                let model = file.model(&backend);
                let hidden = model.hidden(ids, None).expect("runs");
                let loss = loss::head_loss(None, &hidden, model.head(), targets, plain).expect("runs");
                loss.objective.f_backward().expect("runs");
                for (name, truth) in file.under("grad_no_l2wrap.") {
                    let found = gradient(model.parameters().get(name).expect("a parameter"));
                    worst.see(relative_difference(&found, truth), format!("{name} without L2Wrap"));
                }
            }
            if !worst.1.is_empty() {
                worst.report(&what("gradient of the logits"), "rel", gradient_tolerance);
            }
        }
    }
}

#[test]
fn golden_model_recurrent() {
    for file in files("networks", |file| file.has("idx") && file.has("logits")) {
        let backend = cpu();
        let (tolerance, _) = file.tolerances();
        let model = file.model(&backend);
        let ids = file.get("idx");
        let (batch, time) = ids.size2().expect("[B, T]");
        let start = || match file.time_state(model.shape().layers) {
            Some(time_state) => {
                let time_state: Vec<Tensor> = time_state.iter().map(Tensor::detach).collect();
                State::of_time_state(model.shape(), &time_state, batch as usize).expect("the states fit")
            }
            None => State::zeros(model.shape(), batch as usize),
        };
        let mut worst = Worst::default();
        for length in [1, 7, time - 1, time] {
            let mut state = start();
            let mut logits = Vec::new();
            for first in (0..time).step_by(length as usize) {
                let piece = ids.narrow(1, first, length.min(time - first));
                let (piece, next) = model.prefill_all(&piece, Some(&state)).expect("runs");
                logits.push(piece);
                state = next;
            }
            worst.see(absolute(&Tensor::cat(&logits, 1), file.get("logits")), format!("pieces of {length}"));
            let last = state.layers.len() - 1;
            if let Some(truth) = file.tensors.find(&format!("state.{last}.wkv")) {
                worst.see(
                    relative_difference(&state.layers[last].wkv, truth),
                    format!("state after pieces of {length}"),
                );
            }
        }
        worst.report(&format!("model/{} recurrent [{}]", file.name(), backend.name()), "abs", tolerance);
    }
}

#[test]
fn golden_model_wkv() {
    const INPUTS: [&str; 6] = ["r", "w", "k", "v", "a", "b"];
    for file in files("operators", |file| INPUTS.iter().all(|name| file.has(name)) && file.has("dy")) {
        let mut cases: Vec<&str> = file.tensors.iter().filter_map(|(name, _)| name.strip_suffix(".y")).collect();
        cases.sort_unstable();
        assert!(!cases.is_empty(), "{} has no case", file.name());
        for backend in backends() {
            let mut worst = Worst::default();
            for case in &cases {
                let truth = |name: &str| file.tensors.find(&format!("{case}.{name}"));
                let time = truth("y").expect("an output").size()[1];
                let leaf = |tensor: &Tensor| tensor.copy().set_requires_grad(true);
                let leaves = INPUTS.map(|name| leaf(&file.get(name).narrow(1, 0, time)));
                let [r, w, k, v, a, b] = &leaves;
                // A case with a gradient of the initial state began from it; one named for the gradient
                // of the final state had that too.
                let s0 = truth("ds0").map(|_| leaf(file.get("s0")));
                let d_state = case.contains("dsT").then(|| file.get("dsT"));
                let inputs = Inputs { r, w, k, v, a, b, s0: s0.as_ref() };
                let (y, state) = wkv(&backend, inputs, true).expect("the operator runs");
                let mut loss = (&y * file.get("dy").narrow(1, 0, time)).sum(Kind::Float);
                if let Some(d_state) = d_state {
                    loss += (&state * d_state).sum(Kind::Float);
                }
                loss.f_backward().expect("the backward pass runs");
                let mut see = |name: &str, found: &Tensor| {
                    if let Some(truth) = truth(name) {
                        worst.see(relative_difference(found, truth), format!("{case}.{name}"));
                    }
                };
                see("y", &y);
                see("sT", &state);
                for (name, leaf) in INPUTS.iter().zip(&leaves) {
                    see(&format!("d{name}"), &leaf.grad());
                }
                if let Some(s0) = &s0 {
                    see("ds0", &s0.grad());
                }
            }
            worst.report(&format!("model/{} operator [{}]", file.name(), backend.name()), "rel", 3e-7);
        }
    }
}

#[test]
fn golden_model_optimizer() {
    let cases = |file: &File| -> serde_json::Map<String, serde_json::Value> {
        file.metadata.get("cfgs").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    };
    for file in files("optimisers", |file| !cases(file).is_empty()) {
        for (case, settings) in cases(&file) {
            let backend = cpu();
            let setting = |name: &str| settings[name].as_f64().unwrap_or_else(|| panic!("{case}: no {name}"));
            let schedule = Schedule {
                lr: setting("lr_init"),
                lr_final: setting("lr_final"),
                warmup: setting("warmup") as u64,
                last: setting("exit_tokens") / setting("tok_per_step"),
            };
            let config = OptimizerConfig {
                weight_decay: setting("wd"),
                clip_norm: setting("clip"),
                ..OptimizerConfig::default()
            };
            let (start, batch) = (file.weights(), file.base());
            let mut model = file.model(&backend);
            let mut optimizer = AdamW::new(config.clone(), model.parameters());
            let list = |name: &str| Vec::<f64>::try_from(file.get(&format!("{case}.{name}"))).expect("a list");
            let (losses, rates, norms) = (list("loss"), list("lr"), list("grad_norm"));
            let [mut rate, mut loss_error, mut norm_error, mut first_norm] = [const { Worst(0.0, String::new()) }; 4];
            for step in 0..rates.len() {
                model.parameters_mut().clear_gradients();
                let hidden = model.hidden(batch.get("idx"), None).expect("runs");
                let loss = loss::head_loss(None, &hidden, model.head(), batch.get("targets"), SEED_RULE).expect("runs");
                loss.objective.f_backward().expect("runs");
                let norm = global_norm(model.launcher(), model.parameters()).expect("is a number").double_value(&[]);
                let lr = schedule.at(step as u64);
                rate.see((lr / rates[step] - 1.0).abs(), format!("step {step}"));
                loss_error.see((loss.objective.double_value(&[]) - losses[step]).abs(), format!("step {step}"));
                let error = (norm / norms[step] - 1.0).abs();
                norm_error.see(error, format!("step {step}"));
                if step == 0 {
                    first_norm.see(error, "step 0");
                }
                optimizer.update(model.parameters(), lr, clip_factor(norm, config.clip_norm)).expect("updates");
            }
            let last = no_grad(|| {
                let hidden = model.hidden(batch.get("idx"), None).expect("runs");
                loss::cross_entropy(&hidden, model.head(), batch.get("targets")).expect("runs")
            });
            loss_error.see((last.0 / last.1 as f64 - losses[rates.len()]).abs(), "the end");

            // ‖Δ − Δ*‖ / ‖Δ*‖ over all parameters together.
            let (mut wrong, mut moved) = (0.0, 0.0);
            let wide = |tensor: &Tensor| tensor.detach().to_kind(Kind::Double);
            for (name, parameter) in model.parameters().iter() {
                let begin = wide(start.get(name).expect("a parameter"));
                let truth = match file.tensors.find(&format!("{case}.delta.{name}")) {
                    Some(delta) => wide(delta),
                    None => wide(file.get(&format!("{case}.w.{name}"))) - &begin,
                };
                wrong += (wide(parameter) - begin - &truth).square().sum(Kind::Double).double_value(&[]);
                moved += truth.square().sum(Kind::Double).double_value(&[]);
            }
            let mut delta = Worst::default();
            delta.see((wrong / moved).sqrt(), "all parameters");
            let what = |family: &str| format!("model/{} {case} {family}", file.name());
            // The weights decide. Loss and norm on the way have no tolerance of their own in the specification:
            // with epsilon 1e-18 the smallest gradients steer by their sign, and rounding errors grow from step
            // to step. These bounds are there to catch a wrong formula.
            rate.report(&what("learning rate"), "rel", 1e-12);
            loss_error.report(&what("loss"), "abs", 5e-4);
            norm_error.report(&what("gradient norm"), "rel", 2e-2);
            first_norm.report(&what("first gradient norm"), "rel", 1e-5);
            delta.report(&what("weights after the last step"), "rel", 5e-4);
        }
    }
}

#[test]
fn golden_model_ggml() {
    let Some(family) = golden::family("model") else { return };
    let listed = std::fs::read_to_string(family.join("manifest.json")).unwrap_or_default();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap_or_default();
    let weights = |network: &str| File::read(&family.join(format!("{network}.safetensors"))).weights();
    let (mut all, mut different) = (0, Vec::new());
    for path in golden::entries(&family) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (suffix, half) in [("_FP16.ggml.bin", true), ("_FP32.ggml.bin", false)] {
            let Some(network) = name.strip_suffix(suffix) else { continue };
            let truth = std::fs::read(&path).expect("reads");
            let parameters = weights(network);
            all += 2;
            if ggml::write(&parameters, half).expect("writes") != truth {
                different.push(name.clone());
            }
            if ggml::write(&ggml::read(&truth, &name).expect("reads"), half).expect("writes") != truth {
                different.push(format!("{name}, read and written"));
            }
        }
    }
    // Files that are not kept are listed with their hash.
    for (name, record) in listed.as_object().into_iter().flatten() {
        let Some(network) = name.strip_suffix("_FP32.ggml.bin") else { continue };
        all += 1;
        let bytes = ggml::write(&weights(network), false).expect("writes");
        if record["sha256"].as_str() != Some(midi_ingest::store::sha256_hex(&bytes).as_str()) {
            different.push(format!("{name} by its hash"));
        }
    }
    if all == 0 {
        println!("skipped: no golden data for model ggml in `{}`", family.display());
        return;
    }
    golden::report("model/ggml files", all, &different);
}

#[test]
fn golden_model_state_vector() {
    for file in files("state vectors", |file| file.has("state") && file.get("state").dim() == 1) {
        let Some(network) = file.name().strip_suffix("_rwkvcpp_state").map(str::to_owned) else { continue };
        let tuned = File::read(&file.path.with_file_name(format!("{network}_state.safetensors")));
        let shape = file_shape(&tuned);
        let states = tuned.time_state(shape.layers).expect("a tuned state");
        let states: Vec<Tensor> = states.iter().map(Tensor::detach).collect();
        let vector = ggml::state_vector(&State::of_time_state(shape, &states, 1).expect("fits")).expect("one sequence");
        let mut worst = Worst::default();
        worst.see(absolute(&vector, file.get("state")), "the vector");
        let back = ggml::state_of_vector(file.get("state"), shape).expect("fits");
        for (layer, state) in states.iter().enumerate() {
            worst.see(absolute(&back.layers[layer].wkv.squeeze_dim(0), state), format!("layer {layer} read back"));
        }
        // The same as files: what is exported is the golden vector's bytes, and what is imported the tuned states.
        let named: Parameters =
            states.iter().enumerate().map(|(layer, state)| (time_state_name(layer), state.shallow_clone())).collect();
        let bytes = state::write(&named).expect("writes");
        let mut truth = vec![0; bytes.len()];
        file.get("state").copy_data_u8(&mut truth, bytes.len() / 4);
        assert!(bytes == truth, "the exported file is not the golden vector");
        for (name, tensor) in state::read(&truth, "golden.state", Some(shape.layers)).expect("reads").iter() {
            worst.see(absolute(tensor, named.get(name).expect("is there")), format!("{name} imported"));
        }
        worst.report(&format!("model/{} state vector", file.name()), "abs", 0.0);
    }
}

fn file_shape(file: &File) -> midi_train::model::Shape {
    file.weights().shape().expect("a network")
}
