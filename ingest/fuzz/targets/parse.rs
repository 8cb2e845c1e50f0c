//! Any bytes as a MIDI file: no panic, within the limits, and the same score after it was written.
#![no_main]

#[path = "../../tests/support/rewritten.rs"]
mod rewritten;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    rewritten::judge_bytes(bytes);
});
