//! A score as the tokenizer needs it: tracks of notes, tempos, time signatures, and the times of the
//! few other events that stretch a track's end.

/// A time in ticks; how long a tick is, the score's `ticks_per_quarter` says.
pub type Tick = i64;

/// A piece of music, parsed from a MIDI file or decoded from tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Ticks in a quarter note.
    pub ticks_per_quarter: u32,
    /// The tracks, in file order; several may share a program.
    pub tracks: Vec<Track>,
    /// Time signatures, ascending by tick.
    pub time_signatures: Vec<TimeSignature>,
    /// Tempos, ascending by tick.
    pub tempos: Vec<Tempo>,
    /// Ticks of the key signatures, ascending.
    pub key_ticks: Vec<Tick>,
    /// Ticks of the markers, ascending.
    pub marker_ticks: Vec<Tick>,
}

/// The notes of one instrument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// General MIDI program, 0 to 127; without meaning for drums.
    pub program: u8,
    /// Whether it was on the percussion channel.
    pub is_drum: bool,
    /// The notes; a parsed score has them sorted by (tick, pitch, duration).
    pub notes: Vec<Note>,
    /// Ticks of control changes.
    pub control_ticks: Vec<Tick>,
    /// Ticks of pitch bends.
    pub bend_ticks: Vec<Tick>,
    /// Sustain pedals as (tick, duration).
    pub pedals: Vec<(Tick, Tick)>,
    /// Ticks of lyrics.
    pub lyric_ticks: Vec<Tick>,
}

/// One note. Ordered by onset first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Note {
    /// Onset.
    pub tick: Tick,
    /// Length in ticks.
    pub duration: Tick,
    /// MIDI pitch, 0 to 127.
    pub pitch: u8,
    /// MIDI velocity, 1 to 127.
    pub velocity: u8,
}

/// A tempo change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tempo {
    /// When it begins.
    pub tick: Tick,
    /// Microseconds in a quarter note.
    pub micros_per_quarter: u32,
}

/// A change of metre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeSignature {
    /// When it begins.
    pub tick: Tick,
    /// Beats in a bar.
    pub numerator: u8,
    /// The note value of a beat: 4 is a quarter, 8 an eighth.
    pub denominator: u8,
}
