//! The section that is measured: which bars, which notes, on which clock.
//!
//! Convention: the section is bars a to b of each score's own bar grid (the grid that ends at the end of
//! the last event of any kind). Past the last bar the grid goes on in the metre of its last
//! bar, and context is cut where the song begins. Both scores are brought to one resolution first, the
//! least common multiple of theirs, so that no time is rounded.

use std::fmt;
use std::ops::Range;

use midi_ingest::score::bars::{Until, bar_ticks};
use midi_ingest::score::{Note, Score, Tick, Track};

use crate::bars::continue_to;

/// What was infilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The track, counted among the original's tracks that have notes.
    pub track: usize,
    /// The infilled bars, from 0.
    pub bars: Range<usize>,
    /// Bars of context on each side.
    pub context: usize,
}

/// One of the two scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// As it was composed.
    Original,
    /// With the section replaced.
    Infilled,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Original => "original",
            Side::Infilled => "infilled",
        })
    }
}

/// Why a metric has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undefined {
    /// The section holds no bar.
    #[error("the section has no bars")]
    NoBars,
    /// The score lacks the track.
    #[error("the {side} score has no track {track}")]
    NoTrack {
        /// Of which score.
        side: Side,
        /// The track that was asked for.
        track: usize,
    },
    /// The score has no clock.
    #[error("the {0} score has no ticks in a quarter note")]
    NoResolution(Side),
    /// The score has no bar grid.
    #[error("the {side} score cannot be divided into bars: {why}")]
    NoGrid {
        /// Of which score.
        side: Side,
        /// What is wrong with its metres.
        why: String,
    },
    /// The bars of the section are shorter than a tick.
    #[error("the section of the {0} score has no length")]
    NoLength(Side),
    /// No onset in the section.
    #[error("no note in the section")]
    NoNotes,
    /// No onset in the section of one of the scores.
    #[error("no note in the section of the {0} score")]
    NoNotesIn(Side),
    /// No onset in the section of both.
    #[error("no note in the section of either score")]
    NoNotesInEither,
    /// There are notes, but all of length zero.
    #[error("nothing sounds in the section")]
    Silent,
    /// No two neighbouring bars.
    #[error("the section has only one bar")]
    OneBar,
    /// No bar has notes in both scores.
    #[error("no bar of the section has notes in both scores")]
    NoSharedBar,
    /// The resolution has no 1/32 note.
    #[error("a 1/32 note is shorter than a tick, or longer than every bar")]
    Coarse,
    /// An onset beyond the last whole cell of the grid.
    #[error("an onset lies past the last whole 1/32 cell of the bar")]
    PastGrid,
}

/// The section of one track of one score, and what surrounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// All notes of the track.
    pub(super) notes: Vec<Note>,
    /// From the start to the end of the section.
    pub(super) section: Range<Tick>,
    /// The bars of the section, at least one.
    pub(super) bars: Vec<Range<Tick>>,
    pub(super) longest_bar: Tick,
    pub(super) ticks_per_quarter: Tick,
}

impl Passage {
    /// Ticks in a quarter note.
    pub fn ticks_per_quarter(&self) -> Tick {
        self.ticks_per_quarter
    }

    /// The tick at which the section begins.
    pub fn start(&self) -> Tick {
        self.section.start
    }

    /// The tick before which the section ends.
    pub fn end(&self) -> Tick {
        self.section.end
    }

    /// The number of bars N of the section, at least 1.
    pub fn bar_count(&self) -> usize {
        self.bars.len()
    }

