//! Tunes: a motif of two bars, developed over the harmony by a search for the line that sings best.

use super::figures::cells;
use super::form::pick;
use super::sing::{Slot, sing};
use super::style::Flow;
use super::theory::{Chord, Meter, Step};
use crate::job::draws::Draws;

/// A note of a tune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tone {
    /// Onset, counted from the start of the theme.
    pub(super) at: Step,
    pub(super) length: Step,
    /// Scale degree; 0 is the tonic of the instrument's register.
    pub(super) degree: i32,
}

/// The rhythm of one bar with the shape that it draws.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Figure {
    /// (onset in the bar, length, degrees above the bar's first note).
    notes: Vec<(Step, Step, i32)>,
}

/// Two bars from which a theme is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Motif {
    bars: [Figure; 2],
}

/// What a bar of a theme does with the motif.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idea {
    /// Bar 0 or 1 of the motif.
    State(usize),
    /// The same, so many degrees higher.
    Sequence(usize, i32),
    /// The same upside down.
    Invert(usize),
    /// The first half twice, as a phrase speeds up to its end.
    Fragment(usize),
    /// The notes of an earlier bar, if the harmony is the same; else the same motif.
    Recall(usize, usize),
    /// An arrival: a long note, then air.
    Arrive,
}

use Idea::{Arrive, Fragment, Invert, Recall, Sequence, State};

/// Plans for eight bars: periods, and sentences.
const EIGHT: [[Idea; 8]; 5] = [
    [State(0), State(1), Sequence(0, 1), Arrive, Recall(0, 0), Recall(1, 1), Fragment(0), Arrive],
    [State(0), Sequence(0, -1), State(1), Arrive, Recall(0, 0), Recall(1, 0), State(1), Arrive],
    [State(0), State(1), Sequence(0, 2), Sequence(1, 2), Fragment(0), Fragment(0), Invert(1), Arrive],
    [State(0), State(1), Recall(0, 0), Arrive, Invert(0), State(1), Fragment(0), Arrive],
    [State(0), Invert(0), State(1), Arrive, Recall(0, 0), Recall(1, 0), Sequence(1, 1), Arrive],
];
/// Plans for four bars.
const FOUR: [[Idea; 4]; 5] = [
    [State(0), State(1), Sequence(0, 1), Arrive],
    [State(0), Sequence(0, 1), State(1), Arrive],
    [State(0), Invert(0), Fragment(0), Arrive],
    [State(0), State(1), Recall(0, 0), Arrive],
    [State(0), Sequence(0, -1), Fragment(1), Arrive],
];

impl Motif {
    /// Draws rhythm and shape.
    pub(super) fn draw(draws: &mut dyn Draws, meter: Meter, flow: Flow) -> Motif {
        let first = Figure::draw(draws, meter, flow);
        let second = Figure::draw(draws, meter, flow);
        Motif { bars: [first, second] }
    }

    /// The motif upside down.
    pub(super) fn inverted(&self) -> Motif {
        Motif { bars: [self.bars[0].inverted(), self.bars[1].inverted()] }
    }

