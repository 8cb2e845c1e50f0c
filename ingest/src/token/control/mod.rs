//! Attribute controls: tokens that say what a bar or a track is like (how dense, how many voices, how long its
//! notes), so that a model can be asked for it.
//!
//! Two rules: that of the published model's training data, faults and all, and a corrected one. See [`Compat`].

mod ask;
mod bar;
mod name;
mod track;
mod window;

use serde::{Deserialize, Serialize};

pub use ask::Asked;
pub(super) use name::name;

use super::encode::{Grid, TrackControls};
use super::vocabulary::Token;
use crate::reject::Reject;
use crate::score::{Tick, Track};

/// Whose rules hold where the published code has faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// The published code's, which the published model was trained with.
    MidiRwkv,
    /// Nobody's: the rules as they were meant.
    None,
}

/// An attribute that controls describe, in the reference's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// Smallest and largest number of notes that begin together in the track, 1 to 6.
    TrackOnsetPolyphony,
    /// The same of a bar.
    BarOnsetPolyphony,
    /// The pitch classes of a bar.
    BarPitchClass,
    /// Smallest and largest number of notes in the track's bars, 18 standing for more.
    TrackNoteDensity,
    /// The number of notes in a bar, 18 standing for more.
    BarNoteDensity,
    /// Whether a bar has a note of exactly a whole, half, quarter, eighth, sixteenth.
    BarNoteDuration,
    /// The same of the track.
    TrackNoteDuration,
    /// How much the track's bars resemble the next ones, in tenths.
    TrackRepetition,
}

impl Control {
    /// All of them, in the reference's order.
    pub const ALL: [Control; 8] = [
        Control::TrackOnsetPolyphony,
        Control::BarOnsetPolyphony,
        Control::BarPitchClass,
        Control::TrackNoteDensity,
        Control::BarNoteDensity,
        Control::BarNoteDuration,
        Control::TrackNoteDuration,
        Control::TrackRepetition,
    ];

    /// What bar infilling is trained with: no pitch classes, and of drums the density only.
    pub fn of_bars(is_drum: bool) -> &'static [Control] {
        match is_drum {
            true => &[Control::BarNoteDensity],
            false => &[Control::BarOnsetPolyphony, Control::BarNoteDensity, Control::BarNoteDuration],
        }
    }

    /// What track infilling is trained with: of drums only density and repetition.
    pub fn of_track(is_drum: bool) -> &'static [Control] {
        match is_drum {
            true => &[Control::TrackNoteDensity, Control::TrackRepetition],
            false => &[
                Control::TrackOnsetPolyphony,
                Control::TrackNoteDensity,
                Control::TrackNoteDuration,
                Control::TrackRepetition,
            ],
        }
    }

    /// Whether it describes bars, not the track.
    pub fn is_of_bars(self) -> bool {
        use Control::{BarNoteDensity, BarNoteDuration, BarOnsetPolyphony, BarPitchClass};
        matches!(self, BarOnsetPolyphony | BarPitchClass | BarNoteDensity | BarNoteDuration)
    }
}

/// The controls of a track with notes: those of `bars` (ascending numbers) and those of the track, in the order
/// of `wanted`. `ticks` are the tokenizer's bars.
///
/// # Errors
/// A value outside of the vocabulary, which only a bug could bring.
pub fn controls(
    track: &Track,
    ticks_per_quarter: u32,
    ticks: &[Tick],
    wanted: &[Control],
    bars: &[usize],
    compat: Compat,
) -> Result<TrackControls, Reject> {
    let id = |index: u16| {
        let id = Token::Control(index).id();
        id.ok_or_else(|| Reject::tokenize("no-token", format!("attribute control {index}")))
    };
    let quarter = Tick::from(ticks_per_quarter);
    let windows = window::windows(&track.notes, ticks, bars, compat);
    let mut out = TrackControls::default();
    for control in wanted {
        if control.is_of_bars() {
            for window in &windows {
                for index in bar::attributes(*control, window.notes, quarter) {
                    out.bars.push((window.tick, id(index)?));
                }
            }
        } else {
            for index in track::attributes(*control, track, quarter, ticks, compat) {
                out.track.push(id(index)?);
            }
        }
    }
    Ok(out)
}

impl Grid {
    /// The controls of one of its tracks, as [`controls`] gives them.
    ///
    /// # Errors
    /// As [`controls`].
    ///
    /// # Panics
    /// If there is no such track.
    pub fn controls(
        &self,
        track: usize,
        wanted: &[Control],
        bars: &[usize],
        compat: Compat,
    ) -> Result<TrackControls, Reject> {
        controls(&self.score.tracks[track], self.score.ticks_per_quarter, &self.bars, wanted, bars, compat)
    }
}
