//! A second voice: it holds while the tune moves, moves while it rests, and goes the other way.

use super::stage::Stage;
use super::theory::{Meter, QUARTER, Step};
use super::tune::Tone;

/// The degrees of a counter-melody, its turns included.
pub(super) const COUNTER: (i32, i32) = (-5, 7);

/// A tone a beat or a bar, chosen against the tune; where the tune holds or rests, a way to the next tone.
pub(super) fn counter(stage: &Stage<'_>) -> Vec<Tone> {
    let meter = stage.meter;
    let unit = if meter.is_compound() { meter.pulse() } else { meter.middle().max(meter.bar() / 2) };
    let unit = if meter == Meter::ThreeFour { meter.bar() } else { unit };
    let tune = stage.tune();
    let sounding =
        |at: Step| tune.iter().rev().find(|tone| tone.at <= at).or(tune.first()).map_or(0, |tone| tone.degree);
    let count = (stage.theme.bars as Step * meter.bar()) / unit;
    let mut frame: Vec<i32> = Vec::new();
    for k in 0..count {
        let (chord, above) = (stage.chord_at(k * unit), sounding(k * unit));
        let before = frame.last().map(|low| (*low, sounding((k - 1) * unit)));
        let cost = |low: i32| {
            let same = i32::from((above - low).rem_euclid(7) == 0);
            let Some((low_before, above_before)) = before else { return 2 * (low - 1).abs() + 4 * same };
            let (moved, tune_moved) = (low - low_before, above - above_before);
            let along = i32::from(moved * tune_moved > 0);
            let perfect = |gap: i32| matches!(gap.rem_euclid(7), 0 | 4);
            let parallel =
                moved != 0 && perfect(above - low) && (above - low - (above_before - low_before)).rem_euclid(7) == 0;
            // A voice that stays for long is none.
            let step = [3, 0, 1, 3, 5, 8].get(moved.unsigned_abs() as usize).copied().unwrap_or(12);
            step + 3 * along + 4 * same + 12 * i32::from(parallel) + (low - 1).abs()
        };
        let tones = (-4..=6).filter(|low| chord.has(*low));
        frame.push(tones.min_by_key(|low| cost(*low)).unwrap_or(chord.nearest(0)));
    }
    let mut tones: Vec<Tone> = Vec::new();
    for (k, degree) in frame.iter().copied().enumerate() {
        let at = k as Step * unit;
        let onsets = tune.iter().filter(|tone| (at..at + unit).contains(&tone.at)).count();
        match frame.get(k + 1) {
            Some(next) if onsets < 2 => {
                tones.extend(walk(degree, *next, unit, meter).map(|t| Tone { at: at + t.at, ..t }))
            }
            _ => match tones.last_mut() {
                // A tone that stays is held.
                Some(held) if held.degree == degree && held.at + held.length == at && at % meter.bar() != 0 => {
                    held.length = meter.hold(held.length + unit);
                }
                _ => tones.push(Tone { at, length: unit, degree }),
            },
        }
    }
    tones
}

/// A short way from one degree to another, in `unit` steps.
fn walk(from: i32, to: i32, unit: Step, meter: Meter) -> impl Iterator<Item = Tone> + use<> {
    let s = (to - from).signum();
    let way = match (to - from).abs() {
        0 if unit < 2 * QUARTER => [from; 3],
        0 => [from, from + 1, from - 1],
        1 => [from, from - s, from],
        2 => [from, from + s, from + s],
        3 => [from, from + s, from + 2 * s],
        _ => [from, from + 2 * s, from + 3 * s],
    };
    let lengths = match (unit, meter.is_compound()) {
        (36, _) => [12, 12, 12],
        (18, true) => [6, 6, 6],
        (12, _) => [6, 3, 3],
        _ => [12, 6, 6],
    };
    let mut at = 0;
    let mut tones: Vec<Tone> = Vec::new();
    for (degree, length) in way.into_iter().zip(lengths) {
        match tones.last_mut() {
            Some(held) if held.degree == degree => held.length += length,
            _ => tones.push(Tone { at, length, degree }),
        }
        at += length;
    }
    tones.into_iter()
}
