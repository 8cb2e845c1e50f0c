//! Finding and reading the checkpoint that counts.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::store::Store;

use super::record::{COMMIT, Commit, FORMAT};
use super::save::{MODEL, OPTIMIZER};
use super::{Checkpoints, file};
use crate::format::{self, safetensors};
use crate::model::{LoraTerms, Parameters, Rwkv7};
use crate::wkv::WkvBackend;

/// A checkpoint whose hashes hold.
#[derive(Debug)]
pub struct Loaded {
    /// Its record.
    pub commit: Commit,
    /// The weights, in the order of the state dictionary.
    pub parameters: Parameters,
    /// The optimiser's moments.
    pub moments: Parameters,
}

impl Checkpoints {
    /// The newest checkpoint whose hashes hold, or `None` if there is no checkpoint. `warn` is told of each
    /// newer one that is broken.
    ///
    /// # Errors
    /// There are checkpoints, but all are broken (65); one is of another format version (78); or the store
    /// fails (74).
    pub fn newest_valid(&self, warn: &mut dyn FnMut(&str)) -> Result<Option<Loaded>> {
        let steps = self.steps()?;
        let mut torn = 0;
        for &step in steps.iter().rev() {
            match self.load(step) {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(error) if error.exit() == Exit::BadData => {
                    warn(&format!("checkpoint {step} is passed over: {error}"));
                    torn += usize::from(self.is_torn(step)?);
                }
                Err(error) => return Err(error),
            }
        }
        // A record that was cut while it was written never committed anything.
        if torn == steps.len() {
            return Ok(None);
        }
        Err(Error::data(format!("none of the {} checkpoints in `{}` is whole", steps.len(), self.shown_folder()))
            .hint("remove the folder to train from the start"))
    }

    /// The checkpoint that is the trained model, or `None` if there is no checkpoint: where early stopping looks for
    /// the lowest validation loss, the one of that loss, and otherwise the newest. `warn` is told of broken ones; if
    /// the best one is broken, the newest stands for it.
    ///
    /// # Errors
    /// As [`Checkpoints::newest_valid`].
    pub fn trained(&self, warn: &mut dyn FnMut(&str)) -> Result<Option<Loaded>> {
        let Some(newest) = self.newest_valid(warn)? else { return Ok(None) };
        let Some(best) = newest.commit.lowest.filter(|lowest| lowest.step != newest.commit.step) else {
            return Ok(Some(newest));
        };
        match self.load(best.step) {
            Ok(loaded) => Ok(Some(loaded)),
            Err(error) if error.exit() == Exit::BadData => {
                let newest_step = newest.commit.step;
                warn(&format!("the best checkpoint {} is passed over for {newest_step}: {error}", best.step));
                Ok(Some(newest))
            }
            Err(error) => Err(error),
        }
    }

    /// The checkpoint of `step`.
    ///
    /// # Errors
    /// It is missing or broken (65), of another format version (78), or the store fails (74).
    pub fn load(&self, step: u64) -> Result<Loaded> {
        let prefix = self.at(step, "");
        let commit = read_commit(&self.store, &prefix)?;
        if commit.step != step {
            return Err(Error::data(format!("the record in `{}` is of step {}", self.shown(step), commit.step)));
        }
        let parameters = read_model(&self.store, &prefix, &commit)?;
        let moments = read_part(&self.store, &prefix, &commit, OPTIMIZER)?;
        Ok(Loaded { commit, parameters, moments })
    }

    /// Whether the record of `step` is not even JSON.
    fn is_torn(&self, step: u64) -> Result<bool> {
        let record = self.store.get(&self.at(step, COMMIT))?;
        Ok(record.is_none_or(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).is_err()))
    }

    fn shown_folder(&self) -> String {
        format!("{}/{}", self.store.shown(), self.folder).trim_end_matches('/').to_owned()
    }
}

/// The model of the checkpoint at `uri`, a path or a URL: one checkpoint's folder, the folder of all checkpoints of a
/// model, of which [`Checkpoints::trained`] is taken, or a file of weights. `warn` is told of broken checkpoints.
///
/// # Errors
/// There is no checkpoint (78), or as [`Checkpoints::newest_valid`].
pub fn open_model(uri: &str, backend: Arc<dyn WkvBackend>, warn: &mut dyn FnMut(&str)) -> Result<(Rwkv7, Commit)> {
    let (trained, commit, _) = open_parameters(uri, warn)?;
    let Some(tuning) = &commit.tuning else { return Ok((Rwkv7::new(trained, backend)?, commit)) };
    // So that `.` and names without their folder have a folder above.
    let whole = fs_err::canonicalize(uri).ok().and_then(|path| path.into_os_string().into_string().ok());
    let base_uri = beside(whole.as_deref().unwrap_or(uri), &tuning.base);
    let (mut all, base, _) = open_parameters(&base_uri, warn).map_err(|e| {
        Error::new(e.exit(), format!("the base of the tuned model `{uri}` cannot be opened")).because(e)
    })?;
    if base.hash() != tuning.base_hash {
        return Err(Error::mismatch(format!("`{base_uri}` is not the base that `{uri}` was tuned on"))
            .hint("put the base's checkpoint of that time back, or tune again"));
    }
    for (name, tensor) in trained.iter() {
        all.insert(name, tensor.shallow_clone());
    }
    let terms = LoraTerms { scale: tuning.scale, ..LoraTerms::default() };
    Ok((Rwkv7::tuned(all, backend, terms)?, commit))
}

