//! The base vocabulary: 663 tokens whose ids never change, which the learned byte-pair tokens build on.
//!
//! The layout is that of MidiTok's MMM over REMI in the configuration of the published tokenizer; a file
//! with another layout is refused.

use std::fmt;

use super::control;
use crate::score::grid::{DRUM_PITCHES, DURATIONS, METRES, PITCHES, PROGRAMS, TEMPOS, VELOCITIES};

/// Number of base tokens.
pub const BASE_SIZE: u16 = 663;

/// Fills up a batch; never part of a sequence.
pub const PAD: u16 = 0;
/// Stands for one bar to infill.
pub const INFILL_BAR: u16 = 3;
/// Announces a track to infill.
pub const INFILL_TRACK: u16 = 4;
/// Begins the infilled bars, after all context.
pub const FILL_START: u16 = 5;
/// Ends the infilled bars.
pub const FILL_END: u16 = 6;
/// Begins a track.
pub const TRACK_START: u16 = 7;
/// Ends a track.
pub const TRACK_END: u16 = 8;
/// Begins a bar.
pub const BAR: u16 = 9;

/// Ids below this one are special: byte-pair merges never reach across them.
pub const SPECIAL_END: u16 = BAR;

const PITCH: u16 = 10;
const VELOCITY: u16 = 98;
const DURATION: u16 = 122;
const POSITION: u16 = 146;
const PITCH_DRUM: u16 = 290;
const TEMPO: u16 = 351;
const PROGRAM: u16 = 399;
const PROGRAM_DRUMS: u16 = 526;
const TIME_SIGNATURE: u16 = 527;
/// The first attribute control.
const CONTROL: u16 = 536;

const SPECIAL: [&str; 9] = [
    "PAD_None",
    "BOS_None",
    "EOS_None",
    "Infill_Bar",
    "Infill_Track",
    "FillBar_Start",
    "FillBar_End",
    "Track_Start",
    "Track_End",
];

/// What a base token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// One of the nine special tokens, by id.
    Special(u16),
    /// A bar begins.
    Bar,
    /// A note of this MIDI pitch on a pitched track.
    Pitch(u8),
    /// MIDI velocity.
    Velocity(u8),
    /// Index of [`DURATIONS`].
    Duration(usize),
    /// Position in the bar, in twelfths of a beat.
    Position(u16),
    /// A drum note of this MIDI pitch.
    PitchDrum(u8),
    /// Index of [`TEMPOS`].
    Tempo(usize),
    /// General MIDI program; −1 for drums.
    Program(i16),
    /// Index of [`METRES`].
    TimeSignature(usize),
    /// An attribute control, by its index among them.
    Control(u16),
}

impl Token {
    /// The token of a base id; `None` from [`BASE_SIZE`] on.
    pub fn of(id: u16) -> Option<Token> {
        Some(match id {
            0..BAR => Token::Special(id),
            BAR => Token::Bar,
            PITCH..VELOCITY => Token::Pitch((id - PITCH) as u8 + PITCHES.start),
            VELOCITY..DURATION => Token::Velocity(VELOCITIES[usize::from(id - VELOCITY)]),
            DURATION..POSITION => Token::Duration(usize::from(id - DURATION)),
            POSITION..PITCH_DRUM => Token::Position(id - POSITION),
            PITCH_DRUM..TEMPO => Token::PitchDrum((id - PITCH_DRUM) as u8 + DRUM_PITCHES.start),
            TEMPO..PROGRAM => Token::Tempo(usize::from(id - TEMPO)),
            PROGRAM..PROGRAM_DRUMS => Token::Program((id - PROGRAM) as i16),
            PROGRAM_DRUMS => Token::Program(-1),
            TIME_SIGNATURE..CONTROL => Token::TimeSignature(usize::from(id - TIME_SIGNATURE)),
            CONTROL..BASE_SIZE => Token::Control(id - CONTROL),
            _ => return None,
        })
    }

    /// The id of the token, if the vocabulary has it.
    pub fn id(self) -> Option<u16> {
        let within = |value: u8, range: std::ops::Range<u8>, first: u16| {
            range.contains(&value).then(|| first + u16::from(value - range.start))
        };
        match self {
            Token::Special(id) => (id < SPECIAL_END).then_some(id),
            Token::Bar => Some(BAR),
            Token::Pitch(pitch) => within(pitch, PITCHES, PITCH),
            Token::PitchDrum(pitch) => within(pitch, DRUM_PITCHES, PITCH_DRUM),
            Token::Velocity(velocity) => VELOCITIES.binary_search(&velocity).ok().map(|k| VELOCITY + k as u16),
            Token::Duration(index) => (index < DURATIONS.len()).then(|| DURATION + index as u16),
            Token::Position(position) => (position < PITCH_DRUM - POSITION).then_some(POSITION + position),
            Token::Tempo(index) => (index < TEMPOS.len()).then(|| TEMPO + index as u16),
            Token::Program(-1) => Some(PROGRAM_DRUMS),
            Token::Program(program) => u8::try_from(program).ok().and_then(|p| within(p, PROGRAMS, PROGRAM)),
            Token::TimeSignature(index) => (index < METRES.len()).then(|| TIME_SIGNATURE + index as u16),
            Token::Control(index) => (index < BASE_SIZE - CONTROL).then_some(CONTROL + index),
        }
    }
}

impl fmt::Display for Token {
    /// The name in MidiTok's files, for example `Pitch_60` or `TimeSig_4/4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Token::Special(id) => f.write_str(SPECIAL[usize::from(id)]),
            Token::Bar => f.write_str("Bar_None"),
            Token::Pitch(pitch) => write!(f, "Pitch_{pitch}"),
            Token::Velocity(velocity) => write!(f, "Velocity_{velocity}"),
            Token::Duration(index) => {
                let (beats, positions, resolution) = DURATIONS[index];
                write!(f, "Duration_{beats}.{positions}.{resolution}")
            }
            Token::Position(position) => write!(f, "Position_{position}"),
            Token::PitchDrum(pitch) => write!(f, "PitchDrum_{pitch}"),
            Token::Tempo(index) => write!(f, "Tempo_{:?}", TEMPOS[index]),
            Token::Program(program) => write!(f, "Program_{program}"),
            Token::TimeSignature(index) => write!(f, "TimeSig_{}/{}", METRES[index].0, METRES[index].1),
            Token::Control(index) => f.write_str(&control::name(index)),
        }
    }
}

/// Ids that are never a target of the loss: placeholders, the start of the infilling, and all controls.
pub fn no_loss_ids() -> Vec<u16> {
    [INFILL_BAR, INFILL_TRACK, FILL_START].into_iter().chain(CONTROL..BASE_SIZE).collect()
}

/// The names of all base tokens, in id order.
pub fn names() -> Vec<String> {
    (0..BASE_SIZE).filter_map(Token::of).map(|token| token.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_a_token_and_back() {
        for id in 0..BASE_SIZE {
            assert_eq!(Token::of(id).and_then(Token::id), Some(id));
        }
        assert_eq!(Token::of(BASE_SIZE), None);
        let mut names = names();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), usize::from(BASE_SIZE), "names differ");
    }

    #[test]
    fn what_the_vocabulary_lacks_has_no_id() {
        assert_eq!(Token::Program(127).id(), None);
        assert_eq!(Token::Pitch(109).id(), None);
        assert_eq!(Token::Velocity(6).id(), None);
        assert_eq!(Token::Position(144).id(), None);
    }
}
