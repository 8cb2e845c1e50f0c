//! Training samples and prompts against the reference: the recorded draws give the recorded ids.
//!
//! Beside the golden records, which need the published tokenizer, small ones of our own compositions in a small learned
//! vocabulary are always compared. Those were made by a second, independent implementation of the published rules, which
//! agrees with the reference on all of its records.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/published.rs"]
mod published;
#[path = "support/records.rs"]
mod records;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use midi_ingest::config::SampleConfig;
use midi_ingest::job::draws::{Draws, Keyed};
use midi_ingest::sample::reference::{PromptSection, bar_prompt, draw};
use midi_ingest::sample::{self, Kind, disassemble, has_note};
use midi_ingest::score::smf;
use midi_ingest::token::vocabulary::Token;
use midi_ingest::token::{Grid, Tokenizer, vocabulary};
use records::Midis;
use serde_json::Value;

/// The draws of a record, in order. A draw that is not the recorded one is remembered.
struct Recorded {
    draws: Vec<Value>,
    used: usize,
    wrong: bool,
}

impl Recorded {
    fn next(&mut self, kinds: &[&str]) -> Value {
        let draw = self.draws.get(self.used).cloned().unwrap_or_default();
        self.used += 1;
        self.wrong |= !kinds.contains(&draw[0].as_str().unwrap_or_default());
        draw
    }
}

impl Draws for Recorded {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let value = self.next(&["uniform", "random"])[1].as_f64().unwrap_or(f64::NAN);
        self.wrong |= !(low..=high).contains(&value);
        value
    }

    fn below(&mut self, count: usize) -> usize {
        let values: Vec<i64> = (0..count as i64).collect();
        self.pick(&values) as usize
    }

    fn pick(&mut self, values: &[i64]) -> i64 {
        let draw = self.next(&["choice"]);
        let value = draw[2].as_i64().unwrap_or(i64::MIN);
        let known = draw[1].as_u64() == Some(values.len() as u64) && values.contains(&value);
        self.wrong |= !known;
        if known { value } else { values[0] }
    }

    fn select(&mut self, values: &[usize], take: usize) -> Vec<usize> {
        let drawn: Vec<usize> = serde_json::from_value(self.next(&["sample"])[1].clone()).unwrap_or_default();
        let known = drawn.len() == take && drawn.iter().all(|value| values.contains(value));
        self.wrong |= !known;
        if known { drawn } else { values[..take].to_vec() }
    }
}

/// Our own records: the folder with the set, where its MIDI files are, and its tokenizer.
fn own() -> (PathBuf, PathBuf, Tokenizer) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let tokenizer = Tokenizer::load(&fixtures.join("sampler/tokenizer.json")).unwrap_or_else(|e| panic!("{e}"));
    (fixtures.join("sampler/synth"), fixtures.join("tokenizer/synth"), tokenizer)
}

#[test]
fn golden_samples_replay() {
    let Some(family) = golden::family("tokenizer") else { return };
    let Some(tokenizer) = published::tokenizer("tokenizer_with_acs.json", &family) else { return };
    for set in golden::sets(&family) {
        replay_samples(&records::set_name(&set), &set, Midis::of(&set), &tokenizer);
    }
}

#[test]
fn golden_samples_of_our_own_songs_replay() {
    let (set, midis, tokenizer) = own();
    assert_eq!(replay_samples("sampler/synth", &set, Midis::of(&midis), &tokenizer), 180);
}

/// Compares all samples of a set and returns how many there are.
fn replay_samples(name: &str, set: &Path, mut midis: Midis, tokenizer: &Tokenizer) -> usize {
    #[derive(serde::Deserialize)]
    struct Record {
        file: String,
        seed: u64,
        max_seq_len: usize,
        draws: Vec<Value>,
        ids: Option<Vec<u16>>,
        #[serde(default)]
        masked: Vec<usize>,
    }
    let no_loss = tokenizer.no_loss_ids();
    let (mut all, mut different) = (0, Vec::new());
    for record in records::of_kind::<Record>(set, "samples") {
        let Some(bytes) = midis.bytes(&record.file) else { continue };
        all += 1;
        let score = smf::read(&bytes).unwrap_or_else(|e| panic!("{}: {e}", record.file));
        let mut draws = Recorded { draws: record.draws, used: 0, wrong: false };
        let ids = draw(&score, tokenizer, record.max_seq_len, &mut draws).ok();
        let labels = ids.iter().flat_map(|ids| ids.iter().skip(1)).enumerate();
        let masked = labels.filter(|(_, id)| no_loss.binary_search(id).is_ok()).map(|(at, _)| at);
        let same = masked.eq(record.masked) && ids == record.ids;
        if !same || draws.wrong || draws.used != draws.draws.len() {
            different.push(format!("{} seed {}", record.file, record.seed));
        }
    }
    if midis.missing + all > 0 {
        midis.report(&format!("{name} samples"), all, &different);
    }
    all
}

