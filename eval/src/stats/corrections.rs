//! Corrections of p-values for making many comparisons at once. Values keep the order given.

/// Holm's step-down: `p_(i) -> max over j <= i of (m - j + 1) p_(j)`, at most 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut corrected = vec![0.0; p.len()];
    let mut largest = 0.0f64;
    for (rank, index) in ascending(p).into_iter().enumerate() {
        largest = largest.max((p.len() - rank) as f64 * p[index]);
        corrected[index] = largest.min(1.0);
    }
    corrected
}

/// Bonferroni's: `m p`, at most 1.
pub fn bonferroni(p: &[f64]) -> Vec<f64> {
    p.iter().map(|p_value| (p.len() as f64 * p_value).min(1.0)).collect()
}

/// Benjamini and Hochberg's step-up, for the false discovery rate:
/// `p_(i) -> min over j >= i of m p_(j) / j`, at most 1.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut corrected = vec![0.0; p.len()];
    let mut smallest = 1.0f64;
    for (rank, index) in ascending(p).into_iter().enumerate().rev() {
        smallest = smallest.min(p.len() as f64 * p[index] / (rank + 1) as f64);
        corrected[index] = smallest;
    }
    corrected
}

/// The indices of the values, smallest value first.
fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_stays_and_none_is_fine() {
        for correct in [holm, bonferroni, benjamini_hochberg] {
            assert_eq!(correct(&[0.25]), [0.25]);
            assert!(correct(&[]).is_empty());
        }
    }

    #[test]
    fn holm_never_orders_values_anew() {
        assert_eq!(holm(&[0.5, 0.125, 0.25]), [0.5, 0.375, 0.5]);
    }
}
