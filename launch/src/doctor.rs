//! What this machine has and lacks for a run, as a table whose every troubled line says what to do.

use std::path::{Path, PathBuf};

use midi_eval::config::EvalModel;
use midi_ingest::config::{IngestConfig, SourceConfig, TokenizerConfig};
use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::store::{Store, local_path_of};

use crate::experiment::Experiment;
use crate::machine::{self, Machine};

/// The libtorch that the programs are bound to.
const LIBTORCH: &str = "2.11.0";

/// Free disk below which a run is likely to fail, in bytes.
const LITTLE_DISK: u64 = 2 << 30;

/// Memory below which the demo is likely to fail, in bytes.
const LITTLE_MEMORY: u64 = 2 << 30;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do, or that there is nothing to do.
    pub advice: String,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Fine,
    /// A run works without it, or may fail for lack of it.
    Note,
    /// A run cannot work.
    Missing,
}

impl Check {
    fn new(what: impl Into<String>, state: State, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check { what: what.into(), state, found: found.into(), advice: advice.into() }
    }

    fn fine(what: impl Into<String>, found: impl Into<String>) -> Self {
        Check::new(what, State::Fine, found, "nothing to do")
    }

    /// The check that found `error`: its hint is the advice.
    fn failed(what: impl Into<String>, error: &Error) -> Self {
        let text = error.to_string();
        let found = text.split("\nhint: ").next().unwrap_or_default();
        Check::new(what, State::Missing, found, error.hint_text().unwrap_or("repair what the message names"))
    }
}

/// Everything about `machine`, and about `experiment` and `store` where they are given. The version is this program's.
pub fn examine(
    machine: &Machine,
    version: &str,
    experiment: Option<&Result<Experiment>>,
    store: Option<&str>,
) -> Vec<Check> {
    let mut checks = programs(machine, version);
    let trains = checks.iter().any(|check| check.what == "midi-train" && check.state == State::Fine);
    checks.push(libtorch(machine, trains));
    checks.push(Check::fine("cores", machine::cores().to_string()));
    checks.push(memory());
    let out = experiment.and_then(|read| read.as_ref().ok()).map(|experiment| experiment.out.as_str());
    checks.push(disk(&out.and_then(local_path_of).unwrap_or_else(|| PathBuf::from("."))));
    checks.push(gpu());
    checks.push(token(machine));
    match experiment {
        Some(Ok(experiment)) => {
            checks.push(Check::fine("experiment", format!("`{}` is understood", experiment.name)));
            checks.extend(experiment.ingest.as_ref().map(source));
            checks.extend(experiment.ingest.as_ref().and_then(tokenizer));
            checks.extend(weights(experiment));
        }
        Some(Err(error)) => checks.push(Check::failed("experiment", error)),
        None => {}
    }
    checks.extend([store, out].into_iter().flatten().take(1).map(probe));
    checks
}

/// The table as text.
pub fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
    let line = |check: &Check| {
        let state = match check.state {
            State::Fine => "ok",
            State::Note => "note",
            State::Missing => "MISSING",
        };
        let found = check.found.replace('\n', " ");
        let gap = " ".repeat(width + 11);
        match check.state {
            State::Fine => format!("{state:<9}{:<width$}  {found}\n", check.what),
            _ => format!("{state:<9}{:<width$}  {found}\n{gap}to do: {}\n", check.what, check.advice),
        }
    };
    checks.iter().map(line).collect()
}

/// An error with exit code 78 if something required is missing.
///
/// # Errors
/// Something required is missing.
pub fn verdict(checks: &[Check]) -> Result<()> {
    let missing: Vec<&str> = checks.iter().filter(|c| c.state == State::Missing).map(|c| c.what.as_str()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Exit::Mismatch, format!("not everything that a run needs is there: {}", missing.join(", ")))
        .hint("the table says what to do about each"))
}

fn programs(machine: &Machine, version: &str) -> Vec<Check> {
    let check = |name: &str| {
        let Some(path) = machine.find(name) else {
            return Check::new(name, State::Missing, "not found beside `midi-rwkv` nor on PATH", "run `make build`");
        };
        match machine::version_of(&path) {
            Ok(said) if said == format!("{name} {version}") => {
                Check::fine(name, format!("{version} ({})", path.display()))
            }
            Ok(said) => Check::new(
                name,
                State::Missing,
                format!("`{}` says `{said}`, and this is midi-rwkv {version}", path.display()),
                "build all programs together with `make build`",
            ),
            Err(why) => Check::new(
                name,
                State::Missing,
                format!("`{}` does not start: {why}", path.display()),
                "if it names a library, run `make setup`; then `make build`",
            ),
        }
    };
    ["midi-ingest", "midi-train", "midi-eval"].into_iter().map(check).collect()
}