    /// A tune over `harmony`, four or eight bars long, around the degree `height`.
    pub(super) fn develop(
        &self,
        draws: &mut dyn Draws,
        meter: Meter,
        harmony: &[[Chord; 2]],
        height: i32,
    ) -> Vec<Tone> {
        let ideas: Vec<Idea> =
            if harmony.len() == 4 { pick(draws, &FOUR).to_vec() } else { pick(draws, &EIGHT).to_vec() };
        let arrival = pick(draws, arrivals(meter));
        let mut slots = Vec::new();
        for (bar, idea) in ideas.iter().enumerate() {
            let (figure, shift, recall) = match *idea {
                State(k) => (self.bars[k].clone(), 0, None),
                Sequence(k, by) => (self.bars[k].clone(), by, None),
                Invert(k) => (self.bars[k].inverted(), 0, None),
                Fragment(k) => (self.bars[k].fragment(meter), 0, None),
                Recall(from, k) => (self.bars[k].clone(), 0, (harmony[from] == harmony[bar]).then_some(from)),
                Arrive => (Figure { notes: vec![(0, arrival, 0)] }, 0, None),
            };
            // A phrase rises to its third quarter and falls to its end.
            let place = bar as i32 % 4;
            let arch = height + [0, 1, 2, -1][place as usize] + shift;
            let arrives = *idea == Arrive;
            let home = arrives && bar + 1 == harmony.len();
            let anchor = harmony[bar][0].nearest(if home { 0 } else { arch });
            for (at, length, shape) in figure.notes {
                let chord = harmony[bar][usize::from(at >= meter.middle())];
                let strong = meter.is_strong(at) || length >= meter.pulse();
                let start = bar as Step * meter.bar();
                slots.push(Slot {
                    at: start + at,
                    length,
                    wish: anchor + shape,
                    chord,
                    strong,
                    home: home && chord.root == 0,
                    copy_of: recall.map(|from| from as Step * meter.bar() + at),
                    pinned: None,
                });
            }
        }
        let tones = sing(&slots);
        // What recalls and what is recalled keep their notes; the rest finds its way to them once more.
        let recalled: Vec<(usize, usize)> = slots
            .iter()
            .enumerate()
            .filter_map(|(to, slot)| Some((slots.iter().position(|s| Some(s.at) == slot.copy_of)?, to)))
            .collect();
        for (from, to) in recalled {
            slots[from].pinned = Some(tones[from].degree);
            slots[to].pinned = Some(tones[from].degree);
        }
        sing(&slots)
    }
}

/// How long the note may be on which a phrase arrives.
fn arrivals(meter: Meter) -> &'static [Step] {
    match meter {
        Meter::FourFour => &[36, 24, 48, 36],
        Meter::ThreeFour => &[36, 24],
        Meter::TwoFour => &[24, 12, 18],
        Meter::SixEight => &[36, 30, 18],
        Meter::TwelveEight => &[36, 48],
    }
}

impl Figure {
    fn draw(draws: &mut dyn Draws, meter: Meter, flow: Flow) -> Figure {
        let mut notes = Vec::new();
        let (mut at, mut degree, mut direction) = (0, 0, if draws.below(2) == 0 { 1 } else { -1 });
        while at < meter.bar() {
            let cell = pick(draws, cells(meter, flow));
            for length in cell {
                if *length > 0 {
                    notes.push((at, *length, degree));
                    // Mostly by step and onward; a leap turns the line round.
                    let step = pick(draws, &[1, 1, 1, 1, 1, 2, 2, 3, 0]);
                    if step >= 2 || draws.below(4) == 0 || i32::abs(degree + direction * step) > 4 {
                        degree += if i32::abs(degree + direction * step) > 4 { -direction } else { direction } * step;
                        direction = -direction;
                    } else {
                        degree += direction * step;
                    }
                }
                at += length.abs();
            }
        }
        Figure { notes }
    }

    fn inverted(&self) -> Figure {
        Figure { notes: self.notes.iter().map(|(at, length, degree)| (*at, *length, -degree)).collect() }
    }

    /// The first half twice, the second time a step lower; a bar that has no halves stays whole.
    fn fragment(&self, meter: Meter) -> Figure {
        let half = meter.bar() / 2;
        if meter == Meter::ThreeFour || meter == Meter::TwoFour {
            return self.clone();
        }
        let first: Vec<_> = self.notes.iter().copied().filter(|note| note.0 + note.1 <= half).collect();
        if first.is_empty() {
            return self.clone();
        }
        let second = first.iter().map(|(at, length, degree)| (at + half, *length, degree - 1));
        Figure { notes: first.iter().copied().chain(second).collect() }
    }
}
