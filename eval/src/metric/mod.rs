//! What an infilled section is worth: the paper's four metrics and the secondary ones, one file each.
//!
//! Source: the metrics of MIDI-RWKV (arXiv 2506.13001, section 4) in their corrected form: the section is
//! bars a to b themselves, and both scores are brought to one resolution first. Every metric module
//! states its unit and its conventions, and works on a [`Passage`], which only a valid section can make;
//! [`measure`] evaluates all of them in a fixed order. A value that does not exist is [`Undefined`],
//! with its reason, and never a NaN.

pub mod content_preservation;
pub mod controls;
pub mod groove;
pub mod onset_f1;
pub mod pitch_class_entropy;
pub mod reference;
pub mod secondary;
pub mod window;

use midi_ingest::score::Score;

pub use window::{Passage, Section, Side, Undefined, passages};

/// A metric of the results tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Content preservation (CP), `[0, 1]`.
    ContentPreservation,
    /// CP over the frames in which at least one of the scores sounds, `[0, 1]`.
    ContentPreservationSounding,
    /// Note onset F1 over all matching pairs, as the paper counts: it can exceed 1.
    OnsetF1,
    /// Note onset F1 with each note matched once, `[0, 1]`.
    OnsetF1OneToOne,
    /// Groove similarity (GS) as the paper normalises it, `[1/N, 1]`.
    Groove,
    /// GS with exact 1/32 cells at every resolution, the paper's norm, `[1/N, 1]`.
    GrooveExact,
    /// GS with exact cells, a mean over the pairs of neighbouring bars, `[0, 1]`.
    GroovePairs,
    /// Pitch-class histogram entropy (PCHE), bits, `[0, log2 12]`.
    PitchClassEntropy,
    /// Used pitch classes in a bar (UPC), `[0, 12]`.
    UsedPitchClasses,
    /// Polyphony rate (PR): share of the time in which several pitches sound, `[0, 1]`.
    PolyphonyRate,
    /// Mean number of pitches that sound while any does, from 1.
    Polyphony,
    /// Pitch variety (PV): different pitches per note, `(0, 1]`.
    PitchVariety,
    /// Rhythm variety (RV): different durations per note, `(0, 1]`.
    RhythmVariety,
    /// Qualified rhythm rate (QR): share of notes between a 1/32 and four bars of 4/4, `[0, 1]`.
    QualifiedRhythm,
    /// Distance of the density control from the original's, notes a bar.
    DensityDelta,
    /// Distance of the duration controls from the original's, flags, `[0, 1]`.
    DurationDelta,
    /// Distance of the polyphony controls from the original's, voices.
    PolyphonyDelta,
}

/// When a value of a metric is better than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// Nearer to the original's value is better.
    Closer,
}

impl Direction {
    /// The name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Higher => "higher",
            Direction::Lower => "lower",
            Direction::Closer => "closer",
        }
    }

    /// The direction of a name in the tables.
    pub fn from_name(name: &str) -> Option<Self> {
        [Direction::Higher, Direction::Lower, Direction::Closer].into_iter().find(|d| d.name() == name)
    }
}

impl Metric {
    /// All metrics, in the order of the tables; the paper's come first.
    pub const ALL: [Metric; 17] = [
        Metric::ContentPreservation,
        Metric::ContentPreservationSounding,
        Metric::OnsetF1,
        Metric::OnsetF1OneToOne,
        Metric::Groove,
        Metric::GrooveExact,
        Metric::GroovePairs,
        Metric::PitchClassEntropy,
        Metric::UsedPitchClasses,
        Metric::PolyphonyRate,
        Metric::Polyphony,
        Metric::PitchVariety,
        Metric::RhythmVariety,
        Metric::QualifiedRhythm,
        Metric::DensityDelta,
        Metric::DurationDelta,
        Metric::PolyphonyDelta,
    ];

    /// The metrics of the paper's tables, in their order.
    pub const PAPER: [Metric; 4] =
        [Metric::ContentPreservation, Metric::Groove, Metric::PitchClassEntropy, Metric::OnsetF1];

    /// The metrics of our reports: the paper's, but for F1, of which each note counts once and which a silent answer has
    /// too, with 0.
    pub const REPORTED: [Metric; 4] =
        [Metric::ContentPreservation, Metric::Groove, Metric::PitchClassEntropy, Metric::OnsetF1OneToOne];

