//! MIDI files that no musician wrote, each with the verdict that it must get: a table of small recipes.
#![allow(dead_code, reason = "each test binary uses a part")]

/// A file and what becomes of it.
pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// `accepted`, or the stage and reason of the reject.
    pub(crate) verdict: &'static str,
    /// Why the verdict is another one than that of the published parser, where no limit says it.
    pub(crate) because: &'static str,
}

/// End of track.
const END: [u8; 4] = [0, 0xFF, 0x2F, 0];
const DIVISION: u16 = 480;

/// A header that announces `tracks` chunks.
fn header(format: u16, tracks: u16, division: u16) -> Vec<u8> {
    let words = [0, 6, format, tracks, division];
    let mut bytes = b"MThd".to_vec();
    bytes.extend(words.iter().flat_map(|word: &u16| word.to_be_bytes()));
    bytes
}

/// A chunk that claims `length` bytes.
fn claimed(kind: &[u8; 4], length: u32, body: &[u8]) -> Vec<u8> {
    [kind.as_slice(), &length.to_be_bytes(), body].concat()
}

fn chunk(body: &[u8]) -> Vec<u8> {
    claimed(b"MTrk", body.len() as u32, body)
}

/// A file of one chunk with this body.
fn one(body: &[u8]) -> Vec<u8> {
    [header(0, 1, DIVISION), chunk(body)].concat()
}

/// A file of one chunk with this body and an end of track.
fn ended(body: &[u8]) -> Vec<u8> {
    one(&[body, &END].concat())
}

/// A variable-length number.
fn number(value: u32) -> Vec<u8> {
    let groups = [21, 14, 7].into_iter().filter(|shift| value >> shift > 0).map(|shift| (value >> shift) as u8 | 0x80);
    groups.chain([(value & 0x7F) as u8]).collect()
}

/// A note of 480 ticks after `delta`.
fn note(delta: u32, pitch: u8) -> Vec<u8> {
    [number(delta), vec![0x90, pitch, 80], number(480), vec![0x80, pitch, 0]].concat()
}

/// A meta message.
fn meta(kind: u8, payload: &[u8]) -> Vec<u8> {
    [vec![0, 0xFF, kind], number(payload.len() as u32), payload.to_vec()].concat()
}

/// Messages, then a note.
fn before_a_note(body: &[u8]) -> Vec<u8> {
    ended(&[body.to_vec(), note(0, 60)].concat())
}

/// Every file.
pub(crate) fn files() -> Vec<Hostile> {
    let mut files = headers();
    files.extend(chunks());
    files.extend(messages());
    files.extend(values());
    files.extend(floods());
    files
}

fn hostile(name: &'static str, bytes: Vec<u8>, verdict: &'static str) -> Hostile {
    Hostile { name, bytes, verdict, because: "" }
}

fn because(mut file: Hostile, reason: &'static str) -> Hostile {
    file.because = reason;
    file
}

