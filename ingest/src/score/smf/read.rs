//! The file: header, chunks, and the events that belong to no track.

use super::budget::{Budget, past};
use super::bytes::{Message, Messages};
use super::sort::sort_by_tick;
use super::tracks::ChunkTracks;
use crate::limits::{Limits, Smpte};
use crate::reject::Reject;
use crate::score::{Score, Tempo, Tick, TimeSignature};

const HEADER_BYTES: usize = 14;

/// Parses a Standard MIDI File as the reference does.
///
/// Times stay in the file's ticks. There is no default tempo or time signature at this stage.
///
/// # Errors
/// A file that the reference would not read: no header, a message or chunk that runs past its end, data
/// without a status, a value out of range. One such place rejects the whole file.
pub fn read(bytes: &[u8]) -> Result<Score, Reject> {
    read_within(bytes, &Limits::PUBLISHED)
}

/// As [`read`], within limits: the time and memory that it takes are bounded by them, whatever the bytes are.
///
/// # Errors
/// As [`read`], and a file that goes past a limit; the reason is the limit's key.
pub fn read_within(bytes: &[u8], limits: &Limits) -> Result<Score, Reject> {
    if bytes.len() as u64 > limits.max_file_bytes {
        return Err(past("max-file-bytes", bytes.len() as u64, limits.max_file_bytes));
    }
    let header = bytes.get(..HEADER_BYTES).ok_or_else(|| Reject::parse("no-header", "shorter than a header"))?;
    if !header.starts_with(b"MThd") {
        return Err(Reject::parse("no-header", "it does not begin with `MThd`"));
    }
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if (word(4), word(6)) != (0, 6) {
        return Err(Reject::parse("bad-header", "the header's length is not 6"));
    }
    if word(8) > 2 {
        return Err(Reject::parse("bad-header", format!("format {}", word(8))));
    }
    // Quirk: a time code division (SMPTE) is read as 65535 ticks.
    let division = match (word(12), limits.smpte) {
        (ticks @ ..0x8000, _) => ticks,
        (_, Smpte::AsPublished) => 65_535,
        (_, Smpte::Reject) => return Err(Reject::parse("smpte", "its division is a time code")),
    };
    if division == 0 {
        return Err(Reject::parse("bad-header", "no ticks in a quarter note"));
    }
    let mut score = Score { ticks_per_quarter: u32::from(division), ..Score::default() };
    let mut rest = &bytes[HEADER_BYTES..];
    if usize::from(word(10)) > limits.max_tracks {
        return Err(past("max-tracks", word(10), limits.max_tracks));
    }
    let mut budget = Budget::new(limits);
    for _ in 0..word(10) {
        let body = next_track(&mut rest)?;
        read_track(body, &mut score, &mut budget)?;
    }
    sort_by_tick(&mut score.time_signatures, |signature| signature.tick);
    sort_by_tick(&mut score.tempos, |tempo| tempo.tick);
    score.key_ticks.sort_unstable();
    score.marker_ticks.sort_unstable();
    budget.length(&score)?;
    Ok(score)
}

/// The body of the next `MTrk` chunk; other chunks are skipped.
fn next_track<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Reject> {
    loop {
        let missing = || Reject::parse("truncated", "fewer chunks than the header announces");
        let (head, body) = rest.split_at_checked(8).ok_or_else(missing)?;
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (body, after) = body
            .split_at_checked(length)
            .ok_or_else(|| Reject::parse("truncated", format!("a chunk of {length} bytes with {} left", body.len())))?;
        *rest = after;
        if head.starts_with(b"MTrk") {
            return Ok(body);
        }
    }
}

fn read_track(body: &[u8], score: &mut Score, budget: &mut Budget<'_>) -> Result<(), Reject> {
    let mut tracks = ChunkTracks::new();
    let mut messages = Messages::new(body);
    while let Some((tick, message)) = messages.next(budget)? {
        match message {
            Message::Channel { status, data } => tracks.channel_message(tick, status, data, budget)?,
            Message::Meta { kind, payload } => {
                meta(tick, kind, payload, &mut tracks, score, budget)?;
            }
        }
    }
    score.tracks.extend(tracks.finish());
    budget.tracks(score.tracks.len())
}

