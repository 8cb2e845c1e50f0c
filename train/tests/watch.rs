//! What a run leaves to look at, read by the tools that people look at it with.
#![cfg(feature = "torch")]
#![allow(clippy::print_stdout, reason = "tests say what they skip and what was read")]

use std::path::Path;
use std::process::Command;

use midi_ingest::store::Store;
use midi_train::metrics::Line;
use midi_train::watch::tensorboard::EventFile;

/// Prints a line a tag: its steps and values, as TensorBoard has them after all files of a folder.
const READER: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
for tag in sorted(events.Tags()['scalars']):
    print(tag, *(f'{e.step}:{e.value:g}@{e.wall_time:g}' for e in events.Scalars(tag)))
";

fn line(step: u64, loss: f64, valid_loss: Option<f64>) -> Line {
    Line { step, loss, lr: 0.5, grad_norm: 0.25, tokens: 100 * step, tokens_per_second: 200.0, filled: 1.0, valid_loss }
}

fn python(script: &str, folder: &Path) -> Option<String> {
    let output = Command::new("python3").args(["-c", script]).arg(folder).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn tensorboard_reads_the_events_of_a_run_and_its_continuation() {
    let folder = tempfile::tempdir().expect("folder");
    if python("import tensorboard", folder.path()).is_none() {
        println!("skipped: no `tensorboard` for `python3`");
        return;
    }
    let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
    let lines = [line(10, 4.0, None), line(20, 3.0, Some(3.5)), line(30, 9.0, Some(9.5))];
    let mut file = EventFile::new(&store, "small", 0, &[]);
    for line in &lines {
        file.add(line).expect("adds");
    }
    // The checkpoint was that of step 20: step 30 is lost and done again.
    let mut file = EventFile::new(&store, "small", 20, &lines[..2]);
    for line in [line(30, 2.0, None), line(40, 1.0, Some(1.5))] {
        file.add(&line).expect("adds");
    }
    let read = python(READER, &folder.path().join("small")).expect("tensorboard reads");
    print!("{read}");
    assert_eq!(
        read.lines().collect::<Vec<_>>(),
        [
            "grad_norm 10:0.25@5 20:0.25@10 30:0.25@15 40:0.25@20",
            "loss/train 10:4@5 20:3@10 30:2@15 40:1@20",
            "loss/validation 20:3.5@10 40:1.5@20",
            "lr 10:0.5@5 20:0.5@10 30:0.5@15 40:0.5@20",
            "tokens_per_second 10:200@5 20:200@10 30:200@15 40:200@20",
        ]
    );
}
