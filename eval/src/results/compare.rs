//! From metric values to comparisons of models.
//!
//! Models are compared on the prompts that both answered with a defined value (pairwise deletion), sorted
//! by prompt id. The compared value is the paper's: CP, F1 and GS themselves, PCHE and the secondary
//! metrics by their distance to the original's. Differences are improvements, so + is always better, rounded to the
//! precision of the metrics.

use midi_ingest::job::draws::Keyed;
use midi_ingest::job::exit::Result;

use super::{Answers, ComparisonRow};
use crate::metric::Metric;
use crate::stats::bootstrap::{self, RESAMPLES};
use crate::stats::corrections::holm;
use crate::stats::describe::{cohens_d, mean, standard_deviation};
use crate::stats::wilcoxon::Wilcoxon;

/// The share of resamples inside the intervals of the results.
pub const LEVEL: f64 = 0.95;

/// One over how exact the metrics are: the rank test must not rank what rounding makes of equal differences.
const PRECISION: f64 = 1e12;

/// Compares each pair `[baseline, candidate]` in each metric, pair by pair, and corrects all the p-values
/// together.
///
/// `seed` is of the bootstrap; each interval has its own stream.
///
/// # Errors
/// A pair names a model without rows: exit code 65.
pub fn compare(answers: &Answers, metrics: &[Metric], pairs: &[[String; 2]], seed: u64) -> Result<Vec<ComparisonRow>> {
    let mut rows = Vec::with_capacity(metrics.len() * pairs.len());
    for pair in pairs {
        for &metric in metrics {
            rows.push(compare_one(answers, metric, pair, seed)?);
        }
    }
    let p: Vec<f64> = rows.iter().filter_map(|row| row.p).collect();
    let mut corrected = holm(&p).into_iter();
    for row in rows.iter_mut().filter(|row| row.p.is_some()) {
        row.p_holm = corrected.next();
    }
    Ok(rows)
}

