//! Base ids back to a score, on a fixed grid of 24 ticks a quarter. Ill-formed sequences decode too, by the
//! reference's rules: what does not make sense is passed over.

use super::vocabulary::{TRACK_START, Token};
use crate::score::bars::COMMON_TIME;
use crate::score::grid::{DEFAULT_MICROS_PER_QUARTER, METRES, POSITIONS_PER_BEAT, TEMPOS, duration_ticks};
use crate::score::{Note, Score, Tempo, Tick, TimeSignature, Track};

/// Ticks in a quarter of every decoded score.
pub const TICKS_PER_QUARTER: u32 = 24;

/// Decodes a sequence of several tracks, as the tokenizer writes them, and makes sure of a tempo and a metre
/// at tick 0.
///
/// Quirk: the token just before each further `Track_Start` is dropped, whatever it is.
pub fn decode(base: &[u16]) -> Score {
    let starts: Vec<usize> = (0..base.len()).filter(|at| base[*at] == TRACK_START).collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([base.len()]);
    let parts: Vec<&[u16]> = match starts.is_empty() {
        true => vec![base],
        false => starts.iter().zip(ends).map(|(start, end)| &base[start + 1..end.max(start + 1)]).collect(),
    };
    let mut score = decode_tracks(&parts);
    if score.tempos.first().is_none_or(|first| first.tick != 0) {
        score.tempos.insert(0, Tempo { tick: 0, micros_per_quarter: DEFAULT_MICROS_PER_QUARTER });
    }
    if score.time_signatures.first().is_none_or(|first| first.tick != 0) {
        score.time_signatures.insert(0, COMMON_TIME);
    }
    score
}

/// Decodes one sequence a track. Tempos and metres come from the first; a sequence without notes makes no track.
pub fn decode_tracks(parts: &[impl AsRef<[u16]>]) -> Score {
    let mut score = Score { ticks_per_quarter: TICKS_PER_QUARTER, ..Score::default() };
    let first = parts.first().and_then(|part| first_metre(part.as_ref())).unwrap_or(COMMON_TIME);
    score.time_signatures.push(first);
    for (index, part) in parts.iter().enumerate() {
        let current = score.time_signatures.last().copied().unwrap_or(COMMON_TIME);
        let mut reader = Reader::new(current);
        reader.read(part.as_ref(), if index == 0 { Some(&mut score) } else { None });
        if !reader.track.notes.is_empty() {
            score.tracks.push(reader.track);
        }
    }
    score
}

fn metre_at(index: usize, tick: Tick) -> TimeSignature {
    let (numerator, denominator) = METRES[index];
    TimeSignature { tick, numerator, denominator }
}

/// The first metre, unless a note comes before it.
fn first_metre(part: &[u16]) -> Option<TimeSignature> {
    for token in part.iter().filter_map(|id| Token::of(*id)) {
        match token {
            Token::TimeSignature(index) => return Some(metre_at(index, 0)),
            Token::Pitch(_) | Token::PitchDrum(_) | Token::Velocity(_) | Token::Duration(_) => return None,
            _ => {}
        }
    }
    None
}

/// Follows one track's tokens through time.
struct Reader {
    track: Track,
    metre: TimeSignature,
    ticks_per_bar: Tick,
    ticks_per_beat: Tick,
    bar: i64,
    bar_tick: Tick,
    tick: Tick,
}

impl Reader {
    fn new(metre: TimeSignature) -> Self {
        let mut reader = Reader {
            track: Track::default(),
            metre,
            ticks_per_bar: 0,
            ticks_per_beat: 0,
            bar: -1,
            bar_tick: 0,
            tick: 0,
        };
        reader.set_metre(metre);
        reader
    }

    fn set_metre(&mut self, metre: TimeSignature) {
        self.metre = metre;
        self.ticks_per_bar = metre.ticks_per_bar(TICKS_PER_QUARTER);
        self.ticks_per_beat = metre.ticks_per_beat(TICKS_PER_QUARTER);
    }

    fn set_program(&mut self, program: i16) {
        // Once drums, always drums.
        self.track.is_drum |= program < 0;
        self.track.program = program.max(0) as u8;
    }

    /// Reads the track; `global` takes its tempos and metres.
    fn read(&mut self, part: &[u16], mut global: Option<&mut Score>) {
        let tokens: Vec<Option<Token>> = part.iter().map(|id| Token::of(*id)).collect();
        for (at, token) in tokens.iter().enumerate() {
            match *token {
                Some(Token::Bar) => {
                    self.bar += 1;
                    if self.bar > 0 {
                        self.tick = self.bar_tick + self.ticks_per_bar;
                    }
                    self.bar_tick = self.tick;
                }
                Some(Token::Position(position)) => {
                    self.bar = self.bar.max(0);
                    self.tick = self.bar_tick + Tick::from(position) * (self.ticks_per_beat / POSITIONS_PER_BEAT);
                }
                Some(Token::Pitch(pitch) | Token::PitchDrum(pitch)) => {
                    if let Some([Some(Token::Velocity(velocity)), Some(Token::Duration(duration))]) =
                        tokens.get(at + 1..at + 3)
                    {
                        let duration = duration_ticks(self.ticks_per_beat)[*duration];
                        self.track.notes.push(Note { tick: self.tick, duration, pitch, velocity: *velocity });
                    }
                }
                Some(Token::Program(program)) => self.set_program(program),
                Some(Token::Tempo(index)) => {
                    if let Some(score) = &mut global {
                        let micros_per_quarter = (60_000_000.0 / TEMPOS[index]).round() as u32;
                        score.tempos.push(Tempo { tick: self.tick, micros_per_quarter });
                    }
                }
                Some(Token::TimeSignature(index)) => {
                    let metre = metre_at(index, self.tick);
                    if !metre.same_metre(&self.metre) {
                        self.set_metre(metre);
                        if let Some(score) = &mut global {
                            score.time_signatures.push(metre);
                        }
                    }
                }
                // Velocities and durations belong to the pitch before them; all else says nothing about notes.
                _ => {}
            }
        }
    }
}
