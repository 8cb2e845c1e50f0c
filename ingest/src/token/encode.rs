//! A preprocessed score as base ids: REMI events of each track inside MMM's track marks, with the tick of
//! every token, from which the byte-pair groups follow.

use super::vocabulary::{BAR, TRACK_END, TRACK_START, Token};
use crate::reject::Reject;
use crate::score::bars::{COMMON_TIME, Until, bar_ticks};
use crate::score::grid::{POSITIONS_PER_BEAT, duration_ticks, metre_index, tempo_index};
use crate::score::{Note, Score, Tick, TimeSignature, Track, preprocess};

/// More tokens than this in one piece are taken for an attack, not for music.
const MAX_TOKENS: usize = 4_000_000;

/// The base tokens of one track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackTokens {
    /// Base ids, from `Track_Start` to `Track_End`.
    pub ids: Vec<u16>,
    /// The tick of each token.
    pub ticks: Vec<Tick>,
    /// Where the byte-pair groups start: normally at each bar.
    pub groups: Vec<usize>,
}

/// The attribute controls of one track, to be written into its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackControls {
    /// Ids that describe the whole track; they come before its first bar.
    pub track: Vec<u16>,
    /// Ids that describe a bar, with the bar's tick, in the order in which they are to appear.
    pub bars: Vec<(Tick, u16)>,
}

/// A score on the grid and all that its tokens are made of.
#[derive(Clone, Debug)]
pub struct Grid {
    /// The preprocessed score.
    pub score: Score,
    /// The tokenizer's bars: up to the last onset.
    pub bars: Vec<Tick>,
}

impl Grid {
    /// Puts a score on the grid.
    ///
    /// # Errors
    /// It has too many bars.
    pub fn of(score: &Score) -> Result<Self, Reject> {
        let score = preprocess(score);
        let bars = bar_ticks(&score, Until::LastOnset)?;
        let tokens = most_tokens(&score, bars.len());
        if tokens > MAX_TOKENS {
            return Err(Reject::tokenize("too-many-tokens", format!("about {tokens}, more than {MAX_TOKENS}")));
        }
        Ok(Grid { score, bars })
    }

    /// The tokens of every track, without attribute controls. A score without a track gives one sequence
    /// without a program.
    ///
    /// # Errors
    /// The score is not on the grid after all.
    pub fn encode(&self) -> Result<Vec<TrackTokens>, Reject> {
        if self.score.tracks.is_empty() {
            return Ok(vec![self.encode_events(None, &TrackControls::default())?]);
        }
        (0..self.score.tracks.len()).map(|track| self.encode_track(track, &TrackControls::default())).collect()
    }

    /// The tokens of one track with its controls.
    ///
    /// # Errors
    /// As [`Grid::encode`].
    ///
    /// # Panics
    /// If there is no such track.
    pub fn encode_track(&self, track: usize, controls: &TrackControls) -> Result<TrackTokens, Reject> {
        self.encode_events(Some(&self.score.tracks[track]), controls)
    }

    fn encode_events(&self, track: Option<&Track>, controls: &TrackControls) -> Result<TrackTokens, Reject> {
        let mut writer = Writer::new(&self.score);
        writer.put(TRACK_START, 0);
        if let Some(track) = track {
            writer.put(id_of(Token::Program(track.program_or_drums()))?, 0);
        }
        for control in &controls.track {
            writer.put(*control, 0);
        }
        let events = events(&self.score, track, controls)?;
        for (at, (tick, event)) in events.iter().enumerate() {
            let before_music = matches!(events.get(at + 1), Some((next, other))
                if next == tick && !matches!(other, Event::Control(_)));
            writer.event(*tick, event, before_music)?;
        }
        let end = writer.tokens.ticks.last().map_or(0, |tick| tick + 1);
        writer.put(TRACK_END, end);
        let mut tokens = writer.tokens;
        tokens.groups = groups_of(&tokens.ticks, &self.bars);
        Ok(tokens)
    }
}

/// An upper estimate of the tokens of a preprocessed score of so many bars.
///
/// Every track writes all bars with their metres, and all tempos with their positions.
pub(crate) fn most_tokens(score: &Score, bars: usize) -> usize {
    let shared = 2 * (bars + score.tempos.len()) + score.time_signatures.len();
    shared * score.tracks.len().max(1) + score.note_count() * 4
}

/// Where groups start: at the first token of each bar that the track reaches.
pub(crate) fn groups_of(ticks: &[Tick], bars: &[Tick]) -> Vec<usize> {
    let mut groups = vec![0];
    let mut at = 0;
    for bar in bars.iter().skip(1) {
        match ticks[at..].iter().position(|tick| tick >= bar) {
            Some(ahead) => at += ahead,
            None => break,
        }
        groups.push(at);
    }
    groups
}

fn id_of(token: Token) -> Result<u16, Reject> {
    token.id().ok_or_else(|| Reject::tokenize("no-token", format!("{token:?}")))
}

/// What happens at a tick, in the order in which it is written there.
#[derive(Clone, Copy, Debug)]
enum Event {
    Metre(TimeSignature),
    Tempo(u16),
    Control(u16),
    Note([u16; 3]),
}

