//! The paper's own window, with its faults, to recompute the values of its published analysis.
//!
//! Nothing of the evaluation uses it; compare with [`super::measure`], which differs in the window and the
//! clock only, the metrics being the same. The faults, all of them kept here:
//!
//! - each score stays in its own resolution, so that F1 compares ticks of different lengths,
//! - the end of the section is counted from the right of the window; where the song ends inside the right
//!   context, the section shrinks, and may even end before it begins,
//! - more context than there is before the section takes bars from the end of the song instead.

use midi_ingest::score::{Score, Tick, Track};

use super::window::{grid, longest, tracks};
use super::{Measures, Passage, Section, Side, Undefined, measure_passages};

/// Evaluates every metric as the paper's analysis does.
///
/// Where that fails for a metric, or gives a NaN, the metric is undefined. Windows that lack bars of the
/// section itself leave all of them undefined.
pub fn measure(original: &Score, infilled: &Score, section: &Section) -> Measures {
    let both = tracks(original, infilled, section).and_then(|(own, new)| {
        Ok((passage(Side::Original, original, own, section)?, passage(Side::Infilled, infilled, new, section)?))
    });
    match both {
        Ok((original, infilled)) => measure_passages(&original, &infilled),
        Err(undefined) => Measures::undefined(undefined),
    }
}

fn passage(side: Side, score: &Score, track: &Track, section: &Section) -> Result<Passage, Undefined> {
    let window = window(&grid(side, score)?, section);
    let context = section.context;
    let tick = |index: usize| window.get(index).copied().ok_or(Undefined::NoLength(side));
    let from_the_right = window.len().checked_sub(context + 1).ok_or(Undefined::NoLength(side))?;
    let bars = (0..section.bars.len()).map(|bar| Ok(tick(context + bar)?..tick(context + bar + 1)?));
    Ok(Passage {
        notes: track.notes.clone(),
        section: tick(context)?..tick(from_the_right)?,
        bars: bars.collect::<Result<_, _>>()?,
        longest_bar: longest(&window),
        ticks_per_quarter: score.ticks_per_quarter.into(),
    })
}

/// Bar starts from the left context to the end of the right one, or what a slice of the grid makes of it.
fn window(grid: &[Tick], section: &Section) -> Vec<Tick> {
    let (start, end, context) = (section.bars.start, section.bars.end, section.context);
    // An index before the first counts from the end.
    let from = start.checked_sub(context).unwrap_or_else(|| (grid.len() + start).saturating_sub(context));
    let past_the_last = end >= grid.len();
    let to = if past_the_last { end + context } else { end + context + 1 };
    let mut window = grid.get(from..to.min(grid.len())).unwrap_or_default().to_vec();
    if let ([.., before, last], true) = (grid, past_the_last) {
        window.push(2 * last - before);
    }
    window
}

#[cfg(test)]
mod tests {
    use super::super::Metric;
    use super::super::window::tests::{score, section};
    use super::*;

    /// Ten bars of quarter notes.
    fn song(ticks_per_quarter: u32) -> Score {
        let quarter = Tick::from(ticks_per_quarter);
        score(ticks_per_quarter, &(0..40).map(|k| (k * quarter, quarter, 60 + (k % 5) as u8)).collect::<Vec<_>>())
    }

    #[test]
    fn with_a_whole_window_and_one_clock_it_is_what_we_measure() {
        let song = song(480);
        let section = section(4..6, 2);
        assert_eq!(measure(&song, &song, &section), super::super::measure(&song, &song, &section));
    }

    #[test]
    fn a_copy_on_another_clock_fails_the_onset_comparison() {
        let f1 = |measures: Measures| measures.get(Metric::OnsetF1).and_then(|measure| measure.value);
        let section = section(4..6, 2);
        // A section of eight notes: in ticks, only the first ones of the two files are near each other.
        assert_eq!(f1(measure(&song(480), &song(24), &section)), Some(1.0 / 8.0));
        assert_eq!(f1(super::super::measure(&song(480), &song(24), &section)), Some(1.0));
    }

    #[test]
    fn windows_are_slices() {
        let grid = [0, 10, 20, 30, 40];
        assert_eq!(window(&grid, &section(2..3, 1)), [10, 20, 30, 40]);
        assert_eq!(window(&grid, &section(2..3, 2)), [0, 10, 20, 30, 40]);
        assert_eq!(window(&grid, &section(4..5, 1)), [30, 40, 50]);
        assert_eq!(window(&grid, &section(1..2, 3)), [30, 40]);
    }

    #[test]
    fn a_window_without_the_section_is_undefined() {
        let song = song(480);
        let measures = measure(&song, &song, &section(1..2, 9));
        assert!(measures.iter().all(|measure| measure.value.is_none() && measure.reason.is_some()));
    }
}
