//! The themes of a song: chords with cadences, a tune over them, and the figures of the accompaniment.

use super::figures::{Figures, Harmony, Kit};
use super::form::{chance, pick};
use super::style::{Flow, Style};
use super::theory::{Chord, chord};
use super::tune::{Motif, Tone};
use crate::job::draws::Draws;

/// Music that sections state: its harmony, its tune, and how it is accompanied.
#[derive(Debug)]
pub(super) struct Theme {
    pub(super) bars: usize,
    /// The two chords of each bar, often the same.
    pub(super) harmony: Vec<[Chord; 2]>,
    /// The tune in scale degrees; empty where there is none.
    pub(super) tune: Vec<Tone>,
    pub(super) chords: &'static str,
    pub(super) arpeggio: &'static str,
    pub(super) bass: &'static str,
    pub(super) kit: Option<&'static Kit>,
}

/// The letters of the themes.
const LETTERS: [char; 3] = ['A', 'B', 'C'];

/// The themes of a form: 0 to 2 are A, B and C, 3 is the intro, 4 the outro.
pub(super) fn themes(
    draws: &mut dyn Draws,
    form: &str,
    bars: usize,
    style: &'static Style,
    figures: &'static Figures,
    progressions: &Harmony,
    flow: Flow,
) -> Vec<Theme> {
    let meter = figures.meter;
    let motif = Motif::draw(draws, meter, flow);
    let mut themes: Vec<Theme> = Vec::new();
    for letter in 0..3 {
        let closes = letter == 0 || form.chars().rfind(char::is_ascii_uppercase) == LETTERS.get(letter).copied();
        let harmony = progression(draws, bars, progressions, closes);
        // The middle part has a motif of its own, or the first one upside down.
        let flow = pick(draws, style.flow);
        let motif = match letter {
            0 => motif.clone(),
            _ if chance(draws, 0.35) => motif.inverted(),
            _ => Motif::draw(draws, meter, flow),
        };
        let height = [2, 4, 1][letter] + draws.below(2) as i32;
        let tune = motif.develop(draws, meter, &harmony, height);
        themes.push(Theme {
            bars,
            harmony,
            tune,
            chords: pick(draws, figures.chords),
            arpeggio: pick(draws, figures.arpeggio),
            bass: pick(draws, figures.bass),
            kit: (!figures.kits.is_empty()).then(|| &figures.kits[draws.below(figures.kits.len())]),
        });
    }
    // The frame of the song: its first chords before, its last phrase once more after.
    let first = &themes[0];
    let frame = |from: usize, tune: Vec<Tone>| Theme {
        bars: 4,
        harmony: first.harmony[from..from + 4].to_vec(),
        tune,
        chords: first.chords,
        arpeggio: first.arpeggio,
        bass: first.bass,
        kit: first.kit,
    };
    let shift = (bars - 4) as i64 * meter.bar();
    let last = first.tune.iter().filter(|tone| tone.at >= shift).map(|tone| Tone { at: tone.at - shift, ..*tone });
    let (intro, outro) = (frame(0, Vec::new()), frame(bars - 4, last.collect()));
    themes.extend([intro, outro]);
    themes
}

fn progression(draws: &mut dyn Draws, bars: usize, harmony: &Harmony, closes: bool) -> Vec<[Chord; 2]> {
    let open = pick(draws, harmony.open);
    let closed = pick(draws, harmony.closed);
    let words = |text: &'static str| text.split(' ');
    let text: Vec<&str> = match (bars, closes) {
        (4, true) => words(closed).collect(),
        (4, false) => words(open).collect(),
        // A period: both halves begin alike, and the second one comes home.
        (_, true) if chance(draws, 0.6) => {
            words(open).chain(words(open).take(2)).chain(words(closed).skip(2)).collect()
        }
        (_, true) => words(open).chain(words(closed)).collect(),
        (_, false) => words(open).chain(words(pick(draws, harmony.open))).collect(),
    };
    let bar = |symbols: &str| {
        let (first, second) = symbols.split_once('/').unwrap_or((symbols, symbols));
        [chord(first), chord(second)]
    };
    text.into_iter().map(bar).collect()
}
