//! What a song of the composer promises, checked over many songs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::LazyLock;

use super::form::{Part, Plan, Section, Treatment};
use super::style::Role;
use super::*;
use crate::score::preprocess;
use crate::score::{Note, smf};
use crate::source::tests::conformance;
use crate::store::sha256_hex;

const SEED: u64 = 20_250_613;
const SONGS: u64 = 300;

/// The songs under test, composed once.
fn songs() -> impl Iterator<Item = (usize, &'static Plan, &'static Score)> {
    static COMPOSED: LazyLock<Vec<(Plan, Score)>> = LazyLock::new(|| {
        let song = |index| {
            let plan = plan(SEED, index);
            let score = write(&plan);
            (plan, score)
        };
        (0..SONGS).map(song).collect()
    });
    COMPOSED.iter().enumerate().map(|(index, (plan, score))| (index, plan, score))
}

fn bar_ticks(plan: &Plan) -> Tick {
    plan.meter.bar() * 40
}

/// A part's notes in a section, counted from the section's start.
fn within(plan: &Plan, section: &Section, notes: &[Note]) -> Vec<Note> {
    let start = section.start as Tick * bar_ticks(plan);
    let end = start + section.bars as Tick * bar_ticks(plan);
    let inside = notes.iter().filter(|note| (start..end).contains(&note.tick));
    inside.map(|note| Note { tick: note.tick - start, ..*note }).collect()
}

fn part_notes<'a>(plan: &'a Plan, score: &'a Score) -> impl Iterator<Item = (&'a Part, &'a [Note])> {
    assert_eq!(plan.parts.len(), score.tracks.len(), "every part has notes");
    plan.parts.iter().zip(score.tracks.iter().map(|track| track.notes.as_slice()))
}

#[test]
fn a_song_is_a_function_of_seed_and_index() {
    for index in [0, 1, 17, 1 << 40] {
        assert_eq!(compose(3, index), compose(3, index));
        assert_ne!(compose(3, index), compose(4, index));
        assert_ne!(compose(3, index), compose(3, index + 1));
    }
}

/// Whoever changes the music changes `VERSION` and this hash with it.
#[test]
fn the_songs_of_this_version_are_these() {
    let bytes: Vec<u8> = (0..50).flat_map(|index| smf::write(&compose(1, index))).collect();
    assert_eq!(
        (VERSION, sha256_hex(&bytes).as_str()),
        (1, "d0446a2a7a5ba5ee83909f0ef746b5f1f59eb8154380add7095851921660760b")
    );
}

#[test]
fn songs_keep_the_rules_of_scores() {
    for (index, plan, score) in songs() {
        assert_eq!(score.ticks_per_quarter, 480);
        assert_eq!((score.time_signatures.len(), score.time_signatures[0].tick), (1, 0));
        assert_eq!(score.tempos[0].tick, 0);
        assert!(score.tempos.windows(2).all(|pair| pair[0].tick < pair[1].tick), "song {index}");
        assert!(score.tempos.iter().all(|t| (300_000..=1_200_000).contains(&t.micros_per_quarter)), "song {index}");
        assert!((16..=64).contains(&plan.bars()), "song {index} has {} bars", plan.bars());
        assert!((3..=8).contains(&score.tracks.len()), "song {index} has {} tracks", score.tracks.len());
        assert!(score.tracks.iter().map(|track| track.notes.len()).sum::<usize>() > 100, "song {index}");
        let end = plan.bars() as Tick * bar_ticks(plan);
        for (part, notes) in part_notes(plan, score) {
            assert!(!notes.is_empty(), "song {index}: {:?} is silent", part.role);
            let order = |note: &Note| (note.tick, note.pitch, note.duration);
            assert!(notes.windows(2).all(|pair| order(&pair[0]) < order(&pair[1])), "song {index}: sorted");
            let (low, high) =
                if parts::is_drum(part.role) { (27, 87) } else { (part.instrument.low.max(21), part.instrument.high) };
            let mut free: BTreeMap<u8, Tick> = BTreeMap::new();
            for note in notes {
                assert!((low..=high).contains(&i32::from(note.pitch)), "song {index}: {:?} {note:?}", part.role);
                assert!(note.tick >= 0 && note.tick + note.duration <= end, "song {index}: {:?} {note:?}", part.role);
                assert!(free.get(&note.pitch).is_none_or(|free| *free <= note.tick), "song {index}: {note:?} overlaps");
                free.insert(note.pitch, note.tick + note.duration);
            }
        }
        // The last bar sounds: a song does not stop in the air.
        assert!(score.tracks.iter().any(|t| t.notes.iter().any(|n| n.tick >= end - bar_ticks(plan))), "song {index}");
    }
}

