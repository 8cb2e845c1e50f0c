//! Pitch-class histogram entropy (PCHE): how evenly a section uses the twelve pitch classes.
//!
//! Source: arXiv 2506.13001, section 4, after Wu and Yang. Unit: bits, `[0, log2 12]`; the closer to the
//! original's value the better, so models are compared by the distance to it. Conventions: every onset in
//! the section counts once, whatever its length. Metric, of one score: [`entropy`].

use super::{Passage, Undefined};

/// The Shannon entropy of the histogram of `pitch mod 12`, in bits.
///
/// # Errors
/// The section has no note.
pub fn entropy(passage: &Passage) -> Result<f64, Undefined> {
    let mut histogram = [0u32; 12];
    passage.notes().for_each(|note| histogram[usize::from(note.pitch % 12)] += 1);
    let total: u32 = histogram.iter().sum();
    if total == 0 {
        return Err(Undefined::NoNotes);
    }
    // In order of size, so that a transposed section rounds as the original does.
    histogram.sort_unstable();
    let share = histogram.iter().filter(|&&count| count > 0).map(|&count| f64::from(count) / f64::from(total));
    // Written with the inverse so that a single class gives 0 and not -0.
    Ok(share.map(|share| share * (1.0 / share).log2()).sum())
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::pair;
    use super::*;

    #[test]
    fn one_class_is_zero_bits_and_all_twelve_are_the_most() {
        let (one, twelve) = pair(
            1,
            &[(0, 10, 60), (480, 10, 72), (960, 10, 48)],
            &(0..12).map(|k| (100 * i64::from(k), 10, 60 + k)).collect::<Vec<_>>(),
        );
        assert_eq!(entropy(&one), Ok(0.0));
        assert!((entropy(&twelve).expect("notes") - 12f64.log2()).abs() < 1e-12);
    }

    #[test]
    fn transposition_does_not_change_a_bit() {
        let melody = [(0, 1, 60), (1, 1, 60), (2, 1, 62), (3, 1, 64), (4, 1, 64), (5, 1, 64), (6, 1, 71)];
        for shift in 0..12 {
            let (one, other) = pair(1, &melody, &melody.map(|(tick, length, pitch)| (tick, length, pitch + shift)));
            assert_eq!(entropy(&one), entropy(&other));
        }
    }

    #[test]
    fn onsets_count_and_lengths_do_not() {
        let (passage, _) = pair(1, &[(0, 1900, 60), (480, 0, 61)], &[]);
        assert_eq!(entropy(&passage), Ok(1.0));
    }

    #[test]
    fn no_note_has_no_entropy() {
        // The note before the section sounds into it, but its onset is elsewhere.
        let (passage, _) = pair(1, &[(-10, 100, 60)], &[]);
        assert_eq!(entropy(&passage), Err(Undefined::NoNotes));
    }

    #[test]
    fn pitches_beyond_midi_fold_like_the_others() {
        let (passage, _) = pair(1, &[(0, 1, 255), (1, 1, 3)], &[]);
        assert_eq!(entropy(&passage), Ok(0.0));
    }
}
