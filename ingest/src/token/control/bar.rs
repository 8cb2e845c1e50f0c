//! What a bar is like, from the notes that count for it.

use super::Control;
use super::name::{BAR_DENSITY, BAR_DURATION, BAR_POLYPHONY, FULL, MOST_VOICES, PITCH_CLASS};
use crate::score::{Note, Tick};

/// The bar's values of one control, as places in the vocabulary. A bar without notes has no voices.
pub(super) fn attributes(control: Control, notes: &[Note], quarter: Tick) -> Vec<u16> {
    match control {
        Control::BarOnsetPolyphony => match voices(notes) {
            Some((fewest, most)) => vec![BAR_POLYPHONY + fewest - 1, BAR_POLYPHONY + MOST_VOICES + most - 1],
            None => Vec::new(),
        },
        Control::BarPitchClass => {
            let used = notes.iter().fold(0u16, |used, note| used | 1 << (note.pitch % 12));
            (0..12).filter(|class| used & 1 << class != 0).map(|class| PITCH_CLASS + class).collect()
        }
        Control::BarNoteDensity => vec![BAR_DENSITY + notes.len().min(usize::from(FULL)) as u16],
        Control::BarNoteDuration => durations(notes, quarter, BAR_DURATION),
        _ => Vec::new(),
    }
}

/// The smallest and largest number of notes that begin together, both from 1 to 6. Equal ticks need not stand
/// together: rounding to the grid can part them.
pub(super) fn voices(notes: &[Note]) -> Option<(u16, u16)> {
    let mut ticks: Vec<Tick> = notes.iter().map(|note| note.tick).collect();
    ticks.sort_unstable();
    let together = || ticks.chunk_by(|left, right| left == right).map(|chord| chord.len().min(6) as u16);
    together().min().zip(together().max())
}

/// For each length from a whole to a sixteenth whether a note has it exactly.
pub(super) fn durations(notes: &[Note], quarter: Tick, first: u16) -> Vec<u16> {
    let flag = |place: u16, sixteenths: Tick| {
        // Four times the length, so that nothing is rounded.
        notes.iter().any(|note| note.duration * 4 == quarter * sixteenths) as u16 + first + 2 * place
    };
    (0..).zip([16, 8, 4, 2, 1]).map(|(place, sixteenths)| flag(place, sixteenths)).collect()
}
