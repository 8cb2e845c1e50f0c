//! Functions of one f32 without branches and calls, so that the compiler makes vector instructions of a loop over
//! them. Relative errors are below 2e-7, of eˣ 1.2e-7; a number that is not one stays so.

/// eˣ; 0 below the least normal number, and infinite above the largest.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// x = n·ln 2 + r with |r| ≤ ½·ln 2; n is a whole number after adding 1.5·2²³, whose last bit counts ones.
    const SHIFT: f32 = 12_582_912.0;
    /// ln 2 as a number with a short mantissa, so that its products with n are exact, and the rest.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const LEAST: f32 = -87.0;
    const MOST: f32 = 88.0;
    let inside = x.clamp(LEAST, MOST);
    let shifted = inside * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (inside - n * LN_2[0]) - n * LN_2[1];
    // The series of eʳ = 1 + (r + r²·(½ + …)), the largest terms last, so that only their roundings count; what is left
    // out is below 6e-9.
    let mut series = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        series = series * r + factor;
    }
    let series = 1.0 + (r + r * r * series);
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127);
    let value = series * f32::from_bits(exponent << 23);
    let value = if x < LEAST { 0.0 } else { value };
    if x > MOST { f32::INFINITY } else { value }
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// ln(1 / (1 + e⁻ˣ)) = min(x, 0) − ln(1 + e^−|x|)
#[inline(always)]
pub(crate) fn log_sigmoid(x: f32) -> f32 {
    let z = exp(-x.abs());
    // ln(1 + z) = 2·artanh(z / (2 + z)), whose series converges quickly: the argument is at most ⅓.
    let s = z / (2.0 + z);
    let square = s * s;
    let mut series = 1.0 / 15.0;
    for factor in [1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0, 1.0] {
        series = series * square + factor;
    }
    (if x > 0.0 { 0.0 } else { x }) - 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest relative error of `ours` over `range`.
    fn worst(ours: fn(f32) -> f32, truth: fn(f64) -> f64, range: (f32, f32)) -> f64 {
        let at = |i: usize| range.0 + (range.1 - range.0) * (i as f32 / 200_000.0);
        let error = |x: f32| ((f64::from(ours(x)) - truth(f64::from(x))) / truth(f64::from(x))).abs();
        (0..=200_000).map(at).filter(|&x| x != 0.0).map(error).fold(0.0, f64::max)
    }

    #[test]
    fn they_are_right_to_the_last_bits() {
        let sigmoid_truth = |x: f64| 1.0 / (1.0 + (-x).exp());
        for range in [(-87.0, 88.0), (-1.0, 1.0), (-0.001, 0.001)] {
            assert!(worst(exp, f64::exp, range) < 1.2e-7, "exp in {range:?}: {:e}", worst(exp, f64::exp, range));
        }
        for range in [(-80.0, 80.0), (-1.0, 1.0)] {
            let log_truth = |x: f64| -(-x).exp().ln_1p();
            assert!(worst(sigmoid, sigmoid_truth, range) < 3e-7);
            assert!(worst(log_sigmoid, log_truth, range) < 4e-7, "{:e}", worst(log_sigmoid, log_truth, range));
        }
    }

    #[test]
    fn ends_and_what_is_no_number() {
        assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY), exp(89.0)), (1.0, 0.0, 0.0, f32::INFINITY));
        assert_eq!((sigmoid(f32::INFINITY), sigmoid(f32::NEG_INFINITY), sigmoid(0.0)), (1.0, 0.0, 0.5));
        assert_eq!((log_sigmoid(f32::INFINITY), log_sigmoid(-1000.0)), (0.0, -1000.0));
        assert!([exp(f32::NAN), sigmoid(f32::NAN), log_sigmoid(f32::NAN)].iter().all(|x| x.is_nan()));
    }
}
