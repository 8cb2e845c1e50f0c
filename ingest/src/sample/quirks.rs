//! What the published sampler gets wrong, a test each, in the order of the table in the tokenizer's specification: the
//! corrected rule does it right. [`super::reference`] keeps the published behaviour, and golden tests hold it there.

use std::collections::BTreeSet;

use super::tests::{cut, is_control, song, tokenizer};
use super::window::window_around;
use super::*;
use crate::config::IngestConfig;
use crate::job::draws::{Keyed, Scripted};
use crate::score::{Note, Tempo, Track};
use crate::shard::{Song, Split, Status};
use crate::song::Rules;
use crate::token::control::{Compat, Control};
use crate::token::vocabulary::{BAR, FILL_END, FILL_START, INFILL_BAR, INFILL_TRACK, TRACK_END, TRACK_START, Token};

fn note(tick: Tick, pitch: u8) -> Note {
    Note { tick, duration: 240, pitch, velocity: 80 }
}

/// A track of notes at these bars of 4/4, one a bar.
fn sparse(bars: impl IntoIterator<Item = i64>) -> Track {
    Track { notes: bars.into_iter().map(|bar| note(bar * 1920, 60)).collect(), ..Track::default() }
}

/// A song of these tracks.
fn of(tracks: Vec<Track>) -> Score {
    Score { tracks, ..song(1, 0) }
}

fn keyed(key: u64) -> Keyed {
    Keyed::new(key, "quirks", 0)
}

fn names(ids: impl IntoIterator<Item = u16>) -> Vec<String> {
    ids.into_iter().filter_map(Token::of).map(|token| token.to_string()).collect()
}

/// The parts of the infilling of `bars` of the first track.
fn infilled(score: &Score, bars: Range<usize>) -> Parts {
    let (_, tracks) = cut(score);
    let window = 0..tracks.iter().map(|track| track.bars.len()).max().unwrap_or(0);
    let section = Section { kind: Kind::Bars, track: 0, bars, window };
    let tokenizer = tokenizer();
    let Infilling { prompt, answer, .. } = assemble(tokenizer.bpe(), &tracks, &section, &tracks[0]);
    disassemble(&tokenizer.bpe().decode(&[prompt, answer].concat())).expect("well formed")
}

#[test]
fn q01_the_controls_of_bars_are_named_not_what_a_deletion_leaves() {
    use Control::{BarNoteDensity, BarNoteDuration, BarOnsetPolyphony};
    assert_eq!(Control::of_bars(false), [BarOnsetPolyphony, BarNoteDensity, BarNoteDuration]);
    assert_eq!(Control::of_bars(true), [BarNoteDensity]);
}

#[test]
fn q02_the_first_infilled_bar_counts_its_own_notes() {
    let (grid, _) = cut(&song(8, 1));
    let ticks = bar_ticks(&grid.score, Until::End).expect("bars");
    let own = controls::of_bars(&grid, &ticks, 0, &[3, 4], &[Control::BarNoteDensity]).expect("controls");
    assert_eq!(names(own.bars.iter().map(|(_, id)| *id)), ["ACBarNoteDensity_4"; 2]);
    let published = grid.controls(0, &[Control::BarNoteDensity], &[3, 4], Compat::MidiRwkv).expect("controls");
    assert_eq!(names(published.bars.iter().map(|(_, id)| *id)), ["ACBarNoteDensity_16", "ACBarNoteDensity_4"]);
}

/// So does the last bar where it begins with the last onset, which the tokenizer's own bars do not list.
#[test]
fn q02_a_last_bar_of_one_onset_has_controls_of_its_own() {
    let (grid, _) = cut(&of(vec![sparse([0, 1, 2, 3])]));
    let ticks = bar_ticks(&grid.score, Until::End).expect("bars");
    assert_eq!((grid.bars.len(), ticks.len()), (3, 4));
    let own = controls::of_bars(&grid, &ticks, 0, &[2, 3], &[Control::BarNoteDensity]).expect("controls");
    assert_eq!(own.bars.iter().map(|(tick, _)| *tick).collect::<Vec<_>>(), ticks[2..]);
    assert_eq!(names(own.bars.iter().map(|(_, id)| *id)), ["ACBarNoteDensity_1"; 2]);
}

