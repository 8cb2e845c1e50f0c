//! An answer back into the piece: the infilled bars replace those of the section, everything else stays.

use std::ops::Range;

use midi_ingest::score::bars::{Until, bar_ticks};
use midi_ingest::score::grid::metre_index;
use midi_ingest::score::{Note, Score, Tick};
use midi_ingest::token::decode_tracks;
use midi_ingest::token::vocabulary::{BAR, Token};

use crate::bars::{continue_to, metre_at};
use crate::prompt::Piece;

/// The piece with bars `bars` of `track` replaced by `fill`, base ids one bar each.
///
/// Bars that are missing in `fill` are empty, bars too many are left out, and a note that begins after its
/// bar's end is left out too: an answer changes nothing outside of its section. So it is in the file that is made of
/// the score, too: a note that a file cannot hold beside the others is cut or left out.
pub fn splice(piece: &Piece, track: usize, bars: Range<usize>, fill: &[Vec<u16>]) -> Score {
    let mut score = piece.score.clone();
    let starts = &starts(piece, bars.end)[bars.start..];
    let section = starts[0]..starts[bars.len()];
    let target = &mut score.tracks[track];
    target.notes.retain(|note| !section.contains(&note.tick));
    let mut new: Vec<Note> = Vec::new();
    for (ids, span) in fill.iter().zip(starts.windows(2)) {
        let span = span[0]..span[1];
        new.extend(bar_notes(ids, piece, &span).filter(|note| span.contains(&note.tick)));
    }
    let new = apart(&target.notes, new);
    target.notes.extend(new);
    target.notes.sort_by_key(order);
    score
}

/// Where `bars` begin and end, in ticks of the piece's grid.
pub fn section(piece: &Piece, bars: &Range<usize>) -> Range<Tick> {
    let starts = starts(piece, bars.end);
    starts[bars.start]..starts[bars.end]
}

/// Where bars begin, up to the beginning of bar `last` at least.
fn starts(piece: &Piece, last: usize) -> Vec<Tick> {
    let mut starts = bar_ticks(&piece.score, Until::End).unwrap_or_default();
    continue_to(&mut starts, last, &piece.score);
    starts
}

/// The order of a track's notes.
fn order(note: &Note) -> (Tick, u8, Tick) {
    (note.tick, note.pitch, note.duration)
}

/// The `new` notes of a section as a file can hold them beside the `kept` ones, which begin before or after it.
///
/// Of the notes of one pitch that sound together, a file's first note-off ends the one that began first. So a note that
/// goes on past the end of a later one is cut where that one begins, and one that ends before an earlier kept one does
/// is left out: in the file it would exchange its end with the other.
fn apart(kept: &[Note], mut new: Vec<Note>) -> Vec<Note> {
    new.sort_by_key(order);
    let mut fitting: Vec<Note> = Vec::with_capacity(new.len());
    for mut note in new.into_iter().rev() {
        let others =
            |notes: &[Note]| notes.iter().filter(|other| other.pitch == note.pitch).copied().collect::<Vec<_>>();
        let (before, after): (Vec<Note>, Vec<Note>) =
            others(kept).into_iter().partition(|other| other.tick < note.tick);
        let later = others(&fitting).into_iter().chain(after).min_by_key(|other| (other.tick, other.duration));
        if let Some(later) = later.filter(|later| note.tick + note.duration > later.tick + later.duration) {
            note.duration = later.tick - note.tick;
        }
        if before.iter().all(|earlier| earlier.tick + earlier.duration <= note.tick + note.duration) {
            fitting.push(note);
        }
    }
    fitting
}

