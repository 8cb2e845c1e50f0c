//! A score as a piano roll of text: a column is a sixteenth, a character two pitches by its upper and lower half.

use std::fmt::Write as _;

use crate::reject::Reject;
use crate::score::bars::{Until, bar_ticks};
use crate::score::{Score, Tick, Track};

/// Which bars are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first bar, from 1.
    pub from: usize,
    /// How many.
    pub bars: usize,
}

impl Default for Window {
    fn default() -> Self {
        Window { from: 1, bars: 6 }
    }
}

/// Columns at most, whatever the metre says of a bar's length.
const COLUMNS: usize = 2000;

/// The tracks that sound in the window, one below the other, under a line with the numbers of the bars.
///
/// # Errors
/// The score has too many bars.
pub fn roll(score: &Score, window: Window) -> Result<String, Reject> {
    let bars = bar_ticks(score, Until::End)?;
    let end = score.end();
    let mut text = format!(
        "{} tracks, {} notes, {} bars, {} ticks a quarter\n",
        score.tracks.len(),
        score.note_count(),
        bars.len(),
        score.ticks_per_quarter
    );
    let first = window.from.max(1) - 1;
    let shown = bars.get(first..first.saturating_add(window.bars).min(bars.len())).unwrap_or_default();
    let Some(start) = shown.first().copied() else { return Ok(text) };
    let stop = bars.get(first + shown.len()).copied().unwrap_or(end.max(start + 1));
    let step = (Tick::from(score.ticks_per_quarter) / 4).max(1);
    let columns = (((stop - start) + step - 1) / step).clamp(1, COLUMNS as Tick) as usize;
    let column = |tick: Tick| ((tick - start) / step).clamp(0, columns as Tick - 1) as usize;

    let mut ruler = vec![' '; columns];
    for (offset, bar) in shown.iter().enumerate() {
        let label = format!("|{}", first + offset + 1);
        for (place, letter) in ruler.iter_mut().skip(column(*bar)).zip(label.chars()) {
            *place = letter;
        }
    }
    let ruler: String = ruler.into_iter().collect();
    for (index, track) in score.tracks.iter().enumerate() {
        let cells = cells(track, start..stop, columns, &column);
        let name = if track.is_drum { "drums".to_owned() } else { format!("program {}", track.program) };
        let _ = writeln!(text, "\ntrack {index}, {name}, {} notes", track.notes.len());
        let sounding = |pitch: &usize| cells[*pitch].contains(&true);
        let (Some(low), Some(high)) = ((0..128).find(sounding), (0..128).rev().find(sounding)) else { continue };
        let _ = writeln!(text, "     {}", ruler.trim_end());
        // Rows begin at even pitches, so that an octave looks the same everywhere.
        for lower in (low / 2 * 2..=high).rev().step_by(2).map(|pitch| pitch / 2 * 2) {
            let half = |at: usize| match (cells[lower + 1][at], cells[lower][at]) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            };
            let row: String = (0..columns).map(half).collect();
            let label = if lower % 12 == 0 { format!("C{}", lower as i32 / 12 - 1) } else { String::new() };
            let _ = writeln!(text, "{label:>4} {}", row.trim_end());
        }
    }
    Ok(text)
}

/// Which pitch sounds in which column.
fn cells(
    track: &Track,
    window: std::ops::Range<Tick>,
    columns: usize,
    column: &impl Fn(Tick) -> usize,
) -> Vec<Vec<bool>> {
    let mut cells = vec![vec![false; columns]; 128];
    for note in &track.notes {
        let end = note.tick + note.duration.max(1);
        if note.tick < window.end && end > window.start {
            cells[usize::from(note.pitch.min(127))][column(note.tick)..=column(end - 1)].fill(true);
        }
    }
    cells
}