#[test]
fn q03_a_bar_with_one_note_has_controls() {
    let (grid, _) = cut(&of(vec![sparse(0..6)]));
    let ticks = bar_ticks(&grid.score, Until::End).expect("bars");
    let wanted = Control::of_bars(false);
    assert_eq!(controls::of_bars(&grid, &ticks, 0, &[2, 3], wanted).expect("controls").bars.len(), 2 * (2 + 1 + 5));
    // Bar 0 alone, so that nothing before it is counted with it.
    assert_eq!(grid.controls(0, wanted, &[0], Compat::MidiRwkv).expect("controls").bars, []);
}

#[test]
fn q04_the_last_bar_can_be_infilled() {
    let config = SampleConfig { bars: vec![1], bar_share: [0.0, 0.0], ..SampleConfig::default() };
    let starts: BTreeSet<usize> = (0..200).map(|key| draw_bars(4, &config, &mut keyed(key)).start).collect();
    assert!(starts.into_iter().eq(0..4));
}

#[test]
fn q05_a_section_that_ends_before_the_last_bar_does_not_swallow_it() {
    let score = song(8, 2);
    let (_, tracks) = cut(&score);
    let parts = infilled(&score, 6..7);
    assert_eq!(parts.written.bars, tracks[0].bars[6..7]);
    assert_eq!(parts.tracks[0].bars[6..], [vec![INFILL_BAR], tracks[0].bars[7].clone()]);
}

#[test]
fn q06_empty_bars_at_the_begin_of_a_section_stay_in_it() {
    let score = of(vec![sparse([0, 3, 4, 5]), sparse(0..6)]);
    let (_, tracks) = cut(&score);
    let parts = infilled(&score, 1..4);
    assert!(!has_note(&tracks[0].bars[1]) && !has_note(&tracks[0].bars[2]));
    assert_eq!(parts.written.bars, tracks[0].bars[1..4]);
    assert_eq!(parts.tracks[0].bars.iter().filter(|bar| **bar == [INFILL_BAR]).count(), 3);
}

#[test]
fn q07_every_track_of_a_window_ends_and_loses_nothing() {
    let (_, tracks) = cut(&song(8, 3));
    let tokenizer = tokenizer();
    for window in [0..5, 3..8, 4..8] {
        let section = Section { kind: Kind::Bars, track: 0, bars: 4..5, window: window.clone() };
        let Infilling { prompt, answer, .. } = assemble(tokenizer.bpe(), &tracks, &section, &tracks[0]);
        let base = tokenizer.bpe().decode(&[prompt, answer].concat());
        let count = |wanted: u16| base.iter().filter(|id| **id == wanted).count();
        assert_eq!((count(TRACK_START), count(TRACK_END)), (3, 3));
        let mut whole = disassemble(&base).expect("well formed");
        whole.tracks[0].bars[4 - window.start] = whole.written.bars.remove(0);
        for (shown, track) in whole.tracks.iter().zip(&tracks) {
            assert_eq!(shown.bars, track.slice(window.clone()));
        }
    }
}

#[test]
fn q08_every_written_bar_is_a_group_of_its_own() {
    let tokenizer = tokenizer();
    let (_, tracks) = cut(&song(8, 2));
    for kind in Kind::ALL {
        let section = Section { kind, track: 0, bars: 2..5, window: 2..5 };
        let Infilling { answer, .. } = assemble(tokenizer.bpe(), &tracks, &section, &tracks[0]);
        let mut groups = Vec::new();
        for bar in &tracks[0].bars[2..5] {
            tokenizer.bpe().encode_group(bar, &mut groups);
        }
        assert_eq!(answer[..answer.len() - 1], groups);
        assert_eq!(answer.iter().filter(|id| tokenizer.bpe().begins_word(**id)).count(), 3);
    }
}

