//! Onset F1: how many of the original's notes the infilled section plays again, and in the right place.
//!
//! Source: arXiv 2506.13001, section 4. Unit: none, higher is better. Conventions: two notes match if
//! their pitches are equal and their onsets, each counted from its own section's start, differ by no more
//! than a 1/32 note (an eighth of a quarter); length and velocity are ignored. Metrics:
//!
//! - [`all_pairs`]: the paper's. Every matching pair counts, so repeated notes can lift it above 1, and it
//!   is undefined when a section is empty,
//! - [`one_to_one`]: a largest matching in which each note is used once, `[0, 1]`; 0 when one section is
//!   empty, undefined when both are.

use midi_ingest::score::Tick;

use super::{Passage, Side, Undefined};

/// The counts behind an F1 score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matching {
    /// Pairs that match.
    pub matches: usize,
    /// Notes of the original section.
    pub original: usize,
    /// Notes of the infilled section.
    pub infilled: usize,
}

impl Matching {
    /// The share of the infilled notes that match.
    ///
    /// # Errors
    /// Both sections are empty.
    pub fn precision(self) -> Result<f64, Undefined> {
        self.share(self.infilled)
    }

    /// The share of the original's notes that are matched.
    ///
    /// # Errors
    /// Both sections are empty.
    pub fn recall(self) -> Result<f64, Undefined> {
        self.share(self.original)
    }

    /// The harmonic mean of precision and recall, 0 if both are.
    ///
    /// # Errors
    /// Both sections are empty.
    pub fn f1(self) -> Result<f64, Undefined> {
        let (precision, recall) = (self.precision()?, self.recall()?);
        if precision + recall == 0.0 {
            return Ok(0.0);
        }
        Ok(2.0 * precision * recall / (precision + recall))
    }

    fn share(self, of: usize) -> Result<f64, Undefined> {
        match (self.original, self.infilled) {
            (0, 0) => Err(Undefined::NoNotesInEither),
            _ if of == 0 => Ok(0.0),
            _ => Ok(self.matches as f64 / of as f64),
        }
    }
}

/// The paper's F1.
///
/// # Errors
/// One of the sections is empty.
pub fn all_pairs(original: &Passage, infilled: &Passage) -> Result<f64, Undefined> {
    let tolerance = original.ticks_per_quarter() / 8;
    let (own, new) = (onsets(original), onsets(infilled));
    match (own.is_empty(), new.is_empty()) {
        (true, true) => return Err(Undefined::NoNotesInEither),
        (true, false) => return Err(Undefined::NoNotesIn(Side::Original)),
        (false, true) => return Err(Undefined::NoNotesIn(Side::Infilled)),
        (false, false) => {}
    }
    let matched_by = |&(pitch, tick): &(u8, Tick)| {
        new.iter().filter(|&&(other, onset)| other == pitch && (onset - tick).abs() <= tolerance).count()
    };
    let matches = own.iter().map(matched_by).sum();
    Matching { matches, original: own.len(), infilled: new.len() }.f1()
}

/// A largest matching of the sections' notes.
///
/// Per pitch, both lists ascend and the tolerance is the same everywhere, so giving each original note
/// the earliest free partner in its reach is optimal.
pub fn one_to_one(original: &Passage, infilled: &Passage) -> Matching {
    let tolerance = original.ticks_per_quarter() / 8;
    let (own, new) = (onsets(original), onsets(infilled));
    let (mut matches, mut next) = (0, 0);
    for &(pitch, tick) in &own {
        while new.get(next).is_some_and(|&other| other < (pitch, tick - tolerance)) {
            next += 1;
        }
        if new.get(next).is_some_and(|&(other, onset)| other == pitch && onset <= tick + tolerance) {
            matches += 1;
            next += 1;
        }
    }
    Matching { matches, original: own.len(), infilled: new.len() }
}

