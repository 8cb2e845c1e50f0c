//! The secondary metrics: simple properties of one section that have no good or bad by themselves.
//!
//! Source: the metrics that accompany arXiv 2506.13001, most of them after Dong et al. and MusPy. Each is
//! computed for the original and for the infilled section, and the closer they are the better.
//! Conventions: a note belongs to the section if its onset does; it is cut at the section's end where time
//! is measured; the same pitch twice at once counts once. Metrics, each of one score:
//!
//! - [`used_pitch_classes`] (UPC): different pitch classes in a bar, mean over bars, `[0, 12]`,
//! - [`polyphony_rate`] (PR): share of the section in which more than one pitch sounds, `[0, 1]`,
//! - [`polyphony`]: mean number of sounding pitches while any sounds, from 1,
//! - [`pitch_variety`] (PV): different pitches per note, `(0, 1]`,
//! - [`rhythm_variety`] (RV): different durations in ticks per note, `(0, 1]`,
//! - [`qualified_rhythm`] (QR): share of notes from a 1/32 to four bars of 4/4 long, `[0, 1]`.

use std::collections::BTreeSet;

use midi_ingest::score::{Note, Tick};

use super::{Passage, Undefined};

/// UPC: the mean over the bars of the number of different pitch classes; an empty bar counts 0.
pub fn used_pitch_classes(passage: &Passage) -> f64 {
    let classes = |bar| passage.notes_in(bar).map(|note| note.pitch % 12).collect::<BTreeSet<_>>().len();
    passage.bars().map(classes).sum::<usize>() as f64 / passage.bar_count() as f64
}

/// PR: ticks with more than one sounding pitch, per tick of the section.
///
/// # Errors
/// Nothing sounds.
pub fn polyphony_rate(passage: &Passage) -> Result<f64, Undefined> {
    let time = Time::of(passage)?;
    Ok(time.several as f64 / (passage.end() - passage.start()) as f64)
}

/// The number of different sounding pitches, mean over the ticks in which any sounds.
///
/// # Errors
/// Nothing sounds.
pub fn polyphony(passage: &Passage) -> Result<f64, Undefined> {
    let time = Time::of(passage)?;
    Ok(time.pitches as f64 / time.any as f64)
}

/// PV: different pitches per note.
///
/// # Errors
/// The section has no note.
pub fn pitch_variety(passage: &Passage) -> Result<f64, Undefined> {
    variety(passage, |note| note.pitch)
}

/// RV: different durations per note.
///
/// # Errors
/// The section has no note.
pub fn rhythm_variety(passage: &Passage) -> Result<f64, Undefined> {
    variety(passage, |note| note.duration)
}

/// QR: the share of notes with a length from `tpq/8` to `16 tpq`.
///
/// # Errors
/// The section has no note.
pub fn qualified_rhythm(passage: &Passage) -> Result<f64, Undefined> {
    let quarter = passage.ticks_per_quarter();
    let qualified = |note: &&Note| note.duration.saturating_mul(8) >= quarter && note.duration <= 16 * quarter;
    match passage.notes().count() {
        0 => Err(Undefined::NoNotes),
        all => Ok(passage.notes().filter(qualified).count() as f64 / all as f64),
    }
}

fn variety<T: Ord>(passage: &Passage, of: impl Fn(&Note) -> T) -> Result<f64, Undefined> {
    match passage.notes().count() {
        0 => Err(Undefined::NoNotes),
        all => Ok(passage.notes().map(of).collect::<BTreeSet<_>>().len() as f64 / all as f64),
    }
}

/// For how long the section's notes sound together.
struct Time {
    /// Ticks in which at least one pitch sounds.
    any: Tick,
    /// Ticks in which more than one does.
    several: Tick,
    /// Ticks times the number of pitches that sound.
    pitches: Tick,
}

impl Time {
    fn of(passage: &Passage) -> Result<Time, Undefined> {
        let end = passage.end();
        let mut changes: Vec<(Tick, i32, u8)> = passage
            .notes()
            .filter(|note| note.duration > 0)
            .flat_map(|note| {
                let off = note.tick.saturating_add(note.duration).min(end);
                [(note.tick, 1, note.pitch), (off, -1, note.pitch)]
            })
            .collect();
        changes.sort_unstable();
        let mut time = Time { any: 0, several: 0, pitches: 0 };
        let mut sounding = [0i32; 256];
        let (mut pitches, mut since): (Tick, Tick) = (0, 0);
        for (tick, change, pitch) in changes {
            let passed = tick - since;
            time.pitches += pitches * passed;
            time.any += if pitches > 0 { passed } else { 0 };
            time.several += if pitches > 1 { passed } else { 0 };
            since = tick;
            let count = &mut sounding[usize::from(pitch)];
            pitches -= Tick::from(*count > 0);
            *count += change;
            pitches += Tick::from(*count > 0);
        }
        if time.any == 0 { Err(Undefined::Silent) } else { Ok(time) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::pair;
    use super::*;

    fn passage(bars: usize, notes: &[(Tick, Tick, u8)]) -> Passage {
        pair(bars, notes, &[]).0
    }

    #[test]
    fn known_values() {
        // A chord of two for a half, one of them alone for another; then a short note in bar 1.
        let passage = passage(2, &[(0, 1920, 60), (0, 960, 64), (1920, 59, 72)]);
        assert_eq!(used_pitch_classes(&passage), 1.5);
        assert_eq!(polyphony_rate(&passage), Ok(0.25));
        assert_eq!(polyphony(&passage), Ok((2.0 * 960.0 + 960.0 + 59.0) / 1979.0));
        assert_eq!(pitch_variety(&passage), Ok(1.0));
        assert_eq!(rhythm_variety(&passage), Ok(1.0));
        assert_eq!(qualified_rhythm(&passage), Ok(2.0 / 3.0));
    }

    #[test]
    fn the_same_pitch_twice_counts_once_and_time_ends_with_the_section() {
        let passage = passage(1, &[(0, 480, 60), (240, 480, 60), (1800, 9999, 60)]);
        assert_eq!(polyphony_rate(&passage), Ok(0.0));
        assert_eq!(polyphony(&passage), Ok(1.0));
        assert_eq!(Time::of(&passage).expect("sounds").any, 720 + 120);
    }

    #[test]
    fn a_32nd_and_four_bars_still_qualify() {
        assert_eq!(qualified_rhythm(&passage(1, &[(0, 60, 60), (1, 7680, 60)])), Ok(1.0));
        assert_eq!(qualified_rhythm(&passage(1, &[(0, 59, 60), (1, 7681, 60)])), Ok(0.0));
    }

    #[test]
    fn an_empty_section_uses_no_class_and_has_nothing_else() {
        let empty = passage(2, &[]);
        assert_eq!(used_pitch_classes(&empty), 0.0);
        assert_eq!(polyphony_rate(&empty), Err(Undefined::Silent));
        assert_eq!(polyphony(&empty), Err(Undefined::Silent));
        for of in [pitch_variety, rhythm_variety, qualified_rhythm] {
            assert_eq!(of(&empty), Err(Undefined::NoNotes));
        }
    }

    #[test]
    fn notes_without_length_are_there_but_do_not_sound() {
        let passage = passage(1, &[(0, 0, 60), (10, -5, 61)]);
        assert_eq!(polyphony(&passage), Err(Undefined::Silent));
        assert_eq!(pitch_variety(&passage), Ok(1.0));
        assert_eq!(qualified_rhythm(&passage), Ok(0.0));
    }
}
