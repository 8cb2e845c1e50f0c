//! A section as the parts see it: its chords, its tune, and its figures bar by bar.

use super::form::{Section, Treatment};
use super::theme::Theme;
use super::theory::{Chord, Key, Meter, Step, voicing};
use super::tune::Tone;
use super::vary::treat;

/// One section as a part sees it.
pub(super) struct Stage<'a> {
    pub(super) meter: Meter,
    pub(super) section: &'a Section,
    pub(super) theme: &'a Theme,
    /// Semitones between the song's first key and the section's.
    pub(super) lift: i32,
    /// Whether the song ends with it.
    pub(super) last: bool,
}

impl Stage<'_> {
    /// The section's key.
    pub(super) fn key(&self) -> Key {
        self.section.key
    }

    /// The chord at a step of the section.
    pub(super) fn chord_at(&self, at: Step) -> Chord {
        let bar = (at / self.meter.bar()) as usize;
        self.theme.harmony[bar.min(self.theme.bars - 1)][usize::from(at % self.meter.bar() >= self.meter.middle())]
    }

    /// The tune as the section states it.
    pub(super) fn tune(&self) -> Vec<Tone> {
        treat(&self.theme.tune, self.section.treatment, self.meter, self.theme.bars)
    }

    /// Whether `bar` is the last of the song.
    pub(super) fn is_end(&self, bar: usize) -> bool {
        self.last && bar + 1 == self.theme.bars
    }

    /// The bars of the section with a figure in each, as (onset, length, mark). Thin sections and the song's last bar
    /// have one `held` mark a chord.
    pub(super) fn figure(&self, figure: &'static str, held: char) -> Vec<(Step, Step, char)> {
        let mut marks = Vec::new();
        for bar in 0..self.theme.bars {
            let start = bar as Step * self.meter.bar();
            let changes = self.theme.harmony[bar][0] != self.theme.harmony[bar][1];
            let plain = self.section.treatment == Treatment::Thin || self.is_end(bar);
            let hits = if plain { vec![(0, self.meter.bar(), held)] } else { hits(figure, self.meter) };
            for (at, length, mark) in hits {
                let rest = at + length - self.meter.middle();
                // A note that would sound into the next chord is struck anew with it.
                if changes && at < self.meter.middle() && rest > 0 {
                    marks.push((start + at, length - rest, mark));
                    marks.push((start + self.meter.middle(), rest, held));
                } else {
                    marks.push((start + at, length, mark));
                }
            }
        }
        marks
    }

    /// The voicing of every chord of the section, two a bar.
    pub(super) fn voicings(&self, center: i32) -> Vec<[[i32; 3]; 2]> {
        let mut before = None;
        let mut voiced = |chord: Chord| {
            let voices = voicing(self.key(), chord, before, center + self.lift);
            before = Some(voices);
            voices
        };
        self.theme.harmony.iter().map(|bar| bar.map(&mut voiced)).collect()
    }
}

/// The notes of one bar of a figure: (onset, length, mark). 12/8 takes the bar of 6/8 twice.
pub(super) fn hits(figure: &str, meter: Meter) -> Vec<(Step, Step, char)> {
    let times = if meter == Meter::TwelveEight { 2 } else { 1 };
    let grid = meter.bar() / (figure.len() as Step * times);
    let mut notes: Vec<(Step, Step, char)> = Vec::new();
    let mut held = false;
    for (k, mark) in figure.chars().cycle().take(figure.len() * times as usize).enumerate() {
        match (mark, notes.last_mut()) {
            ('-', _) => held = false,
            ('.', Some(note)) if held => note.1 += grid,
            ('.', _) => {}
            _ => {
                notes.push((k as Step * grid, grid, mark));
                held = true;
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::synth::figures::percussion;
    use crate::source::synth::style::STYLES;

    #[test]
    fn a_figure_reads_as_notes() {
        assert_eq!(hits("x.-0", Meter::FourFour), [(0, 24, 'x'), (36, 12, '0')]);
        assert_eq!(hits("R..F..", Meter::TwelveEight).len(), 4);
        assert_eq!(hits("R..F..", Meter::TwelveEight)[3], (54, 18, 'F'));
    }

    #[test]
    fn every_figure_fits_its_bar() {
        for figures in STYLES.iter().flat_map(|style| style.figures) {
            let times = if figures.meter == Meter::TwelveEight { 2 } else { 1 };
            let kits = figures.kits.iter().flat_map(|kit| [kit.beat, kit.fill, kit.light].concat());
            let drums: Vec<&str> = kits.chain(percussion(figures.meter).concat()).map(|row| row.1).collect();
            for figure in [figures.chords, figures.arpeggio, figures.bass, &drums].concat() {
                let grid = figure.len() as Step * times;
                assert_eq!(figures.meter.bar() % grid, 0, "`{figure}` in {:?}", figures.meter);
                // The tokenizer's shortest position in common use is a sixteenth.
                assert!(figures.meter.bar() / grid >= 3, "`{figure}` in {:?}", figures.meter);
            }
        }
    }
}
