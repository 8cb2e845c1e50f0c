//! Every rendered manifest is read back and checked against the rules that no schema knows: that the programs accept
//! their command lines, that names meet, that exit codes are the ones of this system.

#[path = "support/rules.rs"]
mod rules;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use midi_rwkv::experiment::Experiment;
use midi_rwkv::target::kubernetes::{Rendering, Settings, render};
use rules::{Folder, at, documents, list, strings, text};
use serde_yaml_ng::Value;

fn experiment(config: &str, sets: &[&str]) -> Experiment {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Experiment::load(&support::root().join("configs").join(config), &sets).unwrap_or_else(|error| panic!("{error}"))
}

fn settings(workers: u32, nodes: u32, gpus_per_node: u32) -> Settings {
    Settings { image: "registry.example/midi-rwkv:test".to_owned(), workers, nodes, gpus_per_node }
}

#[test]
fn every_rendering_keeps_the_rules() {
    let long = "a-long-name-with-Capitals_and_underscore";
    let cases = [
        (experiment("demo.toml", &[]), settings(1, 1, 0)),
        (experiment("demo.toml", &["out=s3://bucket/runs/demo"]), settings(7, 1, 1)),
        (experiment("demo.toml", &["out=/data/runs/demo", "name=2025_Run"]), settings(10_000, 2, 8)),
        (experiment("demo.toml", &[&format!("name={long}"), "train.demo.global-batch=16000"]), settings(3, 1000, 16)),
        (
            experiment("demo.toml", &["train.Second_Model.steps=3", "train.Second_Model.model={layers=1, width=64}"]),
            settings(2, 2, 0),
        ),
        (experiment("pop909.toml", &[]), settings(4, 2, 4)),
    ];
    for (experiment, settings) in cases {
        let rendering = render(&experiment, &settings).expect("renders");
        let folder = Folder::of(&rendering.files);
        assert_eq!(folder.complaints(), Vec::<String>::new(), "{} {settings:?}", experiment.name);
        let jobs: Vec<&Value> = folder.kind("Job").collect();
        assert_eq!(jobs.len(), 3 + experiment.train.len(), "ingest, eval, compare and one training a model");
        assert_eq!(folder.kind("Service").count(), experiment.train.len());
        for job in jobs {
            let pods = at(job, "spec.completions").as_u64().expect("a number");
            let wanted = match text(job, "metadata.labels.midi-rwkv/stage") {
                "train" => u64::from(settings.nodes) * u64::from(settings.gpus_per_node.max(1)),
                "compare" => 1,
                "eval" => {
                    u64::from(settings.workers).min(experiment.eval.as_ref().expect("an eval").models.len() as u64)
                }
                _ => u64::from(settings.workers),
            };
            assert_eq!(pods, wanted);
        }
        let mut unique = BTreeSet::new();
        let key = |object: &Value| (text(object, "kind").to_owned(), text(object, "metadata.name").to_owned());
        assert!(folder.objects.iter().all(|object| unique.insert(key(object))), "two objects of one name");
        assert_eq!(rendering.files["experiment.toml"], experiment.resolved().expect("resolves"));
        assert_eq!(rendering.files.contains_key("volume.yaml"), !experiment.out.contains("://"));
    }
}

#[test]
fn numbers_that_every_pod_of_a_training_would_refuse_are_not_rendered() {
    let error = render(&experiment("demo.toml", &["train.demo.global-batch=16"]), &settings(1, 3, 0)).expect_err("3");
    assert_eq!(
        error.to_string(),
        "`train.demo.global-batch` is 16, which 3 processes cannot share evenly\n\
         hint: choose `--nodes` and `--gpus-per-node` so that their product divides it"
    );
    let circle = ["train.demo.mode=full", "train.demo.base=b", "train.b.mode=full", "train.b.base=demo"];
    let more = ["train.b.steps=3", "train.b.model={layers=1, width=64}"];
    let error =
        render(&experiment("demo.toml", &[&circle[..], &more].concat()), &settings(1, 1, 0)).expect_err("circle");
    assert!(error.to_string().contains("based on each other"), "{error}");
}

