//! Where bars begin, by the reference's rule (MidiTok's `get_bars_ticks`).

use super::{Score, Tick, TimeSignature};
use crate::reject::Reject;

/// More bars than this are taken for an attack, not for music: about 55 hours of 4/4 at 120 bpm.
pub const MAX_BARS: usize = 100_000;

/// How far the bars of a score are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the last onset of anything: the tokenizer's grid.
    LastOnset,
    /// To the end of the last event: the grid of sampling and of the metrics.
    End,
}

/// 4/4 at the start: what a score without a time signature is in.
pub(crate) const COMMON_TIME: TimeSignature = TimeSignature { tick: 0, numerator: 4, denominator: 4 };

impl TimeSignature {
    /// Ticks in a beat: a note of the denominator's value, rounded down.
    pub fn ticks_per_beat(&self, ticks_per_quarter: u32) -> Tick {
        match self.denominator {
            4 => Tick::from(ticks_per_quarter),
            0 => 0,
            other => Tick::from(ticks_per_quarter) * 4 / Tick::from(other),
        }
    }

    /// Ticks in a bar.
    pub fn ticks_per_bar(&self, ticks_per_quarter: u32) -> Tick {
        self.ticks_per_beat(ticks_per_quarter) * Tick::from(self.numerator)
    }

    /// Whether both are the same metre, whenever they begin.
    pub fn same_metre(&self, other: &TimeSignature) -> bool {
        (self.numerator, self.denominator) == (other.numerator, other.denominator)
    }
}

/// The tick of every bar, ascending; `[0]` for an empty score.
///
/// Quirk: a bar that starts exactly at the last counted tick is not listed.
///
/// # Errors
/// A metre whose bar has no ticks, or more than [`MAX_BARS`] bars.
pub fn bar_ticks(score: &Score, until: Until) -> Result<Vec<Tick>, Reject> {
    grid(score, until, MAX_BARS, TimeSignature::ticks_per_bar)
}

/// The tick of every beat, by the same rule as [`bar_ticks`].
///
/// # Errors
/// As [`bar_ticks`].
pub fn beat_ticks(score: &Score, until: Until) -> Result<Vec<Tick>, Reject> {
    grid(score, until, MAX_BARS * 16, TimeSignature::ticks_per_beat)
}

fn grid(
    score: &Score,
    until: Until,
    most: usize,
    length_of: fn(&TimeSignature, u32) -> Tick,
) -> Result<Vec<Tick>, Reject> {
    let end = match until {
        Until::LastOnset => score.last_onset(),
        Until::End => score.end(),
    };
    if end == 0 {
        return Ok(vec![0]);
    }
    let usable = |signature: &TimeSignature| signature.numerator > 0 && signature.denominator > 0;
    let mut current = match score.time_signatures.first() {
        Some(first) if first.tick == 0 && usable(first) => *first,
        _ => COMMON_TIME,
    };
    let last = TimeSignature { tick: end, ..COMMON_TIME };
    let mut bars = Vec::new();
    for next in score.time_signatures.iter().skip(1).chain([&last]).filter(|signature| usable(signature)) {
        let length = length_of(&current, score.ticks_per_quarter);
        if length == 0 {
            return Err(Reject::tokenize(
                "metre",
                format!(
                    "a bar of {}/{} has no ticks at {} a quarter",
                    current.numerator, current.denominator, score.ticks_per_quarter
                ),
            ));
        }
        let ticks = (next.tick - current.tick).max(0);
        let count = (ticks / length + Tick::from(ticks % length > 0)) as usize;
        if bars.len() + count > most {
            return Err(Reject::tokenize("too-many-bars", format!("more than {most}")));
        }
        bars.extend((0..count as Tick).map(|k| current.tick + k * length));
        current = *next;
    }
    Ok(bars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::{Note, Track};

    fn score(end: Tick, signatures: &[(Tick, u8, u8)]) -> Score {
        let note = Note { tick: end - 1, duration: 1, pitch: 60, velocity: 64 };
        let signature = |&(tick, numerator, denominator)| TimeSignature { tick, numerator, denominator };
        Score {
            ticks_per_quarter: 12,
            tracks: vec![Track { notes: vec![note], ..Track::default() }],
            time_signatures: signatures.iter().map(signature).collect(),
            ..Score::default()
        }
    }

    #[test]
    fn bars_follow_the_metre() {
        let bars = bar_ticks(&score(130, &[(0, 4, 4), (96, 2, 4)]), Until::End).expect("bars");
        assert_eq!(bars, [0, 48, 96, 120]);
        assert_eq!(bar_ticks(&score(49, &[]), Until::End).expect("bars"), [0, 48]);
    }

    #[test]
    fn a_bar_that_starts_at_the_last_onset_is_not_listed() {
        assert_eq!(bar_ticks(&score(49, &[]), Until::LastOnset).expect("bars"), [0]);
    }

    #[test]
    fn an_empty_score_has_one_bar() {
        assert_eq!(bar_ticks(&Score::default(), Until::End).expect("bars"), [0]);
    }

    #[test]
    fn endless_scores_are_rejected() {
        let endless = score(1 << 40, &[]);
        assert_eq!(bar_ticks(&endless, Until::End).expect_err("endless").reason, "too-many-bars");
    }
}
