//! Properties of every sample: it fits, its section is whole, and the piece can be put together again.

use std::collections::BTreeSet;

use super::*;
use crate::job::draws::Keyed;
use crate::score::{Note, Tempo, TimeSignature, Track};
use crate::token::Learner;
use crate::token::vocabulary::{BAR, FILL_START, INFILL_BAR};

/// A song of `bars` bars of 4/4 with three tracks that play in different bars.
fn song(bars: i64, seed: u64) -> Score {
    let mut draws = Keyed::new(seed, "song", 0);
    let mut track = |program: u8, is_drum: bool, low: usize, rest: usize| {
        let mut notes = Vec::new();
        for bar in 0..bars {
            if rest > 0 && draws.below(rest) == 0 {
                continue;
            }
            for beat in 0..4 {
                let pitch = (low + draws.below(7)) as u8;
                notes.push(Note { tick: bar * 1920 + beat * 480, duration: 240, pitch, velocity: 80 });
            }
        }
        Track { program, is_drum, notes, ..Track::default() }
    };
    Score {
        ticks_per_quarter: 480,
        tracks: vec![track(0, false, 60, 0), track(33, false, 36, 4), track(0, true, 36, 8)],
        time_signatures: vec![TimeSignature { tick: 0, numerator: 4, denominator: 4 }],
        tempos: vec![Tempo { tick: 0, micros_per_quarter: 500_000 }],
        ..Score::default()
    }
}

fn tokenizer() -> Tokenizer {
    let mut learner = Learner::default();
    for seed in 0..20 {
        for track in Grid::of(&song(16, seed)).and_then(|grid| grid.encode()).expect("encodes") {
            learner.add(&track);
        }
    }
    learner.learn(1000).expect("learns")
}

/// Draws samples of songs of several lengths for one context length and checks what all of them must keep.
fn check(context_tokens: usize, least: usize) -> BTreeSet<usize> {
    let tokenizer = tokenizer();
    let config = SampleConfig { context_tokens, ..SampleConfig::default() };
    let mut counts = BTreeSet::new();
    let mut drawn = 0;
    for seed in 0..60 {
        let score = song(4 + (seed as i64 * 7) % 60, seed);
        let Ok(sample) = draw(&score, &tokenizer, &config, &mut Keyed::new(seed, "sample", 0)) else { continue };
        drawn += 1;
        let ids = [sample.infilling.context.clone(), sample.infilling.fill.clone()].concat();
        assert!(ids.len() <= context_tokens, "{} ids", ids.len());
        let base = tokenizer.bpe().decode(&ids);
        let (tracks, fill) = disassemble(&base).expect("well formed");
        assert_eq!(fill.len(), sample.bars, "as many bars as placeholders");
        assert!(fill.iter().all(|bar| bar.first() == Some(&BAR)));
        assert!(fill.iter().any(|bar| has_note(bar)), "there is something to infill");
        let target = &tracks[sample.infilling.track];
        let holes: Vec<usize> = (0..target.bars.len()).filter(|bar| target.bars[*bar] == [INFILL_BAR]).collect();
        assert!(holes.iter().copied().eq(sample.bar..sample.bar + sample.bars), "the holes are the section");
        assert_eq!(base.iter().filter(|id| **id == INFILL_BAR).count(), sample.bars);
        counts.insert(sample.bars);
    }
    assert!(drawn >= least, "{drawn} samples");
    counts
}

#[test]
fn samples_of_whole_pieces_are_whole() {
    let counts = check(1 << 15, 60);
    assert!(counts.len() > 4, "sections of many lengths: {counts:?}");
}

#[test]
fn windows_fit_the_context_and_keep_the_section() {
    check(256, 60);
    check(96, 40);
}

#[test]
fn a_sample_is_a_function_of_its_key() {
    let (tokenizer, config) = (tokenizer(), SampleConfig::default());
    let sample = |pass| draw(&song(20, 1), &tokenizer, &config, &mut Keyed::new(1, "sample", pass)).expect("draws");
    assert_eq!(sample(3), sample(3));
    assert_ne!(sample(3), sample(4));
}

/// Spec §12.1, quirk 4: the section could never hold the last bar.
#[test]
fn the_last_bar_can_be_infilled() {
    let config = SampleConfig { bars: vec![1], bar_share: [0.0, 0.0], ..SampleConfig::default() };
    let starts: BTreeSet<usize> =
        (0..200).map(|k| draw_bars(4, &config, &mut Keyed::new(k, "bars", 0)).start).collect();
    assert!(starts.into_iter().eq(0..4));
}

/// Spec §12.1, quirk 8: inside the fill every bar is its own byte-pair group.
#[test]
fn every_bar_of_the_fill_is_encoded_on_its_own() {
    let tokenizer = tokenizer();
    let encoded = Grid::of(&song(8, 2)).and_then(|grid| grid.encode()).expect("encodes");
    let tracks: Vec<BarTokens> = encoded.iter().map(BarTokens::of).collect();
    let infilling = assemble(tokenizer.bpe(), &tracks, &Section { track: 0, bars: 2..5, window: 0..8 });
    let words = infilling.fill.iter().filter(|id| tokenizer.bpe().begins_word(**id)).count();
    assert_eq!(words, 3);
    assert_eq!(infilling.fill[0], FILL_START);
}

#[test]
fn songs_without_enough_music_are_named() {
    let empty = Score { ticks_per_quarter: 480, ..Score::default() };
    let error = draw(&empty, &tokenizer(), &SampleConfig::default(), &mut Keyed::new(0, "s", 0)).expect_err("empty");
    assert_eq!(error.reason, "no-sample");
}