fn compare_one(
    answers: &Answers,
    metric: Metric,
    [baseline, candidate]: &[String; 2],
    seed: u64,
) -> Result<ComparisonRow> {
    let (ours, theirs) = (answers.values(metric, candidate), answers.values(metric, baseline));
    let paired = ours.iter().filter_map(|(prompt, value)| Some((theirs.get(prompt).copied()??, (*value)?)));
    let (base, cand): (Vec<f64>, Vec<f64>) = paired.unzip();
    let prompts = ours.len() + theirs.keys().filter(|prompt| !ours.contains_key(*prompt)).count();
    // The sum makes one zero of both.
    let improvement = |(b, c): (&f64, &f64)| (metric.improvement(*b, *c) * PRECISION).round() / PRECISION + 0.0;
    let improvements: Vec<f64> = base.iter().zip(&cand).map(improvement).collect();
    let outcome = Wilcoxon::default().test(&improvements);
    let label = format!("bootstrap/{}/{baseline}/{candidate}", metric.name());
    let interval = bootstrap::interval(&improvements, LEVEL, RESAMPLES, &mut Keyed::new(seed, &label, 0));
    let d = cohens_d(&improvements);
    let reason = if base.is_empty() {
        Some("no prompt has a value from both models")
    } else if outcome.p.is_none() {
        Some("the models are equal on every prompt")
    } else if d.is_none() {
        Some("all improvements are equal: they have no spread")
    } else {
        None
    };
    Ok(ComparisonRow {
        run_id: answers.run_id.clone(),
        config_hash: answers.config_hash.clone(),
        metric: metric.name().to_owned(),
        direction: metric.direction(),
        baseline: baseline.clone(),
        baseline_checkpoint: answers.checkpoint(baseline)?.to_owned(),
        candidate: candidate.clone(),
        candidate_checkpoint: answers.checkpoint(candidate)?.to_owned(),
        pairs: base.len() as u32,
        undefined: (prompts - base.len()) as u32,
        baseline_mean: mean(&base),
        baseline_std: standard_deviation(&base, 0),
        candidate_mean: mean(&cand),
        candidate_std: standard_deviation(&cand, 0),
        improvement: mean(&improvements),
        wilcoxon: outcome.statistic,
        p: outcome.p,
        p_holm: None,
        cohens_d: d,
        low: interval.map(|interval| interval.low),
        high: interval.map(|interval| interval.high),
        reason: reason.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::super::MetricRow;
    use super::super::metrics::tests::row;
    use super::super::table::tests::round_trip;
    use super::*;

    /// Six prompts in common, one undefined for "new", one that only "old" answered.
    fn answers() -> Answers {
        let mut rows = Vec::new();
        for (k, (old, new)) in
            [(0.5, 0.75), (0.5, 1.0), (0.25, 0.125), (0.0, 1.0), (0.5, 0.5625), (0.0, 0.375)].into_iter().enumerate()
        {
            let prompt = format!("p{k}");
            rows.push(row(&prompt, "old", "cp", Some(old)));
            rows.push(row(&prompt, "new", "cp", Some(new)));
            // The original has 2 bits; old is off by its value, new by half of its value.
            rows.push(MetricRow { original: Some(2.0), ..row(&prompt, "old", "pche", Some(2.0 + old)) });
            rows.push(MetricRow { original: Some(2.0), ..row(&prompt, "new", "pche", Some(2.0 - new / 2.0)) });
        }
        rows.push(row("p6", "old", "cp", Some(0.5)));
        rows.push(row("p6", "new", "cp", None));
        rows.push(row("p7", "old", "cp", Some(0.5)));
        Answers::new(&rows).expect("sound rows")
    }

    fn pair(baseline: &str, candidate: &str) -> [String; 2] {
        [baseline.to_owned(), candidate.to_owned()]
    }

    #[test]
    fn known_rows_give_the_known_comparison() {
        let metrics = [Metric::ContentPreservation, Metric::PitchClassEntropy];
        let rows = compare(&answers(), &metrics, &[pair("old", "new")], 1).expect("compares");
        let cp = &rows[0];
        // Improvements 0.25, 0.5, -0.125, 1, 0.0625, 0.375: ranks 3, 5, 2 (negative), 6, 1, 4.
        assert_eq!((cp.pairs, cp.undefined), (6, 2));
        assert_eq!(cp.baseline_mean, Some(1.75 / 6.0));
        assert_eq!(cp.candidate_mean, Some(3.8125 / 6.0));
        assert_eq!(cp.improvement, Some(2.0625 / 6.0));
        assert_eq!(cp.wilcoxon, Some(2.0));
        // R- of 2 or less: the subsets {}, {1}, {2} of 64, on both sides.
        assert_eq!(cp.p, Some(6.0 / 64.0));
        // numpy: mean / std(ddof=1).
        let d = cp.cohens_d.expect("a spread");
        assert!((d - 0.879_577_903_884_901_8).abs() < 1e-12, "{d}");
        assert!(cp.low < cp.improvement && cp.improvement < cp.high);
        assert_eq!(cp.reason, None);

        let pche = &rows[1];
        // Distances: old 0.5 0.5 0.25 0 0.5 0, new 0.375 0.5 0.0625 0.5 0.28125 0.1875.
        assert_eq!((pche.pairs, pche.undefined), (6, 0));
        assert_eq!(pche.improvement, Some((0.125 + 0.0 + 0.1875 - 0.5 + 0.21875 - 0.1875) / 6.0));
        assert!(pche.cohens_d < Some(0.0), "new is further from the original");
        // Holm over the two: the smaller p is doubled.
        assert_eq!(cp.p_holm, Some(12.0 / 64.0));
        assert_eq!(pche.p_holm, pche.p);
        round_trip(&rows);
    }

    #[test]
    fn the_order_of_prompts_and_a_second_run_change_nothing() {
        let metrics = [Metric::ContentPreservation];
        let one = compare(&answers(), &metrics, &[pair("old", "new")], 1).expect("compares");
        assert_eq!(one, compare(&answers(), &metrics, &[pair("old", "new")], 1).expect("compares"));
        let other = compare(&answers(), &metrics, &[pair("old", "new")], 2).expect("compares");
        assert_ne!((one[0].low, one[0].high), (other[0].low, other[0].high));
    }

    #[test]
    fn a_model_against_itself_is_undefined_with_a_reason_or_not_significant() {
        let rows = compare(&answers(), &[Metric::ContentPreservation], &[pair("old", "old")], 1).expect("compares");
        assert_eq!((rows[0].p, rows[0].cohens_d, rows[0].improvement), (Some(1.0), Some(0.0), Some(0.0)));
        let rows = compare(&answers(), &[Metric::Polyphony], &[pair("old", "new")], 1).expect("compares");
        assert_eq!(rows[0].reason.as_deref(), Some("no prompt has a value from both models"));
        assert_eq!((rows[0].pairs, rows[0].p, rows[0].p_holm, rows[0].low), (0, None, None, None));
        round_trip(&rows);
    }

    #[test]
    fn what_rounding_makes_of_equal_values_is_no_difference() {
        let mut rows = Vec::new();
        for k in 0..20u32 {
            let value = 0.1 + f64::from(k) / 100.0;
            rows.push(row(&format!("p{k}"), "old", "cp", Some(value)));
            rows.push(row(&format!("p{k}"), "new", "cp", Some(value + f64::EPSILON * f64::from(k % 3))));
        }
        let answers = Answers::new(&rows).expect("sound rows");
        let rows = compare(&answers, &[Metric::ContentPreservation], &[pair("old", "new")], 1).expect("compares");
        assert_eq!((rows[0].improvement, rows[0].p, rows[0].cohens_d), (Some(0.0), None, Some(0.0)));
        assert_eq!(rows[0].reason.as_deref(), Some("the models are equal on every prompt"));
    }

    #[test]
    fn what_rounding_makes_of_equal_differences_is_a_tie() {
        // 0.1 more, and 0.1 less but for the last bit: each has half of the ranks 1 and 2.
        let rows = [("p0", 0.2, 0.3), ("p1", 0.2, 0.1)]
            .map(|(prompt, old, new)| [row(prompt, "old", "cp", Some(old)), row(prompt, "new", "cp", Some(new))]);
        assert_ne!(0.3 - 0.2, 0.2 - 0.1);
        let answers = Answers::new(&rows.concat()).expect("sound rows");
        let rows = compare(&answers, &[Metric::ContentPreservation], &[pair("old", "new")], 1).expect("compares");
        assert_eq!((rows[0].wilcoxon, rows[0].improvement), (Some(1.5), Some(0.0)));
    }

    #[test]
    fn an_unknown_model_is_an_error() {
        let error = compare(&answers(), &[Metric::Groove], &[pair("old", "nex")], 1).expect_err("unknown");
        assert!(error.to_string().starts_with("no metrics of model `nex`"), "{error}");
    }
}
