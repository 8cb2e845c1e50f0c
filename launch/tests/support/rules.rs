//! The rules that rendered manifests keep: what no schema knows, because it is about our own programs and names.

use std::collections::{BTreeMap, BTreeSet};

use clap::Parser;
use midi_ingest::job::Exit;
use midi_rwkv::cli::Cli;
use serde::Deserialize;
use serde_yaml_ng::Value;

/// The commands of the stages that manifests may use, with the options that each takes.
const COMMANDS: [(&str, &str, &[&str]); 8] = [
    ("midi-ingest", "run", &["--set", "--worker", "--workers"]),
    ("midi-ingest", "plan", &["--set"]),
    ("midi-train", "run", &["--set", "--model"]),
    ("midi-train", "plan", &["--set"]),
    ("midi-eval", "plan", &["--set"]),
    ("midi-eval", "generate", &["--set", "--worker", "--workers"]),
    ("midi-eval", "score", &["--set", "--worker", "--workers"]),
    ("midi-eval", "compare", &["--set"]),
];

/// What Kubernetes itself defines for the containers of an Indexed Job.
const INDEX: &str = "JOB_COMPLETION_INDEX";

/// What a program exits with that panics.
const PANIC: i64 = 101;

pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text).map(|d| Value::deserialize(d).expect("is YAML")).collect()
}

/// The value at `path`, dots descending through mappings; null where there is none.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, key| value.get(key).unwrap_or(&Value::Null))
}

pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_sequence().map(Vec::as_slice).unwrap_or_default()
}

fn names(items: &[Value]) -> BTreeSet<&str> {
    items.iter().map(|item| text(item, "name")).collect()
}

pub(crate) fn strings(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(Value::as_str).collect()
}

/// The objects of a rendered folder, and the files of its ConfigMaps by name.
pub(crate) struct Folder {
    pub(crate) objects: Vec<Value>,
    pub(crate) config_maps: BTreeMap<String, Vec<String>>,
}

impl Folder {
    /// Follows the kustomization: what it does not list would not be applied.
    pub(crate) fn of(files: &BTreeMap<String, String>) -> Self {
        let kustomization = documents(&files["kustomization.yaml"]).remove(0);
        let mut folder = Folder { objects: Vec::new(), config_maps: BTreeMap::new() };
        for resource in strings(list(&kustomization, "resources")) {
            folder.objects.extend(documents(&files[resource]));
        }
        for map in list(&kustomization, "configMapGenerator") {
            let keys: Vec<String> = strings(list(map, "files")).into_iter().map(str::to_owned).collect();
            assert!(keys.iter().all(|key| files.contains_key(key)), "{keys:?}");
            folder.config_maps.insert(text(map, "name").to_owned(), keys);
        }
        folder
    }

