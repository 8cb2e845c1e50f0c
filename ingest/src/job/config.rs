//! One TOML file an experiment: read strictly, overridden by `--set a.b=value`, written back resolved.
//!
//! A file holds `name`, `seed`, `out` and one table a stage. Every program of the pipeline takes the
//! same file and reads its own table; an unknown key anywhere is an error that names the nearest known one.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::exit::{Error, Result};

/// The top-level keys of an experiment file.
const KEYS: [&str; 6] = ["name", "seed", "out", "ingest", "train", "eval"];

/// A parsed experiment file with its overrides applied; stages take their tables from it.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The file it was read from.
    pub path: PathBuf,
    /// The run's name: letters, digits, `-` and `_`.
    pub name: String,
    /// The seed of everything random in the run.
    pub seed: u64,
    /// Where everything is written: a folder, or a URL of an object store.
    pub out: String,
    table: toml::Table,
}

impl Experiment {
    /// Reads `path` and applies `sets`, each of the form `a.b=value` with a TOML value or plain text.
    ///
    /// # Errors
    /// A file that cannot be read, is not TOML, holds an unknown top-level key or a bad name, and an
    /// override that is not of the form `key=value`: all end with exit code 78.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        let shown = path.display();
        let text = fs_err::read_to_string(path).map_err(|e| {
            Error::mismatch("cannot read the experiment file")
                .because(e)
                .hint("give the path of a TOML file, for example `configs/demo.toml`")
        })?;
        Self::parse(path, &text, sets).map_err(|e| {
            let hint = e.hint_text().map(str::to_owned);
            let error = Error::mismatch(format!("in `{shown}`")).because(e.without_hint());
            match hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
    }

    /// As [`Experiment::load`], on text that was read already; `path` only names it.
    ///
    /// # Errors
    /// As [`Experiment::load`].
    pub fn parse(path: &Path, text: &str, sets: &[String]) -> Result<Self> {
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::mismatch(e.to_string()))?;
        for set in sets {
            apply(&mut table, set)?;
        }
        if table.get("train").is_some_and(|train| !train.is_table()) {
            return Err(Error::mismatch("`train` must hold one table a model, `[train.NAME]`"));
        }
        for key in table.keys() {
            if !KEYS.contains(&key.as_str()) {
                return Err(unknown(key, "the experiment", &KEYS));
            }
        }
        let name = match table.get("name") {
            Some(toml::Value::String(name)) => name.clone(),
            Some(_) => return Err(Error::mismatch("`name` must be text")),
            None => path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 40 || !name.chars().all(fits) {
            return Err(Error::mismatch(format!("`name` is `{name}`; it must be 1 to 40 letters, digits, `-` or `_`")));
        }
        let seed = match table.get("seed") {
            None => 0,
            Some(toml::Value::Integer(seed)) if *seed >= 0 => *seed as u64,
            Some(other) => return Err(Error::mismatch(format!("`seed` is {other}; it must be an integer from 0 up"))),
        };
        let out = match table.get("out") {
            None => format!("runs/{name}"),
            Some(toml::Value::String(out)) if !out.is_empty() => out.clone(),
            Some(_) => return Err(Error::mismatch("`out` must be a folder or a URL")),
        };
        table.insert("name".into(), name.clone().into());
        table.insert("seed".into(), (seed as i64).into());
        table.insert("out".into(), out.clone().into());
        Ok(Experiment { path: path.to_owned(), name, seed, out, table })
    }

    /// Whether the file has the table `[name]`.
    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// The names of the sub-tables of `[section]`, sorted: the models of `[train.<model>]`.
    pub fn names(&self, section: &str) -> Vec<String> {
        match self.table.get(section) {
            Some(toml::Value::Table(table)) => table.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// The table at `key` (dots descend), deserialised strictly; a missing table reads as an empty one.
    ///
    /// # Errors
    /// An unknown key, a missing required one or a value of the wrong kind: exit code 78, with the key's path.
    pub fn section<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let mut value = toml::Value::Table(self.table.clone());
        for part in key.split('.') {
            value = match value {
                toml::Value::Table(mut table) => {
                    table.remove(part).unwrap_or_else(|| toml::Value::Table(toml::Table::new()))
                }
                _ => return Err(Error::mismatch(format!("`{key}` must be a table"))),
            };
        }
        T::deserialize(value).map_err(|e: toml::de::Error| explain(key, &e))
    }

    /// The same experiment with `value` as its table at `key` (dots descend, missing tables are made): a stage puts its
    /// own table there as it read it, and so the defaults that the file leaves out stand in [`Experiment::resolved`].
    ///
    /// # Errors
    /// What stands above `key` is no table (78), or `value` is none that TOML can hold (1).
    pub fn with_section(&self, key: &str, value: &impl Serialize) -> Result<Self> {
        let value = toml::Value::try_from(value)
            .map_err(|e| Error::bug(format!("the table `{key}` does not serialise")).because(e))?;
        let (above, last) =
            key.rsplit_once('.').map_or((Vec::new(), key), |(above, last)| (above.split('.').collect(), last));
        let mut experiment = self.clone();
        let at = descend(&mut experiment.table, &above)
            .map_err(|part| Error::mismatch(format!("`{key}`: `{part}` must be a table")))?;
        at.insert(last.to_owned(), value);
        Ok(experiment)
    }

    /// The tables with `--set` applied, as TOML text: what is written as `config.toml` beside the output.
    pub fn resolved(&self) -> String {
        toml::to_string_pretty(&self.table).unwrap_or_else(|e| format!("# cannot be shown: {e}\n"))
    }
}

impl Error {
    /// The same error with the hint taken away, to be wrapped by one that carries it.
    #[must_use]
    pub(crate) fn without_hint(self) -> Self {
        let text = self.to_string();
        let text = text.split("\nhint: ").next().unwrap_or_default().to_owned();
        Error::new(self.exit(), text)
    }
}

/// Applies one `a.b=value`; the value is read as TOML, and as plain text where it is not TOML.
fn apply(table: &mut toml::Table, set: &str) -> Result<()> {
    let wrong = || {
        Error::mismatch(format!("the override `{set}` is not of the form `key=value`"))
            .hint("for example `--set ingest.source.uri=/data/pop909.tar.gz`")
    };
    let (key, text) = set.split_once('=').ok_or_else(wrong)?;
    let value = format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let parts: Vec<&str> = key.trim().split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(wrong());
    }
    let (last, folders) = parts.split_last().ok_or_else(wrong)?;
    let at = descend(table, folders)
        .map_err(|part| Error::mismatch(format!("the override `{set}`: `{part}` is not a table")))?;
    at.insert((*last).to_owned(), value);
    Ok(())
}

/// The table below `table` that `parts` lead to, made where it is missing; the part that is no table if there is one.
fn descend<'a, 'p>(table: &'a mut toml::Table, parts: &[&'p str]) -> std::result::Result<&'a mut toml::Table, &'p str> {
    let mut at = table;
    for part in parts {
        let next = at.entry(*part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = match next {
            toml::Value::Table(table) => table,
            _ => return Err(part),
        };
    }
    Ok(at)
}

/// Turns serde's message into one with the key's path, and adds the nearest known key.
fn explain(key: &str, error: &toml::de::Error) -> Error {
    let text = error.to_string();
    let text = text.trim().replace('\n', " ");
    let wrapped = Error::mismatch(format!("`{key}`: {text}"));
    // toml names the table at the end, which is none of the keys that it lists.
    let listed = text.rsplit_once(" in `").map_or(text.as_str(), |(listed, _)| listed);
    let mut quoted = listed.split('`').skip(1).step_by(2);
    if text.contains("unknown field") || text.contains("unknown variant") {
        let wrong = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        if let Some(near) = nearest(wrong, &known) {
            return wrapped.hint(format!("did you mean `{near}`?"));
        }
    }
    wrapped
}

fn unknown(key: &str, place: &str, known: &[&str]) -> Error {
    let error = Error::mismatch(format!("unknown key `{key}` in {place}; known are {}", known.join(", ")));
    match nearest(key, known) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

/// The one of `known` that was probably meant by `wrong`, if one is near.
pub(crate) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|k| (strsim::damerau_levenshtein(wrong, k), *k)).min()?;
    (near.0 <= 1 + wrong.len() / 3).then_some(near.1)
}

