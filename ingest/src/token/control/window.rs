//! Which notes count for a bar. In the published training data that is seldom the bar's own: the first bar that
//! is asked for counts everything before it.

use super::Compat;
use crate::score::{Note, Tick};

/// A bar whose controls are written, and the notes that they count.
pub(super) struct Window<'a> {
    /// Where the bar begins.
    pub(super) tick: Tick,
    pub(super) notes: &'a [Note],
}

/// The windows of `bars`, ascending numbers of the bars that begin at `ticks`, for a track's notes. Bars after
/// the track's last note have none.
pub(super) fn windows<'a>(notes: &'a [Note], ticks: &[Tick], bars: &[usize], compat: Compat) -> Vec<Window<'a>> {
    let Some(last) = notes.last() else { return Vec::new() };
    let own = &ticks[..ticks.iter().take_while(|tick| **tick <= last.tick).count()];
    match compat {
        Compat::MidiRwkv => published(notes, own, bars),
        Compat::None => {
            let mut out = Vec::with_capacity(bars.len());
            for bar in bars.iter().filter(|bar| **bar < own.len()) {
                let end = own.get(bar + 1).copied().unwrap_or(Tick::MAX);
                let from = notes.partition_point(|note| note.tick < own[*bar]);
                let count = notes[from..].partition_point(|note| note.tick < end);
                out.push(Window { tick: own[*bar], notes: &notes[from..from + count] });
            }
            out
        }
    }
}

/// Quirks of the reference: the window of a bar begins where that of the bar asked for before it ended, at first
/// with the track; and a bar whose window holds one note or none is left out, unless it is the last.
fn published<'a>(notes: &'a [Note], own: &[Tick], bars: &[usize]) -> Vec<Window<'a>> {
    let mut out = Vec::new();
    let mut from = 0;
    for bar in bars.iter().filter(|bar| **bar < own.len()) {
        let next = own.get(bar + 1);
        let end = next.and_then(|next| notes[from..].iter().position(|note| note.tick >= *next));
        let window = match end {
            Some(count) => &notes[from..from + count],
            None => &notes[from..],
        };
        if !window.is_empty() && (end.is_none() || window.len() > 1) {
            out.push(Window { tick: own[*bar], notes: window });
        }
        match end {
            Some(count) => from += count,
            None => break,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(bars: &[usize], compat: Compat) -> Vec<(Tick, usize)> {
        let note = |tick| Note { tick, duration: 12, pitch: 60, velocity: 64 };
        // Two notes in bar 0, one in bar 1, none in bar 2, three in bar 3, one in bar 4.
        let notes: Vec<Note> = [0, 12, 48, 144, 145, 146, 192].map(note).to_vec();
        let ticks = [0, 48, 96, 144, 192, 240];
        windows(&notes, &ticks, bars, compat).iter().map(|window| (window.tick, window.notes.len())).collect()
    }

    #[test]
    fn a_bar_counts_its_own_notes() {
        assert_eq!(counts(&[1, 2, 3, 4, 5], Compat::None), [(48, 1), (96, 0), (144, 3), (192, 1)]);
    }

    #[test]
    fn the_published_windows_reach_back() {
        assert_eq!(counts(&[0, 1, 2, 3, 4], Compat::MidiRwkv), [(0, 2), (144, 3), (192, 1)]);
        assert_eq!(counts(&[3, 4], Compat::MidiRwkv), [(144, 6), (192, 1)]);
    }
}
