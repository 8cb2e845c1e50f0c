//! Attribute controls against the reference: all of them on all bars, and those of training on a few bars.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/published.rs"]
mod published;
#[path = "support/records.rs"]
mod records;

use midi_ingest::score::smf;
use midi_ingest::token::Grid;
use midi_ingest::token::control::{Compat, Control};
use midi_ingest::token::vocabulary::Token;
use records::Midis;

#[test]
fn golden_controls() {
    let Some(family) = golden::family("tokenizer") else { return };
    let tokenizer = published::tokenizer("tokenizer_with_acs.json", &family);
    for set in golden::sets(&family) {
        let mut midis = Midis::of(&set);
        let (mut files, mut different) = (0, Vec::new());
        let (mut windows, mut other_windows) = (0, Vec::new());
        for record in records::tokens(&set) {
            // A file without tracks has no controls.
            if record.error.is_some() || record.ac_tracks.is_empty() {
                continue;
            }
            let Some(bytes) = midis.bytes(&record.file) else { continue };
            let grid = smf::read(&bytes).and_then(|score| Grid::of(&score)).expect("the reference reads it");
            let bars: Vec<usize> = (0..grid.bars.len()).collect();
            let same = |(track, expected): (usize, &records::TrackTokens)| {
                let controls = grid.controls(track, &Control::ALL, &bars, Compat::MidiRwkv).expect("controls");
                let got = grid.encode_track(track, &controls).expect("encodes");
                let ids = tokenizer.as_ref().map(|tokenizer| tokenizer.encode(&got));
                got.ids == expected.base && got.groups == expected.groups && ids.is_none_or(|ids| ids == expected.bpe)
            };
            files += 1;
            if grid.score.tracks.len() != record.ac_tracks.len() || !record.ac_tracks.iter().enumerate().all(same) {
                different.push(record.file.clone());
            }
            for window in &record.ac_window {
                windows += 1;
                let wanted: Vec<Control> = window.acs.iter().map(|index| Control::ALL[usize::from(*index)]).collect();
                let got = grid.controls(window.track, &wanted, &window.bars, Compat::MidiRwkv).expect("controls");
                let named = |(tick, id): &(i64, u16)| (*tick, Token::of(*id).expect("a token").to_string());
                if !got.bars.iter().map(named).eq(window.events.iter().cloned()) {
                    other_windows.push(format!("{} track {}", record.file, window.track));
                }
            }
        }
        let name = records::set_name(&set);
        midis.report(&format!("{name} controls of whole files"), files, &different);
        midis.report(&format!("{name} controls of windows"), windows, &other_windows);
    }
}