#[test]
fn the_tokenizer_changes_no_note() {
    for (index, _, score) in songs() {
        let gridded = preprocess(score);
        let ratio = 480 / Tick::from(gridded.ticks_per_quarter);
        let back = |note: &Note| Note { tick: note.tick * ratio, duration: note.duration * ratio, ..*note };
        let notes = |score: &Score| score.tracks.iter().map(|track| track.notes.clone()).collect::<Vec<_>>();
        let restored: Vec<Vec<Note>> =
            gridded.tracks.iter().map(|track| track.notes.iter().map(back).collect()).collect();
        assert_eq!(restored, notes(score), "song {index}");
    }
}

#[test]
fn a_midi_file_holds_the_whole_song() {
    for (index, _, score) in songs().take(50) {
        assert_eq!(smf::read(&smf::write(score)).expect("reads"), *score, "song {index}");
    }
}

#[test]
fn melodies_are_diatonic_and_rest_on_chord_tones() {
    let (mut notes_in_key, mut notes, mut strong_in_chord, mut strong, mut steps, mut moves) = (0, 0, 0, 0, 0, 0);
    for (_, plan, score) in songs() {
        let melody = plan.parts.iter().position(|part| part.role == Role::Melody).expect("a melody");
        for section in plan.sections.iter().filter(|s| plan.parts[melody].active[position(plan, s)]) {
            let theme = &plan.themes[section.theme];
            let sung = within(plan, section, &score.tracks[melody].notes);
            for pair in sung.windows(2) {
                moves += 1;
                steps += usize::from(pair[0].pitch.abs_diff(pair[1].pitch) <= 4);
            }
            for note in sung {
                let (at, pitch) = (note.tick / 40, i32::from(note.pitch));
                notes += 1;
                notes_in_key += usize::from(section.key.has(pitch));
                if at % plan.meter.bar() == 0 {
                    let chord = theme.harmony[(at / plan.meter.bar()) as usize][0];
                    strong += 1;
                    let tones = (0..7).filter(|degree| chord.has(*degree));
                    let pitches: Vec<i32> =
                        tones.map(|d| (section.key.tonic + section.key.under(d, chord)).rem_euclid(12)).collect();
                    strong_in_chord += usize::from(pitches.contains(&pitch.rem_euclid(12)));
                }
            }
        }
    }
    assert!(notes_in_key * 100 >= notes * 95, "{notes_in_key} of {notes} notes are in the key");
    assert!(strong_in_chord * 100 >= strong * 98, "{strong_in_chord} of {strong} downbeats are chord tones");
    assert!(steps * 100 >= moves * 85, "{steps} of {moves} moves are no wider than a third");
}

fn position(plan: &Plan, section: &Section) -> usize {
    plan.sections.iter().position(|other| other.start == section.start).expect("one of its sections")
}

