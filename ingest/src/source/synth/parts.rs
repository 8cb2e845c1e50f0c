//! What each track plays: the plan turned into notes, with nothing left to chance.

use super::counter::{COUNTER, counter};
use super::drums;
use super::form::{Part, Plan};
use super::stage::Stage;
use super::style::Role;
use super::theory::{Chord, QUARTER, Step, chord};
use super::tune::Tone;
use crate::score::{Note, Tick};

/// A note before it is put on ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sound {
    pub(super) at: Step,
    pub(super) length: Step,
    pub(super) pitch: i32,
    /// Loudness, an index into the levels; the part's own level is added.
    pub(super) level: i32,
}

/// The velocities in use, each one a velocity of the tokenizer.
const LEVELS: [u8; 8] = [37, 47, 58, 68, 79, 89, 100, 111];

/// The notes of a part, sorted by tick, pitch and duration.
pub(super) fn play(plan: &Plan, part: &Part) -> Vec<Note> {
    let mut sounds = Vec::new();
    let home = plan.sections.first().map_or(0, |section| section.key.tonic);
    let (lowest, highest) = compass(plan);
    let tonic = match part.role {
        Role::Melody => register(plan, part, 68, (lowest, highest)),
        // An octave away, or a third below.
        Role::Double => register(plan, part, if part.manner == 0 { 67 } else { 55 }, (lowest - 3, highest)),
        _ => register(plan, part, 55, COUNTER),
    };
    for (k, section) in plan.sections.iter().enumerate().filter(|(k, _)| part.active[*k]) {
        let stage = Stage {
            meter: plan.meter,
            section,
            theme: &plan.themes[section.theme],
            lift: (section.key.tonic - home).rem_euclid(12),
            last: k + 1 == plan.sections.len(),
        };
        let start = section.start as Step * plan.meter.bar();
        let played = match part.role {
            Role::Melody => sung(&stage, &stage.tune(), tonic),
            Role::Double if part.manner == 0 => sung(&stage, &thirds(&stage), tonic),
            Role::Double => sung(&stage, &stage.tune(), tonic),
            Role::Counter => sung(&stage, &counter(&stage), tonic),
            Role::Chords => chords(&stage, part),
            // Where there is no other accompaniment it lies low; else it glitters above.
            Role::Arpeggio if plan.style.core.contains(&Role::Arpeggio) => arpeggio(&stage, part, 59),
            Role::Arpeggio => arpeggio(&stage, part, 71),
            Role::Pad => pad(&stage, part),
            Role::Bass => bass(&stage, part),
            Role::Drums => drums::kit(&stage),
            Role::Percussion => drums::layer(&stage, part.manner),
        };
        let energy = section.energy;
        sounds.extend(played.into_iter().map(|s| Sound { at: s.at + start, level: s.level + energy, ..s }));
    }
    let range =
        if is_drum(part.role) { (27, 87) } else { (part.instrument.low.max(21), part.instrument.high.min(108)) };
    settle(sounds, plan, level(part.role), range)
}

/// Whether the role belongs on the percussion channel.
pub(super) fn is_drum(role: Role) -> bool {
    matches!(role, Role::Drums | Role::Percussion)
}

fn level(role: Role) -> i32 {
    match role {
        Role::Melody => 5,
        Role::Bass | Role::Drums => 4,
        Role::Counter | Role::Double | Role::Chords | Role::Arpeggio => 3,
        Role::Pad | Role::Percussion => 2,
    }
}

/// Puts sounds on ticks: swung, inside the range, no two at once on one pitch, with durations that tokens keep.
fn settle(sounds: Vec<Sound>, plan: &Plan, base: i32, (low, high): (i32, i32)) -> Vec<Note> {
    let swung = |at: Step| if plan.style.swing && at % QUARTER == 6 { at + 2 } else { at };
    let folded = |pitch: i32| match pitch {
        p if p < low => p + 12 * ((low - p + 11) / 12),
        p if p > high => p - 12 * ((p - high + 11) / 12),
        p => p,
    };
    let mut sounds: Vec<Sound> = sounds
        .into_iter()
        .map(|s| {
            let at = swung(s.at);
            // What is shorter than an eighth does not swing.
            let length = if s.length < QUARTER / 2 { s.length } else { swung(s.at + s.length) - at };
            Sound { at, length, pitch: folded(s.pitch), level: s.level }
        })
        .collect();
    sounds.sort_by_key(|s| (s.pitch, s.at, -s.length, -s.level));
    sounds.dedup_by_key(|s| (s.pitch, s.at));
    for k in 1..sounds.len() {
        let next = sounds[k];
        let before = &mut sounds[k - 1];
        if before.pitch == next.pitch {
            before.length = before.length.min(next.at - before.at);
        }
    }
    const TICKS: Tick = TICKS_PER_QUARTER as Tick / QUARTER;
    let mut notes: Vec<Note> = sounds
        .into_iter()
        .map(|s| Note {
            tick: s.at * TICKS,
            duration: plan.meter.hold(s.length) * TICKS,
            pitch: s.pitch as u8,
            velocity: LEVELS[(base + s.level).clamp(0, LEVELS.len() as i32 - 1) as usize],
        })
        .filter(|note| note.duration > 0)
        .collect();
    notes.sort_by_key(|note| (note.tick, note.pitch, note.duration));
    notes
}