    /// The name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Metric::ContentPreservation => "cp",
            Metric::ContentPreservationSounding => "cp_sounding",
            Metric::OnsetF1 => "f1",
            Metric::OnsetF1OneToOne => "f1_one_to_one",
            Metric::Groove => "gs",
            Metric::GrooveExact => "gs_exact",
            Metric::GroovePairs => "gs_pairs",
            Metric::PitchClassEntropy => "pche",
            Metric::UsedPitchClasses => "upc",
            Metric::PolyphonyRate => "pr",
            Metric::Polyphony => "polyphony",
            Metric::PitchVariety => "pv",
            Metric::RhythmVariety => "rv",
            Metric::QualifiedRhythm => "qr",
            Metric::DensityDelta => "density_delta",
            Metric::DurationDelta => "duration_delta",
            Metric::PolyphonyDelta => "polyphony_delta",
        }
    }

    /// The metric of a name in the tables.
    pub fn from_name(name: &str) -> Option<Self> {
        Metric::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// When a value is better than another. The secondary metrics have no direction of their own: what
    /// counts is the distance to the original.
    pub fn direction(self) -> Direction {
        match self {
            Metric::ContentPreservation
            | Metric::ContentPreservationSounding
            | Metric::OnsetF1
            | Metric::OnsetF1OneToOne
            | Metric::Groove
            | Metric::GrooveExact
            | Metric::GroovePairs => Direction::Higher,
            Metric::DensityDelta | Metric::DurationDelta | Metric::PolyphonyDelta => Direction::Lower,
            Metric::PitchClassEntropy
            | Metric::UsedPitchClasses
            | Metric::PolyphonyRate
            | Metric::Polyphony
            | Metric::PitchVariety
            | Metric::RhythmVariety
            | Metric::QualifiedRhythm => Direction::Closer,
        }
    }

    /// The number by which models are compared on a prompt: the value itself, or its distance to the
    /// original's where closer is better; `None` if what it needs is undefined.
    pub fn compared(self, value: Option<f64>, original: Option<f64>) -> Option<f64> {
        match self.direction() {
            Direction::Higher | Direction::Lower => value,
            Direction::Closer => Some((value? - original?).abs()),
        }
    }

    /// How much better `candidate` is than `baseline`, both from [`Metric::compared`]; positive is better.
    pub fn improvement(self, baseline: f64, candidate: f64) -> f64 {
        match self.direction() {
            Direction::Higher => candidate - baseline,
            Direction::Lower | Direction::Closer => baseline - candidate,
        }
    }
}

/// One metric of one infilled section.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// Which metric.
    pub metric: Metric,
    /// Of the infilled section, or of the pair for metrics that compare; `None` if undefined.
    pub value: Option<f64>,
    /// Of the original section, for metrics that each score has by itself.
    pub original: Option<f64>,
    /// Why something is undefined.
    pub reason: Option<String>,
}

/// All metrics of one infilled section, in the order of [`Metric::ALL`].
#[derive(Clone, Debug, PartialEq)]
pub struct Measures(Vec<Measure>);

impl Measures {
    /// All metrics undefined for one reason: what a failed generation leaves behind.
    pub fn undefined(reason: impl std::fmt::Display) -> Self {
        let one = |metric| Measure { metric, value: None, original: None, reason: Some(reason.to_string()) };
        Measures(Metric::ALL.into_iter().map(one).collect())
    }

    /// The measures, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Measure> {
        self.0.iter()
    }

    /// One of them.
    pub fn get(&self, metric: Metric) -> Option<&Measure> {
        self.0.iter().find(|measure| measure.metric == metric)
    }
}

