//! The plan of a song: everything that is drawn at random is decided here, and the parts follow from it.

use super::figures::percussion;
use super::instruments::Instrument;
use super::style::{Role, STYLES, Style};
use super::theme::{Theme, themes};
use super::theory::{Key, Meter, Mode};
use crate::job::draws::Draws;

/// A song before it is played.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) style: &'static Style,
    pub(super) meter: Meter,
    /// Quarter notes in a minute, by the bar in which the tempo begins; the first is bar 0.
    pub(super) tempos: Vec<(usize, u32)>,
    pub(super) themes: Vec<Theme>,
    pub(super) sections: Vec<Section>,
    pub(super) parts: Vec<Part>,
}

/// How a section states its theme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Treatment {
    /// As it is.
    Plain,
    /// Long notes of the tune are filled with neighbours and passing notes.
    Ornamented,
    /// Notes on the middle of the bar come early.
    Displaced,
    /// Only the frame of the tune, over held chords.
    Thin,
    /// With every track, and louder.
    Full,
}

/// A stretch of a song.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// Which theme it states.
    pub(super) theme: usize,
    /// Its first bar.
    pub(super) start: usize,
    pub(super) bars: usize,
    pub(super) key: Key,
    pub(super) treatment: Treatment,
    /// How much louder than usual, in steps of velocity.
    pub(super) energy: i32,
}

/// A track: who plays, and in which sections.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) role: Role,
    pub(super) instrument: Instrument,
    pub(super) active: Vec<bool>,
    /// Which of the ways to play the role is taken.
    pub(super) manner: usize,
}

/// One of `items`, which must not be empty, all equally likely.
pub(super) fn pick<T: Copy>(draws: &mut dyn Draws, items: &[T]) -> T {
    items[draws.below(items.len())]
}

/// Whether what happens with this probability happens now.
pub(super) fn chance(draws: &mut dyn Draws, probability: f64) -> bool {
    draws.uniform(0.0, 1.0) < probability
}

/// Forms: one letter a section. `i` and `o` are an intro and an outro of four bars, `A`, `B` and `C` are themes.
/// These are for themes of eight bars.
const FORMS: &[&str] =
    &["AABA", "ABAB", "ABA", "iABAo", "AABB", "ABAC", "AABAo", "iABABo", "ABACA", "AABBA", "iABABCBo", "AABABA"];
/// These are for themes of four bars, and never state one twice in a row: there is more to it than to go on as before.
const QUICK_FORMS: &[&str] = &["iABABCBo", "ABACABA", "iABACABo", "ABCABCA", "iABCABo", "ABABCABA"];

impl Plan {
    /// Draws a plan.
    pub(super) fn draw(draws: &mut dyn Draws) -> Plan {
        let style = &STYLES[draws.below(STYLES.len())];
        let figures = &style.figures[draws.below(style.figures.len())];
        let meter = figures.meter;
        let harmony = &style.harmony[draws.below(style.harmony.len())];
        // Few accidentals are more usual than many.
        let tonics: &[i32] = match harmony.mode {
            Mode::Major => &[0, 0, 7, 7, 2, 5, 5, 10, 3, 9],
            Mode::Minor => &[9, 9, 4, 2, 2, 7, 0, 11],
            Mode::Dorian => &[2, 2, 4, 9, 7],
            Mode::Mixolydian => &[7, 7, 2, 9, 0],
        };
        let key = Key { tonic: pick(draws, tonics), mode: harmony.mode };
        let flow = pick(draws, style.flow);

        // Short bars make short themes, which should not be shorter still.
        let quick = meter.bar() > 36 && chance(draws, 0.3);
        let (form, bars) = if quick { (pick(draws, QUICK_FORMS), 4) } else { (pick(draws, FORMS), 8) };
        let themes = themes(draws, form, bars, style, figures, harmony, flow);
        let sections = sections(draws, form, &themes, key, meter);
        let parts = parts(draws, style, meter, &sections, &themes);
        let tempos = tempos(draws, style, meter, &sections);
        Plan { style, meter, tempos, themes, sections, parts }
    }

    /// Bars in the whole song.
    #[cfg(test)]
    pub(super) fn bars(&self) -> usize {
        self.sections.iter().map(|section| section.bars).sum()
    }
}

