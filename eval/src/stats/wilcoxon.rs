//! The Wilcoxon signed-rank test of paired differences, with the variants and the automatic choices of
//! scipy 1.17 (`scipy.stats.wilcoxon`), so that the paper's numbers can be recomputed.
//!
//! Ranks are those of the absolute differences, with mid-ranks for ties (exact equality of floats). R+ and
//! R- are the sums of the ranks of positive and of negative differences.

/// What becomes of differences that are exactly zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zeros {
    /// They are left out.
    #[default]
    Wilcox,
    /// They take the lowest ranks, which are then left out.
    Pratt,
    /// They take the lowest ranks, half of which goes to each side.
    Split,
}

/// How the p-value is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Normal above 50 differences; below, exact if there is neither tie nor zero; else all sign flips
    /// up to 13 differences and normal above.
    #[default]
    Auto,
    /// The distribution of R+ without ties and zeros.
    Exact,
    /// The normal approximation.
    Normal,
}

/// Which differences speak against the null hypothesis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alternative {
    /// Differences on either side of zero.
    #[default]
    TwoSided,
    /// Differences above zero.
    Greater,
    /// Differences below zero.
    Less,
}

/// A signed-rank test; the default is scipy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wilcoxon {
    /// What becomes of zeros.
    pub zeros: Zeros,
    /// How the p-value is found.
    pub method: Method,
    /// Whether the normal approximation moves z half a step towards zero.
    pub continuity: bool,
    /// Which side counts.
    pub alternative: Alternative,
}

/// The outcome of a test. What does not exist is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The smaller of R+ and R- for the two-sided test, else R+.
    pub statistic: Option<f64>,
    /// The p-value.
    pub p: Option<f64>,
    /// The normal approximation's z, for the two-sided test on the negative side.
    pub z: Option<f64>,
    /// R+.
    pub rank_plus: Option<f64>,
    /// R-.
    pub rank_minus: Option<f64>,
}

impl Outcome {
    /// The rank-biserial correlation `(R+ - R-)/(R+ + R-)`, an effect size in `[-1, 1]`.
    pub fn rank_biserial(&self) -> Option<f64> {
        let (plus, minus) = (self.rank_plus?, self.rank_minus?);
        (plus + minus > 0.0).then(|| (plus - minus) / (plus + minus))
    }
}

/// Up to this many differences, ties and zeros are handled by trying all signs.
const FLIP_MAX: usize = 13;
/// Above this many differences, the normal approximation is taken.
const EXACT_MAX: usize = 50;

impl Wilcoxon {
    /// Tests paired differences. Nothing exists for an empty list or one with a NaN.
    pub fn test(&self, differences: &[f64]) -> Outcome {
        if differences.is_empty() || differences.iter().any(|difference| difference.is_nan()) {
            return Outcome::default();
        }
        let ranks = Ranks::of(differences, self.zeros);
        let z = ranks.z();
        let (p, z) = match self.choose(differences, &ranks) {
            Choice::Normal => {
                let z = if self.continuity { z - self.step(z) * 0.5 / ranks.deviation } else { z };
                (self.normal_p(z), Some(z))
            }
            Choice::Exact => (self.exact_p(&ranks), None),
            Choice::Flips => (self.flipped_p(&ranks), None),
        };
        let two_sided = self.alternative == Alternative::TwoSided;
        Outcome {
            statistic: Some(if two_sided { ranks.plus.min(ranks.minus) } else { ranks.plus }),
            p: Some(p).filter(|p| !p.is_nan()),
            z: z.map(|z| if two_sided { -z.abs() } else { z }).filter(|z| !z.is_nan()),
            rank_plus: Some(ranks.plus),
            rank_minus: Some(ranks.minus),
        }
    }

    fn choose(&self, differences: &[f64], ranks: &Ranks) -> Choice {
        match self.method {
            Method::Normal => Choice::Normal,
            Method::Exact => Choice::Exact,
            Method::Auto if differences.len() > EXACT_MAX => Choice::Normal,
            Method::Auto if !ranks.has_ties && !differences.contains(&0.0) => Choice::Exact,
            Method::Auto if differences.len() <= FLIP_MAX => Choice::Flips,
            Method::Auto => Choice::Normal,
        }
    }

