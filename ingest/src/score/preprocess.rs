//! A score onto the tokenizer's grid, exactly as the reference puts it there, quirks included: a changed
//! tick here is a changed token in training.

use super::bars::COMMON_TIME;
use super::grid::{
    DEFAULT_MICROS_PER_QUARTER, DRUM_PITCHES, PITCHES, POSITIONS_PER_BEAT, PROGRAMS, VELOCITIES, duration_ticks,
    metre_index, nearest, nearest_tempo,
};
use super::{Note, Score, Tempo, Tick, TimeSignature, Track};

/// A stretch of the score in which a value that depends on the metre is constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// Where it ends; the last one ends one tick after the score.
    pub(crate) end: Tick,
    /// The value.
    pub(crate) value: Tick,
}

/// The score on the grid: 12 ticks a quarter, or 24 if a metre in eighths is left.
///
/// Notes out of range, tracks without notes and programs without a token are dropped; nothing else is.
pub fn preprocess(score: &Score) -> Score {
    let (metres, ticks_per_quarter) = grid_metres(score);
    let mut out =
        if ticks_per_quarter == score.ticks_per_quarter { score.clone() } else { resample(score, ticks_per_quarter) };
    out.time_signatures = metres;

    let beats = beat_sections(&out);
    let factors = snap_factors(&out);
    let mut tracks = std::mem::take(&mut out.tracks);
    tracks.retain_mut(|track| {
        prepare_notes(track);
        if !track.notes.is_empty() {
            snap_notes(&mut track.notes, &factors);
            round_durations(&mut track.notes, &beats);
        }
        !track.notes.is_empty()
    });
    out.tracks = tracks;
    out.tempos = prepare_tempos(&out.tempos, &factors);
    out
}

/// Half away from zero.
fn round(value: f64) -> Tick {
    if value >= 0.0 { (value + 0.5).floor() as Tick } else { -((-value + 0.5).floor() as Tick) }
}

/// The metres on the grid, each change on a bar line, and the grid's ticks in a quarter.
pub(super) fn grid_metres(score: &Score) -> (Vec<TimeSignature>, u32) {
    let supported = |signature: &&TimeSignature| metre_index(signature).is_some();
    let mut metres: Vec<TimeSignature> = score.time_signatures.iter().filter(supported).copied().collect();
    if metres.first().is_none_or(|first| first.tick != 0) {
        metres.insert(0, COMMON_TIME);
    }
    let finest = metres.iter().map(|metre| metre.denominator).max().unwrap_or(4);
    let ticks_per_quarter = POSITIONS_PER_BEAT as u32 * u32::from(finest) / 4;
    if ticks_per_quarter != score.ticks_per_quarter {
        let ratio = f64::from(ticks_per_quarter) / f64::from(score.ticks_per_quarter);
        for metre in &mut metres {
            // Quirk: cut, where everything else is rounded.
            metre.tick = (metre.tick as f64 * ratio) as Tick;
        }
    }
    (align_metres(metres, ticks_per_quarter), ticks_per_quarter)
}

fn resample(score: &Score, ticks_per_quarter: u32) -> Score {
    let ratio = f64::from(ticks_per_quarter) / f64::from(score.ticks_per_quarter);
    let at = |tick: Tick| round(ratio * tick as f64);
    let all = |ticks: &[Tick]| ticks.iter().map(|tick| at(*tick)).collect::<Vec<_>>();
    let note = |note: &Note| Note { tick: at(note.tick), duration: at(note.duration).max(1), ..*note };
    let track = |track: &Track| Track {
        program: track.program,
        is_drum: track.is_drum,
        notes: track.notes.iter().map(note).collect(),
        control_ticks: all(&track.control_ticks),
        bend_ticks: all(&track.bend_ticks),
        pedals: track.pedals.iter().map(|(tick, duration)| (at(*tick), at(*duration).max(1))).collect(),
        lyric_ticks: all(&track.lyric_ticks),
    };
    Score {
        ticks_per_quarter,
        tracks: score.tracks.iter().map(track).collect(),
        time_signatures: Vec::new(),
        tempos: score.tempos.iter().map(|tempo| Tempo { tick: at(tempo.tick), ..*tempo }).collect(),
        key_ticks: all(&score.key_ticks),
        marker_ticks: all(&score.marker_ticks),
    }
}

/// Moves every change of metre forward to a bar line and drops changes that change nothing.
fn align_metres(metres: Vec<TimeSignature>, ticks_per_quarter: u32) -> Vec<TimeSignature> {
    let bar_of = |metre: &TimeSignature| metre.ticks_per_bar(ticks_per_quarter).max(1);
    let mut out: Vec<TimeSignature> = Vec::with_capacity(metres.len());
    let mut bar = metres.first().map_or(1, bar_of);
    let mut previous = 0;
    for mut metre in metres {
        if let Some(last) = out.last() {
            if metre.same_metre(last) {
                continue;
            }
            metre.tick = metre.tick.max(last.tick);
        }
        let bars = (metre.tick - previous).div_euclid(bar);
        if (metre.tick - previous).rem_euclid(bar) > 0 {
            metre.tick = previous + (bars + 1) * bar;
        }
        (bar, previous) = (bar_of(&metre), metre.tick);
        if out.last().is_some_and(|last| last.tick == metre.tick) {
            out.pop();
            if let Some(last) = out.last().filter(|last| last.same_metre(&metre)) {
                (bar, previous) = (bar_of(last), last.tick);
                continue;
            }
        }
        out.push(metre);
    }
    if out.first().is_none_or(|first| first.tick != 0) {
        out.insert(0, COMMON_TIME);
    }
    out
}

