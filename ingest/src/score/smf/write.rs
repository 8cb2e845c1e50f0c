//! A score as a file of format 1: a conductor chunk, then one chunk a track.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::score::{Score, Tick, Track};

const DRUM_CHANNEL: u8 = 9;

/// The longest time between two messages: four bytes of seven bits. A longer one is cut by messages that say nothing.
const MAX_DELTA: Tick = (1 << 28) - 1;
/// A text without letters.
const NOTHING: [u8; 3] = [0xFF, 0x01, 0];

/// The power of two whose place a denominator of 0 has: the one that is cut to 0 when it is read.
const POWER_OF_NONE: u8 = 8;

/// Most tracks that a header can announce, besides the conductor's.
const MAX_TRACKS: usize = u16::MAX as usize - 1;

/// The bytes of a Standard MIDI File. Drums go to channel 10, other tracks to the remaining fifteen in turn.
///
/// Times keep the score's ticks. Only notes, programs, tempos and time signatures are written, and
/// of tracks as many as the header can count.
pub fn write(score: &Score) -> Vec<u8> {
    let mut bytes = b"MThd\0\0\0\x06\0\x01".to_vec();
    let tracks = &score.tracks[..score.tracks.len().min(MAX_TRACKS)];
    bytes.extend((tracks.len() as u16 + 1).to_be_bytes());
    bytes.extend((score.ticks_per_quarter as u16).to_be_bytes());
    chunk(&mut bytes, conductor(score));
    for (index, track) in tracks.iter().enumerate() {
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
        let mut delta = (tick - now).max(0);
        while delta > MAX_DELTA {
            number(&mut body, MAX_DELTA as u32);
            body.extend(NOTHING);
            delta -= MAX_DELTA;
        }
        number(&mut body, delta as u32);
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
        let power = signature.denominator.checked_ilog2().map_or(POWER_OF_NONE, |power| power as u8);
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
    let mut ends: Ends = BinaryHeap::new();
    for (order, note) in sorted.iter().enumerate() {
        flush(&mut messages, &mut ends, note.tick, channel);
        messages.push((note.tick, vec![0x90 | channel, note.pitch, note.velocity]));
        ends.push(Reverse((note.tick + note.duration, order, note.pitch)));
    }
    flush(&mut messages, &mut ends, Tick::MAX, channel);
    messages
}

/// The ends of the notes that sound, the next one first: tick, order of the note, pitch.
type Ends = BinaryHeap<Reverse<(Tick, usize, u8)>>;

/// Writes the note-offs that are due at `tick`, in order of their time.
fn flush(messages: &mut Vec<(Tick, Vec<u8>)>, ends: &mut Ends, tick: Tick, channel: u8) {
    while let Some(Reverse((at, _, pitch))) = ends.peek().copied()
        && at <= tick
    {
        ends.pop();
        messages.push((at, vec![0x80 | channel, pitch, 0]));
    }
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