    pub(crate) fn kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| text(object, "kind") == kind)
    }

    /// Everything that breaks a rule, one line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for object in &self.objects {
            let mut complain = |what: String| complaints.push(format!("{}: {what}", text(object, "metadata.name")));
            check_name(object, &mut complain);
            match text(object, "kind") {
                "Job" => self.check_job(object, &mut complain),
                "Service" => self.check_service(object, &mut complain),
                other => complain(format!("unexpected kind `{other}`")),
            }
        }
        complaints
    }

    fn check_job(&self, job: &Value, complain: &mut dyn FnMut(String)) {
        let pod = at(job, "spec.template.spec");
        let mut must = |holds: bool, what: &str| {
            if !holds {
                complain(what.to_owned());
            }
        };
        let completions = at(job, "spec.completions").as_u64();
        let indexed = text(job, "spec.completionMode") == "Indexed";
        must(text(job, "apiVersion") == "batch/v1", "apiVersion");
        must(indexed || completions == Some(1), "completionMode");
        must(completions.is_some_and(|n| n > 0) && completions == at(job, "spec.parallelism").as_u64(), "parallelism");
        must(text(job, "spec.podReplacementPolicy") == "Failed", "podReplacementPolicy");
        must(
            at(job, "spec.activeDeadlineSeconds").as_u64().is_some(),
            "what exits with 75 for ever must end some time",
        );
        must(text(pod, "restartPolicy") == "Never", "restartPolicy");
        must(at(pod, "automountServiceAccountToken").as_bool() == Some(false), "service account token");
        must(at(pod, "securityContext.runAsNonRoot").as_bool() == Some(true), "runAsNonRoot");
        must(at(pod, "securityContext.runAsUser").as_u64().is_some_and(|user| user >= 10_000), "runAsUser");
        must(text(pod, "securityContext.seccompProfile.type") == "RuntimeDefault", "seccompProfile");
        let budget = text(job, "metadata.annotations.midi-rwkv/save-budget-seconds").parse::<u64>();
        let grace = at(pod, "terminationGracePeriodSeconds").as_u64().unwrap_or(30);
        must(budget.is_ok_and(|budget| grace > budget), "the grace period must be longer than saving takes");
        must(
            at(job, "metadata.labels") == at(job, "spec.template.metadata.labels"),
            "the labels of a job and its pods must be the same",
        );
        for (i, rule) in check_failure_policy(job).into_iter().enumerate() {
            must(false, &format!("podFailurePolicy ({i}): {rule}"));
        }
        check_volumes(job, &mut must);
        if text(job, "metadata.labels.midi-rwkv/stage") == "train" {
            let memory = list(pod, "volumes").iter().find(|volume| text(volume, "emptyDir.medium") == "Memory");
            let mount = memory.is_some_and(|volume| {
                list(pod, "containers")
                    .iter()
                    .flat_map(|c| list(c, "volumeMounts"))
                    .any(|mount| text(mount, "name") == text(volume, "name") && text(mount, "mountPath") == "/dev/shm")
            });
            must(mount, "shared memory");
            must(
                self.kind("Service").any(|service| text(service, "metadata.name") == text(pod, "subdomain")),
                "the subdomain is no Service",
            );
        }
        for container in list(pod, "initContainers").iter().chain(list(pod, "containers")) {
            for what in self.check_container(job, container) {
                must(false, &format!("container `{}`: {what}", text(container, "name")));
            }
        }
    }

    fn check_container(&self, job: &Value, container: &Value) -> Vec<String> {
        let pod = at(job, "spec.template.spec");
        let mut complaints = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                complaints.push(what);
            }
        };
        must(!text(container, "image").is_empty(), "no image".to_owned());
        let security = at(container, "securityContext");
        must(at(security, "allowPrivilegeEscalation").as_bool() == Some(false), "allowPrivilegeEscalation".to_owned());
        must(at(security, "readOnlyRootFilesystem").as_bool() == Some(true), "readOnlyRootFilesystem".to_owned());
        must(strings(list(security, "capabilities.drop")) == ["ALL"], "capabilities".to_owned());
        for resource in ["cpu", "memory"] {
            let limit = at(container, "resources.limits").get(resource);
            must(limit.is_some() && limit == at(container, "resources.requests").get(resource), resource.to_owned());
        }

        // Variables: defined before they are used, and no secret among them by value.
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for variable in list(container, "env") {
            let name = text(variable, "name");
            let secret = ["TOKEN", "SECRET", "KEY", "PASSWORD"].iter().any(|word| name.contains(word));
            must(!secret || at(variable, "value").is_null(), format!("`{name}` is a secret with a value"));
            for used in expansions(text(variable, "value")) {
                must(known.contains(used), format!("`{name}` uses $({used}) before it is defined"));
            }
            known.insert(name);
        }
        if text(job, "spec.completionMode") == "Indexed" {
            known.insert(INDEX);
        }

        let program = strings(list(container, "command"));
        let words = strings(list(container, "args"));
        must(words.len() == list(container, "args").len(), "an argument is no text".to_owned());
        for used in words.iter().flat_map(|word| expansions(word)) {
            must(known.contains(used), format!("$({used}) is not defined"));
        }
        let files = match check_command(&program, &words) {
            Ok(files) => files,
            Err(why) => {
                must(false, why);
                Vec::new()
            }
        };
        let shown: Vec<String> = self.mounted_files(pod, container);
        for file in files {
            must(shown.contains(&file), format!("`{file}` is not among the mounted files {shown:?}"));
        }
        if let Some(place) = words.iter().position(|word| *word == "--workers") {
            let completions = at(job, "spec.completions").as_u64().unwrap_or_default().to_string();
            must(words.get(place + 1) == Some(&completions.as_str()), "--workers is not the number of pods".to_owned());
        }
        if text(job, "metadata.labels.midi-rwkv/stage") == "train" && program == ["midi-train"] {
            let value = |name: &str| {
                let variable = list(container, "env").iter().find(|variable| text(variable, "name") == name);
                variable.map(|variable| text(variable, "value")).unwrap_or_default()
            };
            let completions = at(job, "spec.completions").as_u64().unwrap_or_default().to_string();
            must(value("WORLD_SIZE") == completions, "WORLD_SIZE is not the number of pods".to_owned());
            must(value("TRAIN_SERVICE") == text(pod, "subdomain"), "TRAIN_SERVICE is not the subdomain".to_owned());
            must(value("MASTER_ADDR") == "$(JOB_NAME)-0.$(TRAIN_SERVICE)", "MASTER_ADDR".to_owned());
            must(value("LOCAL_RANK") == "0", "one process a pod".to_owned());
            let gpu = at(container, "resources.limits").get("nvidia.com/gpu");
            must(gpu.is_none_or(|gpu| gpu.as_u64() == Some(1)), "one process a pod uses one GPU".to_owned());
            let port = self.kind("Service").find(|service| text(service, "metadata.name") == text(pod, "subdomain"));
            let port = port.and_then(|service| at(&list(service, "spec.ports")[0], "port").as_u64());
            must(port.is_some_and(|port| port.to_string() == value("MASTER_PORT")), "MASTER_PORT".to_owned());
        }
        complaints
    }

    /// The files of ConfigMaps where `container` sees them.
    fn mounted_files(&self, pod: &Value, container: &Value) -> Vec<String> {
        let mut files = Vec::new();
        for mount in list(container, "volumeMounts") {
            let volume = list(pod, "volumes").iter().find(|volume| text(volume, "name") == text(mount, "name"));
            let keys = volume.and_then(|volume| self.config_maps.get(text(volume, "configMap.name")));
            for key in keys.into_iter().flatten() {
                files.push(format!("{}/{key}", text(mount, "mountPath")));
            }
        }
        files
    }

    fn check_service(&self, service: &Value, complain: &mut dyn FnMut(String)) {
        let mut must = |holds: bool, what: &str| {
            if !holds {
                complain(what.to_owned());
            }
        };
        must(text(service, "spec.clusterIP") == "None", "a Service for names alone has no address");
        must(
            at(service, "spec.publishNotReadyAddresses").as_bool() == Some(true),
            "a leader must be found before it is ready",
        );
        let selector = at(service, "spec.selector").as_mapping().cloned().unwrap_or_default();
        must(!selector.is_empty(), "selector");
        let selected: Vec<&Value> = self
            .kind("Job")
            .filter(|job| {
                let labels = at(job, "spec.template.metadata.labels");
                selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            })
            .collect();
        must(selected.len() == 1, "the selector must match the pods of one job");
        let subdomains: Vec<&str> = selected.iter().map(|job| text(job, "spec.template.spec.subdomain")).collect();
        must(subdomains == [text(service, "metadata.name")], "the subdomain must be the Service's name");
    }
}

