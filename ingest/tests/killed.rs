//! Real processes, killed for real: two workers on one output folder, one of which is killed at random points again and
//! again. What stands there in the end is, byte for byte, what an undisturbed run leaves.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use midi_ingest::job::draws::{Draws, Keyed};

/// The experiment file: many small units, so that a kill finds one at work.
fn experiment(folder: &Path) -> String {
    let text = "seed = 11\n[ingest]\nfiles-per-unit = 2\n[ingest.source]\nkind = 'synth'\nsongs = 60\n\
                [ingest.tokenizer]\nkind = 'learn'\nvocabulary = 700\nsongs = 10\n[ingest.sample]\ncontext-tokens = 512\n";
    let path = folder.join("experiment.toml");
    fs_err::write(&path, text).expect("writes");
    path.to_str().expect("utf-8").to_owned()
}

fn worker(experiment: &str, out: &Path, index: usize) -> Child {
    Command::new(env!("CARGO_BIN_EXE_midi-ingest"))
        .args(["run", experiment, "--set", &format!("out={}", out.display())])
        .args(["--worker", &index.to_string(), "--workers", "2"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

fn succeeds(mut child: Child) {
    let status = child.wait().expect("ends");
    assert!(status.success(), "{status}");
}

/// Every file that readers of a data set look at, with its bytes. The three files that say what ran name the folder.
fn data_set(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let root = out.join("ingest");
    let files = walkdir::WalkDir::new(&root).into_iter().map(|entry| entry.expect("lists"));
    let files = files.filter(|entry| entry.file_type().is_file()).map(|entry| {
        let name = entry.path().strip_prefix(&root).expect("inside").to_str().expect("utf-8").to_owned();
        (name, fs_err::read(entry.path()).expect("reads"))
    });
    // What a killed write leaves is called `NAME#NUMBER`, and no record names it.
    files
        .filter(|(name, _)| !["config.toml", "plan.json", "env.json"].contains(&name.as_str()) && !name.contains('#'))
        .collect()
}

#[test]
fn a_killed_worker_changes_no_byte() {
    let folder = tempfile::tempdir().expect("folder");
    let experiment = experiment(folder.path());
    let (calm, stormy) = (folder.path().join("calm"), folder.path().join("stormy"));
    for index in [1, 0] {
        succeeds(worker(&experiment, &calm, index));
    }
    let expected = data_set(&calm);
    assert!(expected.contains_key("manifest.json") && expected.len() > 90, "{:?}", expected.keys());

    let mut draws = Keyed::new(1, "kills", 0);
    let other = worker(&experiment, &stormy, 1);
    let mut killed = 0;
    for _ in 0..12 {
        let mut victim = worker(&experiment, &stormy, 0);
        std::thread::sleep(Duration::from_millis(5 + draws.below(120) as u64));
        // SIGKILL: nothing in the process gets to clean up.
        if victim.try_wait().expect("asks").is_none() {
            victim.kill().expect("kills");
            killed += 1;
        }
        victim.wait().expect("ends");
    }
    assert!(killed > 0, "every worker ended before it was killed");
    succeeds(other);
    succeeds(worker(&experiment, &stormy, 0));
    let found = data_set(&stormy);
    assert!(found.keys().eq(expected.keys()), "{:?}", found.keys());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name} differs after {killed} kills");
    }
    let store = midi_ingest::store::Store::open(stormy.to_str().expect("utf-8")).expect("opens");
    let verified = midi_ingest::inspect::verify(&store).expect("verifies");
    assert!(verified.mismatches.is_empty() && verified.complete, "{verified}");
}