fn events(score: &Score, track: Option<&Track>, controls: &TrackControls) -> Result<Vec<(Tick, Event)>, Reject> {
    let metres = score.time_signatures.iter().map(|metre| (metre.tick, Event::Metre(*metre)));
    let mut events: Vec<(Tick, Event)> = metres.collect();
    for tempo in &score.tempos {
        events.push((tempo.tick, Event::Tempo(id_of(Token::Tempo(tempo_index(tempo.micros_per_quarter)))?)));
    }
    events.extend(controls.bars.iter().map(|(tick, id)| (*tick, Event::Control(*id))));
    if let Some(track) = track {
        let sections = crate::score::beat_sections(score);
        let tables: Vec<[Tick; 24]> = sections.iter().map(|section| duration_ticks(section.value)).collect();
        events.reserve(track.notes.len());
        for note in &track.notes {
            let section = sections.partition_point(|section| section.end <= note.tick).min(tables.len() - 1);
            events.push((note.tick, note_event(note, track.is_drum, &tables[section])?));
        }
    }
    events.sort_by_key(|(tick, _)| *tick);
    Ok(events)
}

fn note_event(note: &Note, is_drum: bool, durations: &[Tick; 24]) -> Result<Event, Reject> {
    let pitch = if is_drum { Token::PitchDrum(note.pitch) } else { Token::Pitch(note.pitch) };
    let duration = durations
        .binary_search(&note.duration)
        .map_err(|_| Reject::tokenize("no-token", format!("a duration of {} ticks", note.duration)))?;
    Ok(Event::Note([id_of(pitch)?, id_of(Token::Velocity(note.velocity))?, id_of(Token::Duration(duration))?]))
}

/// Writes tokens in time order and keeps count of bars.
struct Writer {
    tokens: TrackTokens,
    ticks_per_quarter: u32,
    metre: Option<u16>,
    ticks_per_bar: Tick,
    ticks_per_position: Tick,
    /// Number of the bar that was begun last; −1 before the first.
    bar: Tick,
    bar_tick: Tick,
    /// Bar and tick of the last change of metre.
    change: (Tick, Tick),
    /// The tick whose position was written last.
    placed: Tick,
}

impl Writer {
    fn new(score: &Score) -> Self {
        let mut writer = Writer {
            tokens: TrackTokens::default(),
            ticks_per_quarter: score.ticks_per_quarter,
            metre: None,
            ticks_per_bar: 1,
            ticks_per_position: 1,
            bar: -1,
            bar_tick: 0,
            change: (0, 0),
            placed: -1,
        };
        writer.set_metre(score.time_signatures.first().unwrap_or(&COMMON_TIME));
        writer
    }

    fn set_metre(&mut self, metre: &TimeSignature) {
        self.metre = metre_index(metre).and_then(|index| Token::TimeSignature(index).id());
        self.ticks_per_bar = metre.ticks_per_bar(self.ticks_per_quarter).max(1);
        self.ticks_per_position = (metre.ticks_per_beat(self.ticks_per_quarter) / POSITIONS_PER_BEAT).max(1);
    }

    fn put(&mut self, id: u16, tick: Tick) {
        self.tokens.ids.push(id);
        self.tokens.ticks.push(tick);
    }

    fn put_position(&mut self, tick: Tick) -> Result<(), Reject> {
        let position = (tick - self.bar_tick) / self.ticks_per_position;
        let position = u16::try_from(position).ok().and_then(|position| Token::Position(position).id());
        let id = position.ok_or_else(|| Reject::tokenize("no-token", format!("the position of tick {tick}")))?;
        self.put(id, tick);
        Ok(())
    }

    fn put_metre(&mut self, tick: Tick) -> Result<(), Reject> {
        let id = self.metre.ok_or_else(|| Reject::tokenize("no-token", "a metre outside the table"))?;
        self.put(id, tick);
        Ok(())
    }

    /// Writes one event; `before_music` says that a control is the last one at its tick and music follows there.
    fn event(&mut self, tick: Tick, event: &Event, before_music: bool) -> Result<(), Reject> {
        let is_metre = matches!(event, Event::Metre(_));
        if tick != self.placed {
            let reached = self.change.0 + (tick - self.change.1) / self.ticks_per_bar;
            while self.bar < reached {
                self.bar += 1;
                self.bar_tick = self.change.1 + (self.bar - self.change.0) * self.ticks_per_bar;
                self.put(BAR, self.bar_tick);
                // A new metre writes its own token below.
                if !(is_metre && self.bar == reached) {
                    self.put_metre(self.bar_tick)?;
                }
            }
            if !matches!(event, Event::Metre(_) | Event::Control(_)) {
                self.put_position(tick)?;
            }
            self.placed = tick;
        }
        match event {
            Event::Metre(metre) => {
                self.change = (self.change.0 + (tick - self.change.1) / self.ticks_per_bar, tick);
                self.set_metre(metre);
                // The next event at this tick writes a position.
                self.placed = tick - 1;
                self.put_metre(tick)?;
            }
            Event::Tempo(id) => self.put(*id, tick),
            Event::Control(id) => {
                self.put(*id, tick);
                if before_music {
                    self.put_position(tick)?;
                }
            }
            Event::Note(ids) => ids.iter().for_each(|id| self.put(*id, tick)),
        }
        Ok(())
    }
}
