//! Which sections of test songs every model is asked for, chosen once, so that comparisons are paired, and none twice, so
//! that the pairs are independent.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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
/// So many prompts in a row that do not come out: there are no other sections, or next to none.
const GIVE_UP: usize = 50;
/// Most songs that are kept open.
const OPEN: usize = 64;

/// Chooses up to `config.count` prompts from `songs`, which carry their MIDI bytes and whose time signatures are taken
/// as `meter` says. The choice is a function of the seed and the songs. Where the songs have not so many different
/// sections that fit the limits, there are fewer prompts.
///
/// The stored original is the song on the tokenizer's grid, so that a model is not measured by what the
/// grid cannot say.
///
/// # Errors
/// There is no song (65), a control is unknown, or no section fits the limits (78).
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
    let mut pieces = Pieces { songs, meter, open: BTreeMap::new() };
    let wanted = Wanted { tokenizer, config, asked: config.asked()? };
    let (mut rows, mut taken, mut missed) = (Vec::new(), BTreeSet::new(), 0);
    for number in 0..config.count {
        let mut draws = Keyed::new(seed, "prompts", number as u64);
        let count = config.bars[number % config.bars.len()];
        missed += 1;
        for _ in 0..TRIES {
            let song = draws.below(songs.len());
            let Some(piece) = pieces.get(song) else { continue };
            let Some((track, bars)) = section(piece, count, &mut draws) else { continue };
            let place = (&songs[song].id, track, bars.start, bars.end);
            if taken.contains(&place) {
                continue;
            }
            let Some((context, prompt)) = wanted.prompt(piece, track, bars.clone())? else { continue };
            taken.insert(place);
            rows.push(PromptRow {
                run_id: run_id.to_owned(),
                config_hash: config_hash.to_owned(),
                prompt_id: format!("{number:05}"),
                song_id: songs[song].id.clone(),
                path: songs[song].path.clone(),
                track: track as u32,
                program: piece.score.tracks[track].program,
                is_drum: piece.score.tracks[track].is_drum,
                bar_start: bars.start as u32,
                bar_end: bars.end as u32,
                context_bars: context as u32,
                kind: config.infill,
                tokens: prompt.tokens,
                openings: prompt.openings,
                ticks_per_quarter: piece.score.ticks_per_quarter,
                midi: smf::write(&piece.score),
            });
            missed = 0;
            break;
        }
        if missed >= GIVE_UP {
            break;
        }
    }
    if rows.is_empty() {
        return Err(Error::mismatch("no section of the test songs fits the limits of `[eval.prompts]`")
            .hint("raise `eval.prompts.max-tokens`, or lower `bars`, `context-factor` or `min-notes`"));
    }
    Ok(rows)
}

/// The test songs as pieces, the last ones kept.
struct Pieces<'a> {
    songs: &'a [Song],
    meter: Meter,
    open: BTreeMap<usize, Option<Piece>>,
}

impl Pieces<'_> {
    /// A song's piece; `None` if it has none.
    fn get(&mut self, song: usize) -> Option<&Piece> {
        if self.open.len() >= OPEN && !self.open.contains_key(&song) {
            self.open.clear();
        }
        let read = || on_grid(self.songs[song].midi.as_deref()?, self.meter);
        self.open.entry(song).or_insert_with(read).as_ref()
    }
}

/// Draws a track and `count` of its bars; `None` if it has not so many.
fn section(piece: &Piece, count: usize, draws: &mut dyn Draws) -> Option<(usize, Range<usize>)> {
    let track = draws.below(piece.tracks.len().max(1));
    let reached = piece.tracks.get(track)?.bars.len();
    let start = draws.below(reached.checked_sub(count)? + 1);
    Some((track, start..start + count))
}

/// What is asked of every section.
struct Wanted<'a> {
    tokenizer: &'a Tokenizer,
    config: &'a PromptConfig,
    asked: Vec<Asked>,
}

impl Wanted<'_> {
    /// The prompt for a section with its bars of context; `None` if it does not fit the limits.
    fn prompt(&self, piece: &Piece, track: usize, bars: Range<usize>) -> Result<Option<(usize, Prompt)>> {
        let PromptConfig { infill, context_factor, min_notes, max_tokens, .. } = *self.config;
        // Without another track to hear there is nothing to go by.
        let alone = || !others(piece, track).any(|other| other.has_notes(bars.clone()));
        if notes_in(&piece.tracks[track], bars.clone()) < min_notes || (infill == Kind::Track && alone()) {
            return Ok(None);
        }
        let context = match infill {
            Kind::Bars => context_factor.saturating_mul(bars.len()).min(piece.bars()),
            Kind::Track => 0,
        };
        let trained = piece.controls(infill, track);
        let controls = self.asked.iter().filter(|one| trained.contains(&one.control)).cloned().collect();
        let controls = Asked::in_order(controls, trained, bars.len())?;
        // A piece of which nothing can be asked is passed over.
        let prompt = piece.prompt(self.tokenizer, &Request { kind: infill, track, bars, context, controls }).ok();
        Ok(prompt.filter(|prompt| prompt.tokens.len() <= max_tokens).map(|prompt| (context, prompt)))
    }
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

#[cfg(test)]
mod tests {
    use midi_ingest::job::Exit;
    use midi_ingest::shard::{Split, Status};
    use midi_ingest::source::compose;
    use midi_ingest::token::{Grid, Learner};

    use super::*;

    fn song(number: u64) -> Song {
        Song {
            id: number.to_string(),
            path: format!("{number}.mid"),
            sha256: String::new(),
            split: Split::Test,
            tracks: 0,
            bars: 0,
            notes: 0,
            programs: Vec::new(),
            status: Status::Accepted,
            reason: None,
            midi: Some(smf::write(&compose(1, number))),
        }
    }

    fn chosen(songs: &[Song], config: &PromptConfig) -> Result<Vec<PromptRow>> {
        let mut learner = Learner::default();
        let grid = Grid::of(&compose(1, 0)).expect("a grid");
        grid.encode().expect("encodes").iter().for_each(|tokens| learner.add(tokens));
        choose(songs, Meter::AsWritten, &learner.learn(700).expect("learns"), config, "r", "c", 1)
    }

    #[test]
    fn no_section_comes_twice_and_few_songs_give_few_prompts() {
        let songs = [song(1)];
        let piece = on_grid(songs[0].midi.as_deref().expect("bytes"), Meter::AsWritten).expect("a piece");
        let sections: usize = piece.tracks.iter().map(|track| track.bars.len()).sum();
        let config = PromptConfig { count: 4 * sections, bars: vec![1], min_notes: 1, ..PromptConfig::default() };
        let rows = chosen(&songs, &config).expect("chooses");
        let places: BTreeSet<_> = rows.iter().map(|row| (row.track, row.bar_start, row.bar_end)).collect();
        assert_eq!(places.len(), rows.len(), "each once");
        assert!(rows.len() > sections / 2 && rows.len() <= sections, "{} of {sections}", rows.len());
        assert_eq!(rows, chosen(&songs, &config).expect("chooses"));
    }

    #[test]
    fn limits_that_nothing_fits_are_an_error() {
        let config = PromptConfig { max_tokens: 3, ..PromptConfig::default() };
        let error = chosen(&[song(1)], &config).expect_err("three tokens ask for nothing");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("max-tokens")), "{error}");
    }
}
