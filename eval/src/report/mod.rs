//! What an evaluation found, for people: the same tables for a terminal and as one HTML page.
//!
//! Both are functions of the [`Report`]; nothing is printed here.

mod html;
mod plot;
mod terminal;

use midi_ingest::job::exit::Result;

use crate::metric::{Direction, Metric};
use crate::results::compare::compare;
use crate::results::summary::summarise;
use crate::results::{Answers, ComparisonRow, Summary};

/// How each model does, and how the models compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The run.
    pub run_id: String,
    /// Of the run's configuration.
    pub config_hash: String,
    /// The models, in the order of the tables' columns.
    pub models: Vec<String>,
    /// The metrics, in the order of the tables' rows.
    pub metrics: Vec<Metric>,
    /// Every model in every metric.
    pub summaries: Vec<Summary>,
    /// Every pair of models in every metric.
    pub comparisons: Vec<ComparisonRow>,
}

impl Report {
    /// Summarises `models` and compares `pairs` of them, `[baseline, candidate]`, in `metrics`.
    ///
    /// # Errors
    /// A model without rows: exit code 65.
    pub fn new(
        answers: &Answers,
        metrics: &[Metric],
        models: &[String],
        pairs: &[[String; 2]],
        seed: u64,
    ) -> Result<Report> {
        for model in models {
            answers.checkpoint(model)?;
        }
        Ok(Report {
            run_id: answers.run_id.clone(),
            config_hash: answers.config_hash.clone(),
            models: models.to_vec(),
            metrics: metrics.to_vec(),
            summaries: summarise(answers, metrics, models, seed),
            comparisons: compare(answers, metrics, pairs, seed)?,
        })
    }

    /// Tables for a terminal, readable without colour; they are Markdown too.
    pub fn terminal(&self) -> String {
        terminal::render(self)
    }

    /// A page that needs nothing but itself.
    pub fn html(&self) -> String {
        html::render(self)
    }

    /// The summaries of a metric, in the order of the models.
    fn of(&self, metric: Metric) -> impl Iterator<Item = &Summary> {
        self.summaries.iter().filter(move |summary| summary.metric == metric)
    }

    /// Whether a model's mean is the best of its metric; never so without a second model to beat, nor where some models
    /// have fewer values than others: who is silent where it is hard would win.
    fn is_best(&self, summary: &Summary) -> bool {
        let Some(mean) = summary.mean else { return false };
        let means: Vec<f64> = self.of(summary.metric).filter_map(|other| other.mean).collect();
        self.of(summary.metric).all(|other| other.defined == summary.defined)
            && means.len() > 1
            && means.iter().all(|&other| summary.metric.improvement(other, mean) >= 0.0)
    }

    /// What is missing in the comparisons, and why.
    fn notes(&self) -> impl Iterator<Item = String> {
        self.comparisons.iter().filter_map(|row| {
            let reason = row.reason.as_ref()?;
            Some(format!("{}, {} against {}: {reason}", row.metric, row.candidate, row.baseline))
        })
    }
}

/// What stands for a value that does not exist.
const MISSING: &str = "–";

/// What the tables say about themselves.
const LEGEND: [&str; 3] = [
    "Mean ± standard deviation over the prompts with a defined value (how many, if some have none). The best is marked \
     where all models have equally many values. Δ is the distance to the original's value. ↑ more is better, ↓ less is \
     better.",
    "Improvement is of the candidate over the baseline on the same prompts, + is better, with its 95 % bootstrap \
     interval; d is Cohen's d of the paired differences; p is of the two-sided Wilcoxon signed-rank test, corrected \
     by Holm for all comparisons of the run.",
    "Significance by the corrected p: *** below 0.001, ** below 0.01, * below 0.05.",
];

/// A metric with what is compared and which way is better, such as `pche Δ ↓`.
fn heading(metric: Metric) -> String {
    match metric.direction() {
        Direction::Higher => format!("{} ↑", metric.name()),
        Direction::Lower => format!("{} ↓", metric.name()),
        Direction::Closer => format!("{} Δ ↓", metric.name()),
    }
}

/// The heading of a comparison's metric.
fn heading_of(row: &ComparisonRow) -> String {
    Metric::from_name(&row.metric).map_or_else(|| row.metric.clone(), heading)
}

