//! The token sequence of an infilling: what a model sees first, then what it is to write. Training samples and
//! inference prompts are assembled by the same code.
//!
//! - Bars: all tracks, the missing bars replaced by a placeholder each, `FillBar_Start`; the missing bars, `FillBar_End`.
//! - A track: all other tracks, `Infill_Track Track_Start Program` and the track's controls; its bars, `Track_End`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::token::vocabulary::{BAR, FILL_END, FILL_START, INFILL_BAR, INFILL_TRACK, TRACK_END, TRACK_START, Token};
use crate::token::{Bpe, TrackTokens};

/// A track's tokens cut into bars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarTokens {
    /// `Track_Start`, the program, and the track's controls if it has any.
    pub head: Vec<u16>,
    /// The base ids of each bar, from its `Bar` on, without `Track_End`.
    pub bars: Vec<Vec<u16>>,
}

impl BarTokens {
    /// Cuts a track's tokens at its bars.
    pub fn of(tokens: &TrackTokens) -> Self {
        Self::cut(tokens.ids.strip_suffix(&[TRACK_END]).unwrap_or(&tokens.ids))
    }

    /// Cuts base ids before each `Bar` or placeholder.
    fn cut(body: &[u16]) -> Self {
        let begins = |id: &u16| *id == BAR || *id == INFILL_BAR;
        let first = body.iter().position(begins).unwrap_or(body.len());
        let bars = body[first..].chunk_by(|_, next| !begins(next)).map(<[u16]>::to_vec).collect();
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

/// What a model is to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Bars of a track, the rest of which is there.
    #[default]
    Bars,
    /// A track of which nothing is there.
    Track,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Kind; 2] = [Kind::Bars, Kind::Track];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bars => "bars",
            Kind::Track => "track",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The base id that ends what a model writes.
    pub fn end(self) -> u16 {
        match self {
            Kind::Bars => FILL_END,
            Kind::Track => TRACK_END,
        }
    }
}

/// What to infill, in bars of the piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Bars or a track.
    pub kind: Kind,
    /// Index of the track.
    pub track: usize,
    /// The bars to write. Of a track those of the window.
    pub bars: Range<usize>,
    /// The bars that the model sees of the other tracks, and of this one around `bars`, which it contains.
    pub window: Range<usize>,
}

/// An infilling as byte-pair ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Infilling {
    /// What the model is given, up to the id that asks for the answer.
    pub prompt: Vec<u16>,
    /// What it is to write, up to the id that ends it.
    pub answer: Vec<u16>,
    /// Index of the infilled track among those of the sequence.
    pub track: usize,
}

impl Infilling {
    /// Number of ids.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.answer.len()
    }

    /// Whether there is no id at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Assembles the sequence. `written` is the section's track as it is to be written, with its controls; of `tracks`
/// those without a note in the window are left out, except the one with the missing bars.
///
/// Every bar is a byte-pair group of its own, with two exceptions: the first bar that is seen of a track shares the
/// group of the track's head, as it does when a whole piece is encoded, and placeholders stand alone. So the prompt
/// is the beginning of the training sample.
pub fn assemble(bpe: &Bpe, tracks: &[BarTokens], section: &Section, written: &BarTokens) -> Infilling {
    let mut prompt = Vec::new();
    let (mut kept, mut place) = (0, 0);
    for (index, track) in tracks.iter().enumerate() {
        let is_target = index == section.track;
        if is_target {
            place = kept;
        }
        let shown = match section.kind {
            Kind::Track if is_target => false,
            Kind::Bars if is_target => true,
            _ => track.has_notes(section.window.clone()),
        };
        if shown {
            let missing = if is_target { section.bars.clone() } else { 0..0 };
            show(bpe, track, section.window.clone(), &missing, &mut prompt);
            kept += 1;
        }
    }
    match section.kind {
        Kind::Bars => bpe.encode_group(&[FILL_START], &mut prompt),
        Kind::Track => {
            place = kept;
            bpe.encode_group(&[&[INFILL_TRACK], written.head.as_slice()].concat(), &mut prompt);
        }
    }
    let mut answer = Vec::new();
    for bar in written.slice(section.bars.clone()) {
        bpe.encode_group(bar, &mut answer);
    }
    bpe.encode_group(&[section.kind.end()], &mut answer);
    Infilling { prompt, answer, track: place }
}

/// Writes the bars `window` of a track as context, a placeholder for each of the `missing`.
fn show(bpe: &Bpe, track: &BarTokens, window: Range<usize>, missing: &Range<usize>, out: &mut Vec<u16>) {
    let mut group = track.head.clone();
    for (bar, ids) in (window.start..).zip(track.slice(window.clone())) {
        if bar > window.start {
            bpe.encode_group(&group, out);
            group.clear();
        }
        match missing.contains(&bar) {
            true => group.push(INFILL_BAR),
            false => group.extend_from_slice(ids),
        }
    }
    group.push(TRACK_END);
    bpe.encode_group(&group, out);
}

/// An infilling taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Bars or a track.
    pub kind: Kind,
    /// The tracks that are seen, with placeholders.
    pub tracks: Vec<BarTokens>,
    /// What is to be written. Written bars have no head.
    pub written: BarTokens,
}

/// The base ids of an infilling back as its parts.
///
/// # Errors
/// The sequence is not of the form that [`assemble`] makes; the text says where.
pub fn disassemble(base: &[u16]) -> Result<Parts, String> {
    let start = base.iter().position(|id| *id == FILL_START || *id == INFILL_TRACK);
    let start = start.ok_or("there is neither FillBar_Start nor Infill_Track")?;
    let kind = if base[start] == FILL_START { Kind::Bars } else { Kind::Track };
    let written = base[start + 1..].strip_suffix(&[kind.end()]).ok_or("it does not end as an infilling")?;
    let mut tracks = Vec::new();
    for part in base[..start].chunk_by(|_, next| *next != TRACK_START) {
        match part {
            [TRACK_START, body @ .., TRACK_END] if !body.contains(&TRACK_END) => {
                tracks.push(BarTokens::cut(&part[..part.len() - 1]));
            }
            _ => return Err(format!("track {} does not begin and end as a track", tracks.len())),
        }
    }
    let written = BarTokens::cut(written);
    match kind {
        Kind::Bars if !written.head.is_empty() => Err("something stands before the first written bar".to_owned()),
        Kind::Track if written.head.first() != Some(&TRACK_START) => Err("the written track has no begin".to_owned()),
        _ => Ok(Parts { kind, tracks, written }),
    }
}
