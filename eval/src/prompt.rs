//! What a model is asked about a piece: the beginning of a training sample, up to where the model is to go on.

use std::ops::Range;

use midi_ingest::job::exit::{Error, Result};
use midi_ingest::reject::Reject;
use midi_ingest::sample::{BarTokens, Kind, Section, assemble, controls};
use midi_ingest::score::bars::{Until, bar_ticks};
use midi_ingest::score::{Meter, Score, smf};
use midi_ingest::token::control::{Asked, Control};
use midi_ingest::token::{Grid, Tokenizer};

/// A piece on the tokenizer's grid, cut into bars.
#[derive(Debug)]
pub struct Piece {
    /// The score on the grid. Its tracks all have notes, so an index means the same track everywhere.
    pub score: Score,
    /// The tokens of each track.
    pub tracks: Vec<BarTokens>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bars or a track.
    pub kind: Kind,
    /// Index of the track.
    pub track: usize,
    /// The bars to write.
    pub bars: Range<usize>,
    /// Bars of context on each side. A track that is written anew has none but the other tracks' `bars`.
    pub context: usize,
    /// What it is to be like. See [`Asked::in_order`].
    pub controls: Vec<Asked>,
}

/// A prompt as byte-pair ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What the model reads first.
    pub tokens: Vec<u16>,
    /// With what each bar of the answer begins, its controls included; an empty one is left to the model. No controls
    /// of bars, no openings.
    pub openings: Vec<Vec<u16>>,
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

    /// The controls that models are trained with for infillings of this kind of track `track`.
    ///
    /// # Panics
    /// If there is no such track.
    pub fn controls(&self, kind: Kind, track: usize) -> &'static [Control] {
        let is_drum = self.score.tracks[track].is_drum;
        match kind {
            Kind::Bars => Control::of_bars(is_drum),
            Kind::Track => Control::of_track(is_drum),
        }
    }

    /// The prompt for a request: the tokens of the window, then what asks for the answer.
    ///
    /// # Errors
    /// The piece is not on the grid after all: a bug.
    ///
    /// # Panics
    /// If there is no such track.
    pub fn prompt(&self, tokenizer: &Tokenizer, request: &Request) -> Result<Prompt> {
        let written = self.written(request).map_err(|e| Error::bug("a piece has no controls").because(e))?;
        let Request { kind, track, bars, context, .. } = request.clone();
        let window = match kind {
            Kind::Bars => bars.start.saturating_sub(context)..bars.end.saturating_add(context).min(self.bars()),
            Kind::Track => bars.clone(),
        };
        let opening =
            |bar: usize| written.bars.get(bar).map(|bar| controls::opening(tokenizer.bpe(), bar)).unwrap_or_default();
        let mut openings: Vec<Vec<u16>> = bars.clone().map(opening).collect();
        if openings.iter().all(Vec::is_empty) {
            openings.clear();
        }
        let section = Section { kind, track, bars, window };
        Ok(Prompt { tokens: assemble(tokenizer.bpe(), &self.tracks, &section, &written).prompt, openings })
    }

    /// The track of a request with the controls that are asked for.
    fn written(&self, request: &Request) -> Result<BarTokens, Reject> {
        let Request { kind, track, bars, controls: asked, .. } = request;
        let mut written = self.tracks[*track].clone();
        if asked.is_empty() {
            return Ok(written);
        }
        let ticks = bar_ticks(&self.score, Until::End)?;
        let grid = Grid { score: self.score.clone(), bars: bar_ticks(&self.score, Until::LastOnset)? };
        match kind {
            Kind::Bars => {
                let controls = controls::asked_of_bars(&grid, &ticks, *track, bars.clone(), asked)?;
                written = BarTokens::of(&grid.encode_track(*track, &controls)?);
            }
            Kind::Track => {
                let controls = controls::asked_of_window(&grid, &ticks, *track, bars.clone(), asked)?;
                written.head.extend(controls);
            }
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests;
