//! The search for the line that sings best: where the motif wishes, by step, at home in the chords.

use super::theory::{Chord, Step};
use super::tune::Tone;

/// A note to be given its degree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) at: Step,
    pub(super) length: Step,
    /// The degree that the motif would have here.
    pub(super) wish: i32,
    pub(super) chord: Chord,
    /// Whether it must be a chord tone.
    pub(super) strong: bool,
    /// Whether it must be the tonic.
    pub(super) home: bool,
    /// The onset of the note that it repeats.
    pub(super) copy_of: Option<Step>,
    /// The degree that it must have.
    pub(super) pinned: Option<i32>,
}

const LOWEST: i32 = -4;
const DEGREES: usize = 15;

/// Gives every slot a degree so that the whole line costs least: near the motif, by step, leaps resolved, strong
/// notes in the chord, other foreign notes passing or neighbouring. Viterbi's search over pairs of degrees.
pub(super) fn sing(slots: &[Slot]) -> Vec<Tone> {
    let degree = |k: usize| LOWEST + k as i32;
    // cost[before][now], the cheapest line that ends with this pair.
    let mut cost = [[0i32; DEGREES]; DEGREES];
    let mut steps: Vec<[[u8; DEGREES]; DEGREES]> = Vec::with_capacity(slots.len());
    for (i, slot) in slots.iter().enumerate() {
        let mut next = [[i32::MAX / 2; DEGREES]; DEGREES];
        let mut from = [[0u8; DEGREES]; DEGREES];
        for now in 0..DEGREES {
            let here = slot.cost(degree(now));
            for before in 0..DEGREES {
                if i == 0 {
                    next[before][now] = here;
                    continue;
                }
                let leap = interval(degree(before), degree(now));
                for (earlier, row) in cost.iter().enumerate() {
                    let mut sum = row[before] + here + leap;
                    if i > 1 && sum < next[before][now] {
                        sum += turn(&slots[i - 1], degree(earlier), degree(before), degree(now));
                    }
                    if sum < next[before][now] {
                        next[before][now] = sum;
                        from[before][now] = earlier as u8;
                    }
                }
            }
        }
        cost = next;
        steps.push(from);
    }
    let pairs = (0..DEGREES * DEGREES).map(|k| (k / DEGREES, k % DEGREES));
    let Some((mut before, mut now)) = pairs.min_by_key(|(b, n)| cost[*b][*n]) else { return Vec::new() };
    let mut tones: Vec<Tone> = Vec::with_capacity(slots.len());
    for (slot, from) in slots.iter().zip(&steps).rev() {
        tones.push(Tone { at: slot.at, length: slot.length, degree: degree(now) });
        (before, now) = (from[before][now] as usize, before);
    }
    tones.reverse();
    tones
}

impl Slot {
    fn cost(&self, degree: i32) -> i32 {
        if let Some(pinned) = self.pinned {
            return if degree == pinned { 0 } else { 500 };
        }
        let off = 3 * (degree - self.wish).abs();
        let foreign = match (self.chord.has(degree), self.strong) {
            (true, _) => 0,
            (false, true) => 60,
            (false, false) => 2,
        };
        let astray = if self.home && degree.rem_euclid(7) != 0 { 90 } else { 0 };
        off + foreign + astray
    }
}

fn interval(from: i32, to: i32) -> i32 {
    const COST: [i32; 8] = [5, 0, 3, 6, 9, 16, 24, 18];
    COST.get((to - from).unsigned_abs() as usize).copied().unwrap_or(60)
}

/// What three notes in a row cost, `slot` being that of the middle one.
fn turn(slot: &Slot, earlier: i32, before: i32, now: i32) -> i32 {
    let (first, second) = (before - earlier, now - before);
    let mut cost = 0;
    if first.abs() >= 3 && !(second.signum() == -first.signum() && second.abs() <= 2) {
        cost += 3 * first.abs();
    }
    if first == 0 && second == 0 {
        cost += 6;
    }
    if !slot.chord.has(before) && !slot.strong && (first.abs() != 1 || second.abs() > 1) {
        cost += 12;
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::synth::theory::chord;

    fn slot(at: Step, wish: i32, symbol: &str, strong: bool) -> Slot {
        Slot { at, length: 12, wish, chord: chord(symbol), strong, home: false, copy_of: None, pinned: None }
    }

    fn sung(slots: &[Slot]) -> Vec<i32> {
        sing(slots).iter().map(|tone| tone.degree).collect()
    }

    #[test]
    fn a_line_that_may_go_where_it_wishes_does() {
        let slots: Vec<Slot> = (0..5).map(|k| slot(12 * k, k as i32, "I", k % 2 == 0)).collect();
        assert_eq!(sung(&slots), [0, 1, 2, 3, 4]);
        assert!(sing(&[]).is_empty());
    }

    #[test]
    fn strong_notes_are_in_the_chord_and_home_is_the_tonic() {
        let mut slots =
            vec![slot(0, 1, "I", true), slot(12, 2, "I", false), slot(24, 3, "V", true), slot(36, 2, "I", true)];
        slots[3].home = true;
        let degrees = sung(&slots);
        assert!(chord("I").has(degrees[0]) && chord("V").has(degrees[2]), "{degrees:?}");
        assert_eq!(degrees[3], 0);
    }

    #[test]
    fn a_leap_turns_back() {
        let mut slots =
            vec![slot(0, 0, "I", true), slot(12, 4, "I", true), slot(24, 6, "I", false), slot(36, 4, "I", true)];
        slots[0].pinned = Some(0);
        slots[1].pinned = Some(4);
        // The motif wishes to go on upward.
        assert_eq!(sung(&slots)[2], 3);
    }

    #[test]
    fn a_pinned_note_stays() {
        let mut slots = vec![slot(0, 0, "I", true), slot(12, 0, "I", true)];
        slots[1].pinned = Some(5);
        assert_eq!(sung(&slots)[1], 5);
    }
}
