//! What a file may still ask for while it is read: every message is counted before anything is kept of it.

use crate::limits::Limits;
use crate::reject::Reject;
use crate::score::{Score, Tick};

/// The shortest and the longest quarter that a tempo counts as when a file's length is told, in microseconds: from
/// 1000 to 4 quarters a minute.
const QUARTER_MICROS: std::ops::RangeInclusive<u32> = 60_000..=15_000_000;

/// The limits, and how much of them is used.
pub(super) struct Budget<'a> {
    limits: &'a Limits,
    events: usize,
    notes: usize,
    metres: usize,
}

/// The reject of a file that goes past the limit `key`.
pub(super) fn past(key: &'static str, found: impl std::fmt::Display, most: impl std::fmt::Display) -> Reject {
    Reject::parse(key, format!("{found}, more than {most}"))
}

fn count(used: &mut usize, more: usize, key: &'static str, most: usize) -> Result<(), Reject> {
    *used = used.saturating_add(more);
    if *used > most { Err(past(key, *used, most)) } else { Ok(()) }
}

impl<'a> Budget<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Budget { limits, events: 0, notes: 0, metres: 0 }
    }

    /// A message, `delta` ticks after `tick`.
    pub(super) fn message(&mut self, tick: u32, delta: u32) -> Result<(), Reject> {
        let most = self.limits.max_ticks;
        // Quirk: without a limit, ticks wrap around as those of the reference do.
        if most < u32::MAX && tick.checked_add(delta).is_none_or(|tick| tick > most) {
            return Err(past("max-ticks", u64::from(tick) + u64::from(delta), most));
        }
        self.events(1)
    }

    /// Events that are kept once more.
    pub(super) fn events(&mut self, more: usize) -> Result<(), Reject> {
        count(&mut self.events, more, "max-events", self.limits.max_events)
    }

    /// A note.
    pub(super) fn note(&mut self) -> Result<(), Reject> {
        count(&mut self.notes, 1, "max-notes", self.limits.max_notes)
    }

    /// A change of metre.
    pub(super) fn metre(&mut self) -> Result<(), Reject> {
        count(&mut self.metres, 1, "max-metres", self.limits.max_metres)
    }

    /// A meta message of so many bytes.
    pub(super) fn meta(&self, bytes: usize) -> Result<(), Reject> {
        let most = self.limits.max_meta_bytes;
        if bytes > most { Err(past("max-meta-bytes", bytes, most)) } else { Ok(()) }
    }

    /// Tracks so far.
    pub(super) fn tracks(&self, tracks: usize) -> Result<(), Reject> {
        let most = self.limits.max_tracks;
        if tracks > most { Err(past("max-tracks", tracks, most)) } else { Ok(()) }
    }

    /// The length of the whole file, whose tempos are sorted.
    pub(super) fn length(&self, score: &Score) -> Result<(), Reject> {
        let most = self.limits.max_seconds;
        let seconds = if most == u64::MAX { 0 } else { seconds(score) };
        if seconds > most { Err(past("max-seconds", seconds, most)) } else { Ok(()) }
    }
}

/// Whole seconds to the end of the score's last event, at 120 quarters a minute until its first tempo.
fn seconds(score: &Score) -> u64 {
    let end = score.end();
    let (mut micros, mut at, mut quarter) = (0u128, 0, 500_000);
    let stretch = |from: Tick, to: Tick, quarter: u32| (to - from).max(0) as u128 * u128::from(quarter);
    for tempo in &score.tempos {
        micros += stretch(at, tempo.tick.min(end), quarter);
        at = tempo.tick;
        quarter = tempo.micros_per_quarter.clamp(*QUARTER_MICROS.start(), *QUARTER_MICROS.end());
    }
    micros += stretch(at, end, quarter);
    u64::try_from(micros / u128::from(score.ticks_per_quarter.max(1)) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::{Note, Tempo, Track};

    #[test]
    fn the_length_follows_the_tempos_within_reason() {
        let note = Note { tick: 0, duration: 9600, pitch: 60, velocity: 64 };
        let tempo = |tick, micros_per_quarter| Tempo { tick, micros_per_quarter };
        let mut score = Score {
            ticks_per_quarter: 480,
            tracks: vec![Track { notes: vec![note], ..Track::default() }],
            ..Score::default()
        };
        assert_eq!(seconds(&score), 10);
        score.tempos = vec![tempo(0, 1_000_000), tempo(4800, 250_000)];
        assert_eq!(seconds(&score), 12);
        score.tempos = vec![tempo(0, 0)];
        assert_eq!(seconds(&score), 1, "a tempo of 0 counts as 1000 a minute");
        score.tempos = vec![tempo(9_000_000, 500_000)];
        assert_eq!(seconds(&score), 9375, "a tempo is an event too");
    }
}
