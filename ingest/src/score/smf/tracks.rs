//! The notes of one track chunk: which note-off ends which note-on, and to which score track it belongs.

use std::collections::VecDeque;

use super::budget::Budget;
use crate::reject::Reject;
use crate::score::{Note, Tick, Track};

/// The tracks that one chunk makes: one for each pair of channel and program that a note ended in.
///
/// A note belongs to the program in force at its end, and overlapping notes of one pitch end first in,
/// first out. A note that is never released disappears.
pub(super) struct ChunkTracks {
    tracks: Vec<(u8, Track)>,
    /// The track of each program by channel, where there is one; empty for a channel without tracks.
    places: [Vec<Option<u16>>; 16],
    program: [u8; 16],
    /// Controls, bends and pedals that came before any track of their channel and program. They are
    /// copied into every such track.
    early: [Track; 16],
    /// Where a sustain pedal was pressed. Quirk: all channels but the first start with a pressed one.
    pedal: [Option<Tick>; 16],
    /// Notes that sound, by channel and pitch: (onset, velocity). Empty for a channel without notes: most chunks use
    /// one channel, and a file may have many chunks.
    open: [Vec<VecDeque<(u32, u8)>>; 16],
}

fn out_of_range(what: &'static str) -> Reject {
    Reject::parse("value-range", what)
}

impl ChunkTracks {
    pub(super) fn new() -> Self {
        let mut pedal = [Some(0); 16];
        pedal[0] = None;
        ChunkTracks {
            tracks: Vec::new(),
            places: Default::default(),
            program: [0; 16],
            early: Default::default(),
            pedal,
            open: Default::default(),
        }
    }

    /// The track of the channel's present program, if there is one.
    fn place(&self, channel: u8) -> Option<usize> {
        let slot = usize::from(channel);
        self.places[slot].get(usize::from(self.program[slot])).copied().flatten().map(usize::from)
    }

    /// The notes of this pitch that sound.
    fn open(&mut self, channel: u8, pitch: u8) -> &mut VecDeque<(u32, u8)> {
        let pitches = &mut self.open[usize::from(channel)];
        if pitches.is_empty() {
            pitches.resize_with(128, VecDeque::new);
        }
        &mut pitches[usize::from(pitch)]
    }

    fn find_or_create(&mut self, channel: u8, budget: &mut Budget<'_>) -> Result<&mut Track, Reject> {
        let index = match self.place(channel) {
            Some(index) => index,
            None => {
                let slot = usize::from(channel);
                let early = &self.early[slot];
                // Programs that change without end would copy these without end.
                budget.events(early.control_ticks.len() + early.bend_ticks.len() + early.pedals.len())?;
                let program = self.program[slot];
                self.tracks.push((channel, Track { program, is_drum: channel == 9, ..early.clone() }));
                let index = self.tracks.len() - 1;
                self.places[slot].resize(128, None);
                self.places[slot][usize::from(program)] = Some(index as u16);
                index
            }
        };
        Ok(&mut self.tracks[index].1)
    }

    fn find_or_early(&mut self, channel: u8) -> &mut Track {
        match self.place(channel) {
            Some(index) => &mut self.tracks[index].1,
            None => &mut self.early[usize::from(channel)],
        }
    }

    /// Takes a channel message; `data` has the length that belongs to `status`.
    pub(super) fn channel_message(
        &mut self,
        tick: u32,
        status: u8,
        data: &[u8],
        budget: &mut Budget<'_>,
    ) -> Result<(), Reject> {
        let channel = status & 0x0F;
        let (first, second) = (data[0], data.get(1).copied().unwrap_or(0));
        match status & 0xF0 {
            0x90 if second != 0 => {
                if first > 127 || second > 127 {
                    return Err(out_of_range("a note-on"));
                }
                self.open(channel, first).push_back((tick, second));
            }
            0x80 | 0x90 => {
                if first > 127 {
                    return Err(out_of_range("a note-off"));
                }
                let queue = self.open(channel, first);
                let ended = queue.front().is_some_and(|(onset, _)| *onset <= tick).then(|| queue.pop_front()).flatten();
                let track = self.find_or_create(channel, budget)?;
                if let Some((onset, velocity)) = ended {
                    budget.note()?;
                    let duration = Tick::from(tick - onset);
                    track.notes.push(Note { tick: Tick::from(onset), duration, pitch: first, velocity });
                }
            }
            0xB0 => {
                if first > 127 || second > 127 {
                    return Err(out_of_range("a control change"));
                }
                self.control(channel, Tick::from(tick), first, second);
            }
            0xC0 => {
                if first > 127 {
                    return Err(out_of_range("a program change"));
                }
                self.program[usize::from(channel)] = first;
            }
            0xE0 => {
                if second > 127 {
                    return Err(out_of_range("a pitch bend"));
                }
                self.find_or_early(channel).bend_ticks.push(Tick::from(tick));
            }
            _ => {}
        }
        Ok(())
    }

    fn control(&mut self, channel: u8, tick: Tick, number: u8, value: u8) {
        const SUSTAIN: u8 = 64;
        let pressed = self.pedal[usize::from(channel)];
        let track = self.find_or_early(channel);
        track.control_ticks.push(tick);
        if number != SUSTAIN {
            return;
        }
        self.pedal[usize::from(channel)] = match (value >= 64, pressed) {
            (true, None) => Some(tick),
            (false, Some(since)) => {
                track.pedals.push((since, tick - since));
                None
            }
            (_, unchanged) => unchanged,
        };
    }

    /// Takes a lyric. Quirk: its "channel" is the low half of the meta status byte.
    pub(super) fn lyric(&mut self, tick: u32, text: &[u8], budget: &mut Budget<'_>) -> Result<(), Reject> {
        let track = self.find_or_create(15, budget)?;
        if !text.is_empty() {
            track.lyric_ticks.push(Tick::from(tick));
        }
        Ok(())
    }

    /// The tracks that hold anything, by channel and program, their notes sorted.
    pub(super) fn finish(mut self) -> impl Iterator<Item = Track> {
        self.tracks.retain(|(_, track)| !track.is_empty());
        self.tracks.sort_by_key(|(channel, track)| (*channel, track.program));
        self.tracks.into_iter().map(|(_, mut track)| {
            track.notes.sort_by_key(|note| (note.tick, note.pitch, note.duration));
            track.pedals.sort_unstable();
            track
        })
    }
}
