//! The metrics table: one row a prompt, model and metric.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use midi_ingest::job::exit::Result;

use super::table::{Columns, Row, not_finite, optional, optional_floats, optional_texts, required, texts};
use crate::metric::Measures;

/// To what a set of measures belongs.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// The run.
    pub run_id: &'a str,
    /// The prompt.
    pub prompt_id: &'a str,
    /// The model.
    pub model: &'a str,
    /// Of the model's checkpoint.
    pub checkpoint_hash: &'a str,
    /// Of the run's configuration.
    pub config_hash: &'a str,
}

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRow {
    /// The run.
    pub run_id: String,
    /// The prompt.
    pub prompt_id: String,
    /// The model.
    pub model: String,
    /// Of the model's checkpoint.
    pub checkpoint_hash: String,
    /// Of the run's configuration.
    pub config_hash: String,
    /// The metric, [`crate::metric::Metric::name`].
    pub metric: String,
    /// Its value for the model's answer; `None` if undefined.
    pub value: Option<f64>,
    /// Its value for the original, where it has one.
    pub original: Option<f64>,
    /// Why something is undefined.
    pub reason: Option<String>,
}

impl MetricRow {
    /// The rows of an answer's measures, in their order.
    pub fn of(measures: &Measures, labels: Labels<'_>) -> Vec<MetricRow> {
        let row = |measure: &crate::metric::Measure| MetricRow {
            run_id: labels.run_id.to_owned(),
            prompt_id: labels.prompt_id.to_owned(),
            model: labels.model.to_owned(),
            checkpoint_hash: labels.checkpoint_hash.to_owned(),
            config_hash: labels.config_hash.to_owned(),
            metric: measure.metric.name().to_owned(),
            value: measure.value,
            original: measure.original,
            reason: measure.reason.clone(),
        };
        measures.iter().map(row).collect()
    }
}

impl Row for MetricRow {
    const TABLE: &'static str = "metrics";

    fn fields() -> Vec<Field> {
        vec![
            required("run_id", DataType::Utf8),
            required("prompt_id", DataType::Utf8),
            required("model", DataType::Utf8),
            required("checkpoint_hash", DataType::Utf8),
            required("config_hash", DataType::Utf8),
            required("metric", DataType::Utf8),
            optional("value", DataType::Float64),
            optional("original", DataType::Float64),
            optional("reason", DataType::Utf8),
        ]
    }

    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            texts(rows.iter().map(|r| r.run_id.as_str())),
            texts(rows.iter().map(|r| r.prompt_id.as_str())),
            texts(rows.iter().map(|r| r.model.as_str())),
            texts(rows.iter().map(|r| r.checkpoint_hash.as_str())),
            texts(rows.iter().map(|r| r.config_hash.as_str())),
            texts(rows.iter().map(|r| r.metric.as_str())),
            optional_floats(rows.iter().map(|r| r.value)),
            optional_floats(rows.iter().map(|r| r.original)),
            optional_texts(rows.iter().map(|r| r.reason.as_deref())),
        ]
    }

    fn row(columns: &Columns<'_>, row: usize) -> Result<Self> {
        Ok(MetricRow {
            run_id: columns.text("run_id", row)?,
            prompt_id: columns.text("prompt_id", row)?,
            model: columns.text("model", row)?,
            checkpoint_hash: columns.text("checkpoint_hash", row)?,
            config_hash: columns.text("config_hash", row)?,
            metric: columns.text("metric", row)?,
            value: columns.optional_float("value", row)?,
            original: columns.optional_float("original", row)?,
            reason: columns.optional_text("reason", row)?,
        })
    }

    fn flaw(&self) -> Option<String> {
        if self.value.is_none() && self.reason.is_none() {
            return Some(format!("no reason why `{}` of `{}` is undefined", self.metric, self.model));
        }
        not_finite([("value", self.value), ("original", self.original)])
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::table::tests::round_trip;
    use super::super::table::write;
    use super::*;
    use crate::metric::Metric;

    /// A row of run "r"; a missing value has the reason "none".
    pub(in crate::results) fn row(prompt: &str, model: &str, metric: &str, value: Option<f64>) -> MetricRow {
        MetricRow {
            run_id: "r".into(),
            prompt_id: prompt.into(),
            model: model.into(),
            checkpoint_hash: format!("hash of {model}"),
            config_hash: "c".into(),
            metric: metric.into(),
            value,
            original: None,
            reason: value.is_none().then(|| "none".to_owned()),
        }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_is_nan() {
        round_trip(&[row("p0", "a", "cp", Some(0.1)), row("p1", "a", "cp", None)]);
        let error = write(&[row("p0", "a", "cp", Some(f64::NAN))]).expect_err("NaN");
        assert_eq!(error.to_string(), "cannot write a metrics table: `value` is not a finite number");
    }

    #[test]
    fn measures_become_rows_in_their_order() {
        let labels = Labels { run_id: "r", prompt_id: "p", model: "m", checkpoint_hash: "h", config_hash: "c" };
        let rows = MetricRow::of(&Measures::undefined("decode: no bar"), labels);
        assert_eq!(rows.iter().map(|r| r.metric.as_str()).collect::<Vec<_>>(), Metric::ALL.map(Metric::name));
        assert!(rows.iter().all(|row| row.flaw().is_none() && row.value.is_none()));
    }
}
