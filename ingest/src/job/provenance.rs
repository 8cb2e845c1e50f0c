//! What ran, beside what it produced: `config.toml`, `plan.json` and `env.json`, written before any work.

use serde::Serialize;

use super::config::Experiment;
use super::exit::{Error, Result};
use crate::store::Store;

/// The machine and program that a job ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Env {
    /// Program and version.
    pub program: String,
    /// Operating system and architecture.
    pub platform: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Further facts worth keeping, by name.
    pub facts: std::collections::BTreeMap<String, String>,
}

impl Env {
    /// The environment of the running process.
    pub fn of(program: &str, version: &str) -> Self {
        Env {
            program: format!("{program} {version}"),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            facts: std::collections::BTreeMap::new(),
        }
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<String>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

/// Writes the three files under `folder` of `store`.
///
/// # Errors
/// The store fails: exit code 74.
pub fn write(store: &Store, folder: &str, experiment: &Experiment, plan: &impl Serialize, env: &Env) -> Result<()> {
    let json =
        |value: serde_json::Result<String>| value.map_err(|e| Error::bug("a plan does not serialise").because(e));
    let at = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    store.put(&at("config.toml"), experiment.resolved().into_bytes())?;
    store.put(&at("plan.json"), json(serde_json::to_string_pretty(plan))?.into_bytes())?;
    store.put(&at("env.json"), json(serde_json::to_string_pretty(env))?.into_bytes())
}
