//! An answer back into the piece: the infilled bars replace those of the section, everything else stays.

use std::ops::Range;

use midi_ingest::score::bars::{Until, bar_ticks};
use midi_ingest::score::{Note, Score, Tick};
use midi_ingest::token::decode_tracks;
use midi_ingest::token::vocabulary::{BAR, Token};

use crate::prompt::Piece;

/// The piece with bars `bars` of `track` replaced by `fill`, base ids one bar each.
///
/// Bars that are missing in `fill` are empty, bars too many are left out, and a note that begins after its
/// bar's end is left out too: an answer changes nothing outside of its section.
pub fn splice(piece: &Piece, track: usize, bars: Range<usize>, fill: &[Vec<u16>]) -> Score {
    let mut score = piece.score.clone();
    let ticks = bar_ticks(&piece.score, Until::End).unwrap_or_default();
    let start_of = |bar: usize| match (ticks.get(bar), ticks.as_slice()) {
        (Some(tick), _) => *tick,
        (None, [.., before, last]) => last + (last - before) * (bar + 1 - ticks.len()) as Tick,
        (None, _) => Tick::MAX,
    };
    let section = start_of(bars.start)..start_of(bars.end);
    let target = &mut score.tracks[track];
    target.notes.retain(|note| !section.contains(&note.tick));
    for (bar, ids) in bars.clone().zip(fill) {
        let span = start_of(bar)..start_of(bar + 1);
        target.notes.extend(bar_notes(ids, piece, track, bar, &span).filter(|note| span.contains(&note.tick)));
    }
    target.notes.sort_by_key(|note| (note.tick, note.pitch, note.duration));
    score
}

/// The notes of one bar's ids, on the piece's clock. The bar's metre is the piece's, whatever the ids say.
fn bar_notes(ids: &[u16], piece: &Piece, track: usize, bar: usize, span: &Range<Tick>) -> impl Iterator<Item = Note> {
    let original = piece.tracks[track].bars.get(bar);
    let metre = original.into_iter().flatten().find(|id| matches!(Token::of(**id), Some(Token::TimeSignature(_))));
    let is_metre = |id: &u16| matches!(Token::of(*id), Some(Token::TimeSignature(_)));
    let body = ids.iter().copied().filter(|id| *id != BAR && !is_metre(id));
    let part: Vec<u16> = [BAR].into_iter().chain(metre.copied()).chain(body).collect();
    let decoded = decode_tracks(&[part]);
    let (from, to) = (Tick::from(decoded.ticks_per_quarter), Tick::from(piece.score.ticks_per_quarter));
    let start = span.start;
    let notes = decoded.tracks.into_iter().flat_map(|track| track.notes);
    notes.map(move |note| Note {
        tick: start + note.tick * to / from,
        duration: (note.duration * to / from).max(1),
        ..note
    })
}

/// The bars of base ids that begin with one: what stands before the first `Bar` belongs to the first bar.
pub fn bars_of(base: &[u16]) -> Vec<Vec<u16>> {
    base.chunk_by(|_, next| *next != BAR).map(<[u16]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use midi_ingest::score::smf;
    use midi_ingest::source::compose;

    use super::*;

    fn piece() -> Piece {
        let first = Piece::read(&smf::write(&compose(1, 3))).expect("a piece");
        Piece::read(&smf::write(&first.score)).expect("a piece")
    }

    #[test]
    fn the_original_bars_give_the_original_piece() {
        let piece = piece();
        for track in 0..piece.tracks.len() {
            let bars = 2..5;
            let fill = piece.tracks[track].slice(bars.clone()).to_vec();
            assert_eq!(splice(&piece, track, bars, &fill).tracks, piece.score.tracks, "track {track}");
        }
    }

    #[test]
    fn an_empty_answer_empties_the_section_and_nothing_else() {
        let piece = piece();
        let score = splice(&piece, 0, 2..4, &[]);
        let ticks = bar_ticks(&piece.score, Until::End).expect("bars");
        let outside = |note: &&Note| !(ticks[2]..ticks[4]).contains(&note.tick);
        let expected: Vec<Note> = piece.score.tracks[0].notes.iter().filter(outside).copied().collect();
        assert!(expected.len() < piece.score.tracks[0].notes.len());
        assert_eq!(score.tracks[0].notes, expected);
        assert_eq!(score.tracks[1..], piece.score.tracks[1..]);
    }
}