/// Bytes that look like nothing, the same on every machine.
fn noise(length: usize, mut seed: u32) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        (seed >> 11) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn headers() -> Vec<Hostile> {
    let whole = ended(&note(0, 60));
    let with = |at: usize, bytes: &[u8]| {
        let mut file = whole.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    vec![
        hostile("empty", Vec::new(), "parse: no-header"),
        hostile("one byte", b"M".to_vec(), "parse: no-header"),
        hostile("only the word MThd", b"MThd".to_vec(), "parse: no-header"),
        hostile("header cut in its division", whole[..13].to_vec(), "parse: no-header"),
        hostile("header alone", whole[..14].to_vec(), "parse: truncated"),
        hostile("header without tracks", header(1, 0, DIVISION), "accepted"),
        hostile("64 KiB of noise", noise(1 << 16, 7), "parse: no-header"),
        hostile("noise behind a header", [header(1, 2, DIVISION), noise(1 << 12, 9)].concat(), "parse: truncated"),
        hostile("zeros", vec![0; 1000], "parse: no-header"),
        hostile(
            "a RIFF wrapper",
            [b"RIFF\x40\0\0\0RMIDdata\x2c\0\0\0".to_vec(), whole.clone()].concat(),
            "parse: no-header",
        ),
        hostile("a byte before the header", [vec![0], whole.clone()].concat(), "parse: no-header"),
        hostile("lower-case mthd", with(0, b"mthd"), "parse: no-header"),
        hostile("header length 0", with(4, &[0, 0, 0, 0]), "parse: bad-header"),
        hostile("header length 7", with(4, &[0, 0, 0, 7]), "parse: bad-header"),
        hostile("header length 2^32-1", with(4, &[255; 4]), "parse: bad-header"),
        hostile("format 2", with(8, &[0, 2]), "accepted"),
        hostile("format 3", with(8, &[0, 3]), "parse: bad-header"),
        hostile("format 65535", with(8, &[255, 255]), "parse: bad-header"),
        because(
            hostile("division 0", with(12, &[0, 0]), "parse: bad-header"),
            "a beat of no ticks has no place for a note",
        ),
        hostile("division 1", with(12, &[0, 1]), "accepted"),
        hostile("division 32767", with(12, &[0x7F, 0xFF]), "accepted"),
        because(
            hostile("SMPTE division, 25 frames", with(12, &[0xE7, 40]), "parse: smpte"),
            "`smpte = \"reject\"`: a time code knows no beats",
        ),
        because(
            hostile("SMPTE division, 0 frames", with(12, &[0x80, 0]), "parse: smpte"),
            "`smpte = \"reject\"`: a time code knows no beats",
        ),
        hostile("whole file twice", whole.repeat(2), "accepted"),
        hostile("noise after the last chunk", [whole.clone(), noise(5000, 3)].concat(), "accepted"),
    ]
}

fn chunks() -> Vec<Hostile> {
    let whole = ended(&note(0, 60));
    let body = [note(0, 60), END.to_vec()].concat();
    let behind = |count: u16, chunks: Vec<Vec<u8>>| [header(1, count, DIVISION), chunks.concat()].concat();
    vec![
        hostile("track length 0", behind(1, vec![claimed(b"MTrk", 0, &[])]), "accepted"),
        hostile(
            "track length one too long",
            behind(1, vec![claimed(b"MTrk", body.len() as u32 + 1, &body)]),
            "parse: truncated",
        ),
        hostile(
            "track length one too short",
            behind(1, vec![claimed(b"MTrk", body.len() as u32 - 1, &body)]),
            "parse: truncated",
        ),
        hostile("track length 2^32-1", behind(1, vec![claimed(b"MTrk", u32::MAX, &body)]), "parse: truncated"),
        hostile("track length 2^31", behind(1, vec![claimed(b"MTrk", 1 << 31, &body)]), "parse: truncated"),
        hostile("cut in a note", whole[..whole.len() - 6].to_vec(), "parse: truncated"),
        hostile("cut in the chunk's head", whole[..18].to_vec(), "parse: truncated"),
        hostile("fewer chunks than announced", behind(3, vec![chunk(&body)]), "parse: truncated"),
        hostile("more chunks than announced", behind(1, vec![chunk(&body), chunk(&body)]), "accepted"),
        hostile("unknown chunk first", behind(1, vec![claimed(b"XFIH", 5, b"hello"), chunk(&body)]), "accepted"),
        hostile(
            "unknown chunk of 2^32-1 bytes",
            behind(1, vec![claimed(b"XFIH", u32::MAX, b"hello"), chunk(&body)]),
            "parse: truncated",
        ),
        hostile("a track inside a track", behind(1, vec![chunk(&chunk(&body))]), "parse: running-status"),
        hostile("a file inside a track", behind(1, vec![chunk(&whole)]), "parse: running-status"),
        hostile("a header as a chunk", behind(1, vec![header(1, 1, DIVISION), chunk(&body)]), "accepted"),
        hostile("no end of track", one(&note(0, 60)), "accepted"),
        hostile("music after the end of track", one(&[note(0, 60), END.to_vec(), note(0, 62)].concat()), "accepted"),
        hostile(
            "end of track of four bytes",
            one(&[note(0, 60), vec![0, 0xFF, 0x2F, 4, 1, 2, 3, 4]].concat()),
            "accepted",
        ),
        hostile("1024 empty tracks", behind(1024, vec![chunk(&END); 1024]), "accepted"),
        hostile("1025 empty tracks", behind(1025, vec![chunk(&END); 1025]), "parse: max-tracks"),
        hostile("65535 empty tracks", behind(65_535, vec![chunk(&END); 65_535]), "parse: max-tracks"),
        hostile(
            "10^6 chunks behind a header of 65535",
            behind(65_535, vec![chunk(&[]); 1_000_000]),
            "parse: max-tracks",
        ),
        hostile(
            "10^5 unknown chunks",
            behind(1, [vec![claimed(b"XXXX", 0, &[]); 100_000], vec![chunk(&body)]].concat()),
            "accepted",
        ),
    ]
}

fn messages() -> Vec<Hostile> {
    vec![
        hostile("running status before any status", one(&[0, 60, 80, 10, 60, 0]), "parse: running-status"),
        hostile(
            "running status after a meta message",
            before_a_note(&[meta(0x51, &[7, 0xA1, 0x20]), vec![0, 60, 80]].concat()),
            "parse: running-status",
        ),
        hostile(
            "running status across a meta message",
            ended(&[vec![0, 0x90, 60, 80], meta(1, b"x"), vec![10, 60, 0]].concat()),
            "accepted",
        ),
        hostile(
            "running status across a system exclusive",
            ended(&[0, 0x90, 60, 80, 0, 0xF0, 2, 1, 0xF7, 10, 60, 0]),
            "parse: truncated",
        ),
        hostile("a delta time alone", one(&[&note(0, 60)[..], &[0x40]].concat()), "parse: truncated"),
        hostile("a delta time of ten bytes", before_a_note(&[0xFF; 10]), "parse: truncated"),
        hostile("a delta time that never ends", one(&[0x80; 4096]), "parse: value-range"),
        hostile("deltas of 2^28-1, seven of them", ended(&note((1 << 28) - 1, 60).repeat(7)), "parse: max-seconds"),
        hostile("deltas of 2^28-1, nine of them", ended(&note((1 << 28) - 1, 60).repeat(9)), "parse: max-ticks"),
        hostile("deltas of 2^28-1, past 2^32", ended(&note((1 << 28) - 1, 60).repeat(17)), "parse: max-ticks"),
        hostile("system exclusive without end", one(&[0, 0xF0, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3]), "parse: truncated"),
        hostile("system exclusive of no bytes", before_a_note(&[0, 0xF0, 0]), "accepted"),
        hostile("system exclusive longer than the chunk", before_a_note(&[0, 0xF0, 0x7F]), "parse: truncated"),
        hostile("an escape F7", before_a_note(&[0, 0xF7, 2, 0xF8, 0xF8]), "accepted"),
        hostile("undefined F4", before_a_note(&[0, 0xF4]), "parse: truncated"),
        hostile("undefined FD", before_a_note(&[0, 0xFD]), "parse: truncated"),
        hostile("song position", before_a_note(&[0, 0xF2, 1, 2]), "accepted"),
        hostile("active sensing, 1000 times", before_a_note(&[0, 0xFE].repeat(1000)), "accepted"),
        hostile("a meta message without a length", one(&[0, 0xFF, 1]), "parse: truncated"),
        hostile("a meta message without a kind", one(&[0, 0xFF]), "parse: truncated"),
        hostile(
            "a text that claims 256 MiB",
            before_a_note(&[0, 0xFF, 1, 0xFF, 0xFF, 0xFF, 0x7F, b'a']),
            "parse: truncated",
        ),
        hostile(
            "a text of 64 KiB and a bit",
            before_a_note(&meta(1, &[b'a'; (64 << 10) + 1])),
            "parse: max-meta-bytes",
        ),
        hostile("a text of 60 KiB", before_a_note(&meta(1, &[b'a'; 60 << 10])), "accepted"),
        hostile("a lyric that is no UTF-8", before_a_note(&meta(5, &[0xFF, 0xFE, 0xC0, 0x80])), "accepted"),
        hostile("a marker that is no UTF-8", before_a_note(&meta(6, &[0xC3, 0x28, 0])), "accepted"),
        hostile("an unknown meta message", before_a_note(&meta(0x7E, b"what")), "accepted"),
        hostile("a sequence number of no bytes", before_a_note(&meta(0, &[])), "accepted"),
    ]
}

fn values() -> Vec<Hostile> {
    vec![
        hostile("note-on of pitch 200", ended(&[0, 0x90, 200, 80]), "parse: value-range"),
        hostile("note-on of velocity 200", ended(&[0, 0x90, 60, 200]), "parse: value-range"),
        hostile("note-off of pitch 128", ended(&[0, 0x80, 128, 0]), "parse: value-range"),
        hostile("note-off of velocity 255", ended(&[0, 0x90, 60, 80, 10, 0x80, 60, 255]), "accepted"),
        hostile("program 255", before_a_note(&[0, 0xC0, 255]), "parse: value-range"),
        hostile("controller 200", before_a_note(&[0, 0xB0, 200, 1]), "parse: value-range"),
        hostile("control of value 255", before_a_note(&[0, 0xB0, 64, 255]), "parse: value-range"),
        hostile("bend of 255 255", before_a_note(&[0, 0xE0, 255, 255]), "parse: value-range"),
        hostile("tempo 0", before_a_note(&meta(0x51, &[0, 0, 0])), "accepted"),
        hostile("tempo of no bytes", before_a_note(&meta(0x51, &[])), "accepted"),
        hostile("tempo of one byte", before_a_note(&meta(0x51, &[9])), "accepted"),
        hostile("tempo of 2^24-1", before_a_note(&meta(0x51, &[255; 3])), "accepted"),
        hostile("metre 0/4", before_a_note(&meta(0x58, &[0, 2, 24, 8])), "accepted"),
        hostile("metre 0/0", before_a_note(&meta(0x58, &[0, 255, 0, 0])), "accepted"),
        hostile("metre 4/2^255", before_a_note(&meta(0x58, &[4, 255, 24, 8])), "accepted"),
        hostile("metre 255/1", before_a_note(&meta(0x58, &[255, 0, 24, 8])), "accepted"),
        hostile("metre 4/128", before_a_note(&meta(0x58, &[4, 7, 24, 8])), "accepted"),
        because(
            hostile(
                "metre 4/128 at division 1",
                [header(0, 1, 1), chunk(&[meta(0x58, &[4, 7, 24, 8]), note(0, 60), END.to_vec()].concat())].concat(),
                "tokenize: metre",
            ),
            "a beat of no ticks has no place for a note",
        ),
        because(
            hostile("metre of one byte", before_a_note(&meta(0x58, &[4])), "parse: truncated"),
            "its second byte lies outside the message",
        ),
        because(
            hostile("metre of no bytes at the chunk's end", one(&meta(0x58, &[])), "parse: truncated"),
            "its two bytes lie outside the chunk",
        ),
        hostile("key of no bytes", before_a_note(&meta(0x59, &[])), "accepted"),
        hostile("key of 127 sharps", before_a_note(&meta(0x59, &[127, 9])), "accepted"),
        hostile(
            "every pitch at once, never released",
            ended(&(0..128u8).flat_map(|p| [0, 0x90, p, 80]).collect::<Vec<u8>>()),
            "accepted",
        ),
        hostile(
            "one pitch, 1000 times over itself",
            ended(&[[0, 0x90, 60, 80].repeat(1000), [1, 0x80, 60, 0].repeat(1000)].concat()),
            "accepted",
        ),
        hostile("note-offs without note-ons", ended(&[0, 0x80, 60, 0].repeat(100)), "accepted"),
        hostile("notes of no length", ended(&[0, 0x90, 60, 80, 0, 0x80, 60, 0].repeat(50)), "accepted"),
        hostile("a pedal that was never pressed", before_a_note(&[0x83, 0x60, 0xB3, 64, 0]), "accepted"),
        hostile(
            "drums on every program",
            ended(&(0..128u8).flat_map(|p| [0, 0xC9, p, 0, 0x99, 36, 80, 9, 0x89, 36, 0]).collect::<Vec<u8>>()),
            "accepted",
        ),
        hostile(
            "a program for each note on 16 channels",
            ended(
                &(0..2048u32)
                    .flat_map(|k| {
                        let (channel, program) = ((k % 16) as u8, (k / 16) as u8);
                        [0, 0xC0 | channel, program, 0, 0x90 | channel, 60, 80, 1, 0x80 | channel, 60, 0]
                    })
                    .collect::<Vec<u8>>(),
            ),
            "parse: max-tracks",
        ),
        hostile("three hours", ended(&note(480 * 2 * 3600 * 3, 60)), "parse: max-seconds"),
        hostile("an hour and 59 minutes", ended(&note(480 * 2 * 60 * 119, 60)), "accepted"),
        hostile(
            "a tempo event after ten days",
            ended(
                &[
                    note(0, 60),
                    number(200_000_000),
                    vec![0xFF, 0x51, 3, 9, 9, 9],
                    number(200_000_000),
                    vec![0xFF, 0x51, 3, 9, 9, 9],
                ]
                .concat(),
            ),
            "parse: max-seconds",
        ),
    ]
}

fn floods() -> Vec<Hostile> {
    let tempos = |count: usize, delta: u8| [delta, 0xFF, 0x51, 3, 1, 0, 0].repeat(count);
    let metres = |count: usize| {
        let change = |k: usize| [1, 0xFF, 0x58, 4, 1 + (k % 4) as u8, 2 + (k % 2) as u8, 24, 8];
        (0..count).flat_map(change).collect::<Vec<u8>>()
    };
    let bends = |count: usize| [vec![0, 0xE0, 0, 64], [0, 0, 64].repeat(count - 1)].concat();
    let every_program: Vec<u8> = (0..128u8).flat_map(|p| [0, 0xC0, p, 0, 0x90, 60, 80, 1, 0x80, 60, 0]).collect();
    vec![
        hostile("8 MiB and a byte", ended(&[0, 0xFE].repeat((8 << 19) + 1)), "read: max-file-bytes"),
        hostile(
            "2 000 001 messages",
            ended(&[vec![0, 0x90, 60, 80], [0, 60, 80].repeat(2_000_000)].concat()),
            "parse: max-events",
        ),
        hostile(
            "500 001 notes",
            ended(&[vec![0, 0x90, 60, 80, 0, 60, 0], [0, 60, 80, 0, 60, 0].repeat(500_000)].concat()),
            "parse: max-notes",
        ),
        hostile(
            "500 000 notes at one tick",
            ended(&[vec![0, 0x90, 60, 80, 0, 60, 0], [0, 60, 80, 0, 60, 0].repeat(499_999)].concat()),
            "tokenize: max-tokens-per-piece",
        ),
        hostile(
            "200 000 notes held together",
            ended(&[vec![0, 0x90, 60, 80], [0, 60, 80].repeat(199_999), [1, 60, 0].repeat(200_000)].concat()),
            "accepted",
        ),
        hostile(
            "70 000 notes in a bar of two tracks",
            [
                header(1, 2, DIVISION),
                chunk(
                    &[
                        vec![0, 0x90, 60, 80, 0, 60, 0],
                        [0, 60, 80, 0, 60, 0].repeat(69_999),
                        note(4000, 60),
                        END.to_vec(),
                    ]
                    .concat(),
                )
                .repeat(2),
            ]
            .concat(),
            "accepted",
        ),
        hostile(
            "bends copied into 128 programs",
            ended(&[bends(100_000), every_program.clone()].concat()),
            "parse: max-events",
        ),
        hostile("bends copied, but few", ended(&[bends(1000), every_program].concat()), "accepted"),
        hostile("4097 metres", ended(&metres(4097)), "parse: max-metres"),
        hostile(
            "4000 metres in eighths and quarters, and notes",
            ended(&[metres(4000), note(0, 60).repeat(2000)].concat()),
            "accepted",
        ),
        hostile("100 000 tempos at one tick", before_a_note(&tempos(100_000, 0)), "accepted"),
        hostile("600 000 tempos, a tick each", before_a_note(&tempos(600_000, 1)), "accepted"),
        hostile(
            "more bars than 100 000",
            [
                header(0, 1, 1),
                chunk(
                    &[meta(0x51, &[0, 0xEA, 0x60]), meta(0x58, &[1, 2, 24, 8]), note(110_000, 60), END.to_vec()]
                        .concat(),
                ),
            ]
            .concat(),
            "tokenize: too-many-bars",
        ),
        hostile(
            "1000 tracks of 1000 bars",
            [header(1, 1000, 1), chunk(&[note(4000, 60), END.to_vec()].concat()).repeat(1000)].concat(),
            "tokenize: max-tokens-per-piece",
        ),
        hostile(
            "a megabyte of lyrics, a letter each",
            ended(&[vec![0, 0x9F, 60, 80, 9, 60, 0], [0, 0xFF, 5, 1, b'a'].repeat(200_000)].concat()),
            "accepted",
        ),
    ]
}
