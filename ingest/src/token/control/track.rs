//! What a track is like: its voices, its density, the lengths of its notes, and how much it repeats.

use super::bar::{durations, voices};
use super::name::{
    DEGREES, FULL, MOST_VOICES, REPETITION, TRACK_DENSITY, TRACK_DENSITY_FULL, TRACK_DURATION, TRACK_POLYPHONY,
};
use super::{Compat, Control};
use crate::score::{Note, Tick, Track};

/// The track's values of one control, as places in the vocabulary. `bars` are the tokenizer's, never empty.
pub(super) fn attributes(control: Control, track: &Track, quarter: Tick, bars: &[Tick], compat: Compat) -> Vec<u16> {
    match control {
        Control::TrackOnsetPolyphony => match voices(&track.notes) {
            Some((fewest, most)) => {
                // Quirk of the reference: the smallest number is cut to 1 from above.
                let fewest = if compat == Compat::MidiRwkv { 1 } else { fewest };
                vec![TRACK_POLYPHONY + fewest - 1, TRACK_POLYPHONY + MOST_VOICES + most - 1]
            }
            None => Vec::new(),
        },
        Control::TrackNoteDensity => density(track, bars, compat),
        Control::TrackNoteDuration => durations(&track.notes, quarter, TRACK_DURATION),
        Control::TrackRepetition => repetition(track, bars, compat).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Fewest and most notes in a bar. Silent bars count, those after the track's end excepted.
fn density(track: &Track, bars: &[Tick], compat: Compat) -> Vec<u16> {
    let counts = match compat {
        Compat::MidiRwkv => published_counts(track, bars),
        Compat::None => {
            let last = track.notes.last().map_or(0, |note| note.tick);
            let own = bars.partition_point(|bar| *bar <= last).max(1);
            let mut counts = vec![0u16; own];
            for note in &track.notes {
                let count = &mut counts[bars[..own].partition_point(|bar| *bar <= note.tick).max(1) - 1];
                *count = count.saturating_add(1);
            }
            counts
        }
    };
    let (fewest, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
    let least = if fewest >= FULL { TRACK_DENSITY_FULL } else { TRACK_DENSITY + fewest };
    let greatest = if most >= FULL { TRACK_DENSITY_FULL + 1 } else { TRACK_DENSITY + FULL + most };
    vec![least, greatest]
}

/// Quirk of the reference: bars are the bins of a histogram, the last of which ends with the last bar's begin
/// unless the track goes on after it; later notes count nowhere, and a note exactly there in the bar before.
fn published_counts(track: &Track, bars: &[Tick]) -> Vec<u16> {
    let mut edges = bars.to_vec();
    let end = track.end();
    if edges.last().is_some_and(|last| end > *last) {
        edges.push(end + 1);
    }
    let mut counts = vec![0u16; edges.len() - 1];
    for note in &track.notes {
        let bin = edges.partition_point(|edge| *edge <= note.tick);
        let at_the_end = bin == edges.len() && edges.last() == Some(&note.tick);
        let bin = if at_the_end { bin.saturating_sub(2) } else { bin.wrapping_sub(1) };
        if let Some(count) = counts.get_mut(bin) {
            *count = count.saturating_add(1);
        }
    }
    counts
}

/// The `step`th degree of likeness, from 0 to 1.
pub(super) fn degree(step: u16) -> f64 {
    if step + 1 == DEGREES { 1.0 } else { f64::from(step) * (1.0 / f64::from(DEGREES - 1)) }
}

/// A cell of the roll that bars are compared by: tick, pitch, and which of two planes.
type Cell = (Tick, u8, bool);

/// The cells of the notes, sorted, each once: those of onsets and of offsets.
///
/// Quirk of the reference: it gets the cells that sound instead of the offsets.
fn cells(notes: &[Note], compat: Compat) -> Vec<Cell> {
    let mut cells: Vec<Cell> = notes.iter().map(|note| (note.tick, note.pitch, true)).collect();
    match compat {
        Compat::MidiRwkv => sound(notes, &mut cells),
        Compat::None => cells.extend(notes.iter().map(|note| (note.tick + note.duration, note.pitch, false))),
    }
    cells.sort_unstable();
    cells.dedup();
    cells
}

/// Adds the cells that sound. Notes that hold a pitch together add theirs once, so that many of them take no more
/// memory than one; they are known by the last stretch of ticks of their pitch.
fn sound(notes: &[Note], cells: &mut Vec<Cell>) {
    let mut held: [(Tick, Tick); 256] = [(0, 0); 256];
    for note in notes {
        let (from, to) = &mut held[usize::from(note.pitch)];
        let end = note.tick + note.duration;
        let within = (*from..=*to).contains(&note.tick);
        let start = if within { *to } else { note.tick };
        cells.extend((start..end).map(|tick| (tick, note.pitch, false)));
        (*from, *to) = if within { (*from, end.max(*to)) } else { (note.tick, end) };
    }
}

/// The mean share of a bar's cells that the next bars have too, over all bars that have cells.
///
/// Quirk of the reference: it looks three bars ahead where four are meant.
fn repetition(track: &Track, bars: &[Tick], compat: Compat) -> Option<u16> {
    let length = track.end() + 1;
    let cells = cells(&track.notes, compat);
    let ahead = if compat == Compat::MidiRwkv { 4 } else { 5 };
    let bar = |number: usize| {
        let (from, to) = (bars[number].min(length), bars.get(number + 1).map_or(length, |tick| *tick.min(&length)));
        let start = cells.partition_point(|cell| cell.0 < from);
        let end = cells.partition_point(|cell| cell.0 < to).max(start);
        (from, (to - from).max(0), &cells[start..end])
    };
    let all: Vec<(Tick, Tick, &[Cell])> = (0..bars.len()).map(bar).collect();
    let mut shares = Vec::new();
    for (number, (from, ticks, own)) in all.iter().enumerate().take(bars.len().saturating_sub(1)) {
        if bars[number] > length {
            break;
        }
        if own.is_empty() {
            continue;
        }
        for (other_from, other_ticks, other) in &all[number + 1..all.len().min(number + ahead)] {
            if ticks == other_ticks {
                let same = shared(own, *from, other, *other_from);
                shares.push(same as f64 / own.len() as f64);
            }
        }
    }
    if shares.is_empty() {
        return None;
    }
    let mean = pairwise_sum(&shares) / shares.len() as f64;
    let distance = |step: &u16| (degree(*step) - mean).abs();
    let best = (0..DEGREES).reduce(|best, step| if distance(&step) < distance(&best) { step } else { best })?;
    Some(REPETITION + best)
}

/// Cells that two bars have in common, each counted from its bar's begin. Both are sorted.
fn shared(own: &[Cell], from: Tick, other: &[Cell], other_from: Tick) -> usize {
    let (mut left, mut right, mut same) = (0, 0, 0);
    while let (Some(a), Some(b)) = (own.get(left), other.get(right)) {
        let (a, b) = ((a.0 - from, a.1, a.2), (b.0 - other_from, b.1, b.2));
        left += usize::from(a <= b);
        right += usize::from(b <= a);
        same += usize::from(a == b);
    }
    same
}

/// The sum in numpy's order, which rounds as numpy does.
fn pairwise_sum(values: &[f64]) -> f64 {
    let count = values.len();
    if count < 8 {
        return values.iter().sum();
    }
    if count > 128 {
        let half = count / 2 - count / 2 % 8;
        return pairwise_sum(&values[..half]) + pairwise_sum(&values[half..]);
    }
    let (whole, rest) = values.split_at(count - count % 8);
    let mut lanes = [0.0; 8];
    for eight in whole.chunks_exact(8) {
        lanes.iter_mut().zip(eight).for_each(|(lane, value)| *lane += value);
    }
    let halves = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    rest.iter().fold(halves, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(bars: Tick, per_bar: Tick) -> Track {
        let note = |bar: Tick, k: Tick| Note { tick: bar * 48 + k * 12, duration: 12, pitch: 60, velocity: 64 };
        let notes = (0..bars).flat_map(|bar| (0..per_bar).map(move |k| note(bar, k))).collect();
        Track { notes, ..Track::default() }
    }

    #[test]
    fn a_track_of_equal_bars_repeats_wholly() {
        let bars: Vec<Tick> = (0..8).map(|bar| bar * 48).collect();
        assert_eq!(repetition(&track(8, 3), &bars, Compat::None), Some(REPETITION + 9));
    }

    #[test]
    fn more_notes_in_a_bar_than_can_be_counted_are_many() {
        let note = Note { tick: 0, duration: 12, pitch: 60, velocity: 64 };
        let track = Track { notes: vec![note; 70_000], ..Track::default() };
        for compat in [Compat::None, Compat::MidiRwkv] {
            assert_eq!(density(&track, &[0, 48], compat)[1], TRACK_DENSITY_FULL + 1, "{compat:?}");
        }
    }

    #[test]
    fn a_pitch_that_notes_hold_together_sounds_once() {
        let note = |tick, duration, pitch| Note { tick, duration, pitch, velocity: 64 };
        // The last two do not begin in order, as rounding to the grid can leave them.
        let notes = [(0, 40), (0, 12), (12, 12), (24, 48), (96, 12), (120, 12), (108, 30)];
        let notes: Vec<Note> = notes.map(|(tick, duration)| note(tick, duration, 60)).to_vec();
        let mut sounding = Vec::new();
        sound(&vec![note(5, 900, 60); 1000], &mut sounding);
        assert_eq!(sounding.len(), 900);
        let each =
            |note: &Note| (note.tick..note.tick + note.duration).map(|tick| (tick, 60, false)).collect::<Vec<_>>();
        let mut expected: Vec<Cell> = notes.iter().flat_map(each).collect();
        expected.extend(notes.iter().map(|note| (note.tick, 60, true)));
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(cells(&notes, Compat::MidiRwkv), expected);
    }

    #[test]
    fn density_counts_every_bar_of_the_track() {
        let bars: Vec<Tick> = (0..8).map(|bar| bar * 48).collect();
        let counted = density(&track(5, 3), &bars, Compat::None);
        assert_eq!(counted, [TRACK_DENSITY + 3, TRACK_DENSITY + FULL + 3], "silence after the end does not count");
        let published = density(&track(5, 3), &bars, Compat::MidiRwkv);
        assert_eq!(published, [TRACK_DENSITY, TRACK_DENSITY + FULL + 3], "in the published data it does");
    }
}
