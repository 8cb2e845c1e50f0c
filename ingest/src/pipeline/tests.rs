//! Stop requests while a unit is open.

use std::path::Path;

use super::*;
use crate::source::Files;

/// A source whose second batch of files raises a flag.
#[derive(Debug)]
struct Stopping {
    inner: Box<dyn Source>,
    shutdown: Shutdown,
}

impl Source for Stopping {
    fn units(&self) -> &[Unit] {
        self.inner.units()
    }

    fn read(&self, unit: &Unit) -> Result<Files<'_>> {
        let files = self.inner.read(unit)?.enumerate();
        Ok(Box::new(files.map(|(index, file)| {
            if index == BATCH {
                self.shutdown.ask();
            }
            assert!(index < 2 * BATCH, "no batch is read after the one of the request");
            file
        })))
    }

    fn fingerprint(&self) -> String {
        self.inner.fingerprint()
    }
}

#[test]
fn a_stop_request_drops_the_open_unit() {
    let folder = tempfile::tempdir().expect("folder");
    let text = format!(
        "out = '{}'\n[ingest]\nfiles-per-unit = 1000\n[ingest.source]\nkind = 'synth'\nsongs = 400\n\
         [ingest.tokenizer]\nkind = 'learn'\nvocabulary = 700\nsongs = 4\n",
        folder.path().display()
    );
    let experiment = Experiment::parse(Path::new("test.toml"), &text, &[]).expect("parses");
    let shutdown = Shutdown::manual();
    let mut ingest = Ingest::new(&experiment).expect("opens");
    let store = Store::open(&format!("{}/ingest", experiment.out)).expect("opens");
    let tokenizer = ingest.vocabulary(700, 4, &Progress::silent(), &shutdown).expect("learns");
    store.commit(TOKENIZER, tokenizer.to_file().into_bytes()).expect("commits");
    ingest.source = Box::new(Stopping { inner: ingest.source, shutdown: shutdown.clone() });
    let error = ingest.run(Worker::ONLY, &Progress::silent(), &shutdown).expect_err("asked to stop");
    assert_eq!(error.exit(), Exit::RunAgain);
    assert!(store.list("units").expect("lists").is_empty() && store.list("songs").expect("lists").is_empty());
}