fn libtorch(machine: &Machine, trains: bool) -> Check {
    // Programs that start have found theirs, wherever it is.
    let absent = if trains { State::Note } else { State::Missing };
    let advice = format!("run `make setup`, or set LIBTORCH to the folder of a libtorch {LIBTORCH}");
    let folders = machine.libtorch_folders();
    let Some(folder) = folders.iter().find(|folder| folder.join("build-version").is_file()) else {
        let looked: Vec<String> = folders.iter().map(|folder| format!("`{}`", folder.display())).collect();
        return Check::new("libtorch", absent, format!("not in {}", looked.join(" nor ")), advice);
    };
    let version = fs_err::read_to_string(folder.join("build-version")).unwrap_or_default();
    // Builds for one kind of device say so: 2.11.0+cpu.
    let number = version.trim().split('+').next().unwrap_or_default();
    let found = format!("{} ({})", version.trim(), folder.display());
    if number != LIBTORCH {
        return Check::new("libtorch", State::Missing, format!("{found}, which is not {LIBTORCH}"), advice);
    }
    if !folder.join("lib/libtorch_cpu.so").is_file() {
        return Check::new("libtorch", absent, format!("{found} lacks lib/libtorch_cpu.so"), advice);
    }
    Check::fine("libtorch", found)
}

fn memory() -> Check {
    let Some(bytes) = machine::memory() else {
        return Check::new("memory", State::Note, "unknown", "check that at least 2 GiB are free");
    };
    let found = format!("{:.1} GiB", gibibytes(bytes));
    if bytes < LITTLE_MEMORY {
        return Check::new(
            "memory",
            State::Note,
            found,
            "the demo needs about 2 GiB: lower `global-batch` and `batch`",
        );
    }
    Check::fine("memory", found)
}

fn disk(folder: &Path) -> Check {
    let Some(bytes) = machine::free_disk(folder) else {
        return Check::new("free disk", State::Note, "unknown", "check that at least 2 GiB are free");
    };
    let found = format!("{:.1} GiB at `{}`", gibibytes(bytes), folder.display());
    if bytes < LITTLE_DISK {
        return Check::new("free disk", State::Note, found, "make room, or choose another `out`");
    }
    Check::fine("free disk", found)
}

fn gpu() -> Check {
    match machine::gpus() {
        Some(names) if names.is_empty() => Check::new(
            "GPU",
            State::Note,
            "/dev/nvidia0 is there, `nvidia-smi` is silent",
            "install the driver's tools to see more; training on the CPU works",
        ),
        Some(names) => Check::fine("GPU", names),
        None => Check::new("GPU", State::Note, "none", "nothing, unless you want one: small models train on the CPU"),
    }
}

/// Whether there is a token. Its value is shown nowhere.
fn token(machine: &Machine) -> Check {
    if machine.token {
        return Check::fine("HF_TOKEN", "set, or left by a login");
    }
    let advice = "nothing, unless the data set is gated: accept its terms on its page and set HF_TOKEN";
    Check::new("HF_TOKEN", State::Note, "not set", advice)
}

fn source(ingest: &IngestConfig) -> Check {
    let uri = match &ingest.source {
        SourceConfig::Synth { songs } => return Check::fine("source", format!("built-in composer, {songs} songs")),
        SourceConfig::Folder { uri } | SourceConfig::Archive { uri } | SourceConfig::Parquet { uri, .. } => uri,
    };
    // An archive is one file, and takes no pattern.
    let pattern = !matches!(ingest.source, SourceConfig::Archive { .. }) && uri.contains(['*', '?', '[']);
    match local_path_of(uri) {
        None => Check::fine("source", format!("{uri} (fetched when ingest runs)")),
        Some(path) if path.exists() => Check::fine("source", uri),
        // What a pattern matches is known when ingest opens it.
        Some(_) if pattern => Check::fine("source", format!("{uri} (looked up when ingest runs)")),
        Some(_) => Check::new(
            "source",
            State::Missing,
            format!("`{uri}` is not there"),
            "give another one with `--set ingest.source.uri=PATH`",
        ),
    }
}

fn tokenizer(ingest: &IngestConfig) -> Option<Check> {
    let TokenizerConfig::File { path } = &ingest.tokenizer else { return None };
    Some(if Path::new(path).is_file() {
        Check::fine("tokenizer", path)
    } else {
        let advice = "give another one with `--set ingest.tokenizer.path=PATH`, or learn one with `kind = \"learn\"`";
        Check::new("tokenizer", State::Missing, format!("`{path}` is not there"), advice)
    })
}

