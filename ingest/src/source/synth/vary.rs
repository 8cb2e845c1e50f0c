//! How a tune changes when it returns. What is done follows from its notes alone, so that it can be foreseen.

use super::form::Treatment;
use super::theory::{Meter, Step};
use super::tune::Tone;

/// The tune as a section plays it.
pub(super) fn treat(tune: &[Tone], treatment: Treatment, meter: Meter, bars: usize) -> Vec<Tone> {
    let mut tones = match treatment {
        Treatment::Plain | Treatment::Full => tune.to_vec(),
        Treatment::Ornamented => ornament(tune, meter, bars),
        Treatment::Displaced => displace(tune, meter),
        Treatment::Thin => thin(tune, meter),
    };
    for tone in &mut tones {
        tone.length = meter.hold(tone.length);
    }
    tones
}

/// Splits notes of a beat: the second half passes on to the next note, or turns round it.
fn ornament(tune: &[Tone], meter: Meter, bars: usize) -> Vec<Tone> {
    let end = bars as Step * meter.bar();
    let half = if meter.is_compound() { 6 } else { meter.pulse() / 2 };
    let mut tones = Vec::with_capacity(2 * tune.len());
    for (i, tone) in tune.iter().enumerate() {
        let next = tune.get(i + 1);
        let goal = next.map_or(tone.degree, |next| next.degree);
        let between = match goal - tone.degree {
            2.. => Some(tone.degree + 1),
            ..=-2 => Some(tone.degree - 1),
            0 => Some(tone.degree + 1),
            _ => None,
        };
        let joined = next.map_or(end, |next| next.at) == tone.at + tone.length;
        match between {
            Some(degree) if joined && tone.length >= 2 * half && tone.length <= 24 => {
                let first = Tone { length: tone.length - half, ..*tone };
                tones.extend([first, Tone { at: tone.at + first.length, length: half, degree }]);
            }
            _ => tones.push(*tone),
        }
    }
    tones
}

/// Brings notes on the middle of the bar an eighth forward.
fn displace(tune: &[Tone], meter: Meter) -> Vec<Tone> {
    let mut tones = tune.to_vec();
    for i in 1..tones.len() {
        let before = tones[i - 1];
        let in_bar = tones[i].at % meter.bar();
        let joined = before.at + before.length == tones[i].at;
        if in_bar == meter.middle()
            && joined
            && before.length >= 12
            && before.at / meter.bar() == tones[i].at / meter.bar()
        {
            tones[i - 1].length -= 6;
            tones[i].at -= 6;
            tones[i].length += 6;
        }
    }
    tones
}

/// Keeps the notes on the beats, each held until the next.
fn thin(tune: &[Tone], meter: Meter) -> Vec<Tone> {
    let mut tones: Vec<Tone> = Vec::new();
    for tone in tune {
        match tones.last_mut() {
            Some(last) if tone.at % meter.pulse() != 0 && last.at / meter.bar() == tone.at / meter.bar() => {
                last.length = meter.hold(tone.at + tone.length - last.at);
            }
            _ => tones.push(*tone),
        }
    }
    tones
}

#[cfg(test)]
mod tests {
    use super::*;

    const METER: Meter = Meter::FourFour;

    fn tune() -> Vec<Tone> {
        let notes = [(0, 12, 0), (12, 6, 2), (18, 6, 3), (24, 24, 4), (48, 36, 2)];
        notes.map(|(at, length, degree)| Tone { at, length, degree }).to_vec()
    }

    fn varied(treatment: Treatment) -> Vec<(Step, Step, i32)> {
        treat(&tune(), treatment, METER, 2).iter().map(|tone| (tone.at, tone.length, tone.degree)).collect()
    }

    #[test]
    fn ornaments_pass_to_the_next_note() {
        let tones = varied(Treatment::Ornamented);
        assert_eq!(tones[..3], [(0, 6, 0), (6, 6, 1), (12, 6, 2)]);
        assert_eq!(tones[4..6], [(24, 18, 4), (42, 6, 3)]);
    }

    #[test]
    fn displaced_notes_come_early_where_the_one_before_is_long() {
        let mut long = tune();
        long.splice(1..3, []);
        long[0].length = 24;
        let tones = treat(&long, Treatment::Displaced, METER, 2);
        assert_eq!((tones[0].length, tones[1].at, tones[1].length), (18, 18, 30));
        assert_eq!(varied(Treatment::Displaced), varied(Treatment::Plain), "an eighth before keeps its place");
    }

    #[test]
    fn thin_tunes_keep_the_beats() {
        assert_eq!(varied(Treatment::Thin), [(0, 12, 0), (12, 12, 2), (24, 24, 4), (48, 36, 2)]);
    }
}