/// Where the base of a tuned model is: what the record says, below the model's own folder if it says `..`.
fn beside(uri: &str, base: &str) -> String {
    let Some(sibling) = base.strip_prefix("../") else { return base.to_owned() };
    let uri = uri.trim_end_matches('/');
    let (parent, last) = uri.rsplit_once('/').unwrap_or((".", uri));
    let folder =
        if last.starts_with("step-") { parent.rsplit_once('/').map_or(".", |(above, _)| above) } else { parent };
    format!("{folder}/{sibling}")
}

/// The tensors of the checkpoint at `uri`, as [`open_model`] finds it, its record and its own folder; of a tuned
/// model the tensors that were trained.
///
/// # Errors
/// As [`open_model`].
pub fn open_parameters(uri: &str, warn: &mut dyn FnMut(&str)) -> Result<(Parameters, Commit, String)> {
    let none = || {
        Error::mismatch(format!("`{uri}` holds no checkpoint")).hint(
            "give a folder such as `runs/demo/train/<model>`, one of its `step-…` folders, or a file of weights \
             (.safetensors, .pth, .bin)",
        )
    };
    if format::is_file(uri) {
        let (parameters, commit) = file::open(uri)?;
        return Ok((parameters, commit, uri.to_owned()));
    }
    let store = Store::open_existing(uri)?.ok_or_else(none)?;
    if store.get(COMMIT)?.is_some() {
        let commit = read_commit(&store, "")?;
        let parameters = read_model(&store, "", &commit)?;
        return Ok((parameters, commit, uri.trim_end_matches('/').to_owned()));
    }
    let checkpoints = Checkpoints::new(store, "");
    let Loaded { parameters, commit, .. } = checkpoints.trained(warn)?.ok_or_else(none)?;
    let step = checkpoints.at(commit.step, "");
    let folder = format!("{}/{}", uri.trim_end_matches('/'), step.trim_end_matches('/'));
    Ok((parameters, commit, folder))
}

fn read_commit(store: &Store, prefix: &str) -> Result<Commit> {
    let name = format!("{prefix}{COMMIT}");
    let bytes = store.read(&name)?;
    let shown = format!("{}/{name}", store.shown());
    // The version is read by itself, since the rest of another version may not be readable.
    let format = serde_json::from_slice::<serde_json::Value>(&bytes)
        .map_err(|e| Error::data(format!("`{shown}` is not a commit record")).because(e))?;
    match format.get("format").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(FORMAT) => {}
        Some(version) => {
            return Err(Error::mismatch(format!(
                "`{shown}` is of checkpoint format {version}; this version reads {FORMAT}"
            )));
        }
        None => return Err(Error::data(format!("`{shown}` is not a commit record"))),
    }
    serde_json::from_value(format).map_err(|e| Error::data(format!("`{shown}` is not a commit record")).because(e))
}

/// The tensors of one part, after its size and hash were found right.
fn read_part(store: &Store, prefix: &str, commit: &Commit, name: &str) -> Result<Parameters> {
    let at = format!("{prefix}{name}");
    let shown = format!("{}/{at}", store.shown());
    let part = commit.files.iter().find(|part| part.name == name);
    let part = part.ok_or_else(|| Error::data(format!("the record beside `{shown}` does not vouch for it")))?;
    let bytes = store.read(&at)?;
    if !part.is(&bytes) {
        return Err(Error::data(format!("`{shown}` is not what its record vouches for")));
    }
    Ok(safetensors::read(&bytes, &shown)?.0)
}

/// The weights, in the order of the state dictionary, after they were found to be of the record's shape.
fn read_model(store: &Store, prefix: &str, commit: &Commit) -> Result<Parameters> {
    let read = read_part(store, prefix, commit, MODEL)?;
    if commit.tuning.is_some() {
        return Ok(read);
    }
    commit.expect_shape(read.shape()?)?;
    read.in_order(&commit.shape.parameters())
}