/// `0.6123 ± 0.0450`, and how many values it stands on if some are undefined.
fn mean_and_std(summary: &Summary) -> String {
    let (Some(mean), Some(std)) = (summary.mean, summary.std) else { return MISSING.to_owned() };
    let all = summary.defined + summary.undefined;
    let count = if summary.undefined > 0 { format!(" ({} of {all})", summary.defined) } else { String::new() };
    format!("{mean:.4} ± {std:.4}{count}")
}

/// `+0.0312 [-0.0100, +0.0724]`
fn improvement(row: &ComparisonRow) -> String {
    match (row.improvement, row.low, row.high) {
        (Some(mean), Some(low), Some(high)) => format!("{mean:+.4} [{low:+.4}, {high:+.4}]"),
        _ => MISSING.to_owned(),
    }
}

fn effect(row: &ComparisonRow) -> String {
    row.cohens_d.map_or_else(|| MISSING.to_owned(), |d| format!("{d:+.3}"))
}

fn p_value(p: Option<f64>) -> String {
    match p {
        None => MISSING.to_owned(),
        Some(p) if p < 1e-4 => format!("{p:.1e}"),
        Some(p) => format!("{p:.4}"),
    }
}

fn stars(row: &ComparisonRow) -> &'static str {
    match row.p_holm {
        Some(p) if p < 0.001 => "***",
        Some(p) if p < 0.01 => "**",
        Some(p) if p < 0.05 => "*",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::MetricRow;

    /// Forty prompts; `<b&w>` is better in cp (undefined twice) and f1, worse in pche, and never differs in gs.
    pub(super) fn report() -> Report {
        let mut rows = Vec::new();
        for k in 0..40u32 {
            let wave = f64::from(k * 7 % 11) / 20.0;
            let mut add = |model: &str, metric: Metric, value: Option<f64>, original: Option<f64>| {
                rows.push(MetricRow {
                    run_id: "demo".into(),
                    prompt_id: format!("p{k:02}"),
                    model: model.into(),
                    checkpoint_hash: "0".into(),
                    config_hash: "c0ffee".into(),
                    metric: metric.name().into(),
                    value,
                    original,
                    reason: value.is_none().then(|| "no note in the section".into()),
                });
            };
            add("base", Metric::ContentPreservation, Some(wave), None);
            let other = wave + 0.1 + f64::from(k % 3) / 50.0;
            add("<b&w>", Metric::ContentPreservation, (k > 1).then_some(other), None);
            add("base", Metric::OnsetF1OneToOne, Some(wave / 2.0), None);
            add("<b&w>", Metric::OnsetF1OneToOne, Some(other / 2.0), None);
            add("base", Metric::PitchClassEntropy, Some(2.0 + wave), Some(2.5));
            add("<b&w>", Metric::PitchClassEntropy, Some(1.9 + wave), Some(2.5));
            add("base", Metric::Groove, Some(0.75), Some(0.5));
            add("<b&w>", Metric::Groove, Some(0.75), Some(0.5));
        }
        let answers = Answers::new(&rows).expect("sound rows");
        let metrics = [Metric::REPORTED.as_slice(), &[Metric::OnsetF1]].concat();
        let models = ["base".to_owned(), "<b&w>".to_owned()];
        Report::new(&answers, &metrics, &models, std::slice::from_ref(&models), 1).expect("a report")
    }

    #[test]
    fn the_best_is_marked_by_direction_and_ties_share_it() {
        let report = report();
        let best = |metric| report.of(metric).map(|summary| report.is_best(summary)).collect::<Vec<_>>();
        assert_eq!(best(Metric::ContentPreservation), [false, false], "one of them has fewer values");
        assert_eq!(best(Metric::OnsetF1OneToOne), [false, true]);
        assert_eq!(best(Metric::PitchClassEntropy), [true, false]);
        assert_eq!(best(Metric::Groove), [true, true]);
        assert_eq!(best(Metric::OnsetF1), [false, false]);
    }

    #[test]
    fn a_model_without_rows_is_an_error() {
        let answers = Answers::default();
        assert!(Report::new(&answers, &Metric::REPORTED, &["a".to_owned()], &[], 1).is_err());
    }

    #[test]
    fn numbers_are_written_the_same_everywhere() {
        assert_eq!(p_value(Some(0.04999)), "0.0500");
        assert_eq!(p_value(Some(0.000_012_3)), "1.2e-5");
        assert_eq!(p_value(None), MISSING);
        assert_eq!(heading(Metric::PitchClassEntropy), "pche Δ ↓");
        assert_eq!(heading(Metric::DensityDelta), "density_delta ↓");
    }
}