/// Ticks in a quarter note of every song.
pub(super) const TICKS_PER_QUARTER: u32 = 480;

/// The tonic of the song's first key near `wish` on which `degrees` stay inside the instrument's range, however the
/// song is lifted.
fn register(plan: &Plan, part: &Part, wish: i32, degrees: (i32, i32)) -> i32 {
    let Some(key) = plan.sections.first().map(|section| section.key) else { return wish };
    let lift = plan.sections.iter().map(|s| (s.key.tonic - key.tonic).rem_euclid(12)).max().unwrap_or(0);
    let home = chord("I");
    let (below, above) = (key.under(degrees.0, home), key.under(degrees.1, home) + 1 + lift);
    let cost = |tonic: &i32| {
        let outside = (part.instrument.low - tonic - below).max(0) + (tonic + above - part.instrument.high).max(0);
        (outside, (tonic - wish).abs())
    };
    let octaves = (0..9).map(|octave| key.tonic + 12 * octave);
    octaves.min_by_key(cost).unwrap_or(wish)
}

/// The lowest and the highest degree of the song's tunes, with room for an ornament.
fn compass(plan: &Plan) -> (i32, i32) {
    let degrees = || plan.themes.iter().flat_map(|theme| theme.tune.iter().map(|tone| tone.degree));
    (degrees().min().unwrap_or(0) - 1, degrees().max().unwrap_or(0) + 1)
}

fn sung(stage: &Stage<'_>, tones: &[Tone], tonic: i32) -> Vec<Sound> {
    let phrase = 4 * stage.meter.bar();
    let sound = |tone: &Tone| {
        let tonic = tonic + stage.lift;
        let accent = i32::from(stage.meter.is_strong(tone.at));
        // A phrase ends softer than it began.
        let fall = i32::from(tone.at % phrase >= phrase - stage.meter.bar());
        let pitch = tonic + stage.key().under(tone.degree, stage.chord_at(tone.at));
        Sound { at: tone.at, length: tone.length, pitch, level: accent - fall }
    };
    tones.iter().map(sound).collect()
}

/// The tune a third below, or a fourth where that is in the chord.
fn thirds(stage: &Stage<'_>) -> Vec<Tone> {
    let mut tones = stage.tune();
    for tone in &mut tones {
        let chord = stage.chord_at(tone.at);
        let strong = stage.meter.is_strong(tone.at) || tone.length >= stage.meter.pulse();
        tone.degree -= if strong && !chord.has(tone.degree - 2) && chord.has(tone.degree - 3) { 3 } else { 2 };
    }
    tones
}

fn chords(stage: &Stage<'_>, part: &Part) -> Vec<Sound> {
    struck(stage, stage.theme.chords, center(part, 59))
}

fn arpeggio(stage: &Stage<'_>, part: &Part, wish: i32) -> Vec<Sound> {
    struck(stage, stage.theme.arpeggio, center(part, wish))
}

fn pad(stage: &Stage<'_>, part: &Part) -> Vec<Sound> {
    struck(stage, "x", center(part, 64))
}

/// A center for three voices that leaves them room.
fn center(part: &Part, wish: i32) -> i32 {
    wish.clamp(part.instrument.low + 10, part.instrument.high - 10)
}

fn struck(stage: &Stage<'_>, figure: &'static str, center: i32) -> Vec<Sound> {
    let voicings = stage.voicings(center);
    let mut sounds = Vec::new();
    for (at, length, mark) in stage.figure(figure, 'x') {
        let in_bar = at % stage.meter.bar();
        let voices = voicings[(at / stage.meter.bar()) as usize][usize::from(in_bar >= stage.meter.middle())];
        let level = i32::from(stage.meter.is_strong(at));
        let one = mark.to_digit(3).map(|k| k as usize);
        let chosen = voices.into_iter().enumerate().filter(|(k, _)| one.is_none_or(|one| one == *k));
        sounds.extend(chosen.map(|(_, pitch)| Sound { at, length, pitch, level }));
    }
    sounds
}

fn bass(stage: &Stage<'_>, part: &Part) -> Vec<Sound> {
    let floor = part.instrument.low + 2;
    let key = stage.key();
    let root_of = |chord: Chord| {
        let pitch = key.tonic + key.under(chord.root, chord) - stage.lift;
        floor + (pitch - floor).rem_euclid(12) + stage.lift
    };
    let end = stage.theme.bars as Step * stage.meter.bar();
    let sound = |(at, length, mark): (Step, Step, char)| {
        let chord = stage.chord_at(at);
        let root = root_of(chord);
        let above = |degrees: i32| root + key.under(chord.root + degrees, chord) - key.under(chord.root, chord);
        let next = (at + length < end).then(|| stage.chord_at(at + length)).filter(|next| *next != chord);
        let pitch = match (mark, next) {
            ('O', _) => root + 12,
            ('3', _) => above(2),
            ('F', _) | ('A', None) => above(4),
            ('A', Some(next)) => {
                let goal = root_of(next);
                let side = if goal > root { -1 } else { 1 };
                goal + key.under(next.root + side, chord) - key.under(next.root, next)
            }
            _ => root,
        };
        Sound { at, length, pitch, level: i32::from(stage.meter.is_strong(at)) }
    };
    stage.figure(stage.theme.bass, 'R').into_iter().map(sound).collect()
}
