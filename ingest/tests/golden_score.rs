//! The score against the reference: parsing and preprocessing of every golden file.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/records.rs"]
mod records;

use midi_ingest::score::bars::{Until, bar_ticks, beat_ticks};
use midi_ingest::score::{preprocess, smf};
use records::{GoldenScore, Midis};

#[test]
fn golden_scores_are_parsed_and_barred_as_the_reference_does() {
    let Some(family) = golden::family("tokenizer") else { return };
    for set in golden::sets(&family) {
        let mut midis = Midis::of(&set);
        let mut different = Vec::new();
        let mut all = 0;
        for record in records::tokens(&set) {
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
        midis.report(&format!("{} parsing, bars and beats", records::set_name(&set)), all, &different);
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
        for record in records::of_kind::<Record>(&set, "preprocessed") {
            let Some(bytes) = midis.bytes(&record.file) else { continue };
            all += 1;
            let got = smf::read(&bytes).map(|score| GoldenScore::of(&preprocess(&score)));
            if got.as_ref() != Ok(&record.score) {
                different.push(record.file);
            }
        }
        if midis.missing + all > 0 {
            midis.report(&format!("{} preprocessing", records::set_name(&set)), all, &different);
        }
    }
}

/// What the tests above and those of tokens would pass over in silence.
#[test]
fn the_sets_of_the_repository_are_whole() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    for set in golden::sets(&fixtures) {
        assert!(records::tokens(&set).count() > 0);
        for kind in &records::KINDS[..2] {
            assert!(records::of_kind::<serde_json::Value>(&set, kind).count() > 0, "{} {kind}", set.display());
        }
    }
}