/// The section's notes as (pitch, ticks since its start), ascending.
fn onsets(passage: &Passage) -> Vec<(u8, Tick)> {
    let mut onsets: Vec<_> = passage.notes().map(|note| (note.pitch, note.tick - passage.start())).collect();
    onsets.sort_unstable();
    onsets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::window::tests::pair;
    use super::*;

    #[test]
    fn a_copy_is_perfect_and_a_32nd_late_still_matches() {
        let (original, infilled) = pair(1, &[(0, 10, 60), (480, 10, 62)], &[(60, 99, 60), (540, 1, 62)]);
        assert_eq!(all_pairs(&original, &infilled), Ok(1.0));
        assert_eq!(one_to_one(&original, &infilled).f1(), Ok(1.0));
        let (original, infilled) = pair(1, &[(0, 10, 60)], &[(61, 10, 60)]);
        assert_eq!(all_pairs(&original, &infilled), Ok(0.0));
        assert_eq!(one_to_one(&original, &infilled).f1(), Ok(0.0));
    }

    #[test]
    fn repeated_notes_count_once_only_in_the_one_to_one_form() {
        let stack = [(0, 10, 60), (10, 10, 60), (20, 10, 60)];
        let (original, infilled) = pair(1, &stack, &stack);
        assert_eq!(all_pairs(&original, &infilled), Ok(3.0));
        assert_eq!(one_to_one(&original, &infilled), Matching { matches: 3, original: 3, infilled: 3 });
    }

    #[test]
    fn empty_sections() {
        let (empty, full) = pair(1, &[], &[(0, 10, 60)]);
        assert_eq!(all_pairs(&full, &empty), Err(Undefined::NoNotesIn(Side::Infilled)));
        assert_eq!(all_pairs(&empty, &full), Err(Undefined::NoNotesIn(Side::Original)));
        assert_eq!(one_to_one(&full, &empty).f1(), Ok(0.0));
        assert_eq!(all_pairs(&empty, &empty), Err(Undefined::NoNotesInEither));
        assert_eq!(one_to_one(&empty, &empty).f1(), Err(Undefined::NoNotesInEither));
    }

    #[test]
    fn unsorted_notes_give_the_same() {
        let (sorted, unsorted) = pair(1, &[(0, 1, 60), (480, 1, 60)], &[(480, 1, 60), (0, 1, 60)]);
        assert_eq!(one_to_one(&sorted, &unsorted).matches, 2);
    }

    /// The largest matching by augmenting paths: slow and obvious.
    fn largest(own: &[(i64, i64, u8)], new: &[(i64, i64, u8)]) -> usize {
        fn find(k: usize, reach: &[Vec<usize>], taken: &mut [Option<usize>], seen: &mut [bool]) -> bool {
            for &j in &reach[k] {
                if !std::mem::replace(&mut seen[j], true)
                    && taken[j].is_none_or(|other| find(other, reach, taken, seen))
                {
                    taken[j] = Some(k);
                    return true;
                }
            }
            false
        }
        let near = |a: &(i64, i64, u8), b: &(i64, i64, u8)| a.2 == b.2 && (a.0 - b.0).abs() <= 60;
        let reach: Vec<Vec<usize>> =
            own.iter().map(|a| (0..new.len()).filter(|&j| near(a, &new[j])).collect()).collect();
        let mut taken = vec![None; new.len()];
        (0..own.len()).filter(|&k| find(k, &reach, &mut taken, &mut vec![false; new.len()])).count()
    }

    proptest! {
        #[test]
        fn the_matching_is_a_largest_one(
            own in prop::collection::vec((0i64..600, 1i64..2, 60u8..62), 0..12),
            new in prop::collection::vec((0i64..600, 1i64..2, 60u8..62), 0..12),
        ) {
            let (original, infilled) = pair(1, &own, &new);
            prop_assert_eq!(one_to_one(&original, &infilled).matches, largest(&own, &new));
        }
    }
}
