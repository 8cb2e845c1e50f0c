//! The order of samples: a permutation of all samples an epoch, as a pure function of (seed, epoch,
//! index). Nothing is stored and nothing is shuffled, so a run may stop anywhere, and any number of
//! workers sees the same batches.

use midi_ingest::job::config::key_of;

/// Rounds of the Feistel network.
const ROUNDS: u64 = 8;

/// Positions that the fingerprint is taken over.
const FINGERPRINT_POSITIONS: u64 = 64;

/// Which sample stands at which position of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    samples: u64,
}

impl Order {
    /// The order of `samples` samples, of which there must be at least one, under `seed`.
    pub fn new(seed: u64, samples: u64) -> Self {
        Order { seed, samples: samples.max(1) }
    }

    /// The sample at `position`, counted from 0 over all epochs.
    pub fn sample(&self, position: u64) -> u64 {
        permuted(self.seed, position / self.samples, position % self.samples, self.samples)
    }

    /// The samples of optimiser step `step` when every step takes `batch` of them.
    pub fn step(&self, step: u64, batch: usize) -> Vec<u64> {
        let first = step * batch as u64;
        (first..first + batch as u64).map(|position| self.sample(position)).collect()
    }

    /// Equal for two orders exactly when these begin alike and have as many samples.
    pub fn fingerprint(&self) -> String {
        let first: Vec<u64> = (0..FINGERPRINT_POSITIONS).map(|position| self.sample(position)).collect();
        key_of(&("order", self.samples, first))[..16].to_owned()
    }
}

/// The part of `samples` that `rank` of `world` ranks takes: a stride, so that the parts together are the whole.
pub fn share(samples: Vec<u64>, rank: usize, world: usize) -> Vec<u64> {
    samples.into_iter().skip(rank).step_by(world).collect()
}

/// The image of `index` under the permutation of `count` numbers that belongs to `seed` and `epoch`: a
/// Feistel network over the next power of four, walked until it lands below `count`. The network is a
/// bijection, and following its cycles back into the range keeps it one.
fn permuted(seed: u64, epoch: u64, index: u64, count: u64) -> u64 {
    let bits = u64::BITS - (count - 1).leading_zeros();
    let half = bits.div_ceil(2).max(1);
    let key = mix(mix(seed) ^ epoch);
    let mut value = index;
    loop {
        value = feistel(key, half, value);
        if value < count {
            return value;
        }
    }
}

/// A bijection of the numbers below 2^(2·half).
fn feistel(key: u64, half: u32, value: u64) -> u64 {
    let mask = (1 << half) - 1;
    let (mut left, mut right) = (value >> half, value & mask);
    for round in 0..ROUNDS {
        (left, right) = (right, left ^ (mix(mix(key ^ round) ^ right) & mask));
    }
    left << half | right
}

/// The finaliser of SplitMix64: every bit of the output depends on every bit of the input.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_epoch_has_every_sample_once(seed: u64, epoch in 0u64..1000, samples in 1u64..600) {
            let order = Order::new(seed, samples);
            let mut seen: Vec<u64> = (0..samples).map(|i| order.sample(epoch * samples + i)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
        }

        #[test]
        fn steps_are_pieces_of_one_sequence(seed: u64, samples in 1u64..100, batch in 1usize..9, steps in 1u64..20) {
            let order = Order::new(seed, samples);
            let whole: Vec<u64> = (0..steps * batch as u64).map(|position| order.sample(position)).collect();
            let pieces: Vec<u64> = (0..steps).flat_map(|step| order.step(step, batch)).collect();
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn large_counts_stay_in_range(seed: u64, position in 0u64..1 << 50, samples in 1u64..1 << 40) {
            prop_assert!(Order::new(seed, samples).sample(position) < samples);
        }
    }

    #[test]
    fn one_two_and_four_ranks_take_the_same_samples_in_every_step() {
        let order = Order::new(7, 31);
        for step in 0..40 {
            let whole = order.step(step, 8);
            for world in [1, 2, 4] {
                let shares: Vec<Vec<u64>> = (0..world).map(|rank| share(order.step(step, 8), rank, world)).collect();
                assert!(shares.iter().all(|ids| ids.len() == 8 / world));
                // The ids of sample i are with rank i mod world, in the order of the batch.
                let together: Vec<u64> = (0..8).map(|i| shares[i % world][i / world]).collect();
                assert_eq!(together, whole, "step {step}, {world} ranks");
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let epoch = |seed, epoch: u64| -> Vec<u64> {
            (0..1000).map(|i| Order::new(seed, 1000).sample(epoch * 1000 + i)).collect()
        };
        let kept = |a: &[u64], b: &[u64]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        assert!(kept(&epoch(1, 0), &epoch(1, 1)) < 10);
        assert!(kept(&epoch(1, 0), &epoch(2, 0)) < 10);
        assert!(kept(&epoch(1, 0), &(0..1000).collect::<Vec<_>>()) < 10);
        assert_ne!(Order::new(1, 1000).fingerprint(), Order::new(2, 1000).fingerprint());
    }

    #[test]
    fn neighbours_are_scattered() {
        // Half of all neighbouring positions should be far apart: a third of the range on average.
        let order = Order::new(3, 10_000);
        let distance = |i: u64| order.sample(i).abs_diff(order.sample(i + 1)) as f64;
        let mean = (0..9_999).map(distance).sum::<f64>() / 9_999.0;
        assert!((mean / 10_000.0 - 1.0 / 3.0).abs() < 0.02, "{mean}");
    }
}