/// The models from elsewhere that are tuned or evaluated, where they are local: folders of checkpoints, or files.
fn weights(experiment: &Experiment) -> Vec<Check> {
    let bases = experiment.bases().map(|(model, base)| (format!("base of {model}"), base));
    let models = experiment.eval.iter().flat_map(|eval| &eval.models).filter_map(|model| match model {
        EvalModel::Checkpoint { name, path } => Some((format!("model {name}"), path.as_str())),
        _ => None,
    });
    let check = |(what, path): (String, &str)| {
        let local = local_path_of(path)?;
        let advice = "give the path of a checkpoint or of a file of weights, or the name of a `[train.NAME]`";
        Some(match local.exists() {
            true => Check::fine(what, path),
            false => Check::new(what, State::Missing, format!("`{path}` is not there"), advice),
        })
    };
    bases.chain(models).filter_map(check).collect()
}

/// Whether the store at `uri` creates an object only if there is none, which every commit relies on.
fn probe(uri: &str) -> Check {
    match try_probe(uri) {
        Ok(true) => Check::fine("store", format!("`{uri}` can be written and refuses a second create")),
        Ok(false) => Check::new(
            "store",
            State::Missing,
            format!("`{uri}` let a second create replace the first object"),
            "use a store with conditional writes, such as S3, GCS, Azure or a local disk",
        ),
        Err(error) => Check::failed("store", &error),
    }
}