    /// The direction in which the continuity correction acts.
    fn step(&self, z: f64) -> f64 {
        match self.alternative {
            Alternative::Greater => 1.0,
            Alternative::Less => -1.0,
            Alternative::TwoSided if z == 0.0 => 0.0,
            Alternative::TwoSided => z.signum(),
        }
    }

    fn normal_p(&self, z: f64) -> f64 {
        let above = |z: f64| libm::erfc(z / std::f64::consts::SQRT_2) / 2.0;
        match self.alternative {
            Alternative::TwoSided => 2.0 * above(z.abs()),
            Alternative::Greater => above(z),
            Alternative::Less => above(-z),
        }
    }

    /// Ties make R+ fractional, where the distribution has whole numbers: it is rounded so that p grows.
    fn exact_p(&self, ranks: &Ranks) -> f64 {
        let chances = rank_sum_chances(ranks.count);
        let at_most = || chances[..=(ranks.plus.ceil() as usize).min(chances.len() - 1)].iter().sum::<f64>();
        let at_least = || chances[(ranks.plus.floor() as usize).min(chances.len())..].iter().sum::<f64>();
        self.combine(at_most, at_least)
    }

    /// The share of all ways to give signs to the ranks that are as extreme.
    fn flipped_p(&self, ranks: &Ranks) -> f64 {
        let ways = 1u32 << ranks.signed.len();
        // Rank sums that differ by rounding only are equal.
        let slack = 100.0 * f64::EPSILON * ranks.plus.abs();
        let sum_of = |signs: u32| {
            let positive = ranks.signed.iter().enumerate().filter(|(bit, _)| signs & (1 << bit) != 0);
            positive.map(|(_, rank)| rank).sum::<f64>() + ranks.half_of_zeros
        };
        let share = |extreme: &dyn Fn(f64) -> bool| {
            (0..ways).filter(|&signs| extreme(sum_of(signs))).count() as f64 / f64::from(ways)
        };
        self.combine(|| share(&|sum| sum <= ranks.plus + slack), || share(&|sum| sum >= ranks.plus - slack))
    }

    fn combine(&self, at_most: impl Fn() -> f64, at_least: impl Fn() -> f64) -> f64 {
        match self.alternative {
            Alternative::TwoSided => (2.0 * at_most().min(at_least())).min(1.0),
            Alternative::Greater => at_least().min(1.0),
            Alternative::Less => at_most().min(1.0),
        }
    }
}

/// What [`Method`] comes to for the differences at hand.
enum Choice {
    Normal,
    Exact,
    Flips,
}

/// Signed ranks and the moments of R+ under the null hypothesis.
struct Ranks {
    plus: f64,
    minus: f64,
    /// The ranks of the differences that are not zero.
    signed: Vec<f64>,
    /// What each side gets of the zeros' ranks.
    half_of_zeros: f64,
    /// The number of ranked differences.
    count: usize,
    has_ties: bool,
    mean: f64,
    deviation: f64,
}

