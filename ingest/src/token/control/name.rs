//! The places of the attribute controls in the vocabulary, counted from its first control, and their names.

/// Numbers of notes that begin together, 1 to 6: smallest, then largest.
pub(super) const TRACK_POLYPHONY: u16 = 0;
/// The same of a bar.
pub(super) const BAR_POLYPHONY: u16 = 12;
/// Pitch classes 0 to 11.
pub(super) const PITCH_CLASS: u16 = 24;
/// Fewest notes in a bar, 0 to 17, then the most.
pub(super) const TRACK_DENSITY: u16 = 36;
/// Fewest notes 18 or more, then the most.
pub(super) const TRACK_DENSITY_FULL: u16 = 72;
/// Notes in a bar, 0 to 18 and more.
pub(super) const BAR_DENSITY: u16 = 74;
/// Six lengths of notes, each absent or present. No score on the grid has the last.
pub(super) const BAR_DURATION: u16 = 93;
/// The same of a track.
pub(super) const TRACK_DURATION: u16 = 105;
/// Ten degrees of likeness.
pub(super) const REPETITION: u16 = 117;

/// The most voices that polyphony tells apart.
pub(super) const MOST_VOICES: u16 = 6;
/// Density from which on all is one.
pub(super) const FULL: u16 = 18;
/// The degrees of [`REPETITION`].
pub(super) const DEGREES: u16 = 10;

const LENGTHS: [&str; 6] = ["Whole", "Half", "Quarter", "Eight", "Sixteenth", "ThirtySecond"];

/// The name of the `index`th control in MidiTok's files.
pub(in crate::token) fn name(index: u16) -> String {
    let bounds = |what: &str, from: u16, count: u16, least: u16| {
        let (side, at) = if index - from < count { ("Min", 0) } else { ("Max", count) };
        format!("{what}{side}_{}", index - from - at + least)
    };
    let flag =
        |what: &str, from: u16| format!("{what}{}_{}", LENGTHS[usize::from(index - from) / 2], (index - from) % 2);
    match index {
        TRACK_POLYPHONY..BAR_POLYPHONY => bounds("ACTrackOnsetPolyphony", TRACK_POLYPHONY, MOST_VOICES, 1),
        BAR_POLYPHONY..PITCH_CLASS => bounds("ACBarOnsetPolyphony", BAR_POLYPHONY, MOST_VOICES, 1),
        PITCH_CLASS..TRACK_DENSITY => format!("ACBarPitchClass_{}", index - PITCH_CLASS),
        TRACK_DENSITY..TRACK_DENSITY_FULL => bounds("ACTrackNoteDensity", TRACK_DENSITY, FULL, 0),
        TRACK_DENSITY_FULL..BAR_DENSITY => {
            format!("ACTrackNoteDensity{}_{FULL}+", if index == TRACK_DENSITY_FULL { "Min" } else { "Max" })
        }
        BAR_DENSITY..BAR_DURATION => match index - BAR_DENSITY {
            FULL => format!("ACBarNoteDensity_{FULL}+"),
            notes => format!("ACBarNoteDensity_{notes}"),
        },
        BAR_DURATION..TRACK_DURATION => flag("ACBarNoteDuration", BAR_DURATION),
        TRACK_DURATION..REPETITION => flag("ACTrackNoteDuration", TRACK_DURATION),
        _ => format!("ACTrackRepetition_{:.2}", super::track::degree(index - REPETITION)),
    }
}