fn check_name(object: &Value, complain: &mut dyn FnMut(String)) {
    let name = text(object, "metadata.name");
    let last = at(object, "spec.completions").as_u64().map(|n| format!("-{}", n.saturating_sub(1))).unwrap_or_default();
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = name.len() + last.len() <= 63
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !fits {
        complain("is no name for a pod's host".to_owned());
    }
    for labels in ["metadata.labels", "spec.template.metadata.labels", "spec.selector"] {
        for (key, value) in at(object, labels).as_mapping().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            if value.is_empty() || value.len() > 63 || !value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                complain(format!("label {key:?} has the value `{value}`"));
            }
        }
    }
}

/// Checks that the failure policy covers every exit code of this system once, in an order that works.
fn check_failure_policy(job: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let rules = list(job, "spec.podFailurePolicy.rules");
    let by_index = !at(job, "spec.backoffLimitPerIndex").is_null();
    let stop = if by_index { "FailIndex" } else { "FailJob" };
    if by_index != at(job, "spec.backoffLimit").is_null() {
        complaints.push("either backoffLimit or backoffLimitPerIndex".to_owned());
    }
    if by_index && text(job, "spec.completionMode") != "Indexed" {
        complaints.push("backoffLimitPerIndex without an index".to_owned());
    }
    let first = rules.first().unwrap_or(&Value::Null);
    let conditions = list(first, "onPodConditions");
    let evicted =
        conditions.first().is_some_and(|c| text(c, "type") == "DisruptionTarget" && text(c, "status") == "True");
    if text(first, "action") != "Ignore" || !evicted {
        complaints.push("an eviction must be ignored by the first rule".to_owned());
    }
    let mut actions: BTreeMap<i64, String> = BTreeMap::new();
    for rule in &rules[1.min(rules.len())..] {
        let codes: Vec<i64> = list(rule, "onExitCodes.values").iter().filter_map(Value::as_i64).collect();
        if text(rule, "onExitCodes.operator") != "In" || codes.is_empty() || !codes.is_sorted_by(|a, b| a < b) {
            complaints.push(format!("{codes:?} must be ascending codes with the operator `In`"));
        }
        for code in codes {
            if actions.insert(code, text(rule, "action").to_owned()).is_some() {
                complaints.push(format!("{code} is in two rules"));
            }
        }
    }
    if list(rules.get(1).unwrap_or(&Value::Null), "onExitCodes.values") != [Value::from(75)] {
        complaints.push("75 must come before the other codes".to_owned());
    }
    if actions.remove(&PANIC).as_deref() != Some(stop) {
        complaints.push(format!("a panic, exit code {PANIC}, must be a `{stop}`"));
    }
    for exit in Exit::ALL.into_iter().filter(|exit| *exit != Exit::Done) {
        let wanted = match exit {
            Exit::Done => unreachable!("filtered"),
            Exit::Bug | Exit::Usage | Exit::BadData | Exit::Diverged | Exit::Mismatch => stop,
            Exit::PeerLost | Exit::Storage => "Count",
            Exit::RunAgain => "Ignore",
        };
        let found = actions.remove(&i64::from(exit.code()));
        if found.as_deref() != Some(wanted) {
            complaints.push(format!("exit code {} has the action {found:?}, not `{wanted}`", exit.code()));
        }
    }
    complaints.extend(actions.keys().map(|code| format!("{code} is no exit code of this system")));
    complaints
}