impl Ranks {
    fn of(differences: &[f64], zeros: Zeros) -> Ranks {
        let mut ascending: Vec<f64> =
            differences.iter().copied().filter(|&difference| zeros != Zeros::Wilcox || difference != 0.0).collect();
        ascending.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let (mut plus, mut minus, mut of_zeros) = (0.0, 0.0, 0.0);
        let (mut signed, mut tie_correction, mut has_ties) = (Vec::new(), 0.0, false);
        let mut before = 0usize;
        for tied in ascending.chunk_by(|a, b| a.abs() == b.abs()) {
            let rank = before as f64 + (tied.len() + 1) as f64 / 2.0;
            before += tied.len();
            has_ties |= tied.len() > 1;
            let is_zero = tied[0] == 0.0;
            if !(is_zero && zeros == Zeros::Pratt) {
                let size = tied.len() as f64;
                tie_correction += size * size * size - size;
            }
            for difference in tied {
                match difference.partial_cmp(&0.0) {
                    Some(std::cmp::Ordering::Greater) => plus += rank,
                    Some(std::cmp::Ordering::Less) => minus += rank,
                    _ => of_zeros += rank,
                }
                if !is_zero {
                    signed.push(rank);
                }
            }
        }
        let half_of_zeros = if zeros == Zeros::Split { of_zeros / 2.0 } else { 0.0 };
        let n = ascending.len() as f64;
        let mut mean = n * (n + 1.0) / 4.0;
        let mut squares = n * (n + 1.0) * (2.0 * n + 1.0);
        if zeros == Zeros::Pratt {
            let dropped = (ascending.len() - signed.len()) as f64;
            mean -= dropped * (dropped + 1.0) / 4.0;
            squares -= dropped * (dropped + 1.0) * (2.0 * dropped + 1.0);
        }
        Ranks {
            plus: plus + half_of_zeros,
            minus: minus + half_of_zeros,
            signed,
            half_of_zeros,
            count: ascending.len(),
            has_ties,
            mean,
            deviation: ((squares - tie_correction / 2.0) / 24.0).sqrt(),
        }
    }

    /// NaN if R+ cannot vary.
    fn z(&self) -> f64 {
        (self.plus - self.mean) / self.deviation
    }
}

/// The probability of each value of R+ for `count` differences without ties or zeros.
fn rank_sum_chances(count: usize) -> Vec<f64> {
    let mut chances = vec![0.0; count * (count + 1) / 2 + 1];
    chances[0] = 1.0;
    let mut top = 0;
    for rank in 1..=count {
        top += rank;
        // In place, from above: each sum comes without this rank or with it, with even chances.
        for sum in (0..=top).rev() {
            let with = if sum >= rank { chances[sum - rank] } else { 0.0 };
            chances[sum] = 0.5 * (chances[sum] + with);
        }
    }
    chances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_wins_of_three_by_hand() {
        let outcome = Wilcoxon::default().test(&[1.0, 2.0, 3.0]);
        assert_eq!((outcome.statistic, outcome.p), (Some(0.0), Some(0.25)));
        assert_eq!(outcome.rank_biserial(), Some(1.0));
        let greater = Wilcoxon { alternative: Alternative::Greater, ..Wilcoxon::default() };
        assert_eq!(greater.test(&[1.0, 2.0, 3.0]).p, Some(0.125));
    }

    #[test]
    fn flips_agree_with_the_exact_distribution_where_both_apply() {
        let differences = [0.3, -0.1, 0.7, 0.2, -0.5, 0.9, 1.1];
        let exact = Wilcoxon::default().test(&differences);
        let ranks = Ranks::of(&differences, Zeros::Wilcox);
        assert_eq!(Some(Wilcoxon::default().flipped_p(&ranks)), exact.p);
    }

    #[test]
    fn chances_add_up() {
        assert_eq!(rank_sum_chances(0), [1.0]);
        assert_eq!(rank_sum_chances(2), [0.25; 4]);
        assert!((rank_sum_chances(50).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_and_nan_have_no_outcome() {
        assert_eq!(Wilcoxon::default().test(&[]), Outcome::default());
        assert_eq!(Wilcoxon::default().test(&[0.5, f64::NAN]), Outcome::default());
    }

    #[test]
    fn exchanging_the_models_exchanges_the_ranks_and_keeps_p() {
        let differences: Vec<f64> = (0..80).map(|k| f64::from((k * 29) % 17) / 10.0 - 0.7).collect();
        let opposite: Vec<f64> = differences.iter().map(|d| -d).collect();
        let (one, other) = (Wilcoxon::default().test(&differences), Wilcoxon::default().test(&opposite));
        assert_eq!((one.p, one.statistic), (other.p, other.statistic));
        assert_eq!((one.rank_plus, one.rank_minus), (other.rank_minus, other.rank_plus));
    }
}
