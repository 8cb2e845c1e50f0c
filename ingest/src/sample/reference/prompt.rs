//! The prompt of a bar infilling as the published inference code makes it, faults and all.

use std::ops::Range;

use crate::reject::Reject;
use crate::sample::{has_note, no_sample};
use crate::score::{Tick, grid::METRES};
use crate::token::vocabulary::{BAR, FILL_START, INFILL_BAR, TRACK_END, TRACK_START, Token};
use crate::token::{Bpe, TrackTokens};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptSection {
    /// Index of the track.
    pub track: usize,
    /// The bars to infill.
    pub bars: Range<usize>,
    /// Bars of context on each side.
    pub context: usize,
    /// Whether the context ends with the section.
    pub partial_end: bool,
}

/// The ids of the prompt and the range of the track's base tokens that an answer replaces. `bars` are the
/// tokenizer's, `controls` those of the first bar.
///
/// Quirk: the first bar is announced in 4/4, whatever the metre, and a track is one byte-pair group.
///
/// # Errors
/// The published code fails: the section or its context lies after the end of the track.
pub fn bar_prompt(
    bpe: &Bpe,
    tracks: &[TrackTokens],
    bars: &[Tick],
    section: &PromptSection,
    controls: &[u16],
) -> Result<(Vec<u16>, Range<usize>), Reject> {
    let PromptSection { track, bars: Range { start, end }, context, partial_end } = section.clone();
    let after = |tokens: &TrackTokens, bar: usize| -> Option<usize> {
        let tick = bars.get(bar)?;
        tokens.ticks.iter().position(|at| at >= tick)
    };
    let missing = || no_sample("the section or its context lies after the end of the track");
    let target = tracks.get(track).ok_or_else(missing)?;
    let length = target.ids.len();
    let from = after(target, start).ok_or_else(missing)?;
    let to = if end >= bars.len() { length - 1 } else { after(target, end).ok_or_else(missing)? };
    let left = match start.checked_sub(context) {
        Some(bar) => after(target, bar).ok_or_else(missing)?,
        None => 2,
    };
    let right = match end + context {
        _ if end >= bars.len() => to,
        bar if bar + 1 > bars.len() => length - 1,
        bar => after(target, bar).ok_or_else(missing)?,
    };
    let mut base = Vec::new();
    for (index, tokens) in tracks.iter().enumerate() {
        let ids = &tokens.ids;
        let head = &ids[..ids.len().min(2)];
        if index == track {
            base.extend_from_slice(head);
            base.extend_from_slice(ids.get(left..from).unwrap_or_default());
            base.extend(std::iter::repeat_n(INFILL_BAR, end - start));
            if !partial_end {
                base.extend_from_slice(ids.get(to..right).unwrap_or_default());
            }
            base.push(TRACK_END);
            continue;
        }
        // Quirk: a track that ended before the context is given whole, its head twice.
        let low = start.checked_sub(context).and_then(|bar| after(tokens, bar)).unwrap_or(0);
        let last = ids.len() - 1;
        let high = match end + context {
            bar if bar + 1 < bars.len() => after(tokens, if partial_end { end } else { bar }).unwrap_or(last),
            _ => last,
        };
        let shown = ids.get(low..high).unwrap_or_default();
        if has_note(shown) {
            base.extend_from_slice(head);
            base.extend_from_slice(shown);
            base.extend_from_slice(&ids[last..]);
        }
    }
    let common = METRES.iter().position(|metre| *metre == (4, 4)).and_then(|place| Token::TimeSignature(place).id());
    base.extend([FILL_START, BAR]);
    base.extend(common);
    base.extend_from_slice(controls);
    let mut ids = Vec::new();
    for part in base.chunk_by(|_, next| *next != TRACK_START) {
        bpe.encode_group(part, &mut ids);
    }
    Ok((ids, from..to))
}