#[test]
fn q09_what_is_written_is_never_cut() {
    let tokenizer = tokenizer();
    let config = SampleConfig { context_tokens: 160, controls: 1.0, ..SampleConfig::default() };
    let published = SampleConfig { context_tokens: 160, recipe: Recipe::MidiRwkv, ..SampleConfig::default() };
    let ended = |config: &SampleConfig| {
        let samples = (0..40).filter_map(|key| draw(&song(40, key), &tokenizer, config, &mut keyed(key)).ok());
        let bars: Vec<Drawn> = samples.filter(|sample| sample.kind == Kind::Bars).collect();
        (bars.iter().filter(|sample| sample.input_ids.last() == Some(&FILL_END)).count(), bars.len())
    };
    let (whole, all) = ended(&config);
    assert!(whole == all && all > 30, "{whole} of {all}");
    let (whole, all) = ended(&published);
    assert!(whole < all, "{whole} of {all}");
}

#[test]
fn q10_a_window_counts_the_bars_that_it_has() {
    let firsts = |sizes: &[usize], start, end, room| -> BTreeSet<usize> {
        (0..100).map(|key| window_around(sizes, start, end, room, &mut keyed(key)).start).collect()
    };
    // The bar after the section is not counted with it, however long it is.
    assert!(firsts(&[1, 1, 1, 1, 100], 2, 4, 2).into_iter().eq(0..3));
    // And a section at the end leaves the first bar in.
    assert!(firsts(&[1; 8], 6, 8, 6).into_iter().eq(0..7));
}

#[test]
fn q11_a_track_is_announced_once_after_all_others_and_only_its_controls_are_there() {
    let tokenizer = tokenizer();
    for context_tokens in [1 << 15, 200] {
        let config = SampleConfig { context_tokens, track_infill: 1.0, controls: 1.0, ..SampleConfig::default() };
        let samples = (0..20).filter_map(|key| draw(&song(20, key), &tokenizer, &config, &mut keyed(key)).ok());
        let samples: Vec<Drawn> = samples.filter(|sample| sample.kind == Kind::Track).collect();
        assert!(samples.len() > 8, "{}", samples.len());
        for sample in samples {
            assert!(sample.input_ids.len() <= context_tokens);
            let base = tokenizer.bpe().decode(&sample.input_ids);
            let at = base.iter().position(|id| *id == INFILL_TRACK).expect("it is announced");
            assert!(base[..at].ends_with(&[TRACK_END]) && !base[..at].iter().any(is_control));
            let [TRACK_START, program, rest @ .., TRACK_END] = &base[at + 1..] else { panic!("not one track") };
            assert!(matches!(Token::of(*program), Some(Token::Program(_))));
            let controls = rest.iter().take_while(|id| is_control(id)).count();
            assert!(controls > 0 && rest[controls] == BAR && !rest[controls..].iter().any(is_control));
            assert!(!rest.contains(&TRACK_START) && !rest.contains(&INFILL_TRACK) && !base.contains(&FILL_START));
        }
    }
}

#[test]
fn q12_the_window_keeps_the_track_that_is_infilled() {
    let tokenizer = tokenizer();
    let config =
        SampleConfig { context_tokens: 120, track_infill: 1.0, track_share: [1.0, 1.0], ..SampleConfig::default() };
    // The second track plays in the last bars only.
    let score = of(vec![song(60, 1).tracks.remove(0), sparse(57..60)]);
    let mut late = 0;
    for key in 0..60 {
        let sample = draw(&score, &tokenizer, &config, &mut keyed(key)).expect("draws");
        let parts = disassemble(&tokenizer.bpe().decode(&sample.input_ids)).expect("well formed");
        assert!(parts.written.has_notes(0..parts.written.bars.len()));
        late += usize::from(parts.written.bars.iter().flatten().filter(|id| has_note(&[**id])).count() <= 3);
    }
    assert!(late > 5, "the late track is infilled too: {late}");
}