impl<'a> IntoIterator for &'a Measures {
    type Item = &'a Measure;
    type IntoIter = std::slice::Iter<'a, Measure>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Evaluates every metric on a section of the original and of the infilled score.
///
/// `section.track` counts the original's tracks that have notes, and the infilled score's tracks as they
/// are. The scores may differ in resolution. For the duration controls to mean anything, the original
/// should be on the grid of the tokenizer, as the infilled score is.
///
/// A malformed section (no bars, no such track, no resolution) leaves every metric undefined.
pub fn measure(original: &Score, infilled: &Score, section: &Section) -> Measures {
    match passages(original, infilled, section) {
        Ok((original, infilled)) => measure_passages(&original, &infilled),
        Err(undefined) => Measures::undefined(undefined),
    }
}

/// Evaluates every metric on two passages of the same section.
fn measure_passages(original: &Passage, infilled: &Passage) -> Measures {
    let compare = |metric, value: Result<f64, Undefined>| {
        let reason = value.as_ref().err().map(Undefined::to_string);
        Measure { metric, value: value.ok(), original: None, reason }
    };
    let each = |metric, of: fn(&Passage) -> Result<f64, Undefined>| {
        let (value, own) = (of(infilled), of(original));
        let reasons: Vec<String> = [(Side::Infilled, &value), (Side::Original, &own)]
            .into_iter()
            .filter_map(|(side, result)| result.as_ref().err().map(|reason| format!("{side}: {reason}")))
            .collect();
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        Measure { metric, value: value.ok(), original: own.ok(), reason }
    };
    let measure = |metric| match metric {
        Metric::ContentPreservation => compare(metric, Ok(content_preservation::score(original, infilled))),
        Metric::ContentPreservationSounding => compare(metric, content_preservation::sounding(original, infilled)),
        Metric::OnsetF1 => compare(metric, onset_f1::all_pairs(original, infilled)),
        Metric::OnsetF1OneToOne => compare(metric, onset_f1::one_to_one(original, infilled).f1()),
        Metric::Groove => each(metric, groove::paper),
        Metric::GrooveExact => each(metric, |passage| Ok(groove::exact(passage).paper_norm())),
        Metric::GroovePairs => each(metric, |passage| groove::exact(passage).pair_norm()),
        Metric::PitchClassEntropy => each(metric, pitch_class_entropy::entropy),
        Metric::UsedPitchClasses => each(metric, |passage| Ok(secondary::used_pitch_classes(passage))),
        Metric::PolyphonyRate => each(metric, secondary::polyphony_rate),
        Metric::Polyphony => each(metric, secondary::polyphony),
        Metric::PitchVariety => each(metric, secondary::pitch_variety),
        Metric::RhythmVariety => each(metric, secondary::rhythm_variety),
        Metric::QualifiedRhythm => each(metric, secondary::qualified_rhythm),
        Metric::DensityDelta => compare(metric, Ok(controls::density_delta(original, infilled))),
        Metric::DurationDelta => compare(metric, Ok(controls::duration_delta(original, infilled))),
        Metric::PolyphonyDelta => compare(metric, controls::polyphony_delta(original, infilled)),
    };
    Measures(Metric::ALL.into_iter().map(measure).collect())
}

#[cfg(test)]
mod tests {
    use super::window::tests::{score, section};
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for metric in Metric::ALL {
            assert_eq!(Metric::from_name(metric.name()), Some(metric));
            assert_eq!(Direction::from_name(metric.direction().name()), Some(metric.direction()));
        }
        assert_eq!(Metric::from_name("loudness"), None);
    }

    #[test]
    fn a_copy_is_perfect_in_every_metric() {
        // Sounding without a gap in every bar, so that no frame is silent.
        let song = score(480, &(0..32).map(|k| (480 * k, 480, 60 + (k % 7) as u8)).collect::<Vec<_>>());
        let measures = measure(&song, &song, &section(2..4, 8));
        assert_eq!(measures.iter().map(|m| m.metric).collect::<Vec<_>>(), Metric::ALL);
        for measure in &measures {
            assert_eq!(measure.reason, None, "{:?}", measure.metric);
            let compared = measure.metric.compared(measure.value, measure.original).expect("defined");
            match measure.metric {
                Metric::Groove | Metric::GrooveExact | Metric::GroovePairs => {
                    assert_eq!(measure.value, measure.original);
                }
                metric if metric.direction() == Direction::Higher => {
                    assert!((compared - 1.0).abs() < 1e-12, "{metric:?} {compared}");
                }
                metric => assert_eq!(compared, 0.0, "{metric:?}"),
            }
        }
    }

    #[test]
    fn an_empty_section_is_undefined_or_zero_but_never_nan() {
        let song = score(480, &[(0, 480, 60), (1920 * 8, 480, 60)]);
        for measure in &measure(&song, &song, &section(2..4, 2)) {
            let defined = measure.value.is_some();
            assert_eq!(defined, measure.reason.is_none(), "{measure:?}");
            assert!(measure.value.is_none_or(f64::is_finite), "{measure:?}");
        }
    }

    #[test]
    fn a_malformed_section_is_undefined_with_its_reason() {
        let song = score(480, &[(0, 480, 60)]);
        let reason = |measures: Measures| measures.get(Metric::Groove).and_then(|m| m.reason.clone());
        let track = Section { track: 3, ..section(0..1, 0) };
        assert_eq!(reason(measure(&song, &song, &track)).as_deref(), Some("the original score has no track 3"));
        assert_eq!(reason(measure(&song, &song, &section(2..2, 0))).as_deref(), Some("the section has no bars"));
        let timeless = Score { ticks_per_quarter: 0, ..song.clone() };
        assert_eq!(
            reason(measure(&song, &timeless, &section(0..1, 0))).as_deref(),
            Some("the infilled score has no ticks in a quarter note")
        );
    }

    #[test]
    fn closer_metrics_compare_distances_and_improvement_is_positive_when_better() {
        let metric = Metric::PitchClassEntropy;
        assert_eq!(metric.compared(Some(1.5), Some(2.0)), Some(0.5));
        assert_eq!(metric.compared(Some(1.5), None), None);
        assert_eq!(metric.improvement(0.5, 0.25), 0.25);
        assert_eq!(Metric::ContentPreservation.improvement(0.5, 0.75), 0.25);
        assert_eq!(Metric::DensityDelta.improvement(2.0, 1.0), 1.0);
    }
}