#[test]
fn plain_repeats_have_the_same_notes_transposed() {
    let (mut repeats, mut transposed) = (0, 0);
    for (index, plan, score) in songs() {
        for (k, later) in plan.sections.iter().enumerate().filter(|(_, s)| s.treatment == Treatment::Plain) {
            let like = |s: &&Section| s.theme == later.theme && s.treatment == Treatment::Plain;
            let Some(first) = plan.sections[..k].iter().find(like) else { continue };
            let lift = (later.key.tonic - first.key.tonic).rem_euclid(12);
            // The song's last bar is its ending.
            let ends = if k + 1 == plan.sections.len() { 1 } else { 0 };
            let until = (later.bars - ends) as Tick * bar_ticks(plan);
            for (part, notes) in part_notes(plan, score) {
                if !part.active[k] || !part.active[position(plan, first)] {
                    continue;
                }
                let shift = if parts::is_drum(part.role) { 0 } else { lift };
                let part_of = |section: &Section, up: i32| -> Vec<(Tick, Tick, i32, u8)> {
                    let notes = within(plan, section, notes).into_iter().filter(|note| note.tick < until);
                    notes.map(|n| (n.tick, n.duration, i32::from(n.pitch) + up, n.velocity)).collect()
                };
                let (now, then) = (part_of(later, 0), part_of(first, shift));
                assert_eq!(now, then, "song {index}: {:?} in section {k}", part.role);
                repeats += 1;
                transposed += usize::from(lift > 0 && !parts::is_drum(part.role));
            }
        }
    }
    assert!(repeats > 1000, "{repeats} repeats");
    assert!(transposed > 50, "{transposed} transposed repeats");
}

#[test]
fn varied_repeats_vary() {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (_, plan, score) in songs() {
        for (k, later) in plan.sections.iter().enumerate().filter(|(_, s)| s.theme < 3) {
            let Some(first) = plan.sections[..k].iter().find(|s| s.theme == later.theme) else { continue };
            let melody = &score.tracks[0].notes;
            let count = counts.entry(format!("{:?}", later.treatment)).or_default();
            count.0 += 1;
            let onsets = |section| within(plan, section, melody).iter().map(|n| n.tick).collect::<Vec<_>>();
            count.1 += usize::from(onsets(first) != onsets(later));
        }
    }
    for treatment in ["Ornamented", "Displaced", "Thin"] {
        let (all, changed) = counts[treatment];
        assert!(all > 20 && changed * 2 > all, "{treatment}: {changed} of {all} have another rhythm");
    }
}

#[test]
fn songs_differ() {
    let mut scores = HashSet::new();
    let mut melodies = HashSet::new();
    let (mut styles, mut meters, mut modes, mut programs, mut tracks, mut velocities) =
        (BTreeSet::new(), BTreeSet::new(), HashSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (_, plan, score) in songs() {
        styles.insert(std::ptr::from_ref(plan.style));
        meters.insert(plan.meter.signature());
        modes.insert(plan.sections[0].key.mode);
        programs.extend(score.tracks.iter().map(|track| track.program));
        tracks.insert(score.tracks.len());
        velocities.extend(score.tracks.iter().flat_map(|t| t.notes.iter().map(|n| n.velocity)));
        melodies.insert(score.tracks[0].notes.iter().map(|n| (n.tick, n.pitch)).collect::<Vec<_>>());
        scores.insert(smf::write(score));
    }
    assert_eq!((scores.len(), melodies.len()), (SONGS as usize, SONGS as usize));
    assert_eq!((styles.len(), meters.len(), modes.len()), (9, 5, 4));
    assert!(programs.len() > 30, "{programs:?}");
    assert!(tracks.len() >= 4, "{tracks:?}");
    assert!(velocities.len() <= 8, "a small vocabulary: {velocities:?}");
}

#[test]
fn the_composer_is_a_source() {
    let paths: Vec<String> = (0..7).map(|k| format!("synth/{k:06}.mid")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    conformance(&|per_unit| Box::new(Synth::new(7, per_unit, 5).expect("opens")), &paths);
    let print = |songs, seed| Synth::new(songs, 2, seed).expect("opens").fingerprint();
    assert_ne!(print(7, 5), print(8, 5));
    assert_ne!(print(7, 5), print(7, 6));
    assert_eq!(Synth::new(0, 2, 5).expect_err("no songs").exit(), crate::job::exit::Exit::Mismatch);
}
