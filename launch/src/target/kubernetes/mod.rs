//! An experiment as Kubernetes manifests: the documents of `k8s/base` with its names, numbers, image and TOML set.
//!
//! The base travels inside the program, so rendering needs no checkout. Names are set here and not by kustomize's
//! `nameSuffix`, because a Job cannot be changed once it ran: every run has names of its own.

mod documents;
mod names;

use std::collections::BTreeMap;
use std::path::Path;

use midi_eval::config::EvalModel;
use midi_ingest::config::{SourceConfig, TokenizerConfig};
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::store::local_path_of;
use serde_yaml_ng::Value;

use crate::experiment::Experiment;
use documents::{Document, Resources};

const INGEST: &str = include_str!("../../../../k8s/base/ingest.yaml");
const TRAIN: &str = include_str!("../../../../k8s/base/train.yaml");
const EVAL: &str = include_str!("../../../../k8s/base/eval.yaml");
const VOLUME: &str = include_str!("../../../../k8s/base/volume.yaml");

/// The file in the rendered folder, and in the pods, that holds the experiment.
pub const EXPERIMENT: &str = "experiment.toml";

/// The folder in which pods run: a relative `out` is relative to it.
const WORKING_FOLDER: &str = "/srv/midi-rwkv";

/// The folders at the top of a pod that are the system's.
const TAKEN: [&str; 13] =
    ["bin", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys", "tmp", "usr", "var"];

/// Lost processes and other failures that count, for each process of a training.
const RESTARTS: u64 = 6;

/// The numbers that an experiment does not hold: they belong to the cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The container image.
    pub image: String,
    /// Pods of ingest, and at most so many of generation and scoring: one a model.
    pub workers: u32,
    /// Nodes that train one model.
    pub nodes: u32,
    /// GPUs of a node: one process and one pod each. 0 trains on the CPU, one process a node.
    pub gpus_per_node: u32,
}

impl Settings {
    /// Processes, and pods, that train one model.
    fn processes(&self) -> u64 {
        u64::from(self.nodes) * u64::from(self.gpus_per_node.max(1))
    }
}

/// A folder of manifests that is not written yet.
#[derive(Clone, Debug)]
pub struct Rendering {
    /// Text by file name.
    pub files: BTreeMap<String, String>,
    /// What must be true on the cluster for the jobs to work: one sentence each.
    pub notes: Vec<String>,
}

/// Renders `experiment` with `settings`.
///
/// # Errors
/// An `out` that cannot be a mounted folder, models that are based on each other, or a global batch that the processes
/// of a training cannot share evenly: exit code 78.
pub fn render(experiment: &Experiment, settings: &Settings) -> Result<Rendering> {
    experiment.in_order()?;
    check_processes(experiment, settings)?;
    let mount = mount(&experiment.out)?;
    let run = Run { experiment, settings, name: names::fit(&experiment.name), mount };
    let mut files = BTreeMap::new();
    let mut resources = Vec::new();
    let mut reserved = Resources::default();
    let mut add = |name: String, documents: &[Document]| -> Result<()> {
        files.insert(name.clone(), documents::text(documents)?);
        for document in documents {
            reserved = reserved + document.reserved()?;
        }
        resources.push(name);
        Ok(())
    };
    if experiment.ingest.is_some() {
        add("ingest.yaml".to_owned(), &run.ingest()?)?;
    }
    for model in experiment.train.keys() {
        add(format!("{}.yaml", names::fit(&format!("train-{model}"))), &run.train(model)?)?;
    }
    if experiment.eval.is_some() {
        add("eval.yaml".to_owned(), &run.eval()?)?;
    }
    files.insert("kustomization.yaml".to_owned(), run.kustomization(&resources)?);
    files.insert(EXPERIMENT.to_owned(), experiment.resolved()?);
    if run.mount.is_some() {
        files.insert("volume.yaml".to_owned(), VOLUME.to_owned());
    }
    Ok(Rendering { files, notes: run.notes(reserved) })
}

/// Refuses numbers with which every pod of a training would end at once.
fn check_processes(experiment: &Experiment, settings: &Settings) -> Result<()> {
    let processes = settings.processes();
    for (model, train) in &experiment.train {
        let batch = train.global_batch;
        if !(batch as u64).is_multiple_of(processes) {
            return Err(Error::mismatch(format!(
                "`train.{model}.global-batch` is {batch}, which {processes} processes cannot share evenly"
            ))
            .hint("choose `--nodes` and `--gpus-per-node` so that their product divides it"));
        }
    }
    Ok(())
}

