//! Attribute controls as somebody asks for them, by plain names: `density=8`, `polyphony=1-3`, `durations=quarter+eighth`.

use super::Control;
use super::name::{
    BAR_DENSITY, BAR_DURATION, BAR_POLYPHONY, DEGREES, FULL, MOST_VOICES, REPETITION, TRACK_DENSITY,
    TRACK_DENSITY_FULL, TRACK_DURATION, TRACK_POLYPHONY,
};
use super::track::degree;
use crate::job::config::nearest;
use crate::job::exit::{Error, Result};
use crate::token::vocabulary::Token;

/// The names, each with the control of a bar and of a track that it stands for.
const NAMES: [(&str, Option<Control>, Control); 4] = [
    ("polyphony", Some(Control::BarOnsetPolyphony), Control::TrackOnsetPolyphony),
    ("density", Some(Control::BarNoteDensity), Control::TrackNoteDensity),
    ("durations", Some(Control::BarNoteDuration), Control::TrackNoteDuration),
    ("repetition", None, Control::TrackRepetition),
];

/// The lengths of notes that durations tell apart, in the order of their flags.
const LENGTHS: [&str; 5] = ["whole", "half", "quarter", "eighth", "sixteenth"];

/// A control that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which one.
    pub control: Control,
    /// Its base ids: one value for the track or for all bars, or one a bar; none if the original's are meant.
    pub values: Vec<Vec<u16>>,
}

impl Asked {
    /// Reads `NAME` (the original's value) or `NAME=VALUE`, of bars or of a track. Values of several bars stand between
    /// commas.
    ///
    /// # Errors
    /// An unknown name, or a value that the control does not have (78); the hint says which there are.
    pub fn parse(text: &str, of_bars: bool) -> Result<Self> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let known = NAMES.iter().filter_map(|(name, bar, track)| {
            let control = if of_bars { *bar } else { Some(*track) };
            control.map(|control| (*name, control))
        });
        let known: Vec<(&str, Control)> = known.collect();
        let Some((_, control)) = known.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let what = if of_bars { "bars" } else { "a track" };
            let error =
                Error::mismatch(format!("there is no control `{name}` of {what}; known are {}", names.join(", ")));
            return Err(match nearest(name, &names) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            });
        };
        let values = value.map_or(Ok(Vec::new()), |value| {
            let each = if of_bars { value.split(',').collect() } else { vec![value] };
            each.into_iter().map(|value| ids_of(*control, value)).collect()
        });
        let values = values.map_err(|hint| {
            Error::mismatch(format!("the control `{name}` has no value `{}`", value.unwrap_or_default())).hint(hint)
        })?;
        Ok(Asked { control: *control, values })
    }

    /// The value for the `number`th bar, or for the track; `None` if it is the original's.
    pub fn value(&self, number: usize) -> Option<&[u16]> {
        match self.values.as_slice() {
            [one] => Some(one),
            all => all.get(number).map(Vec::as_slice),
        }
    }

    /// Puts what is asked for into the order of training, and checks it against what models are trained with.
    ///
    /// # Errors
    /// A control that is not among `trained`, one asked for twice, or not one value a bar (78).
    pub fn in_order(mut asked: Vec<Asked>, trained: &[Control], bars: usize) -> Result<Vec<Asked>> {
        for (number, one) in asked.iter().enumerate() {
            let name = one.control.asked_as();
            if !trained.contains(&one.control) {
                let names: Vec<&str> = trained.iter().map(|control| control.asked_as()).collect();
                return Err(Error::mismatch(format!(
                    "models are not trained with the control `{name}` of such a track"
                ))
                .hint(format!("known are {}", names.join(", "))));
            }
            if asked[..number].iter().any(|other| other.control == one.control) {
                return Err(Error::mismatch(format!("the control `{name}` is asked for twice"))
                    .hint("give the values of several bars as one: 4,8"));
            }
            if one.values.len() > 1 && one.values.len() != bars {
                return Err(Error::mismatch(format!("the control `{name}` has {} values", one.values.len()))
                    .hint(format!("give one for all bars, or {bars}")));
            }
        }
        asked.sort_by_key(|one| trained.iter().position(|control| *control == one.control));
        Ok(asked)
    }
}

impl Control {
    /// The plain name by which it is asked for.
    fn asked_as(self) -> &'static str {
        let found = NAMES.iter().find(|(_, bar, track)| *bar == Some(self) || *track == self);
        found.map_or("pitch-classes", |(name, ..)| *name)
    }
}