#[test]
fn q13_a_sample_that_is_drawn_again_begins_with_the_song_as_it_is() {
    let tokenizer = tokenizer();
    let config = SampleConfig {
        max_pitch_shift: 1,
        max_velocity_shift: 0,
        bars: vec![1],
        bar_share: [0.0, 0.0],
        ..SampleConfig::default()
    };
    // Most bars are empty, so that most sections are drawn several times.
    let score = of(vec![sparse([0, 5, 10, 15, 20])]);
    let mut pitches = BTreeSet::new();
    for key in 0..60 {
        let Ok(sample) = draw(&score, &tokenizer, &config, &mut keyed(key)) else { continue };
        let base = tokenizer.bpe().decode(&sample.input_ids);
        pitches.extend(base.iter().filter_map(|id| match Token::of(*id) {
            Some(Token::Pitch(pitch)) => Some(pitch),
            _ => None,
        }));
    }
    assert!(pitches.into_iter().eq(59..=61));
}

#[test]
fn q14_the_first_track_is_a_track_like_others() {
    let tokenizer = tokenizer();
    let (_, tracks) = cut(&song(8, 2));
    for track in 0..3 {
        let section = Section { kind: Kind::Track, track, bars: 0..8, window: 0..8 };
        let Infilling { prompt, answer, track: place } = assemble(tokenizer.bpe(), &tracks, &section, &tracks[track]);
        let parts = disassemble(&tokenizer.bpe().decode(&[prompt, answer].concat())).expect("well formed");
        assert_eq!((place, parts.written), (2, tracks[track].clone()));
    }
}

#[test]
fn q15_only_tracks_that_can_be_taken_count_for_the_share() {
    let mut score = song(8, 2);
    score.tracks.extend((0..20).map(|_| Track::default()));
    let config = SampleConfig { track_share: [0.34, 0.34], ..SampleConfig::default() };
    assert_eq!(vary(&score, &config, &mut keyed(1)).expect("varies").tracks.len(), 1);
}

#[test]
fn q16_nothing_after_the_last_note_stretches_the_piece() {
    let mut score = song(8, 2);
    score.tempos.push(Tempo { tick: 1920 * 20, micros_per_quarter: 400_000 });
    let varied = vary(&score, &SampleConfig::default(), &mut keyed(1)).expect("varies");
    assert_eq!(varied.tempos.len(), 1);
    assert!(bar_ticks(&varied, Until::End).expect("bars").len() <= 8);
}

/// A choice of design that was kept: the window is not centred, every possible first bar is as likely.
#[test]
fn q17_a_window_begins_anywhere_that_keeps_the_section() {
    let firsts = (0..5).map(|choice| window_around(&[1; 12], 5, 6, 4, &mut Scripted::new(vec![], vec![choice])));
    assert!(firsts.eq([1..6, 2..7, 3..8, 4..9, 5..10]));
}

#[test]
fn q18_a_song_without_a_sample_is_left_out_and_nothing_stops() {
    let config: IngestConfig =
        toml::from_str("[source]\nkind = 'synth'\nsongs = 1\n[tokenizer]\nkind = 'learn'\nvocabulary = 700\n")
            .expect("parses");
    let rules = Rules::new(&config, 1).expect("rules");
    let song = |midi: &str| Song {
        id: midi.to_owned(),
        path: midi.to_owned(),
        sha256: midi.to_owned(),
        split: Split::Train,
        tracks: 1,
        bars: 1,
        notes: 1,
        programs: vec![0],
        status: Status::Accepted,
        reason: None,
        midi: None,
    };
    let tokenizer = tokenizer();
    assert_eq!(rules.samples(&song("short"), &of(vec![sparse([0])]), &tokenizer), []);
    assert_eq!(rules.samples(&song("long"), &super::tests::song(12, 1), &tokenizer).len(), 4);
}
