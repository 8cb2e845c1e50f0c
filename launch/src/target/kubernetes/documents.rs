//! YAML documents of the base, with the few edits that rendering needs. Whatever an edit does not find is a bug, since
//! the base is part of the program.

use midi_ingest::job::exit::{Error, Result};
use serde::Deserialize;
use serde_yaml_ng::Value;

/// What stands above every rendered file.
const HEADER: &str = "# Rendered by `midi-rwkv render`; the manifests in k8s/base explain the values.\n";

/// One Kubernetes object.
#[derive(Clone, Debug)]
pub(super) struct Document {
    value: Value,
}

/// One container of a Job's pods, to be changed in place.
#[derive(Debug)]
pub(super) struct Container<'a> {
    value: &'a mut Value,
}

/// What pods reserve on their nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    cpus: u64,
    /// In MiB.
    memory: u64,
}

impl std::ops::Add for Resources {
    type Output = Resources;

    fn add(self, other: Resources) -> Resources {
        Resources { cpus: self.cpus + other.cpus, memory: self.memory + other.memory }
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} CPUs and {} GiB", self.cpus, self.memory.div_ceil(1024))
    }
}

/// The documents of a file.
pub(super) fn read(text: &str) -> Result<Vec<Document>> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).map(Document::of))
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::bug("an embedded manifest is not YAML").because(e))
}

/// The text of a file of `documents`.
pub(super) fn text(documents: &[Document]) -> Result<String> {
    let texts: Vec<String> = documents
        .iter()
        .map(|document| serde_yaml_ng::to_string(&document.value))
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::bug("a manifest cannot be written as YAML").because(e))?;
    Ok(format!("{HEADER}{}", texts.join("---\n")))
}

impl Document {
    pub(super) fn of(value: Value) -> Self {
        Document { value }
    }

    pub(super) fn kind(&self) -> &str {
        self.value.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn name(&mut self) -> Result<String> {
        let name = at(&mut self.value, &["metadata", "name"])?;
        name.as_str().map(str::to_owned).ok_or_else(|| lacks("a name"))
    }

    pub(super) fn is_indexed(&self) -> bool {
        let mode = self.value.get("spec").and_then(|spec| spec.get("completionMode")).and_then(Value::as_str);
        mode == Some("Indexed")
    }

    /// Replaces the value at `path`.
    pub(super) fn set(&mut self, path: &[&str], value: impl Into<Value>) -> Result<()> {
        *at(&mut self.value, path)? = value.into();
        Ok(())
    }

    /// Replaces the value of every key `key`, at any depth: labels and the selectors that match them.
    pub(super) fn set_everywhere(&mut self, key: &str, value: &str) {
        fn walk(at: &mut Value, key: &str, value: &str) {
            match at {
                Value::Mapping(map) => {
                    for (k, v) in map.iter_mut() {
                        if k.as_str() == Some(key) {
                            *v = Value::from(value);
                        } else {
                            walk(v, key, value);
                        }
                    }
                }
                Value::Sequence(list) => list.iter_mut().for_each(|item| walk(item, key, value)),
                _ => {}
            }
        }
        walk(&mut self.value, key, value);
    }

    /// Replaces the value at `path` of the pods' volume `name`.
    pub(super) fn set_volume(&mut self, name: &str, path: &[&str], value: &str) -> Result<()> {
        let volumes = at(&mut self.value, &["spec", "template", "spec", "volumes"])?;
        *at(named(volumes, name)?, path)? = value.into();
        Ok(())
    }

    pub(super) fn drop_volume(&mut self, name: &str) -> Result<()> {
        drop_named(at(&mut self.value, &["spec", "template", "spec", "volumes"])?, name)
    }

    /// Removes an init container, and their list with the last one.
    pub(super) fn drop_init_container(&mut self, name: &str) -> Result<()> {
        let pod = at(&mut self.value, &["spec", "template", "spec"])?;
        let list = at(pod, &["initContainers"])?;
        drop_named(list, name)?;
        if list.as_sequence().is_some_and(Vec::is_empty)
            && let Some(map) = pod.as_mapping_mut()
        {
            map.remove("initContainers");
        }
        Ok(())
    }

    /// All containers of the pods, those that run first included.
    pub(super) fn containers(&mut self) -> Result<Vec<Container<'_>>> {
        let pod = at(&mut self.value, &["spec", "template", "spec"])?;
        let map = pod.as_mapping_mut().ok_or_else(|| lacks("a pod"))?;
        let lists = map.iter_mut().filter(|(key, _)| matches!(key.as_str(), Some("initContainers" | "containers")));
        let containers = lists.filter_map(|(_, list)| list.as_sequence_mut()).flatten();
        Ok(containers.map(|value| Container { value }).collect())
    }