/// Where the volume for results is mounted; `None` if they go to an object store.
fn mount(out: &str) -> Result<Option<String>> {
    let Some(folder) = local_path_of(out) else { return Ok(None) };
    let absolute = Path::new(WORKING_FOLDER).join(folder).display().to_string();
    let parts: Vec<&str> = absolute.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let above = parts.split_last().map(|(_, folders)| folders).unwrap_or_default();
    let parent = format!("/{}", above.join("/"));
    // A volume at one of these, or below, would hide the programs or what a pod has there for something else.
    let taken = above.first().is_none_or(|top| TAKEN.contains(top));
    if taken || parts.contains(&"..") {
        return Err(Error::mismatch(format!("`out` is `{out}`, whose parent cannot be a mounted volume in a pod"))
            .hint("use the URL of an object store, or a folder such as `runs/NAME`"));
    }
    Ok(Some(parent))
}

/// An experiment on its way into the documents of the base.
struct Run<'a> {
    experiment: &'a Experiment,
    settings: &'a Settings,
    /// The run's name as Kubernetes takes it.
    name: String,
    /// Where the volume for results is mounted, if there is one.
    mount: Option<String>,
}

impl Run<'_> {
    fn ingest(&self) -> Result<Vec<Document>> {
        let mut documents = documents::read(INGEST)?;
        for job in &mut documents {
            self.set_common(job)?;
            self.set_workers(job, u64::from(self.settings.workers))?;
        }
        Ok(documents)
    }

    fn train(&self, model: &str) -> Result<Vec<Document>> {
        let processes = self.settings.processes();
        let mut documents = documents::read(TRAIN)?;
        for document in &mut documents {
            let name = self.set_common(document)?;
            // The Service and its Job share one name, which tells the models of a run apart.
            let name = names::fit(&format!("{name}-{model}"));
            document.set(&["metadata", "name"], name.as_str())?;
            document.set_everywhere("midi-rwkv/model", &names::fit(model));
            if document.kind() != "Job" {
                continue;
            }
            document.set(&["spec", "completions"], processes)?;
            document.set(&["spec", "parallelism"], processes)?;
            document.set(&["spec", "backoffLimit"], RESTARTS * processes)?;
            document.set(&["spec", "template", "spec", "subdomain"], name.as_str())?;
            match self.base_of(model) {
                // Which waited for the data itself.
                Some(base) => {
                    let mut wait = document.container("wait")?;
                    wait.set_argument("--for", "train")?;
                    wait.add_arguments(["--model", base])?;
                }
                None if self.experiment.ingest.is_none() => document.drop_init_container("wait")?,
                None => {}
            }
            let mut container = document.container("train")?;
            container.set_argument("--model", model)?;
            container.set_variable("WORLD_SIZE", &processes.to_string())?;
            container.set_variable("TRAIN_SERVICE", &name)?;
            if self.settings.gpus_per_node > 0 {
                container.set_limit("nvidia.com/gpu", 1)?;
            }
        }
        Ok(documents)
    }

    /// The model of the experiment from which `model` is trained on.
    fn base_of(&self, model: &str) -> Option<&str> {
        let base = self.experiment.train.get(model)?.base.as_deref()?;
        self.experiment.train.contains_key(base).then_some(base)
    }

    fn eval(&self) -> Result<Vec<Document>> {
        let mut documents = documents::read(EVAL)?;
        // Pods share the models: more of them than there are models would have nothing to do.
        let models = self.experiment.eval.iter().map(|eval| eval.models.len() as u64).sum::<u64>();
        let workers = u64::from(self.settings.workers).min(models.max(1));
        for job in &mut documents {
            self.set_common(job)?;
            if job.is_indexed() {
                self.set_workers(job, workers)?;
            }
            if !self.experiment.train.is_empty() {
                continue;
            }
            // Without a model of its own, evaluation reads the songs alone; without those, everything is there.
            match self.experiment.ingest {
                Some(_) => job.container("wait")?.set_argument("--for", "ingest")?,
                None => job.drop_init_container("wait")?,
            }
        }
        Ok(documents)
    }

    /// Sets what every document has, and returns its new name.
    fn set_common(&self, document: &mut Document) -> Result<String> {
        let name = format!("{}-{}", self.name, document.name()?);
        let name = names::fit(&name);
        document.set(&["metadata", "name"], name.as_str())?;
        document.set_everywhere("midi-rwkv/run", &self.name);
        if document.kind() == "Job" {
            document.set_volume("experiment", &["configMap", "name"], &self.config_map())?;
            if self.mount.is_none() {
                document.drop_volume("runs")?;
            }
            for mut container in document.containers()? {
                container.set_image(&self.settings.image)?;
                match &self.mount {
                    Some(path) => container.set_mount("runs", path)?,
                    None => container.drop_mount("runs")?,
                }
            }
        }
        Ok(name)
    }

    /// Sets the number of pods that share the work, in the job and in the arguments of those who must know it.
    fn set_workers(&self, job: &mut Document, workers: u64) -> Result<()> {
        job.set(&["spec", "completions"], workers)?;
        job.set(&["spec", "parallelism"], workers)?;
        for mut container in job.containers()? {
            if container.has_argument("--workers") {
                container.set_argument("--workers", &workers.to_string())?;
            }
        }
        Ok(())
    }

    fn config_map(&self) -> String {
        names::fit(&format!("{}-experiment", self.name))
    }

    fn kustomization(&self, resources: &[String]) -> Result<String> {
        let text = |value: &str| Value::String(value.to_owned());
        let list = |values: &[String]| Value::Sequence(values.iter().map(|value| text(value)).collect());
        let map = |pairs: Vec<(&str, Value)>| Value::Mapping(pairs.into_iter().map(|(k, v)| (text(k), v)).collect());
        let config_map = map(vec![("name", text(&self.config_map())), ("files", list(&[EXPERIMENT.to_owned()]))]);
        let kustomization = map(vec![
            ("apiVersion", text("kustomize.config.k8s.io/v1beta1")),
            ("kind", text("Kustomization")),
            ("resources", list(resources)),
            ("configMapGenerator", Value::Sequence(vec![config_map])),
        ]);
        documents::text(&[Document::of(kustomization)])
    }

    fn notes(&self, reserved: Resources) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(path) = &self.mount {
            notes.push(format!(
                "results are written to the volume claim `midi-rwkv-runs`, mounted at `{path}`: `volume.yaml` makes it, once a namespace"
            ));
        }
        let inside = |(key, path)| format!("`{key}` is the local path `{path}`: it must be there inside the pods");
        notes.extend(self.local_paths().into_iter().map(inside));
        notes.push(format!(
            "the jobs reserve {reserved} together, also while they wait for each other; on less, apply ingest.yaml, train-*.yaml and eval.yaml one after the other"
        ));
        notes
    }

    /// What the experiment reads and does not make, as far as it names a place on a disk: keys and paths.
    fn local_paths(&self) -> Vec<(String, &str)> {
        let experiment = self.experiment;
        let mut paths = Vec::new();
        if let Some(ingest) = &experiment.ingest {
            match &ingest.source {
                SourceConfig::Synth { .. } => {}
                SourceConfig::Folder { uri } | SourceConfig::Archive { uri } | SourceConfig::Parquet { uri, .. } => {
                    paths.push(("ingest.source.uri".to_owned(), uri.as_str()));
                }
            }
            if let TokenizerConfig::File { path } = &ingest.tokenizer {
                paths.push(("ingest.tokenizer.path".to_owned(), path.as_str()));
            }
        }
        let bases = experiment.bases().map(|(model, base)| (format!("train.{model}.base"), base));
        paths.extend(bases);
        for model in experiment.eval.iter().flat_map(|eval| &eval.models) {
            if let EvalModel::Checkpoint { name, path } = model {
                paths.push((format!("eval.models.{name}.path"), path));
            }
        }
        paths.retain(|(_, path)| local_path_of(path).is_some());
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_volume_is_mounted_at_the_folder_of_all_runs() {
        assert_eq!(mount("runs/demo").expect("fits").as_deref(), Some("/srv/midi-rwkv/runs"));
        assert_eq!(mount("file:///data/runs/demo").expect("fits").as_deref(), Some("/data/runs"));
        assert_eq!(mount("s3://bucket/demo").expect("fits"), None);
        for out in ["/demo", "/tmp/demo", "../demo", "/etc/midi-rwkv/demo", "/", "file:///demo"] {
            assert!(mount(out).is_err(), "{out}");
        }
    }

    #[test]
    fn the_volume_hides_no_folder_of_the_system() {
        for out in ["/usr/local/bin/demo", "/opt/libtorch/x", "/lib/x", "/proc/x", "/sys/x", "/var/./x", "//run/x"] {
            assert!(mount(out).is_err(), "{out}");
        }
        assert_eq!(mount("/mnt/usr/demo").expect("fits").as_deref(), Some("/mnt/usr"));
    }
}
