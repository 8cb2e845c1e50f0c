//! Which sections of test songs every model is asked for, chosen once, so that comparisons are paired.

use midi_ingest::job::draws::{Draws, Keyed};
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::sample::{BarTokens, Kind, has_note};
use midi_ingest::score::{Meter, smf};
use midi_ingest::shard::Song;
use midi_ingest::token::Tokenizer;
use midi_ingest::token::control::Asked;

use crate::config::PromptConfig;
use crate::prompt::{Piece, Prompt, Request};
use crate::results::PromptRow;

/// Attempts for each prompt that is wanted.
const TRIES: usize = 200;

/// Chooses `config.count` prompts from `songs`, which carry their MIDI bytes and whose time signatures are taken
/// as `meter` says. The choice is a function of the seed and the songs.
///
/// The stored original is the song on the tokenizer's grid, so that a model is not measured by what the
/// grid cannot say.
///
/// # Errors
/// There is no song (65), or too few sections fit the limits (78).
pub fn choose(
    songs: &[Song],
    meter: Meter,
    tokenizer: &Tokenizer,
    config: &PromptConfig,
    run_id: &str,
    config_hash: &str,
    seed: u64,
) -> Result<Vec<PromptRow>> {
    if songs.is_empty() {
        return Err(Error::data("there is no test song").hint("raise `ingest.split.test`"));
    }
    let asked = config.asked()?;
    let mut rows = Vec::new();
    for number in 0..config.count {
        let mut draws = Keyed::new(seed, "prompts", number as u64);
        let count = config.bars[number % config.bars.len()];
        let row = (0..TRIES).find_map(|_| {
            let song = &songs[draws.below(songs.len())];
            let piece = on_grid(song.midi.as_deref()?, meter)?;
            let track = draws.below(piece.tracks.len().max(1));
            let reached = piece.tracks.get(track)?.bars.len();
            let start = draws.below(reached.checked_sub(count)? + 1);
            let bars = start..start + count;
            let context = match config.infill {
                Kind::Bars => config.context_factor.saturating_mul(count).min(piece.bars()),
                // Without another track to hear there is nothing to go by.
                Kind::Track if others(&piece, track).any(|other| other.has_notes(bars.clone())) => 0,
                Kind::Track => return None,
            };
            let notes = notes_in(&piece.tracks[track], bars.clone());
            let trained = piece.controls(config.infill, track);
            let controls = asked.iter().filter(|one| trained.contains(&one.control)).cloned().collect();
            let controls = Asked::in_order(controls, trained, count).ok()?;
            let request = Request { kind: config.infill, track, bars, context, controls };
            let Prompt { tokens, openings } = piece.prompt(tokenizer, &request).ok()?;
            if notes < config.min_notes || tokens.len() > config.max_tokens {
                return None;
            }
            Some(PromptRow {
                run_id: run_id.to_owned(),
                config_hash: config_hash.to_owned(),
                prompt_id: format!("{number:05}"),
                song_id: song.id.clone(),
                path: song.path.clone(),
                track: track as u32,
                program: piece.score.tracks[track].program,
                is_drum: piece.score.tracks[track].is_drum,
                bar_start: start as u32,
                bar_end: (start + count) as u32,
                context_bars: context as u32,
                kind: config.infill,
                tokens,
                openings,
                ticks_per_quarter: piece.score.ticks_per_quarter,
                midi: smf::write(&piece.score),
            })
        });
        rows.extend(row);
    }
    if rows.len() < config.count {
        return Err(Error::mismatch(format!("only {} of {} prompts fit the limits", rows.len(), config.count))
            .hint("raise `eval.prompts.max-tokens`, or lower `bars`, `context-factor` or `min-notes`"));
    }
    Ok(rows)
}

fn others(piece: &Piece, track: usize) -> impl Iterator<Item = &BarTokens> {
    piece.tracks.iter().enumerate().filter(move |(index, _)| *index != track).map(|(_, other)| other)
}

/// A test song as it is stored: on the grid, written, and read again.
fn on_grid(midi: &[u8], meter: Meter) -> Option<Piece> {
    let piece = Piece::read_as(midi, meter).ok()?;
    Piece::read(&smf::write(&piece.score)).ok().filter(|again| again.score.tracks.len() == piece.score.tracks.len())
}

fn notes_in(track: &BarTokens, bars: std::ops::Range<usize>) -> usize {
    track.slice(bars).iter().flatten().filter(|id| has_note(&[**id])).count()
}
