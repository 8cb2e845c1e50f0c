//! The percussion: a kit that marks the form with fills and crashes, and a layer of hand percussion.

use super::figures::percussion;
use super::form::Treatment;
use super::parts::Sound;
use super::stage::{Stage, hits};
use super::theory::{Meter, Step};

const KICK: i32 = 36;
const CRASH: i32 = 49;
/// All drum notes are as short as this: their sound does not depend on it.
const LENGTH: Step = 3;

/// The kit: its beat, a fill in the last bar, a crash where a loud section begins.
pub(super) fn kit(stage: &Stage<'_>) -> Vec<Sound> {
    let Some(kit) = stage.theme.kit else { return Vec::new() };
    let mut sounds = Vec::new();
    for bar in 0..stage.theme.bars {
        let start = bar as Step * stage.meter.bar();
        if stage.is_end(bar) {
            sounds.extend([KICK, CRASH].map(|pitch| Sound { at: start, length: LENGTH, pitch, level: 1 }));
            continue;
        }
        if stage.section.treatment == Treatment::Thin {
            sounds.extend(rows(kit.light, stage.meter, start));
        } else if bar + 1 < stage.theme.bars {
            sounds.extend(rows(kit.beat, stage.meter, start));
        } else if stage.meter == Meter::TwelveEight {
            // The fill takes the second half of the long bar.
            let half = start + stage.meter.middle();
            sounds.extend(rows(kit.beat, stage.meter, start).into_iter().filter(|sound| sound.at < half));
            sounds.extend(rows(kit.fill, stage.meter, start).into_iter().filter(|sound| sound.at >= half));
        } else {
            sounds.extend(rows(kit.fill, stage.meter, start));
        }
    }
    if stage.section.energy > 0 {
        sounds.push(Sound { at: 0, length: LENGTH, pitch: CRASH, level: 1 });
    }
    sounds
}

/// Hand percussion, one bar over and over; silent in the song's last bar.
pub(super) fn layer(stage: &Stage<'_>, manner: usize) -> Vec<Sound> {
    let bars = percussion(stage.meter);
    let bar = bars[manner % bars.len()];
    let playing = (0..stage.theme.bars).filter(|k| !stage.is_end(*k));
    playing.flat_map(|k| rows(bar, stage.meter, k as Step * stage.meter.bar())).collect()
}

fn rows(rows: &[(u8, &str)], meter: Meter, start: Step) -> Vec<Sound> {
    let mut sounds = Vec::new();
    for (pitch, figure) in rows {
        for (at, _, mark) in hits(figure, meter) {
            let level = match mark {
                'X' => 1,
                'o' => -1,
                _ => 0,
            };
            sounds.push(Sound { at: start + at, length: LENGTH, pitch: i32::from(*pitch), level });
        }
    }
    sounds
}
