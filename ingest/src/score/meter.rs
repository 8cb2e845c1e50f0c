//! Bars of one beat into bars of four. Some data sets write a click track's 1/4 where 4/4 is played, so that what
//! they call a bar is a beat, and a section of two bars is half of one.

use serde::{Deserialize, Serialize};

use super::preprocess::grid_metres;
use super::{Score, Tick, TimeSignature};

/// What is made of the time signatures of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meter {
    /// They are taken as they are.
    #[default]
    AsWritten,
    /// Runs of bars of 1/4 become bars of 4/4, counted from where the run begins.
    Regroup,
}

impl Meter {
    /// The score under this rule. A score without 1/4 stays as it is.
    pub fn apply(self, score: Score) -> Score {
        match self {
            Meter::Regroup if score.time_signatures.iter().any(is_one_beat) => regroup(score),
            _ => score,
        }
    }
}

fn is_one_beat(metre: &TimeSignature) -> bool {
    (metre.numerator, metre.denominator) == (1, 4)
}

/// Beats at the end of a run that do not fill a bar of four become one shorter bar, so that the next metre begins
/// where it did. Changes stand on the bar lines to which the tokenizer's grid moves them.
fn regroup(mut score: Score) -> Score {
    let (metres, grid) = grid_metres(&score);
    let (beat, quarter) = (Tick::from(grid), Tick::from(score.ticks_per_quarter));
    let mut out: Vec<TimeSignature> = Vec::with_capacity(metres.len() + 1);
    let mut push = |tick: Tick, numerator: u8, denominator: u8| {
        let metre = TimeSignature { tick: tick * quarter / beat, numerator, denominator };
        if out.last().is_none_or(|last| !last.same_metre(&metre)) {
            out.push(metre);
        }
    };
    for (index, metre) in metres.iter().enumerate() {
        match metres.get(index + 1) {
            _ if !is_one_beat(metre) => push(metre.tick, metre.numerator, metre.denominator),
            None => push(metre.tick, 4, 4),
            Some(next) => {
                let beats = (next.tick - metre.tick) / beat;
                let rest = beats % 4;
                if beats >= 4 {
                    push(metre.tick, 4, 4);
                }
                if rest > 0 {
                    push(metre.tick + (beats - rest) * beat, rest as u8, 4);
                }
            }
        }
    }
    score.time_signatures = out;
    score
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::bars::{Until, bar_ticks};
    use crate::score::{Note, Track, preprocess};

    /// A score of `beats` quarters with metres given as (beat, numerator, denominator).
    fn score(beats: Tick, metres: &[(Tick, u8, u8)]) -> Score {
        let note = |beat: Tick| Note { tick: beat * 480, duration: 480, pitch: 60, velocity: 64 };
        let metre = |&(beat, numerator, denominator)| TimeSignature { tick: beat * 480, numerator, denominator };
        Score {
            ticks_per_quarter: 480,
            tracks: vec![Track { notes: (0..beats).map(note).collect(), ..Track::default() }],
            time_signatures: metres.iter().map(metre).collect(),
            ..Score::default()
        }
    }

    /// The beats at which bars begin, in the score and on the grid.
    fn bars(score: Score) -> Vec<Tick> {
        let score = Meter::Regroup.apply(score);
        let of = |score: &Score| -> Vec<Tick> {
            let beat = Tick::from(score.ticks_per_quarter);
            bar_ticks(score, Until::End).expect("bars").into_iter().map(|tick| tick / beat).collect()
        };
        assert_eq!(of(&score), of(&preprocess(&score)), "the grid has the same bars");
        of(&score)
    }

    #[test]
    fn beats_become_bars_of_four() {
        assert_eq!(bars(score(10, &[(0, 1, 4)])), [0, 4, 8]);
        assert_eq!(bars(score(10, &[(0, 4, 4), (0, 1, 4)])), [0, 4, 8], "the later of two at one tick holds");
    }

    #[test]
    fn beats_that_fill_no_bar_make_a_shorter_one() {
        assert_eq!(bars(score(13, &[(0, 1, 4), (7, 3, 4)])), [0, 4, 7, 10]);
        assert_eq!(bars(score(13, &[(0, 1, 4), (8, 3, 4)])), [0, 4, 8, 11]);
        assert_eq!(bars(score(12, &[(0, 2, 4), (4, 1, 4), (5, 2, 4)])), [0, 2, 4, 5, 7, 9, 11], "a written beat stays");
    }

    #[test]
    fn a_run_begins_where_the_grid_begins_it() {
        // The change within the bar of 4/4 counts from the next bar line.
        assert_eq!(bars(score(16, &[(0, 4, 4), (2, 1, 4), (11, 3, 4)])), [0, 4, 8, 11, 14]);
    }

    #[test]
    fn a_change_just_after_a_beat_falls_where_the_grid_puts_it() {
        let mut late = score(13, &[(0, 1, 4), (5, 3, 4)]);
        let expected = bars(late.clone());
        late.time_signatures[1].tick += 1;
        assert_eq!(bars(late), expected);
    }

    #[test]
    fn other_scores_and_the_written_rule_change_nothing() {
        let waltz = score(12, &[(0, 3, 4), (2, 7, 8)]);
        assert_eq!(Meter::Regroup.apply(waltz.clone()), waltz);
        let click = score(12, &[(0, 1, 4)]);
        assert_eq!(Meter::AsWritten.apply(click.clone()), click);
    }
}