#[test]
fn the_notes_name_every_local_path_and_what_is_reserved() {
    let notes =
        |config: &str, sets: &[&str]| render(&experiment(config, sets), &settings(4, 1, 0)).expect("renders").notes;
    let paths = |notes: Vec<String>| -> Vec<String> {
        let keys = notes.iter().filter_map(|note| note.split_once(" is the local path "));
        keys.map(|(key, _)| key.trim_matches('`').to_owned()).collect()
    };
    assert_eq!(
        paths(notes("personal.toml", &[])),
        ["ingest.source.uri", "ingest.tokenizer.path", "train.mine.base", "eval.models.before.path"]
    );
    let source = "ingest.source={kind='parquet', uri='music.parquet', layout='gigamidi-v2.0.0'}";
    assert_eq!(paths(notes("demo.toml", &[source])), ["ingest.source.uri"]);
    assert_eq!(paths(notes("pop909.toml", &[])), [""; 0], "an address is no local path");
    // 4 pods of ingest, 1 of training, 3 of evaluation and 1 that compares; a pod that waits reserves all of it.
    let said = notes("demo.toml", &[]).pop().expect("a note");
    assert!(said.starts_with("the jobs reserve 26 CPUs and 40 GiB together"), "{said}");
}

#[test]
fn the_base_itself_keeps_the_rules() {
    let folder = support::root().join("k8s/base");
    let read = |name: &str| fs_err::read_to_string(folder.join(name)).expect("reads");
    let names = ["ingest.yaml", "train.yaml", "eval.yaml"];
    let base = Folder {
        objects: names.into_iter().flat_map(|name| documents(&read(name))).collect(),
        config_maps: BTreeMap::from([("experiment".to_owned(), vec!["experiment.toml".to_owned()])]),
    };
    assert_eq!(base.complaints(), Vec::<String>::new());
    assert_eq!(base.objects.len(), 5);
    let kustomization = documents(&read("kustomization.yaml")).remove(0);
    assert_eq!(strings(list(&kustomization, "resources")), names);
}

#[test]
fn a_stage_waits_for_what_it_reads_and_for_nothing_that_the_experiment_lacks() {
    let waits = |experiment: &Experiment| -> Vec<String> {
        let folder = Folder::of(&render(experiment, &settings(1, 1, 0)).expect("renders").files);
        assert_eq!(folder.complaints(), Vec::<String>::new());
        let wait = |job: &Value| {
            let pod = at(job, "spec.template.spec");
            let waits = list(pod, "initContainers").iter().find(|container| text(container, "name") == "wait");
            let words = |container| list(container, "args")[3..].iter().map(|word| word.as_str().expect("text"));
            let stage = waits.map_or("nothing".to_owned(), |container| words(container).collect::<Vec<_>>().join(" "));
            format!("{} waits for {stage}", text(job, "metadata.labels.midi-rwkv/stage"))
        };
        folder.kind("Job").map(wait).collect()
    };
    let mut experiment = experiment("demo.toml", &[]);
    assert_eq!(
        waits(&experiment),
        ["ingest waits for nothing", "train waits for ingest", "eval waits for train", "compare waits for train"]
    );
    let train = std::mem::take(&mut experiment.train);
    assert_eq!(waits(&experiment), ["ingest waits for nothing", "eval waits for ingest", "compare waits for ingest"]);
    experiment.ingest = None;
    assert_eq!(waits(&experiment), ["eval waits for nothing", "compare waits for nothing"]);
    experiment.train = train;
    experiment.eval = None;
    assert_eq!(waits(&experiment), ["train waits for nothing"]);
    // What is tuned waits for its base, and the base for the data.
    let mut tuned = crate::experiment("pop909-tune.toml", &[]);
    tuned.eval = None;
    let (data, base) = ("train waits for ingest", "train waits for train --model base");
    assert_eq!(waits(&tuned), ["ingest waits for nothing", data, base, base]);
}

