//! What must hold of any bytes at all: they are read without a panic and within the limits, and what was read can be
//! written and read again. Property tests and fuzz targets share it.
#![allow(dead_code, reason = "each binary uses a part")]

use midi_ingest::limits::Limits;
use midi_ingest::score::{Score, Track, smf};
use midi_ingest::token::{Grid, decode};

/// The part of a score that a file written by us holds.
fn written_part(score: &Score) -> Score {
    let notes = |track: &Track| Track {
        program: track.program,
        is_drum: track.is_drum,
        notes: track.notes.clone(),
        ..Track::default()
    };
    let mut out = Score {
        ticks_per_quarter: score.ticks_per_quarter,
        tracks: score.tracks.iter().filter(|track| !track.notes.is_empty()).map(notes).collect(),
        time_signatures: score.time_signatures.clone(),
        tempos: score.tempos.clone(),
        ..Score::default()
    };
    // The reader's order of many events at one tick is the reference's, which is no stable one.
    out.time_signatures.sort_by_key(|metre| (metre.tick, metre.numerator, metre.denominator));
    out.tempos.sort_by_key(|tempo| (tempo.tick, tempo.micros_per_quarter));
    out
}

/// Writes a score, reads it back and compares.
pub(crate) fn survives_writing(score: &Score) {
    let again = smf::read(&smf::write(score)).expect("what we write can be read");
    assert_eq!(written_part(&again), written_part(score));
}

/// Reads any bytes; whether they were a score.
pub(crate) fn judge_bytes(bytes: &[u8]) -> bool {
    let limits = Limits::default();
    let Ok(score) = smf::read_within(bytes, &limits) else { return false };
    assert!(score.tracks.len() <= limits.max_tracks && score.note_count() <= limits.max_notes);
    assert!(score.time_signatures.len() <= limits.max_metres && score.end() <= i64::from(limits.max_ticks));
    assert_eq!(smf::read(bytes).as_ref(), Ok(&score), "the limits change nothing that they let pass");
    survives_writing(&score);
    true
}

/// Tokenizes a score, if its bytes are one: what the tokens say can be written, read and tokenized again.
pub(crate) fn judge_tokens(bytes: &[u8]) -> bool {
    let Ok(score) = smf::read_within(bytes, &Limits::default()) else { return false };
    let Ok(grid) = Grid::of(&score) else { return false };
    let Ok(tracks) = grid.encode() else { return false };
    let ids: Vec<u16> = tracks.iter().flat_map(|track| track.ids.iter().copied()).collect();
    for track in &tracks {
        assert_eq!(track.ids.len(), track.ticks.len());
        assert!(track.groups.is_sorted() && track.groups.iter().all(|at| *at < track.ids.len()));
    }
    judge_ids(&ids);
    true
}

/// Decodes any ids: the music can be written and read again.
pub(crate) fn judge_ids(ids: &[u16]) {
    let score = decode(ids);
    let again = smf::read(&smf::write(&score)).expect("what we write can be read");
    assert_eq!(again.ticks_per_quarter, score.ticks_per_quarter);
    assert_eq!(again.note_count(), score.note_count());
    if let Ok(grid) = Grid::of(&score) {
        let _ = grid.encode();
    }
}
