//! Which attribute controls a sample carries, and how they stand in its bars.
//!
//! The published samples carry all controls on all bars. A model that is to be asked for one thing, or for some bars
//! only, must have seen that: so half of the samples with controls are like the published ones, and the other half
//! have drawn kinds on drawn bars.

use std::ops::Range;

use crate::job::draws::Draws;
use crate::reject::Reject;
use crate::score::{Tick, Track};
use crate::token::control::{Asked, Compat, Control, controls};
use crate::token::vocabulary::Token;
use crate::token::{Bpe, Grid, TrackControls};

/// Some of `all`, in their order; never none.
fn some<T: Copy>(all: &[T], draws: &mut dyn Draws) -> Vec<T> {
    let take = 1 + draws.below(all.len());
    let mut chosen = draws.selection(all.len(), take);
    chosen.sort_unstable();
    chosen.into_iter().map(|index| all[index]).collect()
}

/// Draws the controls of a section's bars and computes them from the bars' own notes. `ticks` are all bars of the
/// grid's score, to its end.
///
/// # Errors
/// Only a bug: a value outside of the vocabulary.
pub(super) fn draw_bars(
    grid: &Grid,
    ticks: &[Tick],
    track: usize,
    bars: Range<usize>,
    draws: &mut dyn Draws,
) -> Result<TrackControls, Reject> {
    let wanted = Control::of_bars(grid.score.tracks[track].is_drum);
    let bars: Vec<usize> = bars.collect();
    match draws.below(2) {
        0 => of_bars(grid, ticks, track, &bars, wanted),
        _ => {
            let wanted = some(wanted, draws);
            of_bars(grid, ticks, track, &some(&bars, draws), &wanted)
        }
    }
}

/// Draws which controls a track to be written carries.
pub(super) fn draw_track(track: &Track, draws: &mut dyn Draws) -> Vec<Control> {
    let wanted = Control::of_track(track.is_drum);
    match draws.below(2) {
        0 => wanted.to_vec(),
        _ => some(wanted, draws),
    }
}

/// The controls of bars (ascending numbers), each from its own notes. `ticks` are all bars of the grid's score, to
/// its end.
///
/// # Errors
/// Only a bug: a value outside of the vocabulary.
///
/// # Panics
/// If there is no such track.
pub fn of_bars(
    grid: &Grid,
    ticks: &[Tick],
    track: usize,
    bars: &[usize],
    wanted: &[Control],
) -> Result<TrackControls, Reject> {
    controls(&grid.score.tracks[track], grid.score.ticks_per_quarter, ticks, wanted, bars, Compat::None)
}

/// The controls of a track as far as the bars `window` go: they say what is to be written there.
///
/// # Errors
/// Only a bug: a value outside of the vocabulary.
///
/// # Panics
/// If there is no such track.
pub fn of_window(
    grid: &Grid,
    ticks: &[Tick],
    track: usize,
    window: Range<usize>,
    wanted: &[Control],
) -> Result<Vec<u16>, Reject> {
    let start = ticks.get(window.start).copied().unwrap_or(Tick::MAX);
    let end = ticks.get(window.end).copied().unwrap_or(Tick::MAX);
    let notes = grid.score.tracks[track].notes.iter().filter(|note| (start..end).contains(&note.tick));
    let part = Track { notes: notes.copied().collect(), ..Track::default() };
    let ticks = ticks.get(window.start..window.end.min(ticks.len())).unwrap_or_default();
    if part.notes.is_empty() || ticks.is_empty() {
        return Ok(Vec::new());
    }
    Ok(controls(&part, grid.score.ticks_per_quarter, ticks, wanted, &[], Compat::None)?.track)
}

/// The controls of the bars `bars` as they are asked for, in the order given; where no value is given the bar's own.
/// `ticks` are all bars of the grid's score, to its end.
///
/// # Errors
/// Only a bug: a value outside of the vocabulary.
///
/// # Panics
/// If there is no such track.
pub fn asked_of_bars(
    grid: &Grid,
    ticks: &[Tick],
    track: usize,
    bars: Range<usize>,
    asked: &[Asked],
) -> Result<TrackControls, Reject> {
    let mut out = TrackControls::default();
    for one in asked {
        for (number, bar) in bars.clone().enumerate() {
            match (one.value(number), ticks.get(bar)) {
                (Some(ids), Some(tick)) => out.bars.extend(ids.iter().map(|id| (*tick, *id))),
                _ => out.bars.extend(of_bars(grid, ticks, track, &[bar], &[one.control])?.bars),
            }
        }
    }
    Ok(out)
}

/// The controls of a track as they are asked for, in the order given; where no value is given its own in `window`.
///
/// # Errors
/// Only a bug: a value outside of the vocabulary.
///
/// # Panics
/// If there is no such track.
pub fn asked_of_window(
    grid: &Grid,
    ticks: &[Tick],
    track: usize,
    window: Range<usize>,
    asked: &[Asked],
) -> Result<Vec<u16>, Reject> {
    let mut out = Vec::new();
    for one in asked {
        match one.value(0) {
            Some(ids) => out.extend_from_slice(ids),
            None => out.extend(of_window(grid, ticks, track, window.clone(), &[one.control])?),
        }
    }
    Ok(out)
}

/// The ids of a bar up to its last control, none if it has no control: what a model is given of a bar that it is to
/// write. Controls never merge with what follows, so these ids are the first of the whole bar's.
pub fn opening(bpe: &Bpe, bar: &[u16]) -> Vec<u16> {
    let mut ids = Vec::new();
    if let Some(last) = bar.iter().rposition(|id| matches!(Token::of(*id), Some(Token::Control(_)))) {
        bpe.encode_group(&bar[..=last], &mut ids);
    }
    ids
}
