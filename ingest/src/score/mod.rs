//! A score as the tokenizer needs it: tracks of notes, tempos, time signatures, and the times of the
//! few other events that stretch a track's end.

pub mod bars;
pub mod grid;
mod meter;
mod preprocess;
pub mod smf;

pub use meter::Meter;
pub(crate) use preprocess::beat_sections;
pub use preprocess::preprocess;

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

impl Score {
    /// Tick of the end of the last event of any kind; 0 for an empty score.
    pub fn end(&self) -> Tick {
        let tracks = self.tracks.iter().map(Track::end).max();
        tracks.unwrap_or(0).max(self.global_ticks().max().unwrap_or(0))
    }

    /// Tick of the last onset of anything, taking the last element of each list for the latest; 0 for an
    /// empty score.
    pub fn last_onset(&self) -> Tick {
        let last = |ticks: &[Tick]| ticks.last().copied();
        let of_track = |track: &Track| {
            let note = track.notes.last().map(|note| note.tick);
            note.max(last(&track.control_ticks)).max(last(&track.bend_ticks)).max(last(&track.lyric_ticks))
        };
        let tracks = self.tracks.iter().filter_map(of_track).max();
        let tempo = self.tempos.last().map(|tempo| tempo.tick);
        let metre = self.time_signatures.last().map(|signature| signature.tick);
        let rest = tempo.max(metre).max(last(&self.key_ticks)).max(last(&self.marker_ticks));
        tracks.max(rest).unwrap_or(0).max(0)
    }

    /// Notes of all tracks together.
    pub fn note_count(&self) -> usize {
        self.tracks.iter().map(|track| track.notes.len()).sum()
    }

    fn global_ticks(&self) -> impl Iterator<Item = Tick> {
        let tempos = self.tempos.iter().map(|tempo| tempo.tick);
        let metres = self.time_signatures.iter().map(|signature| signature.tick);
        tempos.chain(metres).chain(self.key_ticks.iter().copied()).chain(self.marker_ticks.iter().copied())
    }
}

impl Track {
    /// Whether it holds nothing at all.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
            && self.control_ticks.is_empty()
            && self.bend_ticks.is_empty()
            && self.pedals.is_empty()
            && self.lyric_ticks.is_empty()
    }

    /// Tick of the end of its last event; 0 if it holds nothing.
    pub fn end(&self) -> Tick {
        let notes = self.notes.iter().map(|note| note.tick + note.duration);
        let pedals = self.pedals.iter().map(|(tick, duration)| tick + duration);
        let points = [&self.control_ticks, &self.bend_ticks, &self.lyric_ticks].into_iter().flatten().copied();
        notes.chain(pedals).chain(points).max().unwrap_or(0)
    }

    /// The program as the vocabulary counts it: −1 for drums.
    pub fn program_or_drums(&self) -> i16 {
        if self.is_drum { -1 } else { i16::from(self.program) }
    }
}
