//! What a run has committed already, seen from outside: the launcher reads commit records and never writes them.

use midi_ingest::job::exit::Result;
use midi_ingest::shard::{MANIFEST, Manifest, Split};
use midi_ingest::store::Store;

use crate::plan::Stage;

/// How far a stage has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Nothing is committed.
    Nothing,
    /// Some of it is, described.
    Partly(String),
    /// All of it is, described. The stage itself checks that it was made by the same configuration.
    All(String),
}

/// The folder of a run, if it is there. Looking at a local folder does not make it.
#[derive(Debug)]
pub struct Output {
    out: String,
    store: Option<Store>,
}

impl Output {
    /// Opens `out`, a folder or a URL.
    ///
    /// # Errors
    /// A URL that is not understood (78), or a folder that cannot be opened (74).
    pub fn open(out: &str) -> Result<Self> {
        Ok(Output { out: out.to_owned(), store: Store::open_existing(out)? })
    }

    /// What `stage` has committed.
    ///
    /// # Errors
    /// The store fails (74), or a manifest is there and cannot be read (65, 78).
    pub fn of(&self, stage: &Stage) -> Result<Committed> {
        let Some(store) = &self.store else { return Ok(Committed::Nothing) };
        match stage {
            Stage::Ingest => self.ingest(store),
            Stage::Train { model } => train(store, model),
            Stage::Eval => eval(store),
        }
    }

    fn ingest(&self, store: &Store) -> Result<Committed> {
        if store.get(&format!("ingest/{MANIFEST}"))?.is_some() {
            let manifest = Manifest::load(&Store::open(&format!("{}/ingest", self.out.trim_end_matches('/')))?)?;
            let train = manifest.split(Split::Train);
            return Ok(Committed::All(format!(
                "{} songs, {} training samples, {} tokens, vocabulary of {}",
                manifest.counts.accepted, train.samples, train.tokens, manifest.vocabulary.size
            )));
        }
        let units = store.list("ingest/units")?.iter().filter(|name| name.ends_with(".json")).count();
        Ok(if units == 0 { Committed::Nothing } else { Committed::Partly(format!("{units} units")) })
    }
}

/// `<out>/train/<model>`: finished with its `summary.json`, under way with the commit record of a checkpoint.
fn train(store: &Store, model: &str) -> Result<Committed> {
    let folder = format!("train/{model}");
    let newest = newest_step(&store.list(&folder)?);
    let finished = store.get(&format!("{folder}/summary.json"))?.is_some();
    Ok(match (finished, newest) {
        (true, Some(step)) => Committed::All(format!("checkpoint of step {step}")),
        (true, None) => Committed::All("finished, its checkpoints were removed".to_owned()),
        (false, Some(step)) => Committed::Partly(format!("checkpoint of step {step}")),
        (false, None) => Committed::Nothing,
    })
}

/// The highest `<n>` of the names `.../step-<n>/COMMIT.json`.
fn newest_step(names: &[String]) -> Option<u64> {
    let step = |name: &String| {
        let (_, rest) = name.strip_suffix("/COMMIT.json")?.rsplit_once('/')?;
        rest.strip_prefix("step-")?.parse::<u64>().ok()
    };
    names.iter().filter_map(step).max()
}

fn eval(store: &Store) -> Result<Committed> {
    let tables = store.list("eval/comparisons")?.iter().filter(|name| name.ends_with(".parquet")).count();
    if tables > 0 && store.get("report.html")?.is_some() {
        return Ok(Committed::All("result tables and report".to_owned()));
    }
    let parts = store.list("eval")?.iter().filter(|name| name.ends_with(".parquet")).count();
    Ok(if parts == 0 { Committed::Nothing } else { Committed::Partly(format!("{parts} result files")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_at_a_run_that_is_not_there_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("folder");
        let out = folder.path().join("runs/demo");
        let output = Output::open(out.to_str().expect("utf-8")).expect("opens");
        assert_eq!(output.of(&Stage::Ingest).expect("looks"), Committed::Nothing);
        assert!(!out.exists());
    }

    #[test]
    fn a_checkpoint_counts_with_its_commit_record_only() {
        let folder = tempfile::tempdir().expect("folder");
        let out = folder.path().to_str().expect("utf-8");
        let store = Store::open(out).expect("opens");
        let stage = Stage::Train { model: "small".to_owned() };
        let look = || Output::open(out).expect("opens").of(&stage).expect("looks");

        store.put("train/small/step-000000900/model.safetensors", vec![0]).expect("puts");
        assert_eq!(look(), Committed::Nothing, "a checkpoint without its record is no checkpoint");
        store.put("train/small/step-000000100/COMMIT.json", vec![0]).expect("puts");
        store.put("train/small/step-000000020/COMMIT.json", vec![0]).expect("puts");
        assert_eq!(look(), Committed::Partly("checkpoint of step 100".to_owned()));
        store.put("train/small/summary.json", vec![0]).expect("puts");
        assert_eq!(look(), Committed::All("checkpoint of step 100".to_owned()));
    }

    #[test]
    fn evaluation_is_done_with_its_report() {
        let folder = tempfile::tempdir().expect("folder");
        let out = folder.path().to_str().expect("utf-8");
        let store = Store::open(out).expect("opens");
        let look = || Output::open(out).expect("opens").of(&Stage::Eval).expect("looks");
        store.put("eval/prompts/prompts.parquet", vec![0]).expect("puts");
        store.put("eval/comparisons/comparisons.parquet", vec![0]).expect("puts");
        assert_eq!(look(), Committed::Partly("2 result files".to_owned()));
        store.put("report.html", vec![0]).expect("puts");
        assert_eq!(look(), Committed::All("result tables and report".to_owned()));
    }
}
