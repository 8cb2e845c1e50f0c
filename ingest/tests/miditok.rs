//! A learned vocabulary in MidiTok itself: it loads the file and gives the ids that we give. Runs where `python3`
//! has MidiTok (3.0.5.post1, with symusic 0.5.0) and says that it was skipped elsewhere.
#![expect(clippy::print_stdout, reason = "a test that may be skipped says so")]

use std::process::Command;

use midi_ingest::score::smf;
use midi_ingest::source::compose;
use midi_ingest::token::{Grid, Learner};

/// Prints the ids of each track of each file, one JSON list of lists a line.
const SCRIPT: &str = "
import json, sys, miditok, symusic
from pathlib import Path
tokenizer = miditok.MMM(params=Path(sys.argv[1]))
for path in sys.argv[2:]:
    tracks = tokenizer.encode(symusic.Score(path), concatenate_track_sequences=False)
    print(json.dumps([list(track.ids) for track in tracks]))
";

#[test]
fn miditok_loads_a_learned_vocabulary_and_encodes_the_same() {
    let python = |args: &[&str]| Command::new("python3").args(args).output();
    if !python(&["-c", "import miditok"]).is_ok_and(|out| out.status.success()) {
        println!("skipped: python3 has no miditok");
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let grids: Vec<Grid> = (0..12)
        .map(|index| {
            let bytes = smf::write(&compose(1, index));
            fs_err::write(folder.path().join(format!("{index}.mid")), &bytes).expect("writes");
            smf::read(&bytes).and_then(|score| Grid::of(&score)).expect("a grid")
        })
        .collect();
    let mut learner = Learner::default();
    for track in grids.iter().flat_map(|grid| grid.encode().expect("encodes")) {
        learner.add(&track);
    }
    let tokenizer = learner.learn(1200).expect("learns");
    let file = folder.path().join("tokenizer.json");
    tokenizer.save(&file).expect("saves");

    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(&file);
    command.args((0..grids.len()).map(|index| folder.path().join(format!("{index}.mid"))));
    let out = command.output().expect("python3 starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).expect("text");
    assert_eq!(text.lines().count(), grids.len());
    for (line, grid) in text.lines().zip(&grids) {
        let theirs: Vec<Vec<u16>> = serde_json::from_str(line).expect("lists of ids");
        let ours = grid.encode().expect("encodes").iter().map(|track| tokenizer.encode(track)).collect::<Vec<_>>();
        assert_eq!(theirs, ours);
    }
}
