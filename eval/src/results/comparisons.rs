//! The comparisons table: one row a metric and pair of models.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use midi_ingest::job::exit::Result;

use super::table::{Columns, Row, not_finite, optional, optional_floats, optional_texts, required, texts, u32s};
use crate::metric::Direction;

/// How a candidate fares against a baseline in one metric.
///
/// Means and deviations are of the compared values: the metric's own, or its distance to the original's
/// where closer is better.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparisonRow {
    /// The run.
    pub run_id: String,
    /// Of the run's configuration.
    pub config_hash: String,
    /// The metric, [`crate::metric::Metric::name`].
    pub metric: String,
    /// When a value of it is better.
    pub direction: Direction,
    /// The model that is compared with.
    pub baseline: String,
    /// Of the baseline's checkpoint.
    pub baseline_checkpoint: String,
    /// The model that may be better.
    pub candidate: String,
    /// Of the candidate's checkpoint.
    pub candidate_checkpoint: String,
    /// Prompts with a value from both.
    pub pairs: u32,
    /// Prompts of the two without a value from both, which are left out.
    pub undefined: u32,
    /// Mean of the baseline over the pairs.
    pub baseline_mean: Option<f64>,
    /// Standard deviation (ddof 0) of the baseline.
    pub baseline_std: Option<f64>,
    /// Mean of the candidate over the pairs.
    pub candidate_mean: Option<f64>,
    /// Standard deviation (ddof 0) of the candidate.
    pub candidate_std: Option<f64>,
    /// Mean improvement, the candidate over the baseline; positive is better.
    pub improvement: Option<f64>,
    /// The two-sided Wilcoxon signed-rank statistic of the improvements.
    pub wilcoxon: Option<f64>,
    /// Its p-value.
    pub p: Option<f64>,
    /// The p-value after Holm's correction for all comparisons of the run.
    pub p_holm: Option<f64>,
    /// Cohen's d of the improvements; positive is better.
    pub cohens_d: Option<f64>,
    /// Lower bound of the 95 % bootstrap interval of the improvement.
    pub low: Option<f64>,
    /// Upper bound of it.
    pub high: Option<f64>,
    /// Why something is undefined.
    pub reason: Option<String>,
}

impl ComparisonRow {
    /// The columns of numbers that may be undefined, in order.
    fn numbers(&self) -> [(&'static str, Option<f64>); 11] {
        [
            ("baseline_mean", self.baseline_mean),
            ("baseline_std", self.baseline_std),
            ("candidate_mean", self.candidate_mean),
            ("candidate_std", self.candidate_std),
            ("improvement", self.improvement),
            ("wilcoxon", self.wilcoxon),
            ("p", self.p),
            ("p_holm", self.p_holm),
            ("cohens_d", self.cohens_d),
            ("low", self.low),
            ("high", self.high),
        ]
    }
}

impl Row for ComparisonRow {
    const TABLE: &'static str = "comparisons";

    fn fields() -> Vec<Field> {
        let text = |name| required(name, DataType::Utf8);
        let number = |name| optional(name, DataType::Float64);
        vec![
            text("run_id"),
            text("config_hash"),
            text("metric"),
            text("direction"),
            text("baseline"),
            text("baseline_checkpoint"),
            text("candidate"),
            text("candidate_checkpoint"),
            required("pairs", DataType::UInt32),
            required("undefined", DataType::UInt32),
            number("baseline_mean"),
            number("baseline_std"),
            number("candidate_mean"),
            number("candidate_std"),
            number("improvement"),
            number("wilcoxon"),
            number("p"),
            number("p_holm"),
            number("cohens_d"),
            number("low"),
            number("high"),
            optional("reason", DataType::Utf8),
        ]
    }

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        let mut columns = vec![
            texts(rows.iter().map(|r| r.run_id.as_str())),
            texts(rows.iter().map(|r| r.config_hash.as_str())),
            texts(rows.iter().map(|r| r.metric.as_str())),
            texts(rows.iter().map(|r| r.direction.name())),
            texts(rows.iter().map(|r| r.baseline.as_str())),
            texts(rows.iter().map(|r| r.baseline_checkpoint.as_str())),
            texts(rows.iter().map(|r| r.candidate.as_str())),
            texts(rows.iter().map(|r| r.candidate_checkpoint.as_str())),
            u32s(rows.iter().map(|r| r.pairs)),
            u32s(rows.iter().map(|r| r.undefined)),
        ];
        columns.extend((0..11).map(|column| optional_floats(rows.iter().map(|r| r.numbers()[column].1))));
        columns.push(optional_texts(rows.iter().map(|r| r.reason.as_deref())));
        columns
    }

    fn row(columns: &Columns<'_>, row: usize) -> Result<Self> {
        let direction = columns.text("direction", row)?;
        Ok(ComparisonRow {
            run_id: columns.text("run_id", row)?,
            config_hash: columns.text("config_hash", row)?,
            metric: columns.text("metric", row)?,
            direction: Direction::from_name(&direction).ok_or_else(|| columns.bad("direction"))?,
            baseline: columns.text("baseline", row)?,
            baseline_checkpoint: columns.text("baseline_checkpoint", row)?,
            candidate: columns.text("candidate", row)?,
            candidate_checkpoint: columns.text("candidate_checkpoint", row)?,
            pairs: columns.u32("pairs", row)?,
            undefined: columns.u32("undefined", row)?,
            baseline_mean: columns.optional_float("baseline_mean", row)?,
            baseline_std: columns.optional_float("baseline_std", row)?,
            candidate_mean: columns.optional_float("candidate_mean", row)?,
            candidate_std: columns.optional_float("candidate_std", row)?,
            improvement: columns.optional_float("improvement", row)?,
            wilcoxon: columns.optional_float("wilcoxon", row)?,
            p: columns.optional_float("p", row)?,
            p_holm: columns.optional_float("p_holm", row)?,
            cohens_d: columns.optional_float("cohens_d", row)?,
            low: columns.optional_float("low", row)?,
            high: columns.optional_float("high", row)?,
            reason: columns.optional_text("reason", row)?,
        })
    }

    fn flaw(&self) -> Option<String> {
        if self.reason.is_none()
            && let Some((name, _)) = self.numbers().into_iter().find(|(_, number)| number.is_none())
        {
            return Some(format!("no reason why `{name}` of `{}` is undefined", self.metric));
        }
        not_finite(self.numbers())
    }
}
