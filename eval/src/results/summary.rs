//! How each model does in each metric, over all prompts where its value is defined.

use midi_ingest::job::draws::Keyed;

use super::Answers;
use super::compare::LEVEL;
use crate::metric::Metric;
use crate::stats::bootstrap::{self, Interval, RESAMPLES};
use crate::stats::describe::{mean, standard_deviation};

/// A model in a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The metric.
    pub metric: Metric,
    /// The model.
    pub model: String,
    /// Prompts with a defined value.
    pub defined: usize,
    /// Prompts without.
    pub undefined: usize,
    /// The mean compared value; `None` if none is defined. So for what follows.
    pub mean: Option<f64>,
    /// The standard deviation (ddof 0).
    pub std: Option<f64>,
    /// The 95 % bootstrap interval of the mean.
    pub interval: Option<Interval>,
}

/// Summarises each of `models` in each of `metrics`, metric by metric. Compared values are the metric's
/// own, or its distance to the original's where closer is better.
pub fn summarise(answers: &Answers, metrics: &[Metric], models: &[String], seed: u64) -> Vec<Summary> {
    let one = |metric: Metric, model: &String| {
        let by_prompt = answers.values(metric, model);
        let values: Vec<f64> = by_prompt.values().copied().flatten().collect();
        let label = format!("bootstrap/{}/{model}", metric.name());
        Summary {
            metric,
            model: model.clone(),
            defined: values.len(),
            undefined: by_prompt.len() - values.len(),
            mean: mean(&values),
            std: standard_deviation(&values, 0),
            interval: bootstrap::interval(&values, LEVEL, RESAMPLES, &mut Keyed::new(seed, &label, 0)),
        }
    };
    metrics.iter().flat_map(|&metric| models.iter().map(move |model| one(metric, model))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::row;
    use super::*;

    #[test]
    fn undefined_values_are_counted_and_left_out() {
        let rows = [row("p0", "a", "cp", Some(0.25)), row("p1", "a", "cp", Some(0.75)), row("p2", "a", "cp", None)];
        let answers = Answers::new(&rows).expect("sound rows");
        let metrics = [Metric::ContentPreservation, Metric::Groove];
        let summaries = summarise(&answers, &metrics, &["a".into()], 1);
        assert_eq!((summaries[0].defined, summaries[0].undefined), (2, 1));
        assert_eq!((summaries[0].mean, summaries[0].std), (Some(0.5), Some(0.25)));
        assert_eq!((summaries[1].defined, summaries[1].mean, summaries[1].interval), (0, None, None));
    }
}
