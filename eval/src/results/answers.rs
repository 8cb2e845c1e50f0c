//! Metric rows, sorted out: which model got which value on which prompt.

use std::collections::BTreeMap;

use midi_ingest::job::exit::{Error, Result};

use super::MetricRow;
use crate::metric::Metric;

/// The compared values of one model in one metric, by prompt id; `None` where it is undefined.
pub type ByPrompt = BTreeMap<String, Option<f64>>;

/// The metric values of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// The run.
    pub run_id: String,
    /// Of the run's configuration.
    pub config_hash: String,
    /// Checkpoint hashes by model.
    checkpoints: BTreeMap<String, String>,
    values: BTreeMap<(Metric, String), ByPrompt>,
}

impl Answers {
    /// Sorts the rows of one run, in any order.
    ///
    /// # Errors
    /// Rows of two runs, configurations or checkpoints of a model; an unknown metric; two values for one
    /// prompt, model and metric: exit code 65.
    pub fn new(rows: &[MetricRow]) -> Result<Self> {
        let mut answers = Answers::default();
        if let Some(first) = rows.first() {
            answers.run_id.clone_from(&first.run_id);
            answers.config_hash.clone_from(&first.config_hash);
        }
        for row in rows {
            answers.add(row)?;
        }
        Ok(answers)
    }

    fn add(&mut self, row: &MetricRow) -> Result<()> {
        if (&row.run_id, &row.config_hash) != (&self.run_id, &self.config_hash) {
            let message = format!(
                "metrics of two runs: `{}` with configuration {} and `{}` with {}",
                self.run_id, self.config_hash, row.run_id, row.config_hash
            );
            return Err(Error::data(message).hint("compare the rows of one run at a time"));
        }
        let hash = self.checkpoints.entry(row.model.clone()).or_insert_with(|| row.checkpoint_hash.clone());
        if *hash != row.checkpoint_hash {
            let message = format!("metrics of two checkpoints of `{}`: {hash} and {}", row.model, row.checkpoint_hash);
            return Err(Error::data(message));
        }
        let metric = Metric::from_name(&row.metric)
            .ok_or_else(|| Error::data(format!("unknown metric `{}` of `{}`", row.metric, row.model)))?;
        let by_prompt = self.values.entry((metric, row.model.clone())).or_default();
        if by_prompt.insert(row.prompt_id.clone(), metric.compared(row.value, row.original)).is_some() {
            let message = format!("two values of `{}` for `{}` on `{}`", row.metric, row.model, row.prompt_id);
            return Err(Error::data(message).hint("were the same metrics written to two files?"));
        }
        Ok(())
    }

    /// The models, by name.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.checkpoints.keys().map(String::as_str)
    }

    /// The checkpoint hash of a model.
    ///
    /// # Errors
    /// There are no rows of it: exit code 65.
    pub fn checkpoint(&self, model: &str) -> Result<&str> {
        let known = || self.models().collect::<Vec<_>>().join(", ");
        let hash = self.checkpoints.get(model).map(String::as_str);
        hash.ok_or_else(|| Error::data(format!("no metrics of model `{model}`")).hint(format!("there are {}", known())))
    }

    /// The values of a model in a metric; empty if it has none.
    pub fn values(&self, metric: Metric, model: &str) -> &ByPrompt {
        static NONE: ByPrompt = BTreeMap::new();
        self.values.get(&(metric, model.to_owned())).unwrap_or(&NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::row;
    use super::*;

    #[test]
    fn values_are_found_whatever_the_order_of_rows() {
        let mut rows = vec![
            row("p1", "a", "cp", Some(0.5)),
            row("p0", "a", "cp", None),
            MetricRow { original: Some(2.0), ..row("p0", "b", "pche", Some(1.5)) },
        ];
        let answers = Answers::new(&rows).expect("sound rows");
        let values: Vec<_> = answers.values(Metric::ContentPreservation, "a").values().copied().collect();
        assert_eq!(values, [None, Some(0.5)]);
        assert_eq!(answers.values(Metric::PitchClassEntropy, "b")["p0"], Some(0.5));
        assert!(answers.values(Metric::PitchClassEntropy, "a").is_empty());
        assert_eq!(answers.models().collect::<Vec<_>>(), ["a", "b"]);
        rows.reverse();
        assert_eq!(Answers::new(&rows).expect("sound rows"), answers);
    }

    #[test]
    fn rows_that_contradict_each_other_are_errors() {
        let good = row("p0", "a", "cp", Some(0.5));
        let message = |other: MetricRow| Answers::new(&[good.clone(), other]).expect_err("a contradiction").to_string();
        assert!(message(good.clone()).starts_with("two values of `cp` for `a` on `p0`"));
        assert!(message(row("p0", "a", "loud", None)).starts_with("unknown metric `loud`"));
        assert!(message(MetricRow { run_id: "s".into(), ..good.clone() }).starts_with("metrics of two runs"));
        let other = MetricRow { prompt_id: "p1".into(), checkpoint_hash: "x".into(), ..good.clone() };
        assert!(message(other).starts_with("metrics of two checkpoints of `a`"));
    }

    #[test]
    fn an_unknown_model_is_an_error_that_names_the_known_ones() {
        let answers = Answers::new(&[row("p0", "a", "cp", Some(0.5))]).expect("sound rows");
        let error = answers.checkpoint("b").expect_err("unknown");
        assert_eq!(error.to_string(), "no metrics of model `b`\nhint: there are a");
    }
}