/// A rule that never complains proves nothing: each of these changes must be noticed.
#[test]
fn the_rules_notice_what_is_wrong() {
    let rendering = render(&experiment("demo.toml", &[]), &settings(4, 2, 1)).expect("renders");
    let cases = [
        ("ingest.yaml", "restartPolicy: Never", "restartPolicy: Always", "restartPolicy"),
        ("ingest.yaml", "- 78", "- 79", "exit code 78"),
        ("ingest.yaml", "- 101", "- 102", "a panic"),
        ("ingest.yaml", "FailIndex", "FailIndx", "not `FailIndex`"),
        ("ingest.yaml", "- '4'", "- '5'", "--workers is not the number of pods"),
        ("ingest.yaml", "- --workers", "- --wrokers", "no option `--wrokers`"),
        ("ingest.yaml", "mountPath: /etc/midi-rwkv", "mountPath: /etc/midi", "not among the mounted files"),
        ("ingest.yaml", "name: demo-experiment", "name: demo-config", "not among the mounted files"),
        ("ingest.yaml", "sizeLimit: 20Gi", "medium: ''", "has no limit"),
        ("eval.yaml", "- --for", "- --until", "--until"),
        ("eval.yaml", "- compare\n", "- compares\n", "is no command"),
        ("train-demo.yaml", "subdomain: demo-train-demo", "subdomain: train", "subdomain"),
        ("train-demo.yaml", "value: demo-train-demo", "value: train", "TRAIN_SERVICE"),
        ("train-demo.yaml", "$(JOB_NAME)-0", "$(JOB)-0", "$(JOB)"),
        ("train-demo.yaml", "value: '29500'", "value: '29501'", "MASTER_PORT"),
        ("train-demo.yaml", "terminationGracePeriodSeconds: 300", "terminationGracePeriodSeconds: 200", "grace period"),
        ("train-demo.yaml", "mountPath: /dev/shm", "mountPath: /shm", "shared memory"),
        (
            "train-demo.yaml",
            "name: LOCAL_RANK\n          value: '0'",
            "name: HF_TOKEN\n          value: x",
            "is a secret",
        ),
        ("train-demo.yaml", "publishNotReadyAddresses: true", "publishNotReadyAddresses: false", "before it is ready"),
        (
            "train-demo.yaml",
            "name: demo-train-demo\n  labels",
            "name: demo_train\n  labels",
            "no name for a pod's host",
        ),
    ];
    for (file, from, to, complaint) in cases {
        let mut files = rendering.files.clone();
        let text = files.get_mut(file).expect("there is such a file");
        assert!(text.contains(from), "{file} has no `{from}`");
        *text = text.replace(from, to);
        let complaints = Folder::of(&files).complaints();
        assert!(complaints.iter().any(|c| c.contains(complaint)), "{from} -> {to}: {complaints:?}");
    }
}

#[test]
fn no_secret_of_this_machine_is_rendered() {
    let sandbox = support::Sandbox::bare();
    let mut command = sandbox.command(&["render", "demo.toml", "--target", "kubernetes", "-o", "manifests"]);
    let ran = command.env("HF_TOKEN", "hf_very_secret").env("AWS_SECRET_ACCESS_KEY", "very_secret").output();
    assert_eq!(ran.expect("starts").status.code(), Some(0));
    for entry in fs_err::read_dir(sandbox.path("manifests")).expect("reads") {
        let text = fs_err::read_to_string(entry.expect("reads").path()).expect("reads");
        assert!(!text.contains("very_secret"), "{text}");
        assert!(!text.contains("kind: Secret"), "{text}");
    }
}

#[test]
fn the_manifests_of_the_demo() {
    let rendering: Rendering = render(&experiment("demo.toml", &[]), &settings(4, 2, 1)).expect("renders");
    let text: String = rendering.files.iter().map(|(name, text)| format!("=== {name}\n{text}")).collect();
    insta::assert_snapshot!(text);
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped check must say so")]
fn kustomize_builds_the_folder_and_names_the_experiment_by_its_content() {
    let rendering = render(&experiment("demo.toml", &[]), &settings(2, 2, 0)).expect("renders");
    let folder = tempfile::tempdir().expect("folder");
    for (name, text) in &rendering.files {
        fs_err::write(folder.path().join(name), text).expect("writes");
    }
    let Ok(built) = std::process::Command::new("kubectl").arg("kustomize").arg(folder.path()).output() else {
        println!("skipped: there is no kubectl here");
        return;
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let objects = documents(&String::from_utf8(built.stdout).expect("utf-8"));
    let map = objects.iter().find(|object| text(object, "kind") == "ConfigMap").expect("there is one");
    let name = text(map, "metadata.name");
    assert!(name.starts_with("demo-experiment-"), "{name}");
    let jobs: Vec<&Value> = objects.iter().filter(|object| text(object, "kind") == "Job").collect();
    assert_eq!(jobs.len(), 4);
    for job in jobs {
        let volumes = list(job, "spec.template.spec.volumes");
        assert!(volumes.iter().any(|volume| text(volume, "configMap.name") == name), "{volumes:?}");
    }
}