fn meta(
    tick: u32,
    kind: u8,
    payload: &[u8],
    tracks: &mut ChunkTracks,
    score: &mut Score,
    budget: &mut Budget<'_>,
) -> Result<(), Reject> {
    let at = Tick::from(tick);
    match kind {
        0x05 => tracks.lyric(tick, payload, budget)?,
        0x06 if !payload.is_empty() => score.marker_ticks.push(at),
        0x51 => {
            let bytes = payload.iter().take(3);
            let micros_per_quarter = bytes.fold(0, |value, byte| (value << 8) + u32::from(*byte));
            score.tempos.push(Tempo { tick: at, micros_per_quarter });
        }
        0x58 => {
            let (Some(&numerator), Some(&power)) = (payload.first(), payload.get(1)) else {
                return Err(Reject::parse("truncated", "a time signature"));
            };
            budget.metre()?;
            let denominator = 1u8.checked_shl(u32::from(power)).unwrap_or(0);
            score.time_signatures.push(TimeSignature { tick: at, numerator, denominator });
        }
        0x59 => score.key_ticks.push(at),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::write;
    use super::*;
    use crate::score::{Note, Track};

    fn file(tracks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"MThd\0\0\0\x06\0\x01\0".to_vec();
        bytes.push(tracks.len() as u8);
        bytes.extend([0x01, 0xE0]);
        for track in tracks {
            bytes.extend(b"MTrk");
            bytes.extend((track.len() as u32).to_be_bytes());
            bytes.extend(*track);
        }
        bytes
    }

    #[test]
    fn overlapping_notes_of_one_pitch_end_first_in_first_out() {
        let track = [
            0, 0x90, 60, 100, // on at 0
            10, 60, 90, // running status: on again at 10
            10, 0x80, 60, 0, // off at 20 ends the first
            10, 0x80, 60, 0, // off at 30 ends the second
            0, 0xFF, 0x2F, 0,
        ];
        let score = read(&file(&[&track])).expect("parses");
        let notes: Vec<(Tick, Tick, u8)> =
            score.tracks[0].notes.iter().map(|n| (n.tick, n.duration, n.velocity)).collect();
        assert_eq!(notes, [(0, 20, 100), (10, 20, 90)]);
    }

    #[test]
    fn a_note_belongs_to_the_program_at_its_end() {
        let track = [0, 0xC0, 5, 0, 0x90, 60, 100, 10, 0xC0, 7, 10, 0x80, 60, 0];
        let score = read(&file(&[&track])).expect("parses");
        assert_eq!(score.tracks.len(), 1);
        assert_eq!(score.tracks[0].program, 7);
    }

    #[test]
    fn broken_files_say_why() {
        let reason = |bytes: &[u8]| read(bytes).expect_err("broken").reason;
        assert_eq!(reason(b""), "no-header");
        assert_eq!(reason(b"RIFF and nothing else"), "no-header");
        assert_eq!(reason(&file(&[&[0, 60, 100]])), "running-status");
        assert_eq!(reason(&file(&[&[0, 0x90, 60]])), "truncated");
        assert_eq!(reason(&file(&[&[0, 0x90, 200, 100]])), "value-range");
        let whole = file(&[&[0, 0x90, 60, 100]]);
        assert_eq!(reason(&whole[..whole.len() - 1]), "truncated");
    }

    #[test]
    fn what_was_written_is_read() {
        let note = |tick, pitch| Note { tick, duration: 12, pitch, velocity: 80 };
        let score = Score {
            ticks_per_quarter: 24,
            tracks: vec![
                Track { program: 3, notes: vec![note(0, 60), note(0, 64), note(24, 60)], ..Track::default() },
                Track { program: 0, is_drum: true, notes: vec![note(0, 36), note(12, 42)], ..Track::default() },
            ],
            time_signatures: vec![TimeSignature { tick: 0, numerator: 6, denominator: 8 }],
            tempos: vec![Tempo { tick: 0, micros_per_quarter: 500_000 }],
            ..Score::default()
        };
        assert_eq!(read(&write(&score)).expect("parses"), score);
    }
}
