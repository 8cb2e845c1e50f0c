//! The part of a piece that fits the context with everything that is to be written.

use std::ops::Range;

use super::{BarTokens, Drawn, Kind, Section, assemble, no_sample};
use crate::job::draws::Draws;
use crate::reject::Reject;
use crate::token::Bpe;

/// A piece that is to fit.
pub(super) struct Fitting<'a> {
    pub(super) bpe: &'a Bpe,
    pub(super) tracks: &'a [BarTokens],
    /// Index of the track to infill.
    pub(super) target: usize,
    pub(super) context_tokens: usize,
}

impl Fitting<'_> {
    /// Number of bars of the longest track.
    fn count(&self) -> usize {
        self.tracks.iter().map(|track| track.bars.len()).max().unwrap_or(0)
    }

    /// The sample of a section; `None` if it is too long.
    fn sample(&self, section: &Section, written: &BarTokens) -> Option<Drawn> {
        let infilling = assemble(self.bpe, self.tracks, section, written);
        (infilling.len() <= self.context_tokens).then(|| Drawn {
            kind: section.kind,
            track: infilling.track,
            bar: section.bars.start - section.window.start,
            bars: written.slice(section.bars.clone()).len(),
            input_ids: [infilling.prompt, infilling.answer].concat(),
        })
    }

    /// Infills the bars `bars` with what `written` has there. The window is the whole piece if it fits, else a drawn
    /// first bar and as many bars as fit. A section that does not fit with all its tracks loses bars at its end.
    pub(super) fn bars(&self, written: &BarTokens, bars: Range<usize>, draws: &mut dyn Draws) -> Result<Drawn, Reject> {
        let drawn = |window: Range<usize>, bars: Range<usize>| {
            let section = Section { kind: Kind::Bars, track: self.target, bars, window };
            self.sample(&section, written)
        };
        let mut sizes = self.bar_sizes();
        for bar in bars.clone() {
            // In the section the track's own bar is the written one, which may have controls.
            let own = |track: &BarTokens| track.bars.get(bar).map_or(0, |bar| size(self.bpe, bar));
            sizes[bar] = sizes[bar] - own(&self.tracks[self.target]) + own(written);
        }
        if !self.is_too_long(&sizes)
            && let Some(whole) = drawn(0..self.count(), bars.clone())
        {
            return Ok(whole);
        }
        // Head, metaspace and end of each track, start and end of the fill.
        let fixed = 4 * self.tracks.len() + 2;
        let mut end = bars.end;
        let mut fits = |end: usize| {
            let placeholders = end - bars.start;
            let room = self.context_tokens.checked_sub(fixed + placeholders)?;
            let needed: usize = sizes[bars.start..end].iter().sum();
            let room = room.checked_sub(needed)?;
            Some(window_around(&sizes, bars.start, end, room, draws))
        };
        let mut window = loop {
            match fits(end) {
                Some(window) => break window,
                None if end > bars.start + 1 => end -= 1,
                None => return Err(no_sample("one bar does not fit the context")),
            }
        };
        let bars = bars.start..end;
        if !self.tracks[self.target].has_notes(bars.clone()) {
            return Err(no_sample("the section has no note"));
        }
        // The sizes of bars are those of single groups; the first bar of a window can take a few ids more.
        loop {
            if let Some(drawn) = drawn(window.clone(), bars.clone()) {
                return Ok(drawn);
            }
            if window.end > bars.end {
                window.end -= 1;
            } else if window.start < bars.start {
                window.start += 1;
            } else {
                return Err(no_sample("the section does not fit the context"));
            }
        }
    }

    /// Infills the track, as far as the window goes: the whole piece if it fits, else a first bar drawn from those
    /// with which the track and another one have notes in the window, and as many bars as fit. `controls` gives the
    /// track's for a window.
    pub(super) fn track(
        &self,
        controls: &dyn Fn(Range<usize>) -> Result<Vec<u16>, Reject>,
        draws: &mut dyn Draws,
    ) -> Result<Drawn, Reject> {
        let target = &self.tracks[self.target];
        let drawn = |window: Range<usize>| {
            let mut written = target.clone();
            written.head.extend(controls(window.clone())?);
            let section = Section { kind: Kind::Track, track: self.target, bars: window.clone(), window };
            Ok(self.sample(&section, &written))
        };
        let others = || (0..self.tracks.len()).filter(|track| *track != self.target);
        let is_fit = |window: &Range<usize>| {
            target.has_notes(window.clone()) && others().any(|track| self.tracks[track].has_notes(window.clone()))
        };
        let count = self.count();
        if !is_fit(&(0..count)) {
            return Err(no_sample("the track has no notes, or all others have none"));
        }
        let sizes = self.bar_sizes();
        if !self.is_too_long(&sizes)
            && let Some(whole) = drawn(0..count)?
        {
            return Ok(whole);
        }
        // Head, metaspace and end of each track, and the announcement of the one to write.
        let fixed = 4 * self.tracks.len() + 1 + controls(0..count)?.len();
        let room = self.context_tokens.saturating_sub(fixed);
        let from = |first: usize| first..reach(&sizes, first, room);
        let possible: Vec<usize> = (0..count).filter(|first| is_fit(&from(*first))).collect();
        if possible.is_empty() {
            return Err(no_sample("no part of the track fits the context"));
        }
        let mut window = from(possible[draws.below(possible.len())]);
        while is_fit(&window) {
            if let Some(drawn) = drawn(window.clone())? {
                return Ok(drawn);
            }
            window.end -= 1;
        }
        Err(no_sample("the track does not fit the context"))
    }

    /// Whether the piece does not fit as a whole, as far as the ids of its bars tell: those of the first, which share a
    /// group with the heads of tracks, do not count, and tracks without a note are left out of a sequence.
    fn is_too_long(&self, sizes: &[usize]) -> bool {
        let all = 0..self.count();
        sizes.iter().skip(1).sum::<usize>() > self.context_tokens
            && self.tracks.iter().all(|track| track.has_notes(all.clone()))
    }

    /// Ids of each bar, all tracks together.
    fn bar_sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.count()];
        for track in self.tracks {
            for (sum, bar) in sizes.iter_mut().zip(&track.bars) {
                *sum += size(self.bpe, bar);
            }
        }
        sizes
    }
}

/// Ids of a bar on its own.
fn size(bpe: &Bpe, bar: &[u16]) -> usize {
    let mut ids = Vec::new();
    bpe.encode_group(bar, &mut ids);
    ids.len()
}

/// One past the last bar of those that have at most `room` ids together, counted from `first` on.
fn reach(sizes: &[usize], first: usize, mut room: usize) -> usize {
    let mut last = first;
    while last < sizes.len() && sizes[last] <= room {
        room -= sizes[last];
        last += 1;
    }
    last
}

/// A window around `start..end` whose further bars have at most `room` ids: the first bar is drawn evenly
/// from those possible, then the window goes on as far as it can.
pub(super) fn window_around(
    sizes: &[usize],
    start: usize,
    end: usize,
    mut room: usize,
    draws: &mut dyn Draws,
) -> Range<usize> {
    let mut lowest = start;
    let mut needed = 0;
    while lowest > 0 && needed + sizes[lowest - 1] <= room {
        lowest -= 1;
        needed += sizes[lowest];
    }
    let first = lowest + draws.below(start - lowest + 1);
    room -= sizes[first..start].iter().sum::<usize>();
    first..reach(sizes, end, room)
}
