//! Means, spreads and the paired effect size.

/// A spread below this share of the mean comes from rounding.
const ROUNDING: f64 = 1e-12;

/// The arithmetic mean; `None` for no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation with `values.len() - ddof` in the denominator; `None` if that is not positive.
pub fn standard_deviation(values: &[f64], ddof: usize) -> Option<f64> {
    let degrees = values.len().checked_sub(ddof).filter(|&degrees| degrees > 0)?;
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / degrees as f64).sqrt())
}

/// Cohen's d of paired differences: their mean over their standard deviation (ddof 1), "d_z".
///
/// Differences that are all zero have no effect, 0. `None` if there is no spread to measure by: fewer
/// than two differences, all of them equal (up to rounding) but not zero, or one that is not a number.
/// (The paper's analysis writes 0 in all of these cases, which hides an effect that never fails.)
pub fn cohens_d(differences: &[f64]) -> Option<f64> {
    let (mean, deviation) = (mean(differences)?, standard_deviation(differences, 1)?);
    if differences.iter().all(|difference| *difference == 0.0) {
        return Some(0.0);
    }
    (deviation > ROUNDING * mean.abs()).then(|| mean / deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(mean(&[1.0, 2.0, 3.0, 4.0]), Some(2.5));
        assert_eq!(standard_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0], 0), Some(2.0));
        assert_eq!(cohens_d(&[1.0, 3.0]), Some(2.0 / 2f64.sqrt()));
    }

    #[test]
    fn what_has_no_spread_has_no_effect_size_unless_it_is_zero() {
        assert_eq!(cohens_d(&[0.1; 7]), None);
        assert_eq!(cohens_d(&[0.3 - 0.2, 0.1, 0.4 - 0.3]), None, "equal but for rounding");
        assert_eq!(cohens_d(&[0.0; 7]), Some(0.0));
        assert_eq!(cohens_d(&[0.1]), None);
        assert_eq!(cohens_d(&[]), None);
        assert_eq!(cohens_d(&[0.1, f64::NAN]), None);
    }

    #[test]
    fn too_few_values_have_no_mean_or_spread() {
        assert_eq!(mean(&[]), None);
        assert_eq!(standard_deviation(&[], 0), None);
        assert_eq!(standard_deviation(&[1.0], 1), None);
    }
}
