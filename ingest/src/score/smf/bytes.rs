//! A track chunk's bytes as a stream of channel and meta messages.

use super::budget::Budget;
use crate::reject::Reject;

/// One message of a track chunk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message<'a> {
    /// A channel message: status byte and data bytes.
    Channel { status: u8, data: &'a [u8] },
    /// A meta message: its type and what follows the first length byte.
    Meta { kind: u8, payload: &'a [u8] },
}

/// Reads the messages of one track chunk with their ticks.
pub(super) struct Messages<'a> {
    bytes: &'a [u8],
    at: usize,
    tick: u32,
    /// Status and length (status byte included) that running status repeats.
    running: Option<(u8, usize)>,
}

fn cut(what: &'static str) -> Reject {
    Reject::parse("truncated", what)
}

/// Length in bytes, the status byte included. Of the system messages, F7 counts as a single byte and the
/// undefined ones as longer than any chunk.
fn length_of(status: u8) -> usize {
    match status {
        0x80..=0xBF | 0xE0..=0xEF | 0xF2 => 3,
        0xC0..=0xDF | 0xF1 | 0xF3 => 2,
        0xF6..=0xF8 | 0xFA..=0xFC | 0xFE => 1,
        _ => 65_535,
    }
}

impl<'a> Messages<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Messages { bytes, at: 0, tick: 0, running: None }
    }

    /// A variable-length number of at most four bytes. After four bytes that all say "more follows",
    /// the next byte is skipped, as the reference does.
    fn number(&mut self) -> Result<usize, Reject> {
        let mut value = 0usize;
        for _ in 0..4 {
            let byte = *self.bytes.get(self.at).ok_or_else(|| cut("a number runs past the chunk"))?;
            value = (value << 7) + usize::from(byte & 0x7F);
            if byte & 0x80 == 0 {
                break;
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(value)
    }

    /// The next message, or `None` at the end of the chunk or of the track.
    pub(super) fn next(&mut self, budget: &mut Budget<'_>) -> Result<Option<(u32, Message<'a>)>, Reject> {
        let end = self.bytes.len();
        loop {
            if self.at >= end {
                return Ok(None);
            }
            let delta = self.number()? as u32;
            budget.message(self.tick, delta)?;
            self.tick = self.tick.wrapping_add(delta);
            let status = *self.bytes.get(self.at).ok_or_else(|| cut("a delta time without a message"))?;
            let start = self.at;
            match status {
                0..0x80 => {
                    let (status, length) =
                        self.running.ok_or_else(|| Reject::parse("running-status", "data before any status"))?;
                    let data = self.bytes.get(start..start + length - 1).ok_or_else(|| cut("a message"))?;
                    self.at += length - 1;
                    if status < 0xF0 {
                        return Ok(Some((self.tick, Message::Channel { status, data })));
                    }
                }
                0xFF => {
                    self.at += 2;
                    let length = self.number()?;
                    let stop = self.at.checked_add(length).filter(|stop| *stop <= end);
                    let stop = stop.ok_or_else(|| cut("a meta message"))?;
                    budget.meta(stop - start)?;
                    let kind = self.bytes[start + 1];
                    self.at = stop;
                    if kind == 0x2F {
                        self.at = end;
                        return Ok(None);
                    }
                    // The payload begins after one length byte, however many there are.
                    let payload = self.bytes.get(start + 3..stop).unwrap_or_default();
                    return Ok(Some((self.tick, Message::Meta { kind, payload })));
                }
                0xF0 => {
                    self.at += 1;
                    let length = self.number()?;
                    let stop = self.at.checked_add(length).filter(|stop| *stop <= end);
                    self.at = stop.ok_or_else(|| cut("a system exclusive message"))?;
                    // Quirk: running status repeats a system exclusive message with its length.
                    self.running = Some((status, self.at - start));
                }
                _ => {
                    let length = length_of(status);
                    let stop = start.checked_add(length).filter(|stop| *stop <= end);
                    self.at = stop.ok_or_else(|| cut("a message"))?;
                    self.running = Some((status, length));
                    if status < 0xF0 {
                        let data = &self.bytes[start + 1..self.at];
                        return Ok(Some((self.tick, Message::Channel { status, data })));
                    }
                }
            }
        }
    }
}
