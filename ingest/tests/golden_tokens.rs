//! Tokens against the reference: base tokens, byte-pair groups and ids of every golden file, and decoding.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/published.rs"]
mod published;
#[path = "support/records.rs"]
mod records;

use midi_ingest::sample::{allowed_pitch_offsets, augment};
use midi_ingest::score::smf;
use midi_ingest::token::vocabulary::Token;
use midi_ingest::token::{Grid, decode};
use records::{GoldenScore, Midis};

#[test]
fn golden_base_tokens_and_groups() {
    let Some(family) = golden::family("tokenizer") else { return };
    let with_controls = published::tokenizer("tokenizer_with_acs.json", &family);
    let without_controls = published::tokenizer("tokenizer_without_acs.json", &family);
    for set in golden::sets(&family) {
        let name = records::set_name(&set);
        let mut midis = Midis::of(&set);
        let mut different = Vec::new();
        let mut other_ids = [Vec::new(), Vec::new()];
        let mut all = 0;
        for record in records::tokens(&set) {
            let Some(bytes) = midis.bytes(&record.file) else { continue };
            all += 1;
            let encoded = smf::read(&bytes).and_then(|score| Grid::of(&score)?.encode());
            let same = match &encoded {
                Err(_) => record.error.is_some(),
                Ok(tracks) => {
                    record.error.is_none()
                        && tracks.len() == record.tracks.len()
                        && tracks.iter().zip(&record.tracks).all(|(got, expected)| {
                            let names = got.ids.iter().map(|id| Token::of(*id).map(|token| token.to_string()));
                            got.ids == expected.base
                                && got.groups == expected.groups
                                && names.eq(expected.tokens.iter().cloned().map(Some))
                        })
                }
            };
            if !same {
                different.push(record.file.clone());
            }
            let Ok(tracks) = encoded else { continue };
            for (which, tokenizer) in [&with_controls, &without_controls].into_iter().enumerate() {
                let Some(tokenizer) = tokenizer else { continue };
                let same = tracks.iter().zip(&record.tracks).all(|(track, expected)| {
                    let ids = tokenizer.encode(track);
                    let golden = if which == 0 { &expected.bpe } else { &expected.bpe_tokenizer_json };
                    ids == *golden && tokenizer.bpe().decode(&ids) == track.ids
                });
                if !same {
                    other_ids[which].push(record.file.clone());
                }
            }
        }
        midis.report(&format!("{name} tokens"), all, &different);
        if with_controls.is_some() {
            midis.report(&format!("{name} byte-pair ids"), all, &other_ids[0]);
        }
        if without_controls.is_some() {
            midis.report(&format!("{name} byte-pair ids of the tokenizer without controls"), all, &other_ids[1]);
        }
    }
}

#[test]
fn golden_decoding() {
    #[derive(serde::Deserialize)]
    struct Record {
        file: String,
        kind: String,
        #[serde(default)]
        bpe: Option<Vec<u16>>,
        #[serde(default)]
        base: Option<Vec<u16>>,
        score: GoldenScore,
    }
    let Some(family) = golden::family("tokenizer") else { return };
    let tokenizer = published::tokenizer("tokenizer_with_acs.json", &family);
    for set in golden::sets(&family) {
        let name = records::set_name(&set);
        for clean in [true, false] {
            let kind = if clean { "clean" } else { "corrupted" };
            let (mut all, mut different, mut skipped) = (0, Vec::new(), 0);
            let records = records::of_kind::<Record>(&set, "decode");
            for record in records.filter(|record| (record.kind == "clean") == clean) {
                let from_ids = |ids: &Vec<u16>| tokenizer.as_ref().map(|tokenizer| tokenizer.bpe().decode(ids));
                let Some(base) = record.base.or_else(|| record.bpe.as_ref().and_then(from_ids)) else {
                    skipped += 1;
                    continue;
                };
                all += 1;
                if GoldenScore::of(&decode(&base)) != record.score {
                    different.push(format!("{} {}", record.file, record.kind));
                }
            }
            if skipped > 0 {
                golden::say(&format!("skipped: {skipped} {kind} sequences of {name} are byte-pair ids"));
            }
            if all > 0 {
                golden::report(&format!("{name} decoding of {kind} sequences"), all, &different);
            }
        }
    }
}

#[test]
fn golden_augmentation() {
    #[derive(serde::Deserialize)]
    struct Record {
        file: String,
        /// Pitch, velocity, duration.
        offsets: [i16; 3],
        allowed_pitch_offsets: Vec<i16>,
        #[serde(default)]
        tracks: Vec<records::TrackTokens>,
        #[serde(default)]
        error: Option<String>,
    }
    let Some(family) = golden::family("tokenizer") else { return };
    let tokenizer = published::tokenizer("tokenizer_with_acs.json", &family);
    for set in golden::sets(&family) {
        let name = records::set_name(&set);
        let mut midis = Midis::of(&set);
        let (mut all, mut different) = (0, Vec::new());
        for record in records::of_kind::<Record>(&set, "augment") {
            let Some(bytes) = midis.bytes(&record.file) else { continue };
            all += 1;
            let score = smf::read(&bytes).unwrap_or_else(|e| panic!("{}: {e}", record.file));
            let shifted = augment(&score, record.offsets[0], record.offsets[1]);
            let same = match shifted.and_then(|score| Grid::of(&score)?.encode()) {
                Err(_) => record.error.is_some(),
                Ok(tracks) => {
                    allowed_pitch_offsets(&score, -6..=6) == record.allowed_pitch_offsets
                        && tracks.len() == record.tracks.len()
                        && tracks.iter().zip(&record.tracks).all(|(got, expected)| {
                            let ids = tokenizer.as_ref().map(|tokenizer| tokenizer.encode(got));
                            got.ids == expected.base && ids.is_none_or(|ids| ids == expected.bpe)
                        })
                }
            };
            if !same {
                different.push(record.file);
            }
        }
        if midis.missing + all > 0 {
            midis.report(&format!("{name} augmentation"), all, &different);
        }
    }
}