    /// What all pods of a Job reserve while they run together, and nothing for other objects. Init containers run one by
    /// one, before the others.
    pub(super) fn reserved(&self) -> Result<Resources> {
        let spec = self.value.get("spec").filter(|_| self.kind() == "Job");
        let Some(spec) = spec else { return Ok(Resources::default()) };
        let pods = spec.get("parallelism").and_then(Value::as_u64).ok_or_else(|| lacks("parallelism"))?;
        let mut pod = Resources::default();
        let mut first = Resources::default();
        let template = spec.get("template").and_then(|template| template.get("spec")).ok_or_else(|| lacks("a pod"))?;
        for container in list(template, "containers") {
            pod = pod + requested(container)?;
        }
        for container in list(template, "initContainers") {
            let alone = requested(container)?;
            first = Resources { cpus: first.cpus.max(alone.cpus), memory: first.memory.max(alone.memory) };
        }
        Ok(Resources { cpus: pods * pod.cpus.max(first.cpus), memory: pods * pod.memory.max(first.memory) })
    }

    pub(super) fn container(&mut self, name: &str) -> Result<Container<'_>> {
        let found = self.containers()?.into_iter().find(|c| c.value.get("name").and_then(Value::as_str) == Some(name));
        found.ok_or_else(|| lacks(name))
    }
}

impl Container<'_> {
    pub(super) fn set_image(&mut self, image: &str) -> Result<()> {
        *at(self.value, &["image"])? = image.into();
        Ok(())
    }

    pub(super) fn has_argument(&self, flag: &str) -> bool {
        self.arguments().is_some_and(|words| words.iter().any(|word| word.as_str() == Some(flag)))
    }

    fn arguments(&self) -> Option<&Vec<Value>> {
        self.value.get("args")?.as_sequence()
    }

    /// Replaces the word after `flag`.
    pub(super) fn set_argument(&mut self, flag: &str, value: &str) -> Result<()> {
        let words = at(self.value, &["args"])?.as_sequence_mut().ok_or_else(|| lacks("args"))?;
        let place = words.iter().position(|word| word.as_str() == Some(flag)).ok_or_else(|| lacks(flag))?;
        *words.get_mut(place + 1).ok_or_else(|| lacks(flag))? = value.into();
        Ok(())
    }

    /// Adds words at the end.
    pub(super) fn add_arguments(&mut self, words: [&str; 2]) -> Result<()> {
        let arguments = at(self.value, &["args"])?.as_sequence_mut().ok_or_else(|| lacks("args"))?;
        arguments.extend(words.map(Value::from));
        Ok(())
    }

    pub(super) fn set_variable(&mut self, name: &str, value: &str) -> Result<()> {
        *at(named(at(self.value, &["env"])?, name)?, &["value"])? = value.into();
        Ok(())
    }

    /// Adds a limit of a resource that the base does not ask for.
    pub(super) fn set_limit(&mut self, resource: &str, count: u64) -> Result<()> {
        let limits = at(self.value, &["resources", "limits"])?.as_mapping_mut().ok_or_else(|| lacks("limits"))?;
        limits.insert(resource.into(), count.into());
        Ok(())
    }

    pub(super) fn set_mount(&mut self, volume: &str, path: &str) -> Result<()> {
        *at(named(at(self.value, &["volumeMounts"])?, volume)?, &["mountPath"])? = path.into();
        Ok(())
    }

    pub(super) fn drop_mount(&mut self, volume: &str) -> Result<()> {
        drop_named(at(self.value, &["volumeMounts"])?, volume)
    }
}

fn lacks(what: &str) -> Error {
    Error::bug(format!("an embedded manifest lacks `{what}`"))
}

/// The value that stands at `path` of mappings.
fn at<'a>(value: &'a mut Value, path: &[&str]) -> Result<&'a mut Value> {
    path.iter().try_fold(value, |value, key| value.get_mut(*key).ok_or_else(|| lacks(&path.join("."))))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_sequence).map(Vec::as_slice).unwrap_or_default()
}

/// What a container asks for; the base has whole CPUs, and memory in Gi and Mi.
fn requested(container: &Value) -> Result<Resources> {
    let requests = container.get("resources").and_then(|resources| resources.get("requests"));
    let text = |name: &str| requests.and_then(|requests| requests.get(name)).and_then(Value::as_str);
    let memory = text("memory").and_then(|size| match (size.strip_suffix("Gi"), size.strip_suffix("Mi")) {
        (Some(gibibytes), _) => Some(1024 * gibibytes.parse::<u64>().ok()?),
        (_, mebibytes) => mebibytes?.parse().ok(),
    });
    let cpus = text("cpu").and_then(|count| count.parse().ok());
    Ok(Resources {
        cpus: cpus.ok_or_else(|| lacks("requests.cpu"))?,
        memory: memory.ok_or_else(|| lacks("requests.memory"))?,
    })
}

/// The item of a list whose `name` is `name`.
fn named<'a>(list: &'a mut Value, name: &str) -> Result<&'a mut Value> {
    let items = list.as_sequence_mut().ok_or_else(|| lacks(name))?;
    items.iter_mut().find(|item| item.get("name").and_then(Value::as_str) == Some(name)).ok_or_else(|| lacks(name))
}

fn drop_named(list: &mut Value, name: &str) -> Result<()> {
    named(list, name)?;
    if let Some(items) = list.as_sequence_mut() {
        items.retain(|item| item.get("name").and_then(Value::as_str) != Some(name));
    }
    Ok(())
}