/// The notes of one bar's ids, on the piece's clock. The bar's metre is the piece's, whatever the ids say.
fn bar_notes(ids: &[u16], piece: &Piece, span: &Range<Tick>) -> impl Iterator<Item = Note> {
    let metre = metre_index(&metre_at(&piece.score, span.start)).and_then(|index| Token::TimeSignature(index).id());
    let is_metre = |id: &u16| matches!(Token::of(*id), Some(Token::TimeSignature(_)));
    let body = ids.iter().copied().filter(|id| *id != BAR && !is_metre(id));
    let part: Vec<u16> = [BAR].into_iter().chain(metre).chain(body).collect();
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
    use midi_ingest::score::{TimeSignature, Track, smf};
    use midi_ingest::source::compose;
    use proptest::prelude::*;

    use super::*;

    fn piece() -> Piece {
        piece_of(&compose(1, 3))
    }

    fn piece_of(score: &Score) -> Piece {
        let first = Piece::read(&smf::write(score)).expect("a piece");
        Piece::read(&smf::write(&first.score)).expect("a piece")
    }

    fn note(tick: Tick, duration: Tick, pitch: u8) -> Note {
        Note { tick, duration, pitch, velocity: 80 }
    }

    /// A piece of one-beat notes at these beats, a track each.
    fn beats(metres: &[(Tick, u8, u8)], tracks: &[Range<Tick>]) -> Piece {
        let metre = |&(beat, numerator, denominator)| TimeSignature { tick: 480 * beat, numerator, denominator };
        let track = |(number, beats): (usize, &Range<Tick>)| {
            let notes = beats.clone().map(|beat| note(480 * beat, 480, 60)).collect();
            Track { program: number as u8, notes, ..Track::default() }
        };
        piece_of(&Score {
            ticks_per_quarter: 480,
            tracks: tracks.iter().enumerate().map(track).collect(),
            time_signatures: metres.iter().map(metre).collect(),
            ..Score::default()
        })
    }

    /// Onsets of a track in beats.
    fn onsets(score: &Score, track: usize) -> Vec<Tick> {
        score.tracks[track].notes.iter().map(|note| note.tick / Tick::from(score.ticks_per_quarter)).collect()
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

    #[test]
    fn the_last_bar_is_as_long_as_its_own_metre_says() {
        let piece = beats(&[(0, 2, 4), (16, 4, 4)], std::slice::from_ref(&(0..20)));
        assert_eq!(onsets(&splice(&piece, 0, 8..9, &[]), 0), (0..16).collect::<Vec<_>>(), "all of it is emptied");
        let fill = piece.tracks[0].slice(8..9).to_vec();
        assert_eq!(splice(&piece, 0, 8..9, &fill).tracks, piece.score.tracks, "all of it is filled");
    }

    #[test]
    fn bars_past_the_end_of_a_track_are_in_the_pieces_metre() {
        let piece = beats(&[(0, 6, 8)], &[0..12, 0..3]);
        let fill = piece.tracks[0].slice(1..3).to_vec();
        let score = splice(&piece, 1, 1..3, &fill);
        assert_eq!(onsets(&score, 1), (0..9).collect::<Vec<_>>(), "a bar of 6/8 is three quarters");
    }

    #[test]
    fn notes_that_would_exchange_their_ends_are_cut_or_left_out() {
        let kept = [note(0, 30, 60), note(50, 10, 60), note(0, 30, 61)];
        let fitting = |new: &[Note]| {
            let mut notes = apart(&kept, new.to_vec());
            notes.sort_by_key(order);
            notes
        };
        assert_eq!(fitting(&[note(20, 5, 60)]), [], "it would end the note that sounds");
        assert_eq!(fitting(&[note(20, 15, 60)]), [note(20, 15, 60)], "a file can say this");
        assert_eq!(fitting(&[note(40, 30, 60)]), [note(40, 10, 60)]);
        assert_eq!(fitting(&[note(40, 15, 60)]), [note(40, 15, 60)]);
        let two = [note(32, 10, 60), note(34, 4, 60)];
        assert_eq!(fitting(&two), [note(32, 2, 60), note(34, 4, 60)]);
        assert_eq!(fitting(&[note(40, 30, 62)]), [note(40, 30, 62)], "other pitches do not matter");
    }

    /// A bar of notes of few pitches, which therefore meet: position, pitch, length.
    fn bar_of(notes: &[(u16, u8, usize)]) -> Vec<u16> {
        let tokens = notes.iter().flat_map(|&(position, pitch, length)| {
            [Token::Position(position), Token::Pitch(pitch), Token::Velocity(84), Token::Duration(length)]
        });
        [BAR].into_iter().chain(tokens.filter_map(|token| token.id())).collect()
    }

    proptest! {
        #[test]
        fn in_the_file_too_nothing_changes_outside_of_the_section(
            around in prop::collection::vec((0i64..384, 1i64..96, 60u8..62), 1..40),
            inside in prop::collection::vec(prop::collection::vec((0u16..48, 60u8..62, 0usize..24), 0..12), 2),
        ) {
            let notes = around.iter().map(|&(tick, duration, pitch)| note(tick, duration, pitch)).collect();
            let tracks = vec![Track { notes, ..Track::default() }];
            let piece = piece_of(&Score { ticks_per_quarter: 12, tracks, ..Score::default() });
            let again = smf::read(&smf::write(&piece.score)).expect("reads");
            prop_assume!(again.tracks[0].notes == piece.score.tracks[0].notes);
            let spliced = splice(&piece, 0, 2..4, &inside.iter().map(|notes| bar_of(notes)).collect::<Vec<_>>());
            let read = smf::read(&smf::write(&spliced)).expect("reads");
            let found = read.tracks.first().map(|track| track.notes.as_slice()).unwrap_or_default();
            prop_assert_eq!(found, spliced.tracks[0].notes.as_slice());
        }
    }
}
