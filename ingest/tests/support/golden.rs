//! Where golden tests find their reference values, and how they report what they compared.
//!
//! `MIDI_RWKV_GOLDEN` names a folder with any of `tokenizer/`, `model/`, `metrics/`, `stats/`. Without it
//! the fixtures of the repository are taken. `MIDI_RWKV_MIDI` is the root of MIDI files that records
//! name without holding them. The packages' tests share this file by `#[path]`.
#![allow(
    dead_code,
    clippy::print_stdout,
    reason = "each test binary uses a part; a golden test prints what it compared"
)]

use std::path::{Path, PathBuf};

/// The folder of a family, or `None` after saying that the test is skipped.
pub(crate) fn family(name: &str) -> Option<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let named = std::env::var_os("MIDI_RWKV_GOLDEN").map(PathBuf::from);
    let folder = named.clone().unwrap_or(fixtures).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no golden data for {name} (MIDI_RWKV_GOLDEN is {named:?})");
    None
}

/// The sets of a family: its folders, sorted by name.
///
/// # Panics
/// If there is none: a folder that was named must hold something to test.
pub(crate) fn sets(family: &Path) -> Vec<PathBuf> {
    let mut sets: Vec<PathBuf> = entries(family).into_iter().filter(|path| path.is_dir()).collect();
    sets.sort();
    assert!(!sets.is_empty(), "`{}` holds no set to test", family.display());
    sets
}

/// Everything directly in a folder, sorted by name.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = read.map(|entry| entry.expect("a folder entry").path()).collect();
    paths.sort();
    paths
}

/// The root for the `file` fields of records that hold no MIDI themselves.
pub(crate) fn midi_root() -> Option<PathBuf> {
    std::env::var_os("MIDI_RWKV_MIDI").map(PathBuf::from)
}

/// Prints `golden WHAT: SAME/ALL identical` and fails with the first differences if there are any, or if nothing was
/// compared.
pub(crate) fn report(what: &str, all: usize, different: &[String]) {
    assert!(all > 0, "golden {what}: nothing was compared");
    println!("golden {what}: {}/{all} identical", all - different.len());
    let first: Vec<&String> = different.iter().take(5).collect();
    assert!(different.is_empty(), "golden {what}: {} of {all} differ, first {first:#?}", different.len());
}

/// Prints `golden WHAT: max KIND ERROR (WHERE), tolerance T` and fails if the error is above it.
pub(crate) fn within(what: &str, kind: &str, worst: (f64, String), tolerance: f64) {
    let (error, place) = worst;
    println!("golden {what}: max {kind} {error:.2e} ({place}), tolerance {tolerance:.0e}");
    assert!(error <= tolerance, "golden {what}: {kind} {error:e} at {place} is above {tolerance:e}");
}

/// Prints a line of a golden test.
pub(crate) fn say(line: &str) {
    println!("{line}");
}