/// The base ids of a value, or what values there are.
fn ids_of(control: Control, value: &str) -> std::result::Result<Vec<u16>, String> {
    let number = |text: &str| text.parse::<u16>().ok();
    let range = |low: u16, high: u16| {
        let (from, to) = value.split_once('-').unwrap_or((value, value));
        let (from, to) = (number(from.trim_end_matches('+'))?, number(to.trim_end_matches('+'))?);
        (low <= from && from <= to).then_some((from.min(high), to.min(high)))
    };
    let flags = |first: u16| {
        let mut flags = [0; LENGTHS.len()];
        for length in value.split('+').filter(|length| *length != "none") {
            let place = LENGTHS.iter().position(|known| *known == length);
            let near = nearest(length, &LENGTHS).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            *flags.get_mut(place.unwrap_or(LENGTHS.len())).ok_or_else(|| {
                format!(
                    "name the lengths that are to occur, such as quarter+eighth, of {}, or none{near}",
                    LENGTHS.join(", ")
                )
            })? = 1;
        }
        Ok((0..).zip(flags).map(|(place, flag)| first + 2 * place + flag).collect())
    };
    let polyphony = |first: u16| {
        let (fewest, most) =
            range(1, MOST_VOICES).ok_or("give how many notes begin together, from 1 to 6: 2, or 1-3")?;
        Ok(vec![first + fewest - 1, first + MOST_VOICES + most - 1])
    };
    let places: std::result::Result<Vec<u16>, String> = match control {
        Control::BarOnsetPolyphony => polyphony(BAR_POLYPHONY),
        Control::TrackOnsetPolyphony => polyphony(TRACK_POLYPHONY),
        Control::BarNoteDensity => {
            let notes =
                number(value.trim_end_matches('+')).ok_or("give a number of notes; 18 stands for 18 and more")?;
            Ok(vec![BAR_DENSITY + notes.min(FULL)])
        }
        Control::TrackNoteDensity => {
            let (least, most) =
                range(0, FULL).ok_or("give fewest and most notes of a bar: 2-9; 18 stands for 18 and more")?;
            let least = if least == FULL { TRACK_DENSITY_FULL } else { TRACK_DENSITY + least };
            let most = if most == FULL { TRACK_DENSITY_FULL + 1 } else { TRACK_DENSITY + FULL + most };
            Ok(vec![least, most])
        }
        Control::BarNoteDuration => flags(BAR_DURATION),
        Control::TrackNoteDuration => flags(TRACK_DURATION),
        Control::TrackRepetition => {
            let share = value.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
            let share = share.ok_or("give a share from 0 (nothing comes again) to 1 (all does)")?;
            let distance = |step: &u16| (degree(*step) - share).abs();
            Ok((0..DEGREES)
                .min_by(|a, b| distance(a).total_cmp(&distance(b)))
                .map(|step| REPETITION + step)
                .into_iter()
                .collect())
        }
        Control::BarPitchClass => Err("models are not trained with pitch classes".to_owned()),
    };
    Ok(places?.into_iter().filter_map(|place| Token::Control(place).id()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, of_bars: bool) -> Vec<Vec<String>> {
        let asked = Asked::parse(text, of_bars).expect("parses");
        let name = |ids: Vec<u16>| ids.into_iter().filter_map(Token::of).map(|token| token.to_string()).collect();
        asked.values.into_iter().map(name).collect()
    }

    #[test]
    fn values_become_tokens() {
        assert_eq!(names("density=8", true), [["ACBarNoteDensity_8"]]);
        assert_eq!(names("density=4,30", true), [["ACBarNoteDensity_4"], ["ACBarNoteDensity_18+"]]);
        assert_eq!(names("polyphony=1-3", true), [["ACBarOnsetPolyphonyMin_1", "ACBarOnsetPolyphonyMax_3"]]);
        assert_eq!(names("polyphony=2", false), [["ACTrackOnsetPolyphonyMin_2", "ACTrackOnsetPolyphonyMax_2"]]);
        assert_eq!(names("density=2-18+", false), [["ACTrackNoteDensityMin_2", "ACTrackNoteDensityMax_18+"]]);
        assert_eq!(names("repetition=0.9", false), [["ACTrackRepetition_0.89"]]);
        let flags = ["Whole_0", "Half_0", "Quarter_1", "Eight_1", "Sixteenth_0"];
        assert_eq!(names("durations=eighth+quarter", true), [flags.map(|flag| format!("ACBarNoteDuration{flag}"))]);
        assert_eq!(names("durations=none", true)[0][4], "ACBarNoteDurationSixteenth_0");
        assert!(names("density", true).is_empty(), "the original's");
    }

    #[test]
    fn mistakes_are_named_with_what_was_meant() {
        let error = |text: &str, of_bars| Asked::parse(text, of_bars).expect_err("a mistake").to_string();
        assert_eq!(
            error("densty=8", true),
            "there is no control `densty` of bars; known are polyphony, density, durations\nhint: did you mean `density`?"
        );
        assert!(error("repetition=1", true).starts_with("there is no control `repetition` of bars"));
        assert_eq!(
            error("density=many", true),
            "the control `density` has no value `many`\nhint: give a number of notes; 18 stands for 18 and more"
        );
        assert!(error("durations=quater", true).ends_with("did you mean `quarter`?"));
        assert!(error("polyphony=3-1", true).contains("from 1 to 6"));
        assert!(error("polyphony=0", true).contains("from 1 to 6"));
        assert!(error("repetition=2", false).contains("from 0"));
    }

    #[test]
    fn what_is_asked_for_comes_in_the_order_of_training() {
        let asked = |texts: &[&str]| texts.iter().map(|text| Asked::parse(text, true).expect("parses")).collect();
        let trained = Control::of_bars(false);
        let ordered = Asked::in_order(asked(&["durations", "density=1,2", "polyphony"]), trained, 2).expect("fits");
        assert!(ordered.iter().map(|one| one.control).eq(trained.iter().copied()));
        let error = |texts: &[&str], trained: &[Control], bars| {
            Asked::in_order(asked(texts), trained, bars).expect_err("a mistake").to_string()
        };
        assert!(error(&["density=1,2"], trained, 3).ends_with("hint: give one for all bars, or 3"));
        assert!(error(&["density", "density=1"], trained, 1).contains("asked for twice"));
        assert!(error(&["polyphony"], Control::of_bars(true), 1).ends_with("hint: known are density"));
    }
}