    /// The bars of the section, as ranges of ticks.
    pub fn bars(&self) -> impl Iterator<Item = Range<Tick>> + '_ {
        self.bars.iter().cloned()
    }

    /// The length in ticks of the longest bar of the section and its context.
    pub fn longest_bar(&self) -> Tick {
        self.longest_bar
    }

    /// All notes of the track, in and around the section.
    pub fn track_notes(&self) -> &[Note] {
        &self.notes
    }

    /// The notes with their onset in `ticks`; their length does not matter.
    pub fn notes_in(&self, ticks: Range<Tick>) -> impl Iterator<Item = &Note> + '_ {
        self.notes.iter().filter(move |note| ticks.contains(&note.tick))
    }

    /// The notes with their onset in the section.
    pub fn notes(&self) -> impl Iterator<Item = &Note> + '_ {
        self.notes_in(self.section.clone())
    }
}

/// The section of both scores (original, infilled) on one clock.
///
/// # Errors
/// The section is malformed: no bars or no length, no such track, or a score without resolution.
pub fn passages(original: &Score, infilled: &Score, section: &Section) -> Result<(Passage, Passage), Undefined> {
    let (own, new) = tracks(original, infilled, section)?;
    let common = least_common_multiple(original.ticks_per_quarter.into(), infilled.ticks_per_quarter.into());
    Ok((
        passage(Side::Original, original, own, section, common)?,
        passage(Side::Infilled, infilled, new, section, common)?,
    ))
}

/// The section's track in both scores, if the section can be measured at all.
pub(super) fn tracks<'a>(
    original: &'a Score,
    infilled: &'a Score,
    section: &Section,
) -> Result<(&'a Track, &'a Track), Undefined> {
    if section.bars.is_empty() {
        return Err(Undefined::NoBars);
    }
    let clocks = [(original, Side::Original), (infilled, Side::Infilled)];
    if let Some((_, side)) = clocks.into_iter().find(|(score, _)| score.ticks_per_quarter == 0) {
        return Err(Undefined::NoResolution(side));
    }
    let track = section.track;
    let mut sounding = original.tracks.iter().filter(|track| !track.notes.is_empty());
    let own = sounding.nth(track).ok_or(Undefined::NoTrack { side: Side::Original, track })?;
    let new = infilled.tracks.get(track).ok_or(Undefined::NoTrack { side: Side::Infilled, track })?;
    Ok((own, new))
}

fn passage(
    side: Side,
    score: &Score,
    track: &Track,
    section: &Section,
    ticks_per_quarter: Tick,
) -> Result<Passage, Undefined> {
    let factor = ticks_per_quarter / Tick::from(score.ticks_per_quarter);
    let mut grid = grid(side, score)?;
    continue_to(&mut grid, section.bars.end.saturating_add(section.context), score);
    grid.iter_mut().for_each(|tick| *tick = tick.saturating_mul(factor));
    let first = section.bars.start.saturating_sub(section.context);
    let scaled = |note: &Note| Note {
        tick: note.tick.saturating_mul(factor),
        duration: note.duration.saturating_mul(factor),
        ..*note
    };
    let passage = Passage {
        notes: track.notes.iter().map(scaled).collect(),
        section: grid[section.bars.start]..grid[section.bars.end],
        bars: section.bars.clone().map(|bar| grid[bar]..grid[bar + 1]).collect(),
        longest_bar: longest(&grid[first..]),
        ticks_per_quarter,
    };
    if passage.section.is_empty() { Err(Undefined::NoLength(side)) } else { Ok(passage) }
}

/// The starts of a score's bars, up to its end.
pub(super) fn grid(side: Side, score: &Score) -> Result<Vec<Tick>, Undefined> {
    bar_ticks(score, Until::End).map_err(|reject| Undefined::NoGrid { side, why: reject.to_string() })
}

/// The longest distance between neighbours of a grid.
pub(super) fn longest(grid: &[Tick]) -> Tick {
    grid.windows(2).map(|bar| bar[1] - bar[0]).max().unwrap_or(0)
}

