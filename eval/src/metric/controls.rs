//! How well the attribute controls were followed: per bar, the original's controls against the result's.
//!
//! Source: arXiv 2506.13001, figures 3 to 6. Units: notes, flags, voices; lower is better. Conventions:
//! every bar of the section has controls of its own, from the onsets in it. Density is the number of notes,
//! 18 standing for 18 and more. Duration is five flags: is there a note of exactly a whole, half, quarter,
//! eighth, sixteenth. Polyphony is the smallest and the largest number of notes that begin together, from
//! 1 to 6; an empty bar has none. The exact durations are only there in scores on the tokenizer's grid.
//! Metrics:
//!
//! - [`density_delta`]: mean over bars of the absolute difference,
//! - [`duration_delta`]: share of the flags that differ,
//! - [`polyphony_delta`]: mean absolute difference of smallest and largest, over bars with notes in both.

use std::collections::BTreeMap;
use std::ops::Range;

use midi_ingest::score::Tick;

use super::{Passage, Undefined};

/// The most notes in a bar that density tells apart.
pub const DENSITY_MAX: usize = 18;
/// The most voices that polyphony tells apart.
pub const VOICES_MAX: usize = 6;

/// The attribute controls of one bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controls {
    /// Onsets in the bar.
    pub notes: usize,
    /// Is there a whole, half, quarter, eighth, sixteenth.
    pub durations: [bool; 5],
    /// The smallest and the largest number of notes that begin together; `None` in an empty bar.
    pub voices: Option<(usize, usize)>,
}

impl Controls {
    /// The density control, `0..=18`.
    pub fn density(self) -> usize {
        self.notes.min(DENSITY_MAX)
    }
}

/// The controls of the section's bars.
pub fn controls(passage: &Passage) -> Vec<Controls> {
    passage.bars().map(|bar| controls_of_bar(passage, bar)).collect()
}

fn controls_of_bar(passage: &Passage, bar: Range<Tick>) -> Controls {
    let mut together: BTreeMap<Tick, usize> = BTreeMap::new();
    let mut durations = [false; 5];
    let mut notes = 0;
    for note in passage.notes_in(bar) {
        notes += 1;
        *together.entry(note.tick).or_default() += 1;
        // In sixteenths, so that no resolution rounds.
        for (flag, sixteenths) in durations.iter_mut().zip([16, 8, 4, 2, 1]) {
            *flag |= note.duration.saturating_mul(4) == passage.ticks_per_quarter() * sixteenths;
        }
    }
    let smallest = together.values().min().map(|&count| count.clamp(1, VOICES_MAX));
    let largest = together.values().max().map(|&count| count.min(VOICES_MAX));
    Controls { notes, durations, voices: smallest.zip(largest) }
}

/// The mean absolute difference of density, in notes a bar.
pub fn density_delta(original: &Passage, infilled: &Passage) -> f64 {
    let (own, new) = (controls(original), controls(infilled));
    let total: usize = own.iter().zip(&new).map(|(a, b)| a.density().abs_diff(b.density())).sum();
    total as f64 / own.len() as f64
}

/// The share of the duration flags that differ.
pub fn duration_delta(original: &Passage, infilled: &Passage) -> f64 {
    let (own, new) = (controls(original), controls(infilled));
    let differ = |(a, b): (&Controls, &Controls)| a.durations.iter().zip(&b.durations).filter(|(x, y)| x != y).count();
    own.iter().zip(&new).map(differ).sum::<usize>() as f64 / (5 * own.len()) as f64
}

/// The mean absolute difference of the polyphony controls, in voices.
///
/// # Errors
/// No bar has notes in both scores.
pub fn polyphony_delta(original: &Passage, infilled: &Passage) -> Result<f64, Undefined> {
    let (own, new) = (controls(original), controls(infilled));
    let deltas: Vec<usize> = own
        .iter()
        .zip(&new)
        .filter_map(|(a, b)| a.voices.zip(b.voices))
        .flat_map(|(a, b)| [a.0.abs_diff(b.0), a.1.abs_diff(b.1)])
        .collect();
    if deltas.is_empty() {
        return Err(Undefined::NoSharedBar);
    }
    Ok(deltas.iter().sum::<usize>() as f64 / deltas.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::pair;
    use super::*;

    #[test]
    fn each_bar_has_its_own_controls() {
        let (passage, _) = pair(2, &[(0, 1920, 60), (0, 480, 64), (960, 120, 60)], &[]);
        assert_eq!(
            controls(&passage),
            [
                Controls { notes: 3, durations: [true, false, true, false, true], voices: Some((1, 2)) },
                Controls { notes: 0, durations: [false; 5], voices: None },
            ]
        );
    }

    #[test]
    fn a_copy_has_no_distance() {
        let notes = [(0, 1920, 60), (0, 480, 64), (960, 120, 60)];
        let (original, infilled) = pair(1, &notes, &notes);
        assert_eq!(density_delta(&original, &infilled), 0.0);
        assert_eq!(duration_delta(&original, &infilled), 0.0);
        assert_eq!(polyphony_delta(&original, &infilled), Ok(0.0));
    }

    #[test]
    fn distances_are_per_bar_and_per_flag() {
        let (original, infilled) = pair(1, &[(0, 480, 60), (0, 480, 64)], &[(0, 960, 60)]);
        assert_eq!(density_delta(&original, &infilled), 1.0);
        assert_eq!(duration_delta(&original, &infilled), 2.0 / 5.0);
        assert_eq!(polyphony_delta(&original, &infilled), Ok(1.0));
    }

    #[test]
    fn an_empty_side_has_a_density_but_no_polyphony() {
        let (original, infilled) = pair(1, &[(0, 480, 60)], &[]);
        assert_eq!(density_delta(&original, &infilled), 1.0);
        assert_eq!(polyphony_delta(&original, &infilled), Err(Undefined::NoSharedBar));
    }

    #[test]
    fn crowded_bars_are_capped() {
        let crowd: Vec<_> = (0..30).map(|k| (0, 480, 40 + k)).collect();
        let (original, infilled) = pair(1, &crowd, &crowd[..20]);
        assert_eq!(controls(&original)[0].voices, Some((6, 6)));
        assert_eq!(density_delta(&original, &infilled), 0.0);
    }
}
