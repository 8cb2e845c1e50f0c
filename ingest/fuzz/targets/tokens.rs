//! Any MIDI file into tokens and back, and any bytes as token ids.
#![no_main]

#[path = "../../tests/support/rewritten.rs"]
mod rewritten;

use libfuzzer_sys::fuzz_target;

/// Base ids; what is above does not exist.
const BASE: u16 = 663;

fuzz_target!(|bytes: &[u8]| {
    if !rewritten::judge_tokens(bytes) {
        let ids: Vec<u16> =
            bytes.as_chunks().0.iter().map(|pair: &[u8; 2]| u16::from_le_bytes(*pair) % (BASE + 1)).collect();
        rewritten::judge_ids(&ids);
    }
});
