//! What every model is asked: sections of test songs, chosen once, so that comparisons are paired.

use midi_ingest::job::draws::{Draws, Keyed};
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::reject::Reject;
use midi_ingest::sample::{BarTokens, Section, assemble};
use midi_ingest::score::{Meter, Score, smf};
use midi_ingest::shard::Song;
use midi_ingest::token::vocabulary::FILL_START;
use midi_ingest::token::{Grid, Tokenizer};

use crate::config::PromptConfig;
use crate::results::PromptRow;

/// Attempts for each prompt that is wanted.
const TRIES: usize = 200;

/// A piece on the tokenizer's grid, cut into bars.
#[derive(Debug)]
pub struct Piece {
    /// The score on the grid. Its tracks all have notes, so an index means the same track everywhere.
    pub score: Score,
    /// The tokens of each track.
    pub tracks: Vec<BarTokens>,
}

impl Piece {
    /// Reads a MIDI file. A file that [`smf::write`] made of a piece's score gives the same piece.
    ///
    /// # Errors
    /// It cannot be read or has no tokens.
    pub fn read(midi: &[u8]) -> Result<Self, Reject> {
        Self::read_as(midi, Meter::AsWritten)
    }

    /// As [`Piece::read`], the time signatures taken as ingest took them.
    ///
    /// # Errors
    /// As [`Piece::read`].
    pub fn read_as(midi: &[u8], meter: Meter) -> Result<Self, Reject> {
        let grid = Grid::of(&meter.apply(smf::read(midi)?))?;
        let tracks = grid.encode()?.iter().map(BarTokens::of).collect();
        Ok(Piece { score: grid.score, tracks })
    }

    /// Bars of the longest track.
    pub fn bars(&self) -> usize {
        self.tracks.iter().map(|track| track.bars.len()).max().unwrap_or(0)
    }

    /// The prompt for a section with `context` bars on each side: the tokens of the window, then `FillBar_Start`.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        track: usize,
        bars: std::ops::Range<usize>,
        context: usize,
    ) -> Vec<u16> {
        let window = bars.start.saturating_sub(context)..(bars.end + context).min(self.bars());
        let mut ids = assemble(tokenizer.bpe(), &self.tracks, &Section { track, bars, window }).context;
        tokenizer.bpe().encode_group(&[FILL_START], &mut ids);
        ids
    }
}

/// Chooses `config.count` prompts from `songs`, which carry their MIDI bytes and whose time signatures are taken
/// as `meter` says. The choice is a function of
/// the seed and the songs.
///
/// The stored original is the song on the tokenizer's grid, so that a model is not measured by what the
/// grid cannot say.
///
/// # Errors
/// There is no song (65), or not one fits the limits (78).
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
    if config.bars.is_empty() || config.bars.contains(&0) {
        return Err(Error::mismatch("`eval.prompts.bars` must list numbers from 1 up"));
    }
    let mut rows = Vec::with_capacity(config.count);
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
            let notes = notes_in(&piece.tracks[track], bars.clone());
            let tokens = piece.prompt(tokenizer, track, bars.clone(), config.context_factor * count);
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
                context_bars: (config.context_factor * count) as u32,
                tokens,
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

/// A test song as it is stored: on the grid, written, and read again.
fn on_grid(midi: &[u8], meter: Meter) -> Option<Piece> {
    let piece = Piece::read_as(midi, meter).ok()?;
    Piece::read(&smf::write(&piece.score)).ok().filter(|again| again.score.tracks.len() == piece.score.tracks.len())
}

fn notes_in(track: &BarTokens, bars: std::ops::Range<usize>) -> usize {
    track.slice(bars).iter().flatten().filter(|id| midi_ingest::sample::has_note(&[**id])).count()
}
