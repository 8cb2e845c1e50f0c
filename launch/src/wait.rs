//! Waiting for a stage to commit: what a Kubernetes job does before it reads what another one writes.

use std::io::Write;
use std::time::Duration;

use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::job::shutdown::Shutdown;

use crate::cli::StageKind;
use crate::committed::{Committed, Output};
use crate::experiment::Experiment;
use crate::plan::Stage;

/// Time between two looks at the store.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Looks between two lines about it.
const SAY_EVERY: u64 = 30;

/// Returns when every stage of `kind` in `experiment`, or the training of `model` alone, is committed, after at most about
/// `minutes`.
///
/// # Errors
/// The experiment has no such stage or model (78), the store fails (74), time is up or `shutdown` was raised (75).
pub fn wait(
    experiment: &Experiment,
    kind: StageKind,
    model: Option<&str>,
    minutes: u64,
    shutdown: &Shutdown,
    err: &mut dyn Write,
) -> Result<()> {
    let stages = stages(experiment, kind, model)?;
    let looks = minutes.saturating_mul(60) / LOOK_EVERY.as_secs();
    for look in 0..=looks {
        let output = Output::open(&experiment.out)?;
        let mut missing = Vec::new();
        for stage in &stages {
            match output.of(stage)? {
                Committed::All(_) => {}
                Committed::Partly(what) => missing.push(format!("{} ({what})", stage.title())),
                Committed::Nothing => missing.push(stage.title()),
            }
        }
        let missing = missing.join(", ");
        if missing.is_empty() {
            return Ok(());
        }
        if look % SAY_EVERY == 0 {
            // A closed standard error must not end the wait.
            let _ = writeln!(err, "waiting for {missing} in {}", experiment.out);
        }
        if look == looks {
            return Err(Error::new(Exit::RunAgain, format!("{missing} was not committed within {minutes} minutes"))
                .hint("look at the job that should do it, then wait again"));
        }
        for _ in 0..LOOK_EVERY.as_millis() / 200 {
            shutdown.check("nothing was begun")?;
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}

fn stages(experiment: &Experiment, kind: StageKind, model: Option<&str>) -> Result<Vec<Stage>> {
    if let Some(model) = model {
        if kind != StageKind::Train {
            return Err(Error::mismatch("`--model` goes with `--for train`"));
        }
        if !experiment.train.contains_key(model) {
            let names: Vec<&str> = experiment.train.keys().map(String::as_str).collect();
            return Err(Error::mismatch(format!("there is no `[train.{model}]`"))
                .hint(format!("the models are: {}", names.join(", "))));
        }
        return Ok(vec![Stage::Train { model: model.to_owned() }]);
    }
    let stages: Vec<Stage> = match kind {
        StageKind::Ingest => experiment.ingest.iter().map(|_| Stage::Ingest).collect(),
        StageKind::Train => experiment.train.keys().map(|model| Stage::Train { model: model.clone() }).collect(),
        StageKind::Eval => experiment.eval.iter().map(|_| Stage::Eval).collect(),
    };
    if stages.is_empty() {
        return Err(Error::mismatch(format!("`--for {kind:?}`: the experiment has no such stage").to_lowercase()));
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use midi_ingest::store::Store;

    fn experiment(out: &str) -> Experiment {
        let text = format!(
            "out = {out:?}\n[train.a]\nmodel = {{ layers = 1, width = 64 }}\nsteps = 1\n\
             [train.b]\nmodel = {{ layers = 1, width = 64 }}\nsteps = 1\n"
        );
        let file = midi_ingest::job::Experiment::parse("w.toml".as_ref(), &text, &[]).expect("parses");
        Experiment::typed(&file).expect("types")
    }

    #[test]
    fn every_model_is_waited_for_and_the_missing_ones_are_named() {
        let folder = tempfile::tempdir().expect("folder");
        let out = folder.path().to_str().expect("utf-8");
        let store = Store::open(out).expect("opens");
        let mut said = Vec::new();
        store.put("train/a/summary.json", vec![0]).expect("puts");
        let error = wait(&experiment(out), StageKind::Train, None, 0, &Shutdown::manual(), &mut said)
            .expect_err("b is missing");
        assert_eq!(error.exit(), Exit::RunAgain);
        assert!(error.to_string().starts_with("train/b was not committed within 0 minutes"), "{error}");
        let alone = |kind, model| wait(&experiment(out), kind, Some(model), 0, &Shutdown::manual(), &mut Vec::new());
        alone(StageKind::Train, "a").expect("is there");
        for (kind, model) in [(StageKind::Train, "c"), (StageKind::Ingest, "a")] {
            assert_eq!(alone(kind, model).expect_err("cannot be").exit(), Exit::Mismatch);
        }
        store.put("train/b/summary.json", vec![0]).expect("puts");
        wait(&experiment(out), StageKind::Train, None, 0, &Shutdown::manual(), &mut said).expect("both are there");
    }

    #[test]
    fn a_stage_that_is_not_there_is_not_waited_for() {
        let error = wait(&experiment("x"), StageKind::Eval, None, 0, &Shutdown::manual(), &mut Vec::new())
            .expect_err("there is no eval");
        assert_eq!(error.exit(), Exit::Mismatch);
    }

    #[test]
    fn a_signal_ends_the_wait() {
        let folder = tempfile::tempdir().expect("folder");
        let shutdown = Shutdown::manual();
        shutdown.ask();
        let experiment = experiment(folder.path().to_str().expect("utf-8"));
        let error =
            wait(&experiment, StageKind::Train, None, 60, &shutdown, &mut Vec::new()).expect_err("asked to stop");
        assert_eq!(error.exit(), Exit::RunAgain);
    }
}
