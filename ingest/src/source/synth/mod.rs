//! The built-in composer: a data set that needs no download. A song is a pure function of (seed, index).
//!
//! Songs have what a model can learn to continue: keys, cadences, motifs that are developed, sections that return
//! plain or varied, and parts that follow from each other.

mod counter;
mod drums;
mod figures;
mod form;
mod instruments;
mod parts;
mod sing;
mod stage;
mod style;
mod theme;
mod theory;
mod tune;
mod vary;

use form::Plan;

use super::{Content, Files, RawFile, Source, Unit, divide};
use crate::job::draws::Keyed;
use crate::job::exit::{Error, Result};
use crate::score::{Score, Tempo, Tick, TimeSignature, Track};

/// Changes whenever the same (seed, index) gives another song.
const VERSION: u32 = 1;

/// Song number `index` of the data set that belongs to `seed`: 16 to 64 bars, 3 to 8 tracks, 480 ticks a quarter.
///
/// Notes are sorted by (tick, pitch, duration), lie on the tokenizer's grid, and have its durations and velocities.
pub fn compose(seed: u64, index: u64) -> Score {
    write(&plan(seed, index))
}

fn plan(seed: u64, index: u64) -> Plan {
    Plan::draw(&mut Keyed::new(seed, "synth", index))
}

fn write(plan: &Plan) -> Score {
    let (numerator, denominator) = plan.meter.signature();
    let bar = plan.meter.bar() * Tick::from(parts::TICKS_PER_QUARTER) / theory::QUARTER;
    let tempo = |(start, quarters): &(usize, u32)| Tempo {
        tick: *start as Tick * bar,
        micros_per_quarter: 60_000_000 / quarters,
    };
    let track = |part: &form::Part| {
        let is_drum = parts::is_drum(part.role);
        let program = if is_drum { 0 } else { part.instrument.program };
        Track { program, is_drum, notes: parts::play(plan, part), ..Track::default() }
    };
    Score {
        ticks_per_quarter: parts::TICKS_PER_QUARTER,
        tracks: plan.parts.iter().map(track).filter(|track| !track.notes.is_empty()).collect(),
        time_signatures: vec![TimeSignature { tick: 0, numerator, denominator }],
        tempos: plan.tempos.iter().map(tempo).collect(),
        ..Score::default()
    }
}

#[cfg(test)]
mod tests;

/// The composer as a source: file `i` is song `i`.
#[derive(Debug)]
pub struct Synth {
    songs: usize,
    seed: u64,
    units: Vec<Unit>,
}

impl Synth {
    /// A data set of `songs` songs.
    ///
    /// # Errors
    /// `songs` is 0 (78).
    pub fn new(songs: usize, files_per_unit: usize, seed: u64) -> Result<Self> {
        if songs == 0 {
            return Err(Error::mismatch("`ingest.source.songs` is 0").hint("ask for at least one song"));
        }
        Ok(Synth { songs, seed, units: divide(songs, files_per_unit) })
    }

    fn song(&self, index: usize) -> RawFile {
        let bytes = crate::score::smf::write(&compose(self.seed, index as u64));
        RawFile { path: format!("synth/{index:06}.mid"), content: Content::Bytes(bytes) }
    }
}

impl Source for Synth {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn read(&self, unit: &Unit) -> Result<Files<'_>> {
        if unit.range().end > self.songs {
            return Err(super::foreign(unit));
        }
        Ok(Box::new(unit.range().map(|index| Ok(self.song(index)))))
    }

    fn fingerprint(&self) -> String {
        format!("synth:{VERSION}:{}:{}", self.songs, self.seed)
    }
}