fn least_common_multiple(a: Tick, b: Tick) -> Tick {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
pub(super) mod tests {
    use midi_ingest::score::TimeSignature;

    use super::*;

    /// A score in 4/4 with one track of (tick, duration, pitch).
    pub(in crate::metric) fn score(ticks_per_quarter: u32, notes: &[(Tick, Tick, u8)]) -> Score {
        let note = |&(tick, duration, pitch): &(Tick, Tick, u8)| Note { tick, duration, pitch, velocity: 64 };
        let track = Track { notes: notes.iter().map(note).collect(), ..Track::default() };
        Score {
            ticks_per_quarter,
            tracks: vec![track],
            time_signatures: vec![TimeSignature { tick: 0, numerator: 4, denominator: 4 }],
            ..Score::default()
        }
    }

    pub(in crate::metric) fn section(bars: Range<usize>, context: usize) -> Section {
        Section { track: 0, bars, context }
    }

    /// The passages of two scores with the same resolution, bars 0 to `bars`.
    pub(in crate::metric) fn pair(
        bars: usize,
        original: &[(Tick, Tick, u8)],
        infilled: &[(Tick, Tick, u8)],
    ) -> (Passage, Passage) {
        // A far note in another place keeps the track and the grid alive when a list is empty.
        let with_end = |notes: &[(Tick, Tick, u8)]| [notes, &[(1920 * 40, 480, 60)]].concat();
        passages(&score(480, &with_end(original)), &score(480, &with_end(infilled)), &section(0..bars, 0))
            .expect("a valid section")
    }

    #[test]
    fn both_scores_come_to_one_clock() {
        let original = score(480, &[(0, 480, 60), (1920, 240, 62), (3840, 480, 64)]);
        let infilled = score(24, &[(0, 24, 60), (96, 12, 62), (192, 24, 64)]);
        let (original, infilled) = passages(&original, &infilled, &section(1..2, 4)).expect("valid");
        assert_eq!(original, infilled);
        assert_eq!((original.start(), original.end(), original.ticks_per_quarter()), (1920, 3840, 480));
        assert_eq!(original.notes().map(|note| note.pitch).collect::<Vec<_>>(), [62]);
    }

    #[test]
    fn the_grid_continues_past_the_last_bar_and_context_is_cut_at_the_start() {
        // Two bars, of which bars 1 to 4 are asked for.
        let song = score(480, &[(0, 480, 60), (1920, 480, 62)]);
        let (passage, _) = passages(&song, &song, &section(1..4, 2)).expect("valid");
        assert_eq!(passage.bars().collect::<Vec<_>>(), [1920..3840, 3840..5760, 5760..7680]);
        assert_eq!((passage.start(), passage.end(), passage.longest_bar()), (1920, 7680, 1920));
    }

    #[test]
    fn a_single_bar_takes_its_length_from_its_metre() {
        let mut song = score(480, &[(0, 480, 60)]);
        song.time_signatures[0] = TimeSignature { tick: 0, numerator: 3, denominator: 4 };
        let (passage, _) = passages(&song, &song, &section(0..2, 0)).expect("valid");
        assert_eq!(passage.bars().collect::<Vec<_>>(), [0..1440, 1440..2880]);
    }

    #[test]
    fn a_last_bar_of_another_metre_has_its_own_length() {
        let mut song = score(480, &[(0, 480, 60), (960, 1920, 60)]);
        let metre = |tick, numerator| TimeSignature { tick, numerator, denominator: 4 };
        song.time_signatures = vec![metre(0, 2), metre(960, 4)];
        let (passage, _) = passages(&song, &song, &section(1..2, 0)).expect("valid");
        assert_eq!((passage.start(), passage.end()), (960, 2880));
    }

    #[test]
    fn empty_tracks_of_the_original_do_not_count() {
        let infilled = score(480, &[(0, 480, 60)]);
        let mut original = infilled.clone();
        original.tracks.insert(0, Track::default());
        let (own, new) = passages(&original, &infilled, &section(0..1, 0)).expect("valid");
        assert_eq!(own.track_notes(), new.track_notes());
    }
}
