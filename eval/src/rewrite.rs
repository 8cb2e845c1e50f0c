//! An answer in the file that it was asked for: the notes of its section change, and every other event stays as it is.
//!
//! A model sees a piece on a grid, without pedals, names and much else. Here its answer goes back into the events of the
//! file itself. What is written is read again and compared, so that a file in which this cannot be done is never spoilt.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;

use midi_ingest::score::{Meter, Note, Score, Tick, preprocess, smf};
use midly::num::{u4, u7, u28};
use midly::{MetaMessage, MidiMessage, Smf, Timing, TrackEvent, TrackEventKind};

use crate::prompt::Piece;

/// A note of a file: its two events in their chunk, and where the first one is.
struct Pair {
    events: [usize; 2],
    tick: u32,
}

/// The file `bytes`, read as `meter` says, with the notes of `track` that begin within `section`, in ticks of the grid,
/// replaced by those of `spliced`, the whole piece with the answer in it.
///
/// # Errors
/// Why it cannot be done, for people: the file is of an unusual kind, or holds notes that a grid tells otherwise.
pub fn rewrite(
    bytes: &[u8],
    meter: Meter,
    track: usize,
    section: &Range<Tick>,
    spliced: &Score,
) -> Result<Vec<u8>, &'static str> {
    let raw = meter.apply(smf::read(bytes).map_err(|_| "it cannot be read")?);
    let mut file = Smf::parse(bytes).map_err(|_| "its events cannot be read one by one")?;
    let Timing::Metrical(quarter) = file.header.timing else { return Err("its time is that of frames") };
    let (quarter, grid) = (f64::from(quarter.as_int()), f64::from(spliced.ticks_per_quarter));
    let to_grid = |tick: u32| (f64::from(tick) * grid / quarter + 0.5).floor() as Tick;
    let to_file = |tick: Tick| (tick as f64 * quarter / grid).round() as u32;

    let (chunk, channel, pairs) = owner(&file, place(&raw, track).ok_or("the track is not in it")?)?;
    let gone = pairs.iter().filter(|pair| section.contains(&to_grid(pair.tick))).flat_map(|pair| pair.events);
    let gone: HashSet<usize> = gone.collect();
    let new = spliced.tracks[track].notes.iter().filter(|note| section.contains(&note.tick));
    let events = std::mem::take(&mut file.tracks[chunk]);
    file.tracks[chunk] = edited(events, &gone, channel, new, to_file).ok_or("it is too long")?;
    let mut out = Vec::new();
    file.write_std(&mut out).map_err(|_| "it cannot be written")?;

    let again = Piece::read_as(&out, meter).map_err(|_| "what was written cannot be read")?;
    let notes = |score: &Score| -> Vec<(u8, bool, Vec<Note>)> {
        let tracks = score.tracks.iter().filter(|track| !track.notes.is_empty());
        // On the grid, notes of one tick stand in the order in which they were before.
        let sorted = |notes: &[Note]| {
            let mut notes = notes.to_vec();
            notes.sort_unstable();
            notes
        };
        tracks.map(|track| (track.program, track.is_drum, sorted(&track.notes))).collect()
    };
    if notes(&again.score) == notes(spliced) { Ok(out) } else { Err("the answer's notes would change others in it") }
}

/// Which of the file's tracks with notes is the piece's `track`: some have none that a model can see.
fn place(raw: &Score, track: usize) -> Option<usize> {
    let with_notes = raw.tracks.iter().filter(|track| !track.notes.is_empty()).enumerate();
    let mut alone = raw.clone();
    let seen = with_notes.filter(|(_, track)| {
        alone.tracks = vec![(*track).clone()];
        !preprocess(&alone).tracks.is_empty()
    });
    seen.map(|(place, _)| place).nth(track)
}

