//! An experiment as Kubernetes manifests: the documents of `k8s/base` with its names, numbers, image and TOML set.
//!
//! The base travels inside the program, so rendering needs no checkout. Names are set here and not by kustomize's
//! `nameSuffix`, because a Job cannot be changed once it ran: every run has names of its own.

mod documents;
mod names;

use std::collections::BTreeMap;

use midi_ingest::config::{SourceConfig, TokenizerConfig};
use midi_ingest::job::exit::{Error, Result};
use serde_yaml_ng::Value;

use crate::committed::local_folder;
use crate::experiment::Experiment;
use documents::Document;

const INGEST: &str = include_str!("../../../../k8s/base/ingest.yaml");
const TRAIN: &str = include_str!("../../../../k8s/base/train.yaml");
const EVAL: &str = include_str!("../../../../k8s/base/eval.yaml");
const VOLUME: &str = include_str!("../../../../k8s/base/volume.yaml");

/// The file in the rendered folder, and in the pods, that holds the experiment.
pub const EXPERIMENT: &str = "experiment.toml";

/// The folder in which pods run: a relative `out` is relative to it.
const WORKING_FOLDER: &str = "/srv/midi-rwkv";

/// Lost processes and other failures that count, for each process of a training.
const RESTARTS: u64 = 6;

/// The numbers that an experiment does not hold: they belong to the cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The container image.
    pub image: String,
    /// Pods of ingest, and of generation and scoring.
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
/// An `out` that cannot be a mounted folder: exit code 78.
pub fn render(experiment: &Experiment, settings: &Settings) -> Result<Rendering> {
    let mount = mount(&experiment.out)?;
    let run = Run { experiment, settings, name: names::fit(&experiment.name), mount };
    let mut files = BTreeMap::new();
    let mut resources = Vec::new();
    let mut add = |name: String, documents: &[Document]| -> Result<()> {
        files.insert(name.clone(), documents::text(documents)?);
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
    Ok(Rendering { files, notes: run.notes() })
}

/// Where the volume for results is mounted; `None` if they go to an object store.
fn mount(out: &str) -> Result<Option<String>> {
    let Some(folder) = local_folder(out) else { return Ok(None) };
    let absolute = if folder.starts_with('/') { folder.to_owned() } else { format!("{WORKING_FOLDER}/{folder}") };
    let parts: Vec<&str> = absolute.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let parent = parts.split_last().map(|(_, folders)| format!("/{}", folders.join("/"))).unwrap_or_default();
    // The folders that every pod has for something else, and those that would hide its programs.
    let taken = ["", "/", "/tmp", "/dev", "/dev/shm", "/etc", "/etc/midi-rwkv", "/usr", "/usr/local", "/opt"];
    if parts.contains(&"..") || taken.contains(&parent.as_str()) {
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
            self.set_workers(job)?;
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
            if self.experiment.ingest.is_none() {
                document.drop_init_container("wait")?;
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

    fn eval(&self) -> Result<Vec<Document>> {
        let mut documents = documents::read(EVAL)?;
        for job in &mut documents {
            self.set_common(job)?;
            if job.is_indexed() {
                self.set_workers(job)?;
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
    fn set_workers(&self, job: &mut Document) -> Result<()> {
        job.set(&["spec", "completions"], u64::from(self.settings.workers))?;
        job.set(&["spec", "parallelism"], u64::from(self.settings.workers))?;
        for mut container in job.containers()? {
            if container.has_argument("--workers") {
                container.set_argument("--workers", &self.settings.workers.to_string())?;
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

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(path) = &self.mount {
            notes.push(format!(
                "results are written to the volume claim `midi-rwkv-runs`, mounted at `{path}`: `volume.yaml` makes it, once a namespace"
            ));
        }
        let Some(ingest) = &self.experiment.ingest else { return notes };
        if let SourceConfig::Folder { uri } | SourceConfig::Archive { uri } = &ingest.source
            && local_folder(uri).is_some()
        {
            notes.push(format!("`ingest.source.uri` is the local path `{uri}`: it must be there inside the pods"));
        }
        if let TokenizerConfig::File { path } = &ingest.tokenizer {
            notes.push(format!("`ingest.tokenizer.path` is the local path `{path}`: it must be there inside the pods"));
        }
        notes
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
        for out in ["/demo", "/tmp/demo", "../demo", "/etc/midi-rwkv/demo"] {
            assert!(mount(out).is_err(), "{out}");
        }
    }
}