/// A fingerprint of configuration: SHA-256 over the canonical JSON of `parts`, as 64 hexadecimal digits.
///
/// Two stages agree on what was run exactly when their keys are equal.
///
/// # Panics
/// Never for the plain data types that configurations are made of: they always serialise to JSON.
pub fn key_of(parts: &impl Serialize) -> String {
    #[expect(clippy::expect_used, reason = "plain data always serialises")]
    let value = serde_json::to_value(parts).expect("configuration serialises");
    hex::encode(Sha256::digest(value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Stage {
        #[serde(default)]
        top_k: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inner: Option<Inner>,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(default)]
        passes: u32,
    }

    fn parse(text: &str, sets: &[&str]) -> Result<Experiment> {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Experiment::parse(Path::new("x/demo.toml"), text, &sets)
    }

    #[test]
    fn defaults_come_from_the_file_name() {
        let e = parse("", &[]).expect("an empty file is an experiment");
        assert_eq!((e.name.as_str(), e.seed, e.out.as_str()), ("demo", 0, "runs/demo"));
    }

    #[test]
    fn an_override_wins_and_makes_tables() {
        let e = parse("[eval]\ntop-k = 3\n", &["eval.top-k=7", "ingest.source.uri=/a b/c.tar"]).expect("parses");
        assert_eq!(e.section::<Stage>("eval").expect("strict").top_k, 7);
        assert!(e.resolved().contains("uri = \"/a b/c.tar\""));
    }

    #[test]
    fn a_typo_names_the_nearest_key() {
        let error = parse("[evall]\n", &[]).expect_err("unknown table");
        assert!(error.to_string().ends_with("hint: did you mean `eval`?"), "{error}");
        let error = parse("[eval]\ntop-j = 3\n", &[]).expect("parses").section::<Stage>("eval").expect_err("typo");
        assert!(error.to_string().contains("`eval`: unknown field `top-j`"), "{error}");
        assert!(error.to_string().ends_with("hint: did you mean `top-k`?"), "{error}");
    }

    #[test]
    fn the_table_of_a_typo_is_no_near_key() {
        let error = parse("", &["eval.inner.inner-x=1"]).expect("parses").section::<Stage>("eval").expect_err("typo");
        assert!(error.to_string().contains("in `inner`") && !error.to_string().contains("hint"), "{error}");
    }

    #[test]
    fn a_table_as_it_was_read_stands_with_its_defaults() {
        let e = parse("[eval]\ninner = {}\n", &[]).expect("parses");
        let whole = e.with_section("eval", &e.section::<Stage>("eval").expect("reads")).expect("a table");
        assert!(
            whole.resolved().contains("top-k = 0") && whole.resolved().contains("passes = 0"),
            "{}",
            whole.resolved()
        );
        let again = parse(&whole.resolved(), &[]).expect("feeds back");
        assert_eq!(again.resolved(), whole.resolved());
        let model = e.with_section("train.small", &e.section::<Stage>("eval").expect("reads")).expect("a table");
        assert_eq!(model.names("train"), ["small"]);
        assert_eq!(e.with_section("name.x", &3).expect_err("no table").exit(), super::super::exit::Exit::Mismatch);
    }

    #[test]
    fn what_is_no_table_of_models_is_refused() {
        for text in ["train = 3\n", "[[train]]\nsteps = 1\n"] {
            let error = parse(text, &[]).expect_err("refused");
            assert!(error.to_string().contains("`[train.NAME]`"), "{error}");
        }
        assert_eq!(parse("[train]\n", &[]).expect("parses").names("train"), [""; 0]);
    }

    #[test]
    fn the_resolved_text_feeds_back_unchanged() {
        let e = parse("seed = 3\n[eval]\ntop-k = 3\n", &["eval.top-k=4"]).expect("parses");
        let again = parse(&e.resolved(), &[]).expect("feeds back");
        assert_eq!(again.resolved(), e.resolved());
    }
}
