//! Samples and prompts as the published code makes them, faults and all: what its model has learnt, and the proof
//! that everything before this step is the same. [`super::draw`] has the corrected rules, and takes these where a
//! configuration asks for them.

mod prompt;
mod window;

pub use prompt::{PromptSection, bar_prompt};

use super::{Drawn, Kind, allowed_pitch_offsets, augment, has_note, no_sample};
use crate::job::draws::Draws;
use crate::reject::Reject;
use crate::score::bars::{Until, bar_ticks};
use crate::score::{Score, Tick, Track};
use crate::token::control::{Compat, Control};
use crate::token::encode_groups_of;
use crate::token::vocabulary::{BAR, FILL_END, FILL_START, INFILL_BAR, TRACK_START};
use crate::token::{Bpe, Grid, Tokenizer, TrackControls, TrackTokens};

/// The published share of bar infilling among samples of several tracks.
const BAR_INFILLING: f64 = 0.75;

/// Times that a sample without notes in its section is begun again.
const RETRIES: u32 = 4;

/// Draws one sample of a parsed song for a context of `context_tokens`. It can be longer than that: the
/// published training cuts it.
///
/// # Errors
/// The published code fails or gives up on the song.
pub fn draw(
    score: &Score,
    tokenizer: &Tokenizer,
    context_tokens: usize,
    draws: &mut dyn Draws,
) -> Result<Vec<u16>, Reject> {
    let mut score = score.clone();
    for _ in 0..=RETRIES {
        let grid = Grid::of(&vary(&score, draws)?)?;
        if grid.score.tracks.is_empty() {
            return Err(no_sample("no track is left on the grid"));
        }
        if let Some(ids) = infill(&grid, tokenizer.bpe(), context_tokens, draws)? {
            return Ok(ids);
        }
        // Quirk: the next attempt varies what was varied already.
        score = grid.score;
    }
    Err(no_sample("no section had notes"))
}

/// As [`draw`], and the end of what is too long cut off, as in the published batches. So the end of the section can be
/// missing, and a track infilling has no track that is infilled: its number says nothing.
///
/// # Errors
/// As [`draw`].
pub fn draw_cut(
    score: &Score,
    tokenizer: &Tokenizer,
    context_tokens: usize,
    draws: &mut dyn Draws,
) -> Result<Drawn, Reject> {
    let mut input_ids = draw(score, tokenizer, context_tokens, draws)?;
    let base = tokenizer.bpe().decode(&input_ids);
    let first = base.iter().position(|id| *id == INFILL_BAR);
    let before = &base[..first.unwrap_or(0)];
    let starts = before.iter().filter(|id| **id == TRACK_START).count();
    let own = before.rsplit(|id| *id == TRACK_START).next().unwrap_or_default();
    input_ids.truncate(context_tokens);
    Ok(Drawn {
        kind: if first.is_some() { Kind::Bars } else { Kind::Track },
        track: starts.saturating_sub(1),
        bar: own.iter().filter(|id| **id == BAR).count(),
        bars: base.iter().filter(|id| **id == INFILL_BAR).count(),
        input_ids,
    })
}

/// Some of the tracks in a new order, what comes after them cut, transposed, louder or softer.
fn vary(score: &Score, draws: &mut dyn Draws) -> Result<Score, Reject> {
    let share = draws.uniform(0.4, 1.0);
    // Quirk: tracks without notes count here.
    let keep = ((share * score.tracks.len() as f64).round_ties_even() as usize).max(1);
    let plain = |track: &Track| Track {
        program: track.program,
        is_drum: track.is_drum,
        notes: track.notes.clone(),
        ..Track::default()
    };
    let mut out = Score {
        ticks_per_quarter: score.ticks_per_quarter,
        tracks: score.tracks.iter().map(plain).collect(),
        time_signatures: score.time_signatures.clone(),
        tempos: score.tempos.clone(),
        ..Score::default()
    };
    let second = bar_ticks(&out, Until::End)?.get(1).copied().unwrap_or(Tick::MAX);
    let goes_on = |index: &usize| out.tracks[*index].notes.last().is_some_and(|note| note.tick > second);
    let eligible: Vec<usize> = (0..out.tracks.len()).filter(goes_on).collect();
    let chosen = draws.select(&eligible, keep.min(eligible.len()));
    out.tracks = chosen.into_iter().map(|index| std::mem::take(&mut out.tracks[index])).collect();
    let last = out.tracks.iter().filter_map(|track| track.notes.last()).map(|note| note.tick).max().unwrap_or(0);
    while out.time_signatures.pop_if(|metre| metre.tick > last).is_some() {}
    while out.tempos.pop_if(|tempo| tempo.tick > last).is_some() {}
    let offsets: Vec<i64> = allowed_pitch_offsets(&out, -6..=6).into_iter().map(i64::from).collect();
    if offsets.is_empty() {
        return Ok(out);
    }
    let pitch = draws.pick(&offsets) as i16;
    let velocity = draws.pick(&[-2, -1, 0, 1, 2]) as i16;
    // A duration offset, of which there is one: none.
    draws.pick(&[0]);
    augment(&out, pitch, velocity)
}

/// The section to infill, in bars.
#[derive(Clone, Copy, Debug)]
struct Section {
    track: usize,
    start: usize,
    end: usize,
    /// Placeholders: the section's bars, whatever becomes of it.
    count: usize,
}

/// What is infilled.
enum Mode {
    Bars(Section),
    Track(usize),
}