/// The chunk, the channel and the notes of the file's track `place`, counted as the parser does: by chunk, channel and
/// program.
fn owner(file: &Smf<'_>, place: usize) -> Result<(usize, u4, Vec<Pair>), &'static str> {
    let all = file.tracks.iter().enumerate().flat_map(|(chunk, events)| {
        pairs(events).into_iter().map(move |((channel, _), pairs)| (chunk, u4::from(channel), pairs))
    });
    all.into_iter().nth(place).ok_or("its tracks are told apart otherwise")
}

/// The notes of a chunk by channel and the program at their end; of one pitch, the first that began ends first.
fn pairs(events: &[TrackEvent<'_>]) -> BTreeMap<(u8, u8), Vec<Pair>> {
    let mut made: BTreeMap<(u8, u8), Vec<Pair>> = BTreeMap::new();
    let mut open: HashMap<(u8, u8), VecDeque<(usize, u32)>> = HashMap::new();
    let mut programs = [0; 16];
    let mut tick = 0u32;
    for (index, event) in events.iter().enumerate() {
        tick = tick.saturating_add(event.delta.as_int());
        let TrackEventKind::Midi { channel, message } = event.kind else { continue };
        let channel = channel.as_int();
        match message {
            MidiMessage::ProgramChange { program } => programs[usize::from(channel)] = program.as_int(),
            MidiMessage::NoteOn { key, vel } if vel > 0 => {
                open.entry((channel, key.as_int())).or_default().push_back((index, tick));
            }
            MidiMessage::NoteOn { key, .. } | MidiMessage::NoteOff { key, .. } => {
                let began = open.get_mut(&(channel, key.as_int())).and_then(VecDeque::pop_front);
                if let Some((on, tick)) = began {
                    let owner = (channel, programs[usize::from(channel)]);
                    made.entry(owner).or_default().push(Pair { events: [on, index], tick });
                }
            }
            _ => {}
        }
    }
    made
}

/// A chunk without the events `gone` and with the notes `new` on `channel`; none if a time does not fit.
fn edited<'a, 'n>(
    events: Vec<TrackEvent<'a>>,
    gone: &HashSet<usize>,
    channel: u4,
    new: impl Iterator<Item = &'n Note>,
    to_file: impl Fn(Tick) -> u32,
) -> Option<Vec<TrackEvent<'a>>> {
    // (tick, rank at that tick, event): new notes end before what is there, and begin after it.
    let mut placed: Vec<(u32, u8, TrackEventKind<'a>)> = Vec::with_capacity(events.len());
    let (mut tick, mut end) = (0u32, 0u32);
    for (index, event) in events.into_iter().enumerate() {
        tick = tick.checked_add(event.delta.as_int())?;
        if event.kind == TrackEventKind::Meta(MetaMessage::EndOfTrack) {
            end = tick;
        } else if !gone.contains(&index) {
            placed.push((tick, 1, event.kind));
        }
    }
    for note in new {
        let (key, vel) = (u7::from(note.pitch), u7::from(note.velocity));
        let (from, to) = (to_file(note.tick), to_file(note.tick + note.duration));
        let event = |message| TrackEventKind::Midi { channel, message };
        placed.push((from, 2, event(MidiMessage::NoteOn { key, vel })));
        placed.push((to.max(from + 1), 0, event(MidiMessage::NoteOff { key, vel: u7::from(0) })));
    }
    placed.sort_by_key(|(tick, rank, _)| (*tick, *rank));
    end = placed.last().map_or(end, |(tick, ..)| end.max(*tick));
    placed.push((end, 3, TrackEventKind::Meta(MetaMessage::EndOfTrack)));
    let mut before = 0;
    let moved = placed.into_iter().map(|(tick, _, kind)| {
        let delta = u28::try_from(tick - before)?;
        before = tick;
        Some(TrackEvent { delta, kind })
    });
    moved.collect()
}

#[cfg(test)]
mod tests {
    use midi_ingest::source::compose;

    use super::*;
    use crate::splice::{section, splice};

    /// A file of 480 ticks a quarter whose notes stand off the grid, with a name, pedals and a text in each chunk.
    fn file(score: &Score) -> Vec<u8> {
        let mut raw = score.clone();
        let factor = Tick::from(480 / raw.ticks_per_quarter);
        for (number, note) in raw.tracks.iter_mut().flat_map(|track| &mut track.notes).enumerate() {
            let off = [0, 3, -2, 1][number % 4];
            note.tick = (note.tick * factor + off).max(0);
            note.duration *= factor;
        }
        for metre in &mut raw.time_signatures {
            metre.tick *= factor;
        }
        for tempo in &mut raw.tempos {
            tempo.tick *= factor;
        }
        raw.ticks_per_quarter = 480;
        let bytes = smf::write(&raw);
        let mut file = Smf::parse(&bytes).expect("parses");
        for events in &mut file.tracks {
            let channel = events.iter().find_map(|event| match event.kind {
                TrackEventKind::Midi { channel, .. } => Some(channel),
                _ => None,
            });
            let at = |delta: u32, kind| TrackEvent { delta: u28::from(delta), kind };
            events.insert(0, at(0, TrackEventKind::Meta(MetaMessage::TrackName(b"a name"))));
            if let Some(channel) = channel {
                for (place, value) in [(events.len() / 3, 127), (events.len() / 2, 0)] {
                    let message = MidiMessage::Controller { controller: u7::from(64), value: u7::from(value) };
                    events.insert(place, at(0, TrackEventKind::Midi { channel, message }));
                }
            }
        }
        let mut out = Vec::new();
        file.write_std(&mut out).expect("writes");
        out
    }

    fn piece_and_file() -> (Piece, Vec<u8>) {
        let bytes = file(&Piece::read(&smf::write(&compose(1, 3))).expect("a piece").score);
        (Piece::read(&bytes).expect("a piece"), bytes)
    }

    /// Ticks and kinds of what is no note, by chunk.
    fn others(bytes: &[u8]) -> Vec<Vec<(u32, String)>> {
        let is_note = |kind: &TrackEventKind<'_>| {
            matches!(
                kind,
                TrackEventKind::Midi { message: MidiMessage::NoteOn { .. } | MidiMessage::NoteOff { .. }, .. }
            )
        };
        let file = Smf::parse(bytes).expect("parses");
        let chunk = |events: &Vec<TrackEvent<'_>>| {
            let mut tick = 0;
            let placed = events.iter().map(|event| {
                tick += event.delta.as_int();
                (tick, event.kind)
            });
            placed.filter(|(_, kind)| !is_note(kind)).map(|(tick, kind)| (tick, format!("{kind:?}"))).collect()
        };
        file.tracks.iter().map(chunk).collect()
    }

    #[test]
    fn all_but_the_sections_notes_stay_as_they_were() {
        let (piece, bytes) = piece_and_file();
        for track in 0..piece.tracks.len() {
            let bars = 6..8;
            // The bars after it, in its place.
            let fill = piece.tracks[track].slice(8..10).to_vec();
            let spliced = splice(&piece, track, bars.clone(), &fill);
            assert!(spliced.tracks != piece.score.tracks, "track {track}");
            let section = section(&piece, &bars);
            let out = rewrite(&bytes, Meter::AsWritten, track, &section, &spliced).expect("can be done");
            assert!(others(&out) == others(&bytes), "track {track}");
            let (before, after) = (smf::read(&bytes).expect("reads"), smf::read(&out).expect("reads"));
            for (index, (old, new)) in before.tracks.iter().zip(&after.tracks).enumerate() {
                let outside = |notes: &[Note]| -> Vec<Note> {
                    let factor = 480 / Tick::from(piece.score.ticks_per_quarter);
                    let inside = section.start * factor - 20..section.end * factor - 20;
                    notes.iter().filter(|note| index != track || !inside.contains(&note.tick)).copied().collect()
                };
                assert!(outside(&old.notes) == outside(&new.notes), "track {track}: {index} to the tick");
            }
        }
    }

    #[test]
    fn a_section_without_notes_leaves_the_rest() {
        let (piece, bytes) = piece_and_file();
        let (bars, track) = (1..3, 0);
        let spliced = splice(&piece, track, bars.clone(), &[]);
        let out = rewrite(&bytes, Meter::AsWritten, track, &section(&piece, &bars), &spliced).expect("can be done");
        assert_eq!(others(&out), others(&bytes));
        assert!(smf::read(&out).expect("reads").note_count() < smf::read(&bytes).expect("reads").note_count());
    }

    #[test]
    fn what_cannot_be_done_says_why() {
        let (piece, mut bytes) = piece_and_file();
        let section = section(&piece, &(0..1));
        let fails = |bytes: &[u8], track| {
            rewrite(bytes, Meter::AsWritten, track, &section, &piece.score).expect_err("cannot be done")
        };
        assert_eq!(fails(b"RIFF", 0), "it cannot be read");
        let (last, frames) = (piece.tracks.len(), [0xE7, 40]);
        assert_eq!(fails(&bytes, last), "the track is not in it");
        bytes[12..14].copy_from_slice(&frames);
        assert_eq!(fails(&bytes, 0), "its time is that of frames");
    }
}
