//! Properties of every sample: it fits, its section is whole, and the piece can be put together again.

use std::collections::BTreeSet;

use super::*;
use crate::job::draws::Keyed;
use crate::score::{Note, Tempo, TimeSignature, Track};
use crate::token::Learner;
use crate::token::vocabulary::{BAR, FILL_START, INFILL_BAR, INFILL_TRACK, PAD, TRACK_END, Token};

/// A song of `bars` bars of 4/4 with three tracks that play in different bars.
pub(super) fn song(bars: i64, seed: u64) -> Score {
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

/// A vocabulary learned from such songs.
pub(super) fn tokenizer() -> Tokenizer {
    let mut learner = Learner::default();
    for seed in 0..20 {
        for track in Grid::of(&song(16, seed)).and_then(|grid| grid.encode()).expect("encodes") {
            learner.add(&track);
        }
    }
    learner.learn(1000).expect("learns")
}

/// The grid of a score and the bars of its tracks.
pub(super) fn cut(score: &Score) -> (Grid, Vec<BarTokens>) {
    let grid = Grid::of(score).expect("a grid");
    let tracks = grid.encode().expect("encodes").iter().map(BarTokens::of).collect();
    (grid, tracks)
}

pub(super) fn is_control(id: &u16) -> bool {
    matches!(Token::of(*id), Some(Token::Control(_)))
}

/// What the samples of a check had in common.
#[derive(Default)]
struct Found {
    /// Lengths of sections.
    lengths: BTreeSet<usize>,
    drawn: usize,
    tracks: usize,
    controlled: usize,
    /// Control ids in written bars or in front of written tracks.
    controls: BTreeSet<u16>,
}

/// Draws a sample of each of 60 songs of several lengths and checks what all of them must keep.
fn check(config: &SampleConfig) -> Found {
    let tokenizer = tokenizer();
    let bpe = tokenizer.bpe();
    let mut found = Found::default();
    for seed in 0..60 {
        let score = song(4 + (seed as i64 * 7) % 60, seed);
        let Ok(sample) = draw(&score, &tokenizer, config, &mut Keyed::new(seed, "sample", 0)) else { continue };
        found.drawn += 1;
        assert!(sample.input_ids.len() <= config.context_tokens, "{} ids", sample.input_ids.len());
        let base = bpe.decode(&sample.input_ids);
        let Parts { kind, tracks, written } = disassemble(&base).expect("well formed");
        assert_eq!(kind, sample.kind);
        assert_eq!(written.bars.len(), sample.bars, "the whole section is there");
        assert!(written.bars.iter().all(|bar| bar.first() == Some(&BAR)));
        assert!(written.bars.iter().any(|bar| has_note(bar)), "there is something to infill");
        assert!(tracks.iter().all(|track| !track.head.iter().chain(track.bars.iter().flatten()).any(is_control)));
        match kind {
            Kind::Bars => {
                let target = &tracks[sample.track];
                let holes = (0..target.bars.len()).filter(|bar| target.bars[*bar] == [INFILL_BAR]);
                assert!(holes.eq(sample.bar..sample.bar + sample.bars), "the holes are the section");
                assert_eq!(base.iter().filter(|id| **id == INFILL_BAR).count(), sample.bars);
            }
            Kind::Track => {
                assert_eq!(sample.track, tracks.len(), "the track comes last");
                assert!(!tracks.is_empty() && tracks.iter().all(|track| track.has_notes(0..track.bars.len())));
                assert!(!base.contains(&INFILL_BAR) && sample.bar == 0);
                found.tracks += 1;
            }
        }
        let own: BTreeSet<u16> =
            written.head.iter().chain(written.bars.iter().flatten()).copied().filter(is_control).collect();
        found.controlled += usize::from(!own.is_empty());
        found.controls.extend(own);
        for bar in &written.bars {
            let mut ids = Vec::new();
            bpe.encode_group(bar, &mut ids);
            assert!(ids.starts_with(&controls::opening(bpe, bar)), "a bar begins with what a prompt gives of it");
            assert!(sample.input_ids.windows(ids.len()).any(|part| part == ids), "a bar is a group of its own");
        }
        found.lengths.insert(sample.bars);
    }
    found
}

fn config(context_tokens: usize) -> SampleConfig {
    SampleConfig { context_tokens, ..SampleConfig::default() }
}

#[test]
fn samples_of_whole_pieces_are_whole() {
    let Found { drawn, lengths, tracks, controlled, .. } = check(&config(1 << 15));
    assert_eq!((drawn, tracks, controlled), (60, 0, 0), "nothing but bars unless it is asked for");
    assert!(lengths.len() > 4, "sections of many lengths: {lengths:?}");
}

#[test]
fn windows_fit_the_context_and_keep_the_section() {
    assert_eq!(check(&config(256)).drawn, 60);
    assert!(check(&config(96)).drawn >= 40);
}

#[test]
fn controls_and_tracks_come_in_their_shares_and_fit_too() {
    for context_tokens in [1 << 15, 512, 160] {
        let all = SampleConfig { controls: 1.0, track_infill: 0.5, ..config(context_tokens) };
        let Found { drawn, tracks, controlled, controls, .. } = check(&all);
        assert!(drawn >= 55, "{drawn} of 60 in {context_tokens}");
        assert!((8..45).contains(&tracks), "{tracks} tracks of {drawn} in {context_tokens}");
        // Control tokens for bars that lost theirs when the section was shortened are the exception.
        assert!(controlled + 5 >= drawn, "{controlled} of {drawn} in {context_tokens}");
        let names: String = controls.iter().filter_map(|id| Token::of(*id)).map(|token| token.to_string()).collect();
        for control in ["BarOnsetPolyphony", "BarNoteDensity", "BarNoteDuration", "TrackNoteDensity", "Repetition"] {
            assert!(names.contains(control), "{control}");
        }
        assert!(!names.contains("PitchClass"));
        let half = check(&SampleConfig { controls: 0.5, ..config(context_tokens) });
        assert!((15..45).contains(&half.controlled), "{} of {}", half.controlled, half.drawn);
    }
}

#[test]
fn a_written_track_decodes_to_the_track() {
    let tokenizer = tokenizer();
    let config = SampleConfig {
        track_share: [1.0, 1.0],
        max_pitch_shift: 0,
        max_velocity_shift: 0,
        track_infill: 1.0,
        controls: 1.0,
        ..config(1 << 15)
    };
    for seed in 0..20 {
        let score = song(8, seed);
        let sample = draw(&score, &tokenizer, &config, &mut Keyed::new(seed, "sample", 0)).expect("draws");
        let parts = disassemble(&tokenizer.bpe().decode(&sample.input_ids)).expect("well formed");
        let decode = |track: &BarTokens| {
            let ids: Vec<u16> = track.head.iter().chain(track.bars.iter().flatten()).copied().collect();
            crate::token::decode_tracks(&[ids]).tracks
        };
        let all: Vec<Track> = parts.tracks.iter().chain([&parts.written]).flat_map(decode).collect();
        assert_eq!(all.len(), 3);
        let (grid, _) = cut(&score);
        for original in &grid.score.tracks {
            let doubled = |note: &Note| Note { tick: note.tick * 2, duration: note.duration * 2, ..*note };
            let notes: Vec<Note> = original.notes.iter().map(doubled).collect();
            let same = |track: &&Track| (track.program, track.is_drum) == (original.program, original.is_drum);
            assert_eq!(all.iter().find(same).map(|track| &track.notes), Some(&notes), "seed {seed}");
        }
    }
}

/// What counts for the loss in a track infilling: the bars and the end of the track, but not what asks for them.
#[test]
fn what_asks_for_a_track_is_no_target() {
    let tokenizer = tokenizer();
    let config = SampleConfig { track_infill: 1.0, controls: 1.0, ..config(1 << 15) };
    let sample = (0..9)
        .filter_map(|seed| draw(&song(8, seed), &tokenizer, &config, &mut Keyed::new(seed, "sample", 0)).ok())
        .find(|sample| sample.kind == Kind::Track)
        .expect("one of nine has two tracks");
    let no_loss = tokenizer.no_loss_ids();
    let at = sample.input_ids.iter().position(|id| *id == INFILL_TRACK).expect("it is announced");
    let first = (at..).find(|at| tokenizer.bpe().piece(sample.input_ids[*at]).contains(&BAR)).expect("a bar");
    let masked = |id: &u16| no_loss.binary_search(id).is_ok();
    assert!(masked(&sample.input_ids[at]));
    assert!(sample.input_ids[at..first].iter().any(is_control));
    assert!(sample.input_ids[at..first].iter().filter(|id| is_control(id)).all(masked));
    assert!(!sample.input_ids[first..].iter().any(masked));
    assert_eq!(sample.input_ids.last(), Some(&TRACK_END));
}

#[test]
fn a_sample_is_a_function_of_its_key() {
    let tokenizer = tokenizer();
    let config = SampleConfig { controls: 0.5, track_infill: 0.3, ..SampleConfig::default() };
    let sample = |pass| draw(&song(20, 1), &tokenizer, &config, &mut Keyed::new(1, "sample", pass)).expect("draws");
    assert_eq!(sample(3), sample(3));
    assert_ne!(sample(3), sample(4));
}

#[test]
fn the_published_recipe_runs_on_production_draws() {
    let tokenizer = tokenizer();
    let config = SampleConfig { recipe: crate::config::Recipe::MidiRwkv, ..config(512) };
    let mut kinds = BTreeSet::new();
    let mut controlled = 0;
    for seed in 0..60 {
        let draw = |pass| draw(&song(30, seed), &tokenizer, &config, &mut Keyed::new(seed, "sample", pass));
        let Ok(sample) = draw(0) else { continue };
        assert_eq!(Ok(&sample), draw(0).as_ref());
        assert!(!sample.input_ids.is_empty() && sample.input_ids.len() <= 512 && !sample.input_ids.contains(&PAD));
        kinds.insert(sample.kind.name());
        controlled += usize::from(sample.input_ids.iter().any(is_control));
        if sample.kind == Kind::Bars {
            let base = tokenizer.bpe().decode(&sample.input_ids);
            let holes = base.iter().filter(|id| **id == INFILL_BAR).count();
            assert!(
                sample.bars >= 1 && holes <= sample.bars && base.iter().filter(|id| **id == FILL_START).count() <= 1
            );
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["bars", "track"]);
    assert!(controlled > 40, "{controlled}");
}

#[test]
fn songs_without_enough_music_are_named() {
    let empty = Score { ticks_per_quarter: 480, ..Score::default() };
    let error = draw(&empty, &tokenizer(), &SampleConfig::default(), &mut Keyed::new(0, "s", 0)).expect_err("empty");
    assert_eq!(error.reason, "no-sample");
}
