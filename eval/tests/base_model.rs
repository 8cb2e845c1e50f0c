//! The model that comes with this repository infills a file, from its weights and its tokenizer alone.
#![cfg(feature = "torch")]

use std::path::Path;
use std::process::Command;

use midi_ingest::score::smf;
use midi_ingest::source::compose;

#[test]
fn the_committed_model_infills_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (song, filled) = (folder.path().join("song.mid"), folder.path().join("filled.mid"));
    let bytes = smf::write(&compose(1, 1));
    fs_err::write(&song, &bytes).expect("writes");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/pop909-small.safetensors");
    let output = Command::new(env!("CARGO_BIN_EXE_midi-eval"))
        .args(["infill", "--track", "1", "--bars", "4:5", "--control", "density=4", "--checkpoint"])
        .args([&model, &song])
        .arg("-o")
        .arg(&filled)
        .output()
        .expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let after = smf::read(&fs_err::read(&filled).expect("reads")).expect("is a MIDI file");
    let before = smf::read(&bytes).expect("reads");
    assert_eq!(after.tracks.len(), before.tracks.len());
    for (index, (after, before)) in after.tracks.iter().zip(&before.tracks).enumerate() {
        // Only the track that was asked for is another one, and the others are the same to the tick.
        assert_eq!(index != 1, after.notes == before.notes, "track {index}");
    }
}
