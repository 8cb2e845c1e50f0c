//! Variations of a song that keep it playable: transposed as a whole, played softer or louder.

use std::ops::RangeInclusive;

use crate::reject::Reject;
use crate::score::Score;

/// The range of each General MIDI program, lowest and highest pitch, as General MIDI 2 recommends it.
/// Sound effects have no range of their own. Eight programs (a family) a line.
#[rustfmt::skip]
const RANGES: [(i16, i16); 128] = [
    (21, 108), (21, 108), (21, 108), (21, 108), (28, 103), (28, 103), (41, 89), (36, 96),
    (60, 108), (72, 108), (60, 84), (53, 89), (48, 84), (65, 96), (60, 77), (60, 84),
    (36, 96), (36, 96), (36, 96), (21, 108), (36, 96), (53, 89), (60, 84), (53, 89),
    (40, 84), (40, 84), (40, 86), (40, 86), (40, 86), (40, 86), (40, 86), (40, 86),
    (28, 55), (28, 55), (28, 55), (28, 55), (28, 55), (28, 55), (28, 55), (28, 55),
    (55, 93), (48, 84), (36, 72), (28, 55), (28, 93), (28, 93), (23, 103), (36, 57),
    (28, 96), (28, 96), (36, 96), (36, 96), (48, 79), (48, 79), (48, 84), (48, 72),
    (58, 94), (34, 75), (29, 55), (58, 82), (41, 77), (36, 96), (36, 96), (36, 96),
    (54, 87), (49, 80), (42, 75), (37, 68), (58, 91), (52, 81), (34, 72), (50, 91),
    (74, 108), (60, 96), (60, 96), (60, 96), (60, 96), (55, 84), (60, 96), (60, 84),
    (21, 108), (21, 108), (36, 96), (36, 96), (36, 96), (36, 96), (36, 96), (21, 108),
    (36, 96), (36, 96), (36, 96), (36, 96), (36, 96), (36, 96), (36, 96), (36, 96),
    (36, 96), (36, 96), (36, 96), (36, 96), (36, 96), (36, 96), (36, 96), (36, 96),
    (48, 77), (48, 84), (50, 79), (55, 84), (48, 79), (36, 77), (55, 96), (48, 72),
    (72, 84), (60, 72), (52, 76), (0, 127), (0, 127), (0, 127), (0, 127), (0, 127),
    (0, 127), (0, 127), (0, 127), (0, 127), (0, 127), (0, 127), (0, 127), (0, 127),
];

/// The pitch offsets of `offsets` that keep every pitched track within its instrument's range, ascending.
/// A track far out of its range leaves none.
pub fn allowed_pitch_offsets(score: &Score, offsets: RangeInclusive<i16>) -> Vec<i16> {
    let (mut low, mut high) = (-127, 127);
    for track in score.tracks.iter().filter(|track| !track.is_drum) {
        let pitches = || track.notes.iter().map(|note| i16::from(note.pitch));
        if let (Some(least), Some(most)) = (pitches().min(), pitches().max()) {
            let range = RANGES[usize::from(track.program & 0x7F)];
            low = low.max(range.0 - least);
            high = high.min(range.1 - most);
        }
    }
    offsets.filter(|offset| (low..=high).contains(offset)).collect()
}

/// Shifts the pitch of all pitched tracks and the velocity of all tracks. Velocities stop at 1 and 127.
///
/// # Errors
/// A pitch would leave 0 to 127.
pub fn augment(score: &Score, pitch: i16, velocity: i16) -> Result<Score, Reject> {
    let mut score = score.clone();
    for track in &mut score.tracks {
        for note in &mut track.notes {
            if !track.is_drum {
                let shifted = u8::try_from(i16::from(note.pitch) + pitch).ok().filter(|pitch| *pitch < 128);
                note.pitch = shifted.ok_or_else(|| Reject::tokenize("pitch-shift", format!("by {pitch}")))?;
            }
            if velocity != 0 {
                note.velocity = (i16::from(note.velocity) + velocity).clamp(1, 127) as u8;
            }
        }
    }
    Ok(score)
}
