//! A song into training samples: which tracks, transposed how far, which bars to infill, which window of
//! the piece fits the context. Corrected rules (the published code loses the end of the section in a fifth
//! of its samples); every draw comes from a `Draws`, so that a sample is a function of its key.

mod augment;
mod infill;
pub mod reference;

use std::ops::Range;

pub use augment::{allowed_pitch_offsets, augment};
pub use infill::{BarTokens, Infilling, Section, assemble, disassemble, has_note};

use crate::config::SampleConfig;
use crate::job::draws::Draws;
use crate::reject::Reject;
use crate::score::bars::{Until, bar_ticks};
use crate::score::{Score, Tick};
use crate::token::{Grid, Tokenizer};

#[cfg(test)]
mod tests;

/// Times that a sample is drawn anew because its section has no note or does not fit.
const TRIES: u32 = 5;

/// A training sample before it is given its place in a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The ids: context, then the infilled section.
    pub infilling: Infilling,
    /// First infilled bar, counted from the start of the window.
    pub bar: usize,
    /// Number of infilled bars.
    pub bars: usize,
}

/// Draws one sample of a parsed song: bar infilling, without attribute controls.
///
/// The ids are at most `config.context_tokens`, and the section is never cut.
///
/// # Errors
/// No sample came out: no track is long enough, or no drawn section had notes and fitted the context.
pub fn draw(
    score: &Score,
    tokenizer: &Tokenizer,
    config: &SampleConfig,
    draws: &mut dyn Draws,
) -> Result<Drawn, Reject> {
    let mut last = Reject::tokenize("no-sample", "");
    for _ in 0..TRIES {
        match draw_once(score, tokenizer, config, draws) {
            Err(reject) => last = reject,
            drawn => return drawn,
        }
    }
    Err(last)
}

fn draw_once(
    score: &Score,
    tokenizer: &Tokenizer,
    config: &SampleConfig,
    draws: &mut dyn Draws,
) -> Result<Drawn, Reject> {
    let grid = Grid::of(&vary(score, config, draws)?)?;
    let score = &grid.score;
    if score.tracks.is_empty() {
        return Err(Reject::tokenize("no-sample", "no track is left on the grid"));
    }
    let target = draws.below(score.tracks.len());
    let last_onset = score.tracks[target].notes.last().map_or(0, |note| note.tick);
    let reached = bar_ticks(score, Until::End)?.iter().filter(|bar| **bar <= last_onset).count();
    let encoded = grid.encode()?;
    let tracks: Vec<BarTokens> = encoded.iter().map(BarTokens::of).collect();
    let bars = draw_bars(reached.min(tracks[target].bars.len()), config, draws);
    if !tracks[target].has_notes(bars.clone()) {
        return Err(Reject::tokenize("no-sample", "the section has no note"));
    }
    fit(tokenizer, &tracks, target, bars, config.context_tokens, draws)
}

/// Keeps some of the tracks in a new order, cuts what comes after them, shifts pitch and velocity.
fn vary(score: &Score, config: &SampleConfig, draws: &mut dyn Draws) -> Result<Score, Reject> {
    let bars = bar_ticks(score, Until::End)?;
    let second = bars.get(1).copied().unwrap_or(Tick::MAX);
    let long_enough = |track: &&crate::score::Track| track.notes.last().is_some_and(|note| note.tick > second);
    let eligible: Vec<_> = score.tracks.iter().filter(long_enough).collect();
    if eligible.is_empty() {
        return Err(Reject::tokenize("no-sample", "no track goes on into the second bar"));
    }
    let share = draws.uniform(config.track_share[0], config.track_share[1]);
    let keep = ((share * eligible.len() as f64).round_ties_even() as usize).max(1);
    let chosen = draws.selection(eligible.len(), keep);
    let mut out = Score { ticks_per_quarter: score.ticks_per_quarter, ..Score::default() };
    // Controls, bends, pedals and lyrics have no tokens, and would only stretch the piece.
    out.tracks = chosen
        .into_iter()
        .map(|index| {
            let track = eligible[index];
            crate::score::Track {
                program: track.program,
                is_drum: track.is_drum,
                notes: track.notes.clone(),
                ..Default::default()
            }
        })
        .collect();
    let last = out.tracks.iter().filter_map(|track| track.notes.last()).map(|note| note.tick).max().unwrap_or(0);
    out.time_signatures.extend(score.time_signatures.iter().filter(|metre| metre.tick <= last));
    out.tempos.extend(score.tempos.iter().filter(|tempo| tempo.tick <= last));

    let reach = i16::from(config.max_pitch_shift.unsigned_abs());
    let offsets = allowed_pitch_offsets(&out, -reach..=reach);
    if offsets.is_empty() {
        return Ok(out);
    }
    let pitch = offsets[draws.below(offsets.len())];
    let reach = i16::from(config.max_velocity_shift.unsigned_abs());
    let velocity = draws.below(2 * reach as usize + 1) as i16 - reach;
    augment(&out, pitch, velocity)
}