fn sections(draws: &mut dyn Draws, form: &str, themes: &[Theme], key: Key, meter: Meter) -> Vec<Section> {
    let letters: Vec<char> = form.chars().collect();
    let lift = if chance(draws, 0.35) { pick(draws, &[1, 2, 2]) } else { 0 };
    let mut seen = [0usize; 5];
    let mut start = 0;
    let mut sections = Vec::new();
    for (position, letter) in letters.iter().enumerate() {
        let theme = match letter {
            'A' => 0,
            'B' => 1,
            'C' => 2,
            'i' => 3,
            _ => 4,
        };
        let body_left = letters[position + 1..].iter().filter(|l| l.is_ascii_uppercase()).count();
        let is_last = body_left == 0 && letter.is_ascii_uppercase();
        let treatment = match theme {
            3 => Treatment::Thin,
            4 => Treatment::Plain,
            _ if seen[theme] == 0 => Treatment::Plain,
            _ if is_last && chance(draws, 0.4) => Treatment::Full,
            _ => {
                let displaced = if meter.is_compound() { Treatment::Ornamented } else { Treatment::Displaced };
                let plain = Treatment::Plain;
                pick(
                    draws,
                    &[plain, plain, plain, plain, Treatment::Ornamented, displaced, Treatment::Thin, Treatment::Full],
                )
            }
        };
        // The last statement may go up, and what follows stays there.
        let lifted = lift > 0 && body_left == 0 && seen.iter().take(3).any(|count| *count > 1);
        let energy = match theme {
            3 => -1,
            4 => -1,
            1 => 1,
            _ => 0,
        } + i32::from(treatment == Treatment::Full)
            - i32::from(treatment == Treatment::Thin && theme != 3);
        let bars = themes[theme].bars;
        sections.push(Section { theme, start, bars, key: if lifted { key.up(lift) } else { key }, treatment, energy });
        seen[theme] += 1;
        start += bars;
    }
    sections
}

fn parts(draws: &mut dyn Draws, style: &Style, meter: Meter, sections: &[Section], themes: &[Theme]) -> Vec<Part> {
    let mut roles = style.core.to_vec();
    // Three to seven tracks, four and five most often.
    let wanted = pick(draws, &[3, 4, 4, 4, 5, 5, 5, 6, 7]);
    let order = draws.selection(style.extra.len(), style.extra.len());
    let more = wanted.max(roles.len()) - roles.len();
    let has_kit = themes[0].kit.is_some();
    roles.extend(order.into_iter().map(|k| style.extra[k]).filter(|r| has_kit || *r != Role::Drums).take(more));
    // Score order: the tune first, drums last.
    const ORDER: [Role; 9] = [
        Role::Melody,
        Role::Double,
        Role::Counter,
        Role::Chords,
        Role::Arpeggio,
        Role::Pad,
        Role::Bass,
        Role::Drums,
        Role::Percussion,
    ];
    roles.sort_by_key(|role| ORDER.iter().position(|r| r == role));
    let core = style.core;
    roles
        .into_iter()
        .map(|role| {
            let bank = match role {
                Role::Melody => style.lead,
                Role::Double | Role::Counter => style.second,
                Role::Chords => style.chords,
                Role::Arpeggio => style.arpeggio,
                Role::Pad => style.pad,
                Role::Bass | Role::Drums | Role::Percussion => style.bass,
            };
            let instrument = pick(draws, bank);
            let manner = draws.below(percussion(meter).len());
            let late = chance(draws, 0.5);
            let mut seen = [false; 5];
            let mut active: Vec<bool> = sections
                .iter()
                .map(|section| {
                    let again = std::mem::replace(&mut seen[section.theme], true);
                    let full = section.treatment == Treatment::Full;
                    let thin = section.treatment == Treatment::Thin;
                    let tune = !themes[section.theme].tune.is_empty();
                    match role {
                        Role::Melody => tune,
                        Role::Counter | Role::Double if !tune => false,
                        Role::Chords | Role::Arpeggio | Role::Bass if core.contains(&role) => true,
                        Role::Drums if core.contains(&role) => !(thin && section.theme == 3 && late),
                        _ if core.contains(&role) => true,
                        // A layer that is not always there comes with the chorus or with repeats.
                        _ => {
                            full || (!thin
                                && if late { section.theme == 1 || again } else { section.theme != 1 || again })
                        }
                    }
                })
                .collect();
            if !active.contains(&true) {
                active = sections.iter().map(|section| !themes[section.theme].tune.is_empty()).collect();
            }
            Part { role, instrument, active, manner }
        })
        .collect()
}

fn tempos(draws: &mut dyn Draws, style: &Style, meter: Meter, sections: &[Section]) -> Vec<(usize, u32)> {
    let (slow, fast) = style.tempo;
    let beats = slow + 4 * draws.below(((fast - slow) / 4 + 1) as usize) as u32;
    let quarters = |beats: u32| if meter.is_compound() { beats * 3 / 2 } else { beats }.clamp(50, 200);
    let mut tempos = vec![(0, quarters(beats))];
    let bars: usize = sections.iter().map(|s| s.bars).sum();
    if chance(draws, 0.06) {
        let change = sections[1 + draws.below(sections.len() - 1)].start;
        tempos.push((change, quarters(beats + 12)));
    }
    if chance(draws, 0.2) {
        let last = tempos.last().map_or(beats, |tempo| tempo.1);
        tempos.push((bars - 2, (last * 9 / 10).max(50)));
        tempos.push((bars - 1, (last * 3 / 4).max(50)));
    }
    tempos
}
