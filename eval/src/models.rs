//! The models under comparison, opened: a network, or a rule that needs none.

use std::sync::Arc;

use midi_ingest::job::config::Experiment;
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::shard::VocabularyRecord;
use midi_train::checkpoint::open_model;
use midi_train::config::TrainConfig;
use midi_train::model::{Rwkv7, Shape, init};
use midi_train::wkv::{CpuWkv, WkvBackend};

use crate::config::EvalModel;

/// A model that can answer.
#[derive(Debug)]
pub enum Answerer {
    /// A network.
    Network(Box<Rwkv7>),
    /// The bars just before the section.
    CopyBefore,
}

/// Opens `model`; returns it with the hash of its weights. Of a folder of checkpoints it is the best one where
/// `early-stop` is configured, and the newest otherwise. `warn` is told of broken checkpoints.
///
/// # Errors
/// There is no checkpoint, or it speaks another vocabulary (78); the store fails (74).
pub fn open(
    model: &EvalModel,
    experiment: &Experiment,
    vocabulary: &VocabularyRecord,
    warn: &mut dyn FnMut(&str),
) -> Result<(Answerer, String)> {
    let backend = || -> Arc<dyn WkvBackend> { Arc::new(CpuWkv::new()) };
    let mut trained = |uri: &str| {
        let (network, commit) = open_model(uri, backend(), warn)?;
        commit.expect_vocabulary(&vocabulary.fingerprint, vocabulary.size)?;
        Ok((Answerer::Network(Box::new(network)), commit.hash()))
    };
    match model {
        EvalModel::CopyBefore { .. } => Ok((Answerer::CopyBefore, "none".to_owned())),
        EvalModel::Trained { train, .. } => trained(&format!("{}/train/{train}", experiment.out)),
        EvalModel::Checkpoint { path, .. } => trained(path),
        EvalModel::Untrained { train, .. } => {
            if !experiment.names("train").contains(train) {
                return Err(Error::mismatch(format!("there is no `[train.{train}]`"))
                    .hint("`train` of an `[[eval.models]]` entry names one of the `[train.NAME]` tables"));
            }
            let config: TrainConfig = experiment.section(&format!("train.{train}"))?;
            let shape = Shape::new(config.model.layers, config.model.width, vocabulary.size)?;
            let network = Rwkv7::new(init::init(shape, experiment.seed), backend())?;
            // Another shape is another network, whatever its name.
            let hash = format!("untrained-L{}-D{}-seed-{}", shape.layers, shape.width, experiment.seed);
            Ok((Answerer::Network(Box::new(network)), hash))
        }
    }
}