fn check_volumes(job: &Value, must: &mut dyn FnMut(bool, &str)) {
    let pod = at(job, "spec.template.spec");
    let volumes = names(list(pod, "volumes"));
    let containers = list(pod, "initContainers").iter().chain(list(pod, "containers"));
    let mounts: Vec<&Value> = containers.flat_map(|container| list(container, "volumeMounts")).collect();
    let mounted: BTreeSet<&str> = mounts.iter().map(|mount| text(mount, "name")).collect();
    must(mounted == volumes, &format!("volumes are {volumes:?}, mounted are {mounted:?}"));
    must(mounts.iter().all(|mount| text(mount, "mountPath").starts_with('/')), "a mount path must be absolute");
    for volume in list(pod, "volumes") {
        let scratch = at(volume, "emptyDir");
        must(
            scratch.is_null() || !at(scratch, "sizeLimit").is_null(),
            &format!("scratch volume `{}` has no limit", text(volume, "name")),
        );
        must(at(volume, "hostPath").is_null(), "a pod must not see its host's disk");
    }
}

/// The names in `$(NAME)`.
fn expansions(word: &str) -> Vec<&str> {
    word.split("$(").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// The files that a command line reads, if its program takes it.
fn check_command(program: &[&str], words: &[&str]) -> Result<Vec<String>, String> {
    let [program] = program else { return Err(format!("{program:?} is not one program without a shell")) };
    if *program == "midi-rwkv" {
        let line = std::iter::once(program).chain(words);
        Cli::try_parse_from(line).map_err(|e| e.to_string())?;
        return Ok(words.iter().filter(|word| word.ends_with(".toml")).map(|word| (*word).to_owned()).collect());
    }
    let (command, words) = words.split_first().ok_or("no command")?;
    let known = COMMANDS.iter().find(|(p, c, _)| p == program && c == command);
    let (_, _, options) = known.ok_or(format!("`{program} {command}` is no command"))?;
    let mut files = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            files.push((*word).to_owned());
            continue;
        }
        if !options.contains(word) {
            return Err(format!("`{program} {command}` has no option `{word}`"));
        }
        let value = words.next().ok_or(format!("`{word}` lacks its value"))?;
        if *word == "--workers" && value.parse::<u32>().is_err() {
            return Err(format!("`{word} {value}` is no number"));
        }
    }
    if files.len() != 1 {
        return Err(format!("`{program} {command}` takes one file, not {files:?}"));
    }
    Ok(files)
}
