//! What must hold of any bytes, whatever they are: arbitrary ones, damaged files, and messages in any order.

#[path = "support/rewritten.rs"]
mod rewritten;

use midi_ingest::score::smf;
use midi_ingest::source::compose;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// One way to damage a file; places and lengths are taken modulo the file's length.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize),
    Insert(usize, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<usize>;
    prop_oneof![
        6 => (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => place().prop_map(Damage::Cut),
        1 => (place(), 1..200usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        1 => (place(), 1..200usize).prop_map(|(at, length)| Damage::Repeat(at, length)),
        1 => (place(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let length = bytes.len().max(1);
        let end = |at: usize, count: usize| (at + count).min(bytes.len());
        match damage {
            Damage::Set(at, byte) => {
                if let Some(place) = bytes.get_mut(at % length) {
                    *place = *byte;
                }
            }
            Damage::Cut(at) => bytes.truncate(at % length),
            Damage::Remove(at, count) => {
                let range = at % length..end(at % length, *count);
                bytes.drain(range.start.min(range.end)..range.end);
            }
            Damage::Repeat(at, count) => {
                let at = (at % length).min(bytes.len());
                let part = bytes[at..end(at, *count)].to_vec();
                bytes.splice(at..at, part);
            }
            Damage::Insert(at, more) => {
                let at = (at % length).min(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes
}

/// A message of a track, most of them well formed, with its delta time.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let delta = prop_oneof![8 => (0..128u8).prop_map(|delta| vec![delta]), 1 => Just(vec![0xFF, 0xFF, 0xFF, 0x7F])];
    let pitch = || 58..64u8;
    let body = prop_oneof![
        80 => (0..16u8, pitch(), 0..128u8).prop_map(|(channel, pitch, velocity)| vec![0x90 | channel, pitch, velocity]),
        60 => (0..16u8, pitch()).prop_map(|(channel, pitch)| vec![0x80 | channel, pitch, 0]),
        20 => (pitch(), 0..128u8).prop_map(|(pitch, velocity)| vec![pitch, velocity]),
        20 => (0..16u8, 0..128u8).prop_map(|(channel, program)| vec![0xC0 | channel, program]),
        10 => (0..16u8, 0..128u8, 0..128u8).prop_map(|(channel, number, value)| vec![0xB0 | channel, number, value]),
        10 => vec(any::<u8>(), 3).prop_map(|tempo| [vec![0xFF, 0x51, 3], tempo].concat()),
        10 => (any::<u8>(), 0..10u8).prop_map(|(beats, power)| vec![0xFF, 0x58, 4, beats, power, 24, 8]),
        10 => vec(any::<u8>(), 0..9).prop_map(|text| [vec![0xFF, 5, text.len() as u8], text].concat()),
        1 => vec(any::<u8>(), 1..4),
    ];
    (delta, body).prop_map(|(delta, body)| [delta, body].concat())
}

/// A whole file of such messages.
fn file() -> impl Strategy<Value = Vec<u8>> {
    (1..0x8000u16, vec(vec(message(), 0..60), 1..5)).prop_map(|(division, tracks)| {
        let mut bytes = b"MThd\0\0\0\x06\0\x01".to_vec();
        bytes.extend((tracks.len() as u16).to_be_bytes());
        bytes.extend(division.to_be_bytes());
        for track in tracks {
            // A status, so that data alone has something to repeat.
            let body = [vec![0, 0x90, 60, 1], track.concat()].concat();
            bytes.extend(b"MTrk");
            bytes.extend((body.len() as u32).to_be_bytes());
            bytes.extend(body);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_no_panic(bytes in vec(any::<u8>(), 0..600), header in any::<bool>(), tracks in 0..4u8) {
        let body = (bytes.len() as u32).to_be_bytes();
        let head = [b"MThd\0\0\0\x06\0\x01\0".as_slice(), &[tracks], &[1, 0xE0], b"MTrk", &body].concat();
        let bytes = if header { [head, bytes].concat() } else { bytes };
        rewritten::judge_bytes(&bytes);
        rewritten::judge_tokens(&bytes);
    }

    #[test]
    fn damaged_songs_are_no_panic(song in 0..6u64, damages in vec(damage(), 1..8)) {
        let bytes = damaged(smf::write(&compose(7, song)), &damages);
        rewritten::judge_bytes(&bytes);
        rewritten::judge_tokens(&bytes);
    }

    #[test]
    fn messages_in_any_order_are_written_as_they_were_read(bytes in file()) {
        rewritten::judge_bytes(&bytes);
        rewritten::judge_tokens(&bytes);
    }

    #[test]
    fn any_ids_are_music_that_can_be_written(ids in vec(0..700u16, 0..400)) {
        rewritten::judge_ids(&ids);
    }
}

#[test]
fn the_properties_are_asked_of_scores_and_not_of_rejects_alone() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut accepted = 0;
    for _ in 0..200 {
        let bytes = file().new_tree(&mut runner).expect("a file").current();
        accepted += usize::from(smf::read(&bytes).is_ok_and(|score| score.note_count() > 0));
    }
    assert!(accepted > 20, "{accepted} of 200 files have notes");
    for song in 0..6u64 {
        assert!(rewritten::judge_bytes(&smf::write(&compose(7, song))));
        assert!(rewritten::judge_tokens(&smf::write(&compose(7, song))));
    }
}

#[test]
fn long_rests_survive_writing() {
    use midi_ingest::score::{Note, Score, TimeSignature, Track};
    let note = |tick| Note { tick, duration: 10, pitch: 60, velocity: 64 };
    let score = Score {
        ticks_per_quarter: 480,
        tracks: vec![Track { notes: vec![note(0), note(1 << 29), note(1 << 30)], ..Track::default() }],
        time_signatures: vec![TimeSignature { tick: 0, numerator: 3, denominator: 0 }],
        ..Score::default()
    };
    rewritten::survives_writing(&score);
}