#[test]
fn golden_prompts_replay() {
    let Some(family) = golden::family("tokenizer") else { return };
    let Some(tokenizer) = published::tokenizer("tokenizer_with_acs.json", &family) else { return };
    for set in golden::sets(&family) {
        replay_prompts(&records::set_name(&set), &set, Midis::of(&set), &tokenizer);
    }
}

#[test]
fn golden_prompts_of_our_own_songs_replay() {
    let (set, midis, tokenizer) = own();
    assert_eq!(replay_prompts("sampler/synth", &set, Midis::of(&midis), &tokenizer), 150);
}

/// Compares all prompts of a set and returns how many there are.
fn replay_prompts(name: &str, set: &Path, mut midis: Midis, tokenizer: &Tokenizer) -> usize {
    #[derive(serde::Deserialize)]
    struct Record {
        file: String,
        track: usize,
        start: usize,
        end: usize,
        context: usize,
        partial_end: bool,
        controls: Vec<String>,
        #[serde(default)]
        ids: Option<Vec<u16>>,
        #[serde(default)]
        replace: Option<[usize; 2]>,
        #[serde(default)]
        error: Option<String>,
    }
    let names: HashMap<String, u16> = vocabulary::names().into_iter().zip(0..).collect();
    let (mut all, mut different) = (0, Vec::new());
    for record in records::of_kind::<Record>(set, "prompts") {
        let Some(bytes) = midis.bytes(&record.file) else { continue };
        all += 1;
        let grid = smf::read(&bytes).and_then(|score| Grid::of(&score)).expect("the reference reads it");
        let tracks = grid.encode().expect("encodes");
        let controls: Vec<u16> = record.controls.iter().map(|name| names[name]).collect();
        let Record { track, start, end, context, partial_end, .. } = record;
        let section = PromptSection { track, bars: start..end, context, partial_end };
        let same = match bar_prompt(tokenizer.bpe(), &tracks, &grid.bars, &section, &controls) {
            Err(_) => record.error.is_some(),
            Ok((ids, range)) => record.ids.as_ref() == Some(&ids) && record.replace == Some([range.start, range.end]),
        };
        if !same {
            different.push(format!("{} track {track} bars {start}..{end}", record.file));
        }
    }
    if midis.missing + all > 0 {
        midis.report(&format!("{name} prompts"), all, &different);
    }
    all
}

/// Every song of the records, odd metres and all: what production draws of it is whole, fits, and says of each bar how
/// many notes it has.
#[test]
fn samples_of_recorded_songs_are_whole_and_their_controls_true() {
    let (.., tokenizer) = own();
    let Some(family) = golden::family("tokenizer") else { return };
    let bpe = tokenizer.bpe();
    let (mut drawn, mut tracks, mut controlled) = (0, 0, 0);
    for set in golden::sets(&family) {
        let mut midis = Midis::of(&set);
        for record in records::tokens(&set).filter(|record| record.error.is_none()) {
            let Some(bytes) = midis.bytes(&record.file) else { continue };
            let score = smf::read(&bytes).expect("the reference reads it");
            for (pass, context_tokens) in [192, 1024, 1 << 16].into_iter().enumerate() {
                let config =
                    SampleConfig { context_tokens, controls: 0.7, track_infill: 0.3, ..SampleConfig::default() };
                let mut draws = Keyed::new(1, &record.file, pass as u64);
                let Ok(sample) = sample::draw(&score, &tokenizer, &config, &mut draws) else { continue };
                let shown = &record.file;
                assert!(sample.input_ids.len() <= context_tokens, "{shown}");
                let parts = disassemble(&bpe.decode(&sample.input_ids)).unwrap_or_else(|e| panic!("{shown}: {e}"));
                assert_eq!((parts.kind, parts.written.bars.len()), (sample.kind, sample.bars), "{shown}");
                drawn += 1;
                tracks += usize::from(sample.kind == Kind::Track);
                for bar in &parts.written.bars {
                    let notes = bar.iter().filter(|id| has_note(&[**id])).count();
                    let name = |id: &u16| Token::of(*id).map(|token| token.to_string()).unwrap_or_default();
                    let density = bar.iter().map(name).find_map(|name| {
                        Some(name.strip_prefix("ACBarNoteDensity_")?.trim_end_matches('+').to_owned())
                    });
                    if let Some(density) = density {
                        assert_eq!(density, notes.min(18).to_string(), "{shown}");
                        controlled += 1;
                    }
                }
            }
        }
    }
    golden::say(&format!("{drawn} samples, {tracks} of them of tracks, {controlled} bars with a density"));
    assert!(drawn > 500 && tracks > 50 && controlled > 500);
}