/// One track as it is put together.
struct Part {
    tokens: TrackTokens,
    ids: Vec<u16>,
}

/// The sample; `None` if the section has no note.
fn infill(grid: &Grid, bpe: &Bpe, context: usize, draws: &mut dyn Draws) -> Result<Option<Vec<u16>>, Reject> {
    let tracks = &grid.score.tracks;
    let mode = if tracks.len() == 1 || draws.uniform(0.0, 1.0) < BAR_INFILLING {
        Mode::Bars(draw_section(grid, draws)?)
    } else {
        Mode::Track(draws.below(tracks.len()))
    };
    let part = |index: usize| -> Result<Part, Reject> {
        let is_drum = tracks[index].is_drum;
        let controls = match mode {
            Mode::Bars(section) if section.track == index => {
                let bars: Vec<usize> = (section.start..section.end).collect();
                grid.controls(index, Control::of_bars(is_drum), &bars, Compat::MidiRwkv)?
            }
            Mode::Bars(_) => TrackControls::default(),
            Mode::Track(_) => grid.controls(index, Control::of_track(is_drum), &[], Compat::MidiRwkv)?,
        };
        let tokens = grid.encode_track(index, &controls)?;
        let ids = bpe.encode(&tokens.ids, &tokens.groups);
        Ok(Part { tokens, ids })
    };
    let parts = (0..tracks.len()).map(part).collect::<Result<Vec<_>, _>>()?;
    let extra = if let Mode::Bars(section) = &mode { section.count + 2 } else { 0 };
    let room = context.saturating_sub(2 + extra);
    let whole = parts.iter().map(|part| part.ids.len()).sum::<usize>() <= room;
    match (mode, whole) {
        (Mode::Track(_), true) => Ok(Some(parts.into_iter().flat_map(|part| part.ids).collect())),
        (Mode::Track(track), false) => Ok(Some(window::around_track(bpe, &parts, track, context, draws)?.concat())),
        (Mode::Bars(section), true) => {
            let target = &parts[section.track].tokens;
            let filled = fill(bpe, &target.ids, Some((&target.ticks, &grid.bars)), section)?;
            Ok(filled.map(|Filled { around, inside }| {
                let mut all: Vec<Vec<u16>> = parts.into_iter().map(|part| part.ids).collect();
                all[section.track] = around;
                all.push(inside);
                all.concat()
            }))
        }
        (Mode::Bars(section), false) => {
            let (mut all, section) = window::around_section(bpe, &parts, section, context, draws)?;
            let filled = fill(bpe, &bpe.decode(&all[section.track]), None, section)?;
            Ok(filled.map(|Filled { around, inside }| {
                all[section.track] = around;
                all.push(inside);
                all.concat()
            }))
        }
    }
}

fn draw_section(grid: &Grid, draws: &mut dyn Draws) -> Result<Section, Reject> {
    let tracks = &grid.score.tracks;
    let track = draws.below(tracks.len());
    let last = tracks[track].notes.last().map_or(0, |note| note.tick);
    let reached = bar_ticks(&grid.score, Until::End)?.iter().filter(|bar| **bar <= last).count();
    let count = (draws.pick(&[1, 2, 4, 8]) as usize).min(reached);
    let count = count.max((reached as f64 * draws.uniform(0.1, 0.4)).round_ties_even() as usize);
    let start = if count == reached {
        0
    } else {
        // Quirk: the section never holds the last bar.
        let starts: Vec<i64> = (0..(reached - count) as i64).collect();
        draws.pick(&starts) as usize
    };
    Ok(Section { track, start, end: start + count, count })
}

/// A track with placeholders, and the bars that were in their place, as byte-pair ids.
struct Filled {
    around: Vec<u16>,
    inside: Vec<u16>,
}

/// The track with placeholders and the filled bars, both encoded again; `None` if there is no note to fill in.
/// `times` are the tokens' ticks and the bars, for a track that was not cut.
fn fill(
    bpe: &Bpe,
    base: &[u16],
    times: Option<(&[Tick], &[Tick])>,
    section: Section,
) -> Result<Option<Filled>, Reject> {
    let bars: Vec<usize> = (0..base.len()).filter(|at| base[*at] == BAR).collect();
    let mut first = section.start;
    // Quirk: empty bars at the begin leave the section, but their placeholders stay.
    while first + 1 < bars.len() && bars[first + 1] - bars[first] <= 2 {
        first += 1;
    }
    let from = *bars.get(first).ok_or_else(|| no_sample("the section begins after the track"))?;
    // Quirk: a section that ends before the last bar swallows it.
    let to = if section.end + 1 >= bars.len() { base.len() - 1 } else { bars[section.end] };
    let inside = base.get(from..to).unwrap_or_default();
    if !has_note(inside) {
        return Ok(None);
    }
    // Quirk: the groups are those of the ticks that are left, as if nothing had been put in.
    let groups = |ticks: &mut dyn FnMut(&[Tick]) -> Vec<Tick>| match times {
        Some((all, bars)) => encode_groups_of(&ticks(all), bars),
        None => vec![0],
    };
    let filled = [&[FILL_START], inside, &[FILL_END]].concat();
    let inside = bpe.encode(&filled, &groups(&mut |ticks| ticks[from..to].to_vec()));
    let track = [&base[..from], &vec![INFILL_BAR; section.count], &base[to..]].concat();
    let around = bpe.encode(&track, &groups(&mut |ticks| [&ticks[..from], &ticks[to..]].concat()));
    Ok(Some(Filled { around, inside }))
}
