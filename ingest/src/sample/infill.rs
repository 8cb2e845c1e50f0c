//! The token sequence of a bar infilling: context first, with placeholders where bars are missing, then the
//! missing bars. Training samples and inference prompts are assembled by the same code.

use std::ops::Range;

use crate::token::vocabulary::{BAR, FILL_END, FILL_START, INFILL_BAR, TRACK_END, TRACK_START, Token};
use crate::token::{Bpe, TrackTokens};

/// A track's tokens cut into bars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarTokens {
    /// `Track_Start` and the program.
    pub head: Vec<u16>,
    /// The base ids of each bar, from its `Bar` on, without `Track_End`.
    pub bars: Vec<Vec<u16>>,
}

impl BarTokens {
    /// Cuts a track's tokens at its bars.
    pub fn of(tokens: &TrackTokens) -> Self {
        let body = tokens.ids.strip_suffix(&[TRACK_END]).unwrap_or(&tokens.ids);
        let first = body.iter().position(|id| *id == BAR).unwrap_or(body.len());
        let bars = body[first..].chunk_by(|_, next| *next != BAR).map(<[u16]>::to_vec).collect();
        BarTokens { head: body[..first].to_vec(), bars }
    }

    /// The bars in `range` that the track has.
    pub fn slice(&self, range: Range<usize>) -> &[Vec<u16>] {
        let end = range.end.min(self.bars.len());
        &self.bars[range.start.min(end)..end]
    }

    /// Whether a note begins in one of the bars.
    pub fn has_notes(&self, bars: Range<usize>) -> bool {
        self.slice(bars).iter().any(|bar| has_note(bar))
    }
}

/// Whether a note begins among the tokens.
pub fn has_note(base: &[u16]) -> bool {
    base.iter().any(|id| matches!(Token::of(*id), Some(Token::Pitch(_) | Token::PitchDrum(_))))
}

/// What to infill, in bars of the piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Index of the track.
    pub track: usize,
    /// The bars to infill.
    pub bars: Range<usize>,
    /// The bars that the model sees around them; contains `bars`.
    pub window: Range<usize>,
}

/// An infilling as byte-pair ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Infilling {
    /// The tracks of the window, the infilled bars replaced by one placeholder each.
    pub context: Vec<u16>,
    /// `FillBar_Start`, the infilled bars, `FillBar_End`.
    pub fill: Vec<u16>,
    /// Index of the infilled track among the tracks that the context holds.
    pub track: usize,
}

impl Infilling {
    /// Number of ids.
    pub fn len(&self) -> usize {
        self.context.len() + self.fill.len()
    }

    /// Whether there is no id at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Assembles the sequence. Tracks without a note in the window are left out, except the infilled one.
///
/// Every bar is a byte-pair group of its own, with two exceptions: the first bar of the window shares the
/// group of the track's head, as it does when a whole piece is encoded, and placeholders stand alone.
///
/// # Panics
/// If `section.track` is not an index of `tracks`.
pub fn assemble(bpe: &Bpe, tracks: &[BarTokens], section: &Section) -> Infilling {
    let mut context = Vec::new();
    let mut place = 0;
    let mut group = Vec::new();
    let mut kept = 0;
    for (index, track) in tracks.iter().enumerate() {
        let is_target = index == section.track;
        if !is_target && !track.has_notes(section.window.clone()) {
            continue;
        }
        group.clone_from(&track.head);
        for (bar, ids) in (section.window.start..).zip(track.slice(section.window.clone())) {
            if bar > section.window.start {
                bpe.encode_group(&group, &mut context);
                group.clear();
            }
            match is_target && section.bars.contains(&bar) {
                true => group.push(INFILL_BAR),
                false => group.extend_from_slice(ids),
            }
        }
        group.push(TRACK_END);
        bpe.encode_group(&group, &mut context);
        if is_target {
            place = kept;
        }
        kept += 1;
    }
    let mut fill = Vec::new();
    bpe.encode_group(&[FILL_START], &mut fill);
    for bar in tracks[section.track].slice(section.bars.clone()) {
        bpe.encode_group(bar, &mut fill);
    }
    bpe.encode_group(&[FILL_END], &mut fill);
    Infilling { context, fill, track: place }
}

/// The base ids of an infilling back as (tracks of the window with placeholders, infilled bars).
///
/// # Errors
/// The sequence is not of the form that [`assemble`] makes; the text says where.
pub fn disassemble(base: &[u16]) -> Result<(Vec<BarTokens>, Vec<Vec<u16>>), String> {
    let start = base.iter().position(|id| *id == FILL_START).ok_or("there is no FillBar_Start")?;
    let fill = base[start + 1..].strip_suffix(&[FILL_END]).ok_or("it does not end with FillBar_End")?;
    let mut tracks = Vec::new();
    for part in base[..start].chunk_by(|_, next| *next != TRACK_START) {
        if part.first() != Some(&TRACK_START) || part.last() != Some(&TRACK_END) {
            return Err(format!("track {} does not begin and end as a track", tracks.len()));
        }
        let body = &part[..part.len() - 1];
        let first = body.iter().position(|id| *id == BAR || *id == INFILL_BAR).unwrap_or(body.len());
        let bars = body[first..].chunk_by(|_, next| *next != BAR && *next != INFILL_BAR).map(<[u16]>::to_vec).collect();
        tracks.push(BarTokens { head: body[..first].to_vec(), bars });
    }
    Ok((tracks, fill.chunk_by(|_, next| *next != BAR).map(<[u16]>::to_vec).collect()))
}