/// The sections of `value`, neighbours of equal value merged. The score has at least one metre.
fn sections(score: &Score, value: impl Fn(&TimeSignature) -> Tick) -> Vec<Section> {
    let metres = &score.time_signatures;
    let ends = metres.iter().skip(1).map(|metre| metre.tick).chain([score.end() + 1]);
    let mut out: Vec<Section> = Vec::new();
    for (metre, end) in metres.iter().zip(ends) {
        let value = value(metre);
        match out.last_mut() {
            Some(last) if last.value == value => last.end = end,
            _ => out.push(Section { end, value }),
        }
    }
    out
}

/// Ticks in a beat along a preprocessed score.
pub(crate) fn beat_sections(score: &Score) -> Vec<Section> {
    sections(score, |metre| metre.ticks_per_beat(score.ticks_per_quarter))
}

/// Ticks that onsets are snapped to, where metres in quarters and in eighths meet; empty elsewhere.
fn snap_factors(score: &Score) -> Vec<Section> {
    let first = score.time_signatures[0].denominator;
    if score.time_signatures.iter().all(|metre| metre.denominator == first) {
        return Vec::new();
    }
    let ticks = Tick::from(score.ticks_per_quarter);
    sections(score, |metre| ticks / (POSITIONS_PER_BEAT * Tick::from(metre.denominator) / 4))
}

/// Drops notes without a token and rounds velocities. A program without a token loses all its notes.
fn prepare_notes(track: &mut Track) {
    if !track.is_drum && !PROGRAMS.contains(&track.program) {
        track.notes.clear();
    }
    let pitches = if track.is_drum { DRUM_PITCHES } else { PITCHES };
    track.notes.retain(|note| pitches.contains(&note.pitch));
    for note in &mut track.notes {
        note.velocity = nearest(&VELOCITIES, note.velocity);
    }
}

/// Position, counted from `from`, of the first note there at or after `tick`; 0 if there is none.
fn first_at_or_after(notes: &[Note], from: usize, tick: Tick) -> usize {
    notes.get(from..).and_then(|rest| rest.iter().position(|note| note.tick >= tick)).unwrap_or(0)
}

/// Quirk: the bounds are positions relative to the bound before and are used as if they were absolute, so
/// they are wrong from the third section on.
fn snap_notes(notes: &mut [Note], factors: &[Section]) {
    let mut from = 0;
    let bounds = factors.iter().map(|section| {
        from = first_at_or_after(notes, from, section.end);
        Section { end: from as Tick, value: section.value }
    });
    let bounds: Vec<Section> = bounds.collect();
    let mut ticks: Vec<Tick> = notes.iter().map(|note| note.tick).collect();
    snap(&mut ticks, &bounds);
    for (note, tick) in notes.iter_mut().zip(ticks) {
        note.tick = tick;
    }
}

/// Rounds ticks, half to even, to multiples of each section's value; a section's end is an **index**, and
/// the last section is open.
fn snap(ticks: &mut [Tick], bounds: &[Section]) {
    let mut low = 0;
    for (k, bound) in bounds.iter().enumerate() {
        let high = if k + 1 == bounds.len() { ticks.len() } else { bound.end.max(0) as usize };
        let range = low.min(ticks.len())..high.min(ticks.len());
        if bound.value > 1 && range.start < range.end {
            for tick in &mut ticks[range] {
                *tick = (*tick as f64 / bound.value as f64).round_ties_even() as Tick * bound.value;
            }
        }
        low = high;
    }
}

fn round_durations(notes: &mut [Note], beats: &[Section]) {
    let last_onset = notes.last().map_or(0, |note| note.tick);
    let mut from = 0;
    for (k, section) in beats.iter().enumerate() {
        let table = duration_ticks(section.value);
        let open = k + 1 == beats.len() || section.end > last_onset;
        let to = if open { notes.len() } else { from + first_at_or_after(notes, from, section.end) };
        for note in notes.get_mut(from..to).unwrap_or_default() {
            note.duration = nearest(&table, note.duration);
        }
        if open {
            return;
        }
        from = to;
    }
}

/// Quirk: the sections' end ticks are used as indices, so the first factor usually applies to all tempos.
fn prepare_tempos(tempos: &[Tempo], factors: &[Section]) -> Vec<Tempo> {
    let default = Tempo { tick: 0, micros_per_quarter: DEFAULT_MICROS_PER_QUARTER };
    let mut ticks: Vec<Tick> = tempos.iter().map(|tempo| tempo.tick).collect();
    snap(&mut ticks, factors);
    let mut out: Vec<Tempo> = Vec::with_capacity(tempos.len() + 1);
    for (tempo, tick) in tempos.iter().zip(ticks) {
        out.pop_if(|last| last.tick == tick);
        out.push(Tempo { tick, micros_per_quarter: nearest_tempo(tempo.micros_per_quarter) });
    }
    if out.first().is_none_or(|first| first.tick != 0) {
        out.insert(0, default);
    }
    out
}
