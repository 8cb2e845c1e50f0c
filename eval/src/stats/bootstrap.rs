//! A percentile bootstrap: how far the mean of paired differences could move with other prompts.

use midi_ingest::job::draws::Draws;

/// Resamples behind an interval of the results.
pub const RESAMPLES: usize = 2000;

/// An interval of a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// The interval that holds the middle `level` (such as 0.95) of the means of `resamples` resamples, its
/// bounds interpolated linearly; `None` for no values.
///
/// A function of its arguments: `draws` should be keyed by what is being compared.
pub fn interval(values: &[f64], level: f64, resamples: usize, draws: &mut impl Draws) -> Option<Interval> {
    let (&first, rest) = values.split_first()?;
    if rest.iter().all(|&value| value == first) {
        return Some(Interval { low: first, high: first });
    }
    if resamples == 0 {
        return None;
    }
    let mut resampled_mean = || {
        let sum: f64 = (0..values.len()).map(|_| values[draws.below(values.len())]).sum();
        sum / values.len() as f64
    };
    let mut means: Vec<f64> = (0..resamples).map(|_| resampled_mean()).collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Some(Interval { low: quantile(&means, tail), high: quantile(&means, 1.0 - tail) })
}

/// The quantile of ascending values, which must not be empty.
fn quantile(ascending: &[f64], share: f64) -> f64 {
    let place = share.clamp(0.0, 1.0) * (ascending.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(ascending.len() - 1);
    ascending[below] + (ascending[above] - ascending[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::draws::{Keyed, Scripted};

    use super::super::describe::mean;
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[0.0, 1.0, 2.0, 3.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[0.0, 1.0], 0.25), 0.25);
        assert_eq!(quantile(&[7.0], 0.9), 7.0);
    }

    #[test]
    fn scripted_draws_give_the_interval_worked_out_by_hand() {
        // Two resamples of two values: means of (1, 1) and of (3, 3).
        let mut draws = Scripted::new(vec![], vec![0, 0, 1, 1]);
        let interval = interval(&[1.0, 3.0], 0.5, 2, &mut draws).expect("values");
        assert_eq!((interval.low, interval.high), (1.5, 2.5));
    }

    #[test]
    fn the_interval_is_a_function_of_its_key_and_covers_the_mean() {
        let values: Vec<f64> = (0..200).map(|k| f64::from((k * 37) % 101) / 100.0).collect();
        let of = |label| interval(&values, 0.95, RESAMPLES, &mut Keyed::new(1, label, 0)).expect("values");
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        let mean = mean(&values).expect("values");
        let interval = of("a");
        assert!(interval.low < mean && mean < interval.high);
        // The standard error of the mean is 0.0206; the interval is near 1.96 of it on each side.
        assert!((interval.high - interval.low - 2.0 * 1.96 * 0.0206).abs() < 0.006, "{interval:?}");
    }

    #[test]
    fn equal_values_have_no_width_and_no_values_no_interval() {
        let mut draws = Keyed::new(1, "x", 0);
        assert_eq!(interval(&[0.1; 7], 0.95, 50, &mut draws), Some(Interval { low: 0.1, high: 0.1 }));
        assert_eq!(interval(&[], 0.95, 50, &mut draws), None);
    }
}
