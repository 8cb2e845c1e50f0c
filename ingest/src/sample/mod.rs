//! A song into training samples: which tracks, transposed how far, which bars or which track to infill, with which
//! controls, and which window of the piece fits the context. Every draw comes from a `Draws`, so that a sample is a
//! function of its key.
//!
//! Corrected rules: the published code loses the end of the section in a fifth of its samples, infills no track, and
//! counts other bars' notes for a bar's controls. [`mod@reference`] has the published ones.

mod augment;
pub mod controls;
mod infill;
pub mod reference;
mod window;

use std::ops::Range;

pub use augment::{allowed_pitch_offsets, augment};
pub use infill::{BarTokens, Infilling, Kind, Parts, Section, assemble, disassemble, has_note};

use crate::config::{Recipe, SampleConfig};
use crate::job::draws::Draws;
use crate::reject::Reject;
use crate::score::bars::{Until, bar_ticks};
use crate::score::{Score, Tick};
use crate::token::{Grid, Tokenizer};
use window::Fitting;

#[cfg(test)]
mod quirks;
#[cfg(test)]
mod tests;

/// Times that a sample is drawn anew because its section has no note or does not fit.
const TRIES: u32 = 5;

/// A training sample before it is given its place in a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// What is to be written.
    pub kind: Kind,
    /// Index of the infilled track among those of the sequence.
    pub track: usize,
    /// First infilled bar, counted from the start of the window.
    pub bar: usize,
    /// Number of infilled bars.
    pub bars: usize,
    /// The ids: what a model sees, then what it is to write.
    pub input_ids: Vec<u16>,
}

/// Draws one sample of a parsed song, of at most `config.context_tokens` ids, by the recipe of `config`.
///
/// Of the corrected recipe the section is never cut, and a sample that does not come out is drawn again from the song
/// as it is.
///
/// # Errors
/// No sample came out: no track is long enough, or no drawn section had notes and fitted the context.
pub fn draw(
    score: &Score,
    tokenizer: &Tokenizer,
    config: &SampleConfig,
    draws: &mut dyn Draws,
) -> Result<Drawn, Reject> {
    if config.recipe == Recipe::MidiRwkv {
        return reference::draw_cut(score, tokenizer, config.context_tokens, draws);
    }
    let mut last = no_sample("");
    for _ in 0..TRIES {
        match draw_once(score, tokenizer, config, draws) {
            Err(reject) => last = reject,
            drawn => return drawn,
        }
    }
    Err(last)
}

fn no_sample(why: &'static str) -> Reject {
    Reject::tokenize("no-sample", why)
}

/// Whether something of this share happens. What never happens takes no draw.
fn happens(share: f64, draws: &mut dyn Draws) -> bool {
    share > 0.0 && draws.uniform(0.0, 1.0) < share
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
        return Err(no_sample("no track is left on the grid"));
    }
    let target = draws.below(score.tracks.len());
    let ticks = bar_ticks(score, Until::End)?;
    let encoded = grid.encode()?;
    let tracks: Vec<BarTokens> = encoded.iter().map(BarTokens::of).collect();
    let fitting = Fitting { bpe: tokenizer.bpe(), tracks: &tracks, target, context_tokens: config.context_tokens };
    if tracks.len() > 1 && happens(config.track_infill, draws) {
        let wanted = match happens(config.controls, draws) {
            true => controls::draw_track(&score.tracks[target], draws),
            false => Vec::new(),
        };
        let controls = |window: Range<usize>| controls::of_window(&grid, &ticks, target, window, &wanted);
        return fitting.track(&controls, draws);
    }
    let last_onset = score.tracks[target].notes.last().map_or(0, |note| note.tick);
    let reached = ticks.iter().filter(|bar| **bar <= last_onset).count();
    let bars = draw_bars(reached.min(tracks[target].bars.len()), config, draws);
    if !tracks[target].has_notes(bars.clone()) {
        return Err(no_sample("the section has no note"));
    }
    let written = match happens(config.controls, draws) {
        true => {
            let controls = controls::draw_bars(&grid, &ticks, target, bars.clone(), draws)?;
            BarTokens::of(&grid.encode_track(target, &controls)?)
        }
        false => tracks[target].clone(),
    };
    fitting.bars(&written, bars, draws)
}

/// Keeps some of the tracks in a new order, cuts what comes after them, shifts pitch and velocity.
fn vary(score: &Score, config: &SampleConfig, draws: &mut dyn Draws) -> Result<Score, Reject> {
    let bars = bar_ticks(score, Until::End)?;
    let second = bars.get(1).copied().unwrap_or(Tick::MAX);
    let long_enough = |track: &&crate::score::Track| track.notes.last().is_some_and(|note| note.tick > second);
    let eligible: Vec<_> = score.tracks.iter().filter(long_enough).collect();
    if eligible.is_empty() {
        return Err(no_sample("no track goes on into the second bar"));
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
