//! The score against the reference: parsing and preprocessing of every golden file.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/records.rs"]
mod records;

use midi_ingest::score::bars::{Until, bar_ticks, beat_ticks};
use midi_ingest::score::{preprocess, smf};
use records::{GoldenScore, Midis, Tokens};

#[test]
fn golden_scores_are_parsed_and_barred_as_the_reference_does() {
    let Some(family) = golden::family("tokenizer") else { return };
    for set in golden::sets(&family) {
        let mut midis = Midis::of(&set);
        let mut different = Vec::new();
        let mut all = 0;
        for record in records::read::<Tokens>(&set.join("tokens.jsonl.gz")) {
            let Some(bytes) = midis.bytes(&record.file) else { continue };
            all += 1;
            let same = match smf::read(&bytes) {
                Err(_) => record.error.as_deref().is_some_and(|error| error.starts_with("parse")),
                Ok(_) if record.error.is_some() => false,
                Ok(score) => {
                    let tracks = score.tracks.iter().map(|t| (t.program, t.is_drum, t.notes.len()));
                    let grid = preprocess(&score);
                    let beats = beat_ticks(&grid, Until::LastOnset).unwrap_or_default();
                    tracks.eq(record.src_tracks)
                        && score.ticks_per_quarter == record.src_tpq
                        && grid.ticks_per_quarter == record.tpq
                        && bar_ticks(&grid, Until::LastOnset).is_ok_and(|bars| bars == record.bar_ticks)
                        && bar_ticks(&grid, Until::End).is_ok_and(|bars| bars == record.bar_ticks_end)
                        && record.n_beats == Some(beats.len())
                        && record.beats.is_none_or(|expected| expected == beats)
                }
            };
            if !same {
                different.push(record.file);
            }
        }
        golden::report(&format!("{} parsing, bars and beats", records::set_name(&set)), all, &different);
    }
}

#[test]
fn golden_preprocessing_gives_the_reference_notes() {
    #[derive(serde::Deserialize)]
    struct Record {
        file: String,
        score: GoldenScore,
    }
    let Some(family) = golden::family("tokenizer") else { return };
    for set in golden::sets(&family) {
        let mut midis = Midis::of(&set);
        let mut different = Vec::new();
        let mut all = 0;
        for record in records::read::<Record>(&set.join("preprocessed.jsonl.gz")) {
            let Some(bytes) = midis.bytes(&record.file) else { continue };
            all += 1;
            let got = smf::read(&bytes).map(|score| GoldenScore::of(&preprocess(&score)));
            if got.as_ref() != Ok(&record.score) {
                different.push(record.file);
            }
        }
        golden::report(&format!("{} preprocessing", records::set_name(&set)), all, &different);
    }
}
