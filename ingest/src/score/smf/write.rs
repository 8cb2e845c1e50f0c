//! A score as a file of format 1: a conductor chunk, then one chunk a track.

use crate::score::{Score, Tick, Track};

const DRUM_CHANNEL: u8 = 9;

/// The bytes of a Standard MIDI File. Drums go to channel 10, other tracks to the remaining fifteen in turn.
///
/// Times keep the score's ticks. Only notes, programs, tempos and time signatures are written.
pub fn write(score: &Score) -> Vec<u8> {
    let mut bytes = b"MThd\0\0\0\x06\0\x01".to_vec();
    bytes.extend((score.tracks.len() as u16 + 1).to_be_bytes());
    bytes.extend((score.ticks_per_quarter as u16).to_be_bytes());
    chunk(&mut bytes, conductor(score));
    for (index, track) in score.tracks.iter().enumerate() {
        chunk(&mut bytes, notes(track, index));
    }
    bytes
}

/// Adds a track chunk of messages, which are sorted by tick here (stably).
fn chunk(bytes: &mut Vec<u8>, mut messages: Vec<(Tick, Vec<u8>)>) {
    messages.sort_by_key(|(tick, _)| *tick);
    let mut body = Vec::new();
    let mut now = 0;
    for (tick, message) in messages {
        number(&mut body, (tick - now).max(0) as u32);
        body.extend(message);
        now = tick.max(now);
    }
    body.extend([0, 0xFF, 0x2F, 0]);
    bytes.extend(b"MTrk");
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
}

fn conductor(score: &Score) -> Vec<(Tick, Vec<u8>)> {
    let signatures = score.time_signatures.iter().map(|signature| {
        let power = signature.denominator.max(1).ilog2() as u8;
        (signature.tick, vec![0xFF, 0x58, 4, signature.numerator, power, 24, 8])
    });
    let tempos = score.tempos.iter().map(|tempo| {
        let [_, high, middle, low] = tempo.micros_per_quarter.to_be_bytes();
        (tempo.tick, vec![0xFF, 0x51, 3, high, middle, low])
    });
    signatures.chain(tempos).collect()
}

fn notes(track: &Track, index: usize) -> Vec<(Tick, Vec<u8>)> {
    let channel = if track.is_drum {
        DRUM_CHANNEL
    } else {
        let channel = (index % 15) as u8;
        channel + u8::from(channel >= DRUM_CHANNEL)
    };
    let mut sorted = track.notes.clone();
    sorted.sort_by_key(|note| (note.tick, note.duration));
    let mut messages = vec![(0, vec![0xC0 | channel, track.program])];
    // A note-off comes before a note-on of the same tick, except for the note's own.
    let mut ends: Vec<(Tick, u8)> = Vec::new();
    for note in &sorted {
        flush(&mut messages, &mut ends, note.tick, channel);
        messages.push((note.tick, vec![0x90 | channel, note.pitch, note.velocity]));
        ends.push((note.tick + note.duration, note.pitch));
    }
    flush(&mut messages, &mut ends, Tick::MAX, channel);
    messages
}

/// Writes the note-offs that are due at `tick`, in order of their time.
fn flush(messages: &mut Vec<(Tick, Vec<u8>)>, ends: &mut Vec<(Tick, u8)>, tick: Tick, channel: u8) {
    ends.sort_by_key(|end| end.0);
    let due = ends.partition_point(|end| end.0 <= tick);
    messages.extend(ends.drain(..due).map(|(at, pitch)| (at, vec![0x80 | channel, pitch, 0])));
}

/// Adds a variable-length number.
fn number(bytes: &mut Vec<u8>, value: u32) {
    for shift in [21, 14, 7] {
        if value >> shift > 0 {
            bytes.push((value >> shift) as u8 | 0x80);
        }
    }
    bytes.push((value & 0x7F) as u8);
}
