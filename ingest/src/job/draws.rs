//! Random numbers that are a pure function of (seed, what they are for, index): never of thread, worker or clock.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// The uniform draws that sampling needs.
///
/// Production draws come from [`Keyed`]; a test can put draws of its own in their place, recorded ones among them.
pub trait Draws {
    /// A number in `[low, high)`.
    fn uniform(&mut self, low: f64, high: f64) -> f64;

    /// An index below `count`, which must be at least 1.
    fn below(&mut self, count: usize) -> usize;

    /// An ordered selection of `take` different indices below `count`.
    fn selection(&mut self, count: usize, take: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..count).collect();
        let take = take.min(count);
        for k in 0..take {
            let j = k + self.below(count - k);
            indices.swap(k, j);
        }
        indices.truncate(take);
        indices
    }

    /// One of `values`, of which there must be at least one.
    fn pick(&mut self, values: &[i64]) -> i64 {
        values[self.below(values.len())]
    }

    /// An ordered selection of `take` of the `values`.
    fn select(&mut self, values: &[usize], take: usize) -> Vec<usize> {
        self.selection(values.len(), take).into_iter().map(|index| values[index]).collect()
    }
}

/// A counter-based generator keyed by a seed and a label.
#[derive(Clone, Debug)]
pub struct Keyed {
    rng: ChaCha8Rng,
}

impl Keyed {
    /// The stream that belongs to `seed`, `label` (what the numbers are for) and `index`.
    pub fn new(seed: u64, label: &str, index: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update(index.to_le_bytes());
        hash.update(label.as_bytes());
        Keyed { rng: ChaCha8Rng::from_seed(hash.finalize().into()) }
    }
}

impl Draws for Keyed {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        // 53 random bits make every double in [0, 1) on an even grid.
        let unit = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        low + (high - low) * unit
    }

    fn below(&mut self, count: usize) -> usize {
        // Multiply-shift: the bias is below count / 2^64.
        ((u128::from(self.rng.next_u64()) * count.max(1) as u128) >> 64) as usize
    }
}

/// Draws read from lists, for unit tests; an exhausted list repeats zeros.
#[derive(Clone, Debug, Default)]
pub struct Scripted {
    /// What [`Draws::uniform`] returns, in order, as fractions of the range.
    pub fractions: Vec<f64>,
    /// What [`Draws::below`] returns, in order, cut to the range.
    pub choices: Vec<usize>,
    used: (usize, usize),
}

impl Scripted {
    /// Draws that return `fractions` and `choices` in order.
    pub fn new(fractions: Vec<f64>, choices: Vec<usize>) -> Self {
        Scripted { fractions, choices, used: (0, 0) }
    }
}

impl Draws for Scripted {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let fraction = self.fractions.get(self.used.0).copied().unwrap_or(0.0);
        self.used.0 += 1;
        low + (high - low) * fraction
    }

    fn below(&mut self, count: usize) -> usize {
        let choice = self.choices.get(self.used.1).copied().unwrap_or(0);
        self.used.1 += 1;
        choice.min(count.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conformance(draws: &mut dyn Draws) {
        for count in 1..50 {
            assert!(draws.below(count) < count);
            let x = draws.uniform(-2.0, 3.0);
            assert!((-2.0..3.0).contains(&x));
            let mut selection = draws.selection(count, count / 2);
            assert_eq!(selection.len(), count / 2);
            selection.sort_unstable();
            selection.dedup();
            assert_eq!(selection.len(), count / 2, "different indices");
        }
    }

    #[test]
    fn both_kinds_of_draws_keep_their_ranges() {
        conformance(&mut Keyed::new(7, "test", 0));
        conformance(&mut Scripted::new(vec![0.5; 9], vec![3; 40]));
    }

    #[test]
    fn a_stream_depends_on_all_of_its_key() {
        let first = |seed, label, index| Keyed::new(seed, label, index).below(1 << 40);
        assert_eq!(first(1, "a", 2), first(1, "a", 2));
        assert_ne!(first(1, "a", 2), first(2, "a", 2));
        assert_ne!(first(1, "a", 2), first(1, "b", 2));
        assert_ne!(first(1, "a", 2), first(1, "a", 3));
    }

    #[test]
    fn choices_are_even() {
        let mut draws = Keyed::new(1, "even", 0);
        let mut counts = [0u32; 8];
        for _ in 0..8000 {
            counts[draws.below(8)] += 1;
        }
        assert!(counts.iter().all(|c| (880..1120).contains(c)), "{counts:?}");
    }
}