fn try_probe(uri: &str) -> Result<bool> {
    // Opening a local folder makes it; what was not there before the probe is not there after it.
    let absent: Vec<PathBuf> = local_path_of(uri)
        .map(|folder| folder.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect())
        .unwrap_or_default();
    let refuses = Store::open(uri)?.refuses_a_second_create();
    for folder in absent.iter().filter(|folder| folder.is_dir()) {
        let _ = fs_err::remove_dir(folder);
    }
    refuses
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use super::*;

    /// A machine with the three programs of `version`, or with none, and a libtorch folder that is not whole.
    fn machine(folder: &Path, version: Option<&str>) -> Machine {
        for name in ["midi-ingest", "midi-train", "midi-eval"] {
            let Some(version) = version else { continue };
            let source = folder.join(format!("{name}.sh"));
            fs_err::write(&source, format!("#!/bin/sh\necho {name} {version}\n")).expect("writes");
            // Another process writes what will be started, so that no test started meanwhile holds it open.
            let command = ["-m", "755"];
            let installed = Command::new("install").args(command).arg(&source).arg(folder.join(name)).status();
            assert!(installed.expect("install starts").success(), "{name}");
        }
        let libtorch = ("LIBTORCH".to_owned(), folder.to_str().expect("utf-8").to_owned());
        let variables = BTreeMap::from([libtorch]);
        Machine { folder: Some(folder.to_owned()), variables, ..Machine::default() }
    }

    fn find<'a>(checks: &'a [Check], what: &str) -> &'a Check {
        checks.iter().find(|check| check.what == what).expect("there is such a check")
    }

    #[test]
    fn a_bare_machine_lacks_programs_and_libtorch_and_every_trouble_has_advice() {
        let folder = tempfile::tempdir().expect("folder");
        let checks = examine(&machine(folder.path(), None), "0.1.0", None, None);
        for what in ["midi-ingest", "midi-train", "midi-eval", "libtorch"] {
            assert_eq!(find(&checks, what).state, State::Missing, "{what}");
        }
        assert!(checks.iter().all(|check| !check.advice.is_empty()));
        let error = verdict(&checks).expect_err("things are missing");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.to_string().contains("midi-ingest, midi-train, midi-eval, libtorch"), "{error}");
    }

    #[test]
    fn programs_of_another_version_are_named() {
        let folder = tempfile::tempdir().expect("folder");
        let checks = examine(&machine(folder.path(), Some("0.1.0")), "0.1.0", None, None);
        assert_eq!(find(&checks, "midi-eval").state, State::Fine);
        assert_eq!(find(&checks, "libtorch").state, State::Note, "midi-train starts, so it found its libtorch");
        verdict(&checks).expect("nothing required is missing");
        let checks = examine(&machine(folder.path(), Some("0.0.9")), "0.1.0", None, None);
        assert!(find(&checks, "midi-eval").found.contains("says `midi-eval 0.0.9`"));
        assert_eq!(verdict(&checks).expect_err("another version").exit(), Exit::Mismatch);
    }

    #[test]
    fn libtorch_must_be_whole_and_of_the_right_version() {
        let folder = tempfile::tempdir().expect("folder");
        let machine = machine(folder.path(), None);
        let at = |name: &str| folder.path().join(name);
        fs_err::write(at("build-version"), "2.10.0\n").expect("writes");
        assert!(libtorch(&machine, true).found.contains("which is not 2.11.0"));
        fs_err::write(at("build-version"), "2.11.0+cpu\n").expect("writes");
        assert!(libtorch(&machine, false).found.contains("lacks lib/libtorch_cpu.so"));
        fs_err::create_dir(at("lib")).expect("makes the folder");
        fs_err::write(at("lib/libtorch_cpu.so"), "").expect("writes");
        assert_eq!(libtorch(&machine, false).state, State::Fine);
    }

    fn experiment(text: &str) -> Experiment {
        let file = midi_ingest::job::Experiment::parse("x.toml".as_ref(), text, &[]).expect("parses");
        Experiment::typed(&file).expect("types")
    }

    #[test]
    fn a_pattern_is_looked_up_later_and_an_archive_is_a_file() {
        let folder = tempfile::tempdir().expect("folder");
        let state = |kind: &str, name: &str| {
            let uri = folder.path().join(name);
            let text = format!(
                "[ingest]\nsource = {{ kind = '{kind}', uri = '{}' }}\n\
                 tokenizer = {{ kind = 'learn', vocabulary = 600 }}\n",
                uri.display()
            );
            source(experiment(&text).ingest.as_ref().expect("an ingest")).state
        };
        fs_err::write(folder.path().join("[a].tar"), "").expect("writes");
        for pattern in ["*.mid", "song?.mid", "[ab]/x.mid"] {
            assert_eq!(state("folder", pattern), State::Fine, "{pattern}");
        }
        assert_eq!(state("folder", "absent"), State::Missing);
        assert_eq!((state("archive", "[a].tar"), state("archive", "?.tar")), (State::Fine, State::Missing));
    }

    #[test]
    fn weights_from_elsewhere_must_be_there() {
        let folder = tempfile::tempdir().expect("folder");
        let there = folder.path().join("there.pth");
        fs_err::write(&there, "").expect("writes");
        let text = format!(
            "[train.a]\nmodel = {{ layers = 1, width = 64 }}\nsteps = 1\nmode = 'full'\nbase = '{}'\n\
             [train.b]\nmodel = {{ layers = 1, width = 64 }}\nsteps = 1\nmode = 'full'\nbase = 'a'\n\
             [train.c]\nmodel = {{ layers = 1, width = 64 }}\nsteps = 1\nmode = 'full'\nbase = 'no/such.pth'\n\
             [eval]\nmodels = [{{ kind = 'checkpoint', name = 'far', path = 's3://bucket/x' }}, \
             {{ kind = 'checkpoint', name = 'near', path = 'no/such/folder' }}]\n",
            there.display()
        );
        let checks = weights(&experiment(&text));
        let seen: Vec<(&str, State)> = checks.iter().map(|check| (check.what.as_str(), check.state)).collect();
        assert_eq!(
            seen,
            [("base of a", State::Fine), ("base of c", State::Missing), ("model near", State::Missing)],
            "neither a model of the file nor what lies elsewhere is looked for"
        );
    }

    #[test]
    fn a_local_folder_passes_the_probe_any_number_of_times_and_stays_empty() {
        let folder = tempfile::tempdir().expect("folder");
        let uri = folder.path().to_str().expect("utf-8");
        for _ in 0..2 {
            assert_eq!(probe(uri).state, State::Fine);
        }
        assert_eq!(probe(&format!("{uri}/runs/demo")).state, State::Fine);
        assert_eq!(fs_err::read_dir(folder.path()).expect("reads").count(), 0);
        assert_eq!(probe("gopher://x/y").state, State::Missing);
    }

    #[test]
    fn a_bad_experiment_is_a_line_of_the_table() {
        let folder = tempfile::tempdir().expect("folder");
        let bad = Err(Error::mismatch("in `x.toml`: unknown key `evall`").hint("did you mean `eval`?"));
        let checks = examine(&machine(folder.path(), None), "0.1.0", Some(&bad), None);
        assert_eq!(
            find(&checks, "experiment"),
            &Check::new("experiment", State::Missing, "in `x.toml`: unknown key `evall`", "did you mean `eval`?")
        );
    }
}