/// The bars to infill, of the first `reached`: a drawn number, but at least a drawn share of them.
fn draw_bars(reached: usize, config: &SampleConfig, draws: &mut dyn Draws) -> Range<usize> {
    let reached = reached.max(1);
    let count = config.bars[draws.below(config.bars.len())].min(reached);
    let share = draws.uniform(config.bar_share[0], config.bar_share[1]);
    let count = count.max((reached as f64 * share).round_ties_even() as usize).min(reached);
    let start = draws.below(reached - count + 1);
    start..start + count
}

/// Chooses the window: the whole piece if it fits, else a drawn first bar and as many bars as fit. A section
/// that does not fit with all its tracks loses bars at its end.
fn fit(
    tokenizer: &Tokenizer,
    tracks: &[BarTokens],
    target: usize,
    bars: Range<usize>,
    context_tokens: usize,
    draws: &mut dyn Draws,
) -> Result<Drawn, Reject> {
    let count = tracks.iter().map(|track| track.bars.len()).max().unwrap_or(0);
    let drawn = |window: Range<usize>, bars: Range<usize>| {
        let section = Section { track: target, bars: bars.clone(), window: window.clone() };
        let infilling = assemble(tokenizer.bpe(), tracks, &section);
        let drawn = Drawn { bar: bars.start - window.start, bars: bars.len(), infilling };
        (drawn.infilling.len() <= context_tokens).then_some(drawn)
    };
    if let Some(whole) = drawn(0..count, bars.clone()) {
        return Ok(whole);
    }
    let sizes = bar_sizes(tokenizer, tracks, count);
    // Head, metaspace and end of each track, start and end of the fill.
    let fixed = 4 * tracks.len() + 2;
    let mut end = bars.end;
    let mut fits = |end: usize| {
        let placeholders = end - bars.start;
        let room = context_tokens.checked_sub(fixed + placeholders)?;
        let needed: usize = sizes[bars.start..end].iter().sum();
        let room = room.checked_sub(needed)?;
        Some(window_around(&sizes, bars.start, end, room, draws))
    };
    let window = loop {
        match fits(end) {
            Some(window) => break window,
            None if end > bars.start + 1 => end -= 1,
            None => return Err(Reject::tokenize("no-sample", "one bar does not fit the context")),
        }
    };
    let bars = bars.start..end;
    if !tracks[target].has_notes(bars.clone()) {
        return Err(Reject::tokenize("no-sample", "the section has no note"));
    }
    // The sizes of bars are those of single groups; the first bar of a window can take a few ids more.
    let mut window = window;
    loop {
        if let Some(drawn) = drawn(window.clone(), bars.clone()) {
            return Ok(drawn);
        }
        if window.end > bars.end {
            window.end -= 1;
        } else if window.start < bars.start {
            window.start += 1;
        } else {
            return Err(Reject::tokenize("no-sample", "the section does not fit the context"));
        }
    }
}

/// Ids of each bar, all tracks together.
fn bar_sizes(tokenizer: &Tokenizer, tracks: &[BarTokens], count: usize) -> Vec<usize> {
    let mut sizes = vec![0; count];
    let mut ids = Vec::new();
    for track in tracks {
        for (size, bar) in sizes.iter_mut().zip(&track.bars) {
            ids.clear();
            tokenizer.bpe().encode_group(bar, &mut ids);
            *size += ids.len();
        }
    }
    sizes
}

/// A window around `start..end` whose further bars have at most `room` ids: the first bar is drawn evenly
/// from those possible, then the window goes on as far as it can.
fn window_around(sizes: &[usize], start: usize, end: usize, mut room: usize, draws: &mut dyn Draws) -> Range<usize> {
    let mut lowest = start;
    let mut needed = 0;
    while lowest > 0 && needed + sizes[lowest - 1] <= room {
        lowest -= 1;
        needed += sizes[lowest];
    }
    let first = lowest + draws.below(start - lowest + 1);
    room -= sizes[first..start].iter().sum::<usize>();
    let mut last = end;
    while last < sizes.len() && sizes[last] <= room {
        room -= sizes[last];
        last += 1;
    }
    first..last
}
