//! The window of a sample that does not fit its context, as the published code chooses and cuts it.

use super::{Part, Section};
use crate::job::draws::Draws;
use crate::reject::Reject;
use crate::sample::no_sample;
use crate::token::Bpe;
use crate::token::vocabulary::{BAR, INFILL_TRACK, TRACK_END, TRACK_START};

/// Where the bars of all tracks begin, and how many ids each bar has, all tracks together.
struct Sizes {
    bars: Vec<Vec<usize>>,
    sizes: Vec<usize>,
}

impl Sizes {
    fn of(bpe: &Bpe, parts: &[Part]) -> Self {
        // Quirk: an id counts as a bar if one is among the first two characters of its text.
        let begins = |id: u16| {
            let looked_at = if bpe.begins_word(id) { 1 } else { 2 };
            bpe.piece(id).iter().take(looked_at).any(|base| *base == BAR)
        };
        let bars_of = |part: &Part| (0..part.ids.len()).filter(|at| begins(part.ids[*at])).collect::<Vec<_>>();
        let bars: Vec<Vec<usize>> = parts.iter().map(bars_of).collect();
        let mut sizes = vec![0; bars.iter().map(Vec::len).max().unwrap_or(0)];
        for (bars, part) in bars.iter().zip(parts) {
            for (bar, start) in bars.iter().enumerate() {
                sizes[bar] += bars.get(bar + 1).copied().unwrap_or(part.ids.len()) - start;
            }
        }
        Sizes { bars, sizes }
    }

    /// How many of the last of `sizes` are together below `room`.
    fn fitting(sizes: &[usize], room: usize) -> usize {
        let mut sum = 0;
        let sums = sizes.iter().rev().map(|size| {
            sum += size;
            sum
        });
        sums.take_while(|sum| *sum < room).count()
    }

    /// Draws the first bar from `low..=high` and gives the last one that fits.
    fn draw(&self, low: usize, high: usize, room: usize, draws: &mut dyn Draws) -> Result<(usize, usize), Reject> {
        if high >= self.sizes.len() {
            return Err(no_sample("the window begins after the last bar"));
        }
        let possible: Vec<i64> = (low..=high).filter(|bar| self.sizes[*bar] < room).map(|bar| bar as i64).collect();
        if possible.is_empty() {
            return Err(no_sample("no bar fits the context"));
        }
        let first = draws.pick(&possible) as usize;
        let mut sum = 0;
        let mut fits = |size: &&usize| {
            sum += **size;
            sum < room
        };
        let count = self.sizes[first..].iter().take_while(&mut fits).count();
        Ok((first, first + count.max(1) - 1))
    }

    /// The ids of one track's bars `first..=last`. Quirk: a track that ends before loses its last id.
    fn cut<'a>(&self, track: usize, part: &'a Part, first: usize, last: usize) -> &'a [u16] {
        let bars = &self.bars[track];
        let end = bars.get(last + 1).copied().unwrap_or(part.ids.len() - 1);
        part.ids.get(bars[first]..end).unwrap_or_default()
    }
}

/// The tracks in a window around the section, and the section in that window.
pub(super) fn around_section(
    bpe: &Bpe,
    parts: &[Part],
    mut section: Section,
    context: usize,
    draws: &mut dyn Draws,
) -> Result<(Vec<Vec<u16>>, Section), Reject> {
    let sizes = Sizes::of(bpe, parts);
    let room = context.saturating_sub(3 * parts.len() + section.count + 2);
    // Quirk: one bar more than the section is looked at.
    let looked_at = &sizes.sizes[..sizes.sizes.len().min(section.end + 1)];
    let low = section.end + 1 - Sizes::fitting(looked_at, room);
    let high = if low >= section.start {
        let (end, low) = (section.end as i64, low as i64);
        let start = low + (end - low).div_euclid(2);
        section.start = start as usize;
        section.count = (end - start) as usize;
        (low + (start - low).div_euclid(2)) as usize
    } else {
        section.start
    };
    let (first, last) = sizes.draw(low, high, room, draws)?;
    let mut out = Vec::new();
    let mut place = None;
    for (index, part) in parts.iter().enumerate().filter(|(index, _)| sizes.bars[*index].len() > first) {
        if index == section.track {
            place = Some(out.len());
        }
        let mut ids = vec![TRACK_START, part.tokens.ids[1]];
        ids.extend_from_slice(sizes.cut(index, part, first, last));
        if last + 1 < sizes.sizes.len() {
            ids.push(TRACK_END);
        }
        out.push(ids);
    }
    let outside = || no_sample("the section is outside of the window");
    section.track = place.ok_or_else(outside)?;
    section.start = section.start.checked_sub(first).ok_or_else(outside)?;
    section.end = section.end.checked_sub(first).ok_or_else(outside)?;
    Ok((out, section))
}

/// The tracks in a window, track `target` announced as the one to infill.
pub(super) fn around_track(
    bpe: &Bpe,
    parts: &[Part],
    target: usize,
    context: usize,
    draws: &mut dyn Draws,
) -> Result<Vec<Vec<u16>>, Reject> {
    let sizes = Sizes::of(bpe, parts);
    let room = context.saturating_sub(3 * parts.len());
    let high = sizes.sizes.len() - Sizes::fitting(&sizes.sizes, room);
    let (first, last) = sizes.draw(0, high, room, draws)?;
    let mut out = Vec::new();
    for (index, part) in parts.iter().enumerate().filter(|(index, _)| sizes.bars[*index].len() > first) {
        let mut ids = if index == target { vec![INFILL_TRACK] } else { Vec::new() };
        ids.extend([TRACK_START, part.tokens.ids[1]]);
        // The track's controls.
        ids.extend_from_slice(part.ids.get(3..sizes.bars[index][0]).unwrap_or_default());
        ids.extend_from_slice(sizes.cut(index, part, first, last));
        if last + 1 < sizes.sizes.len() {
            ids.push(TRACK_END);
        }
        out.push(ids);
    }
    Ok(out)
}
