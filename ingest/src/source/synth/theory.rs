//! Metres, scales, chords and the durations that the tokenizer keeps: what the composer's other parts reckon with.

/// A time in twelfths of a quarter note, the tokenizer's finest grid in x/4.
pub(super) type Step = i64;

/// Steps in a quarter note.
pub(super) const QUARTER: Step = 12;

/// The metres that songs are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Meter {
    FourFour,
    ThreeFour,
    TwoFour,
    SixEight,
    TwelveEight,
}

impl Meter {
    /// Numerator and denominator.
    pub(super) fn signature(self) -> (u8, u8) {
        match self {
            Meter::FourFour => (4, 4),
            Meter::ThreeFour => (3, 4),
            Meter::TwoFour => (2, 4),
            Meter::SixEight => (6, 8),
            Meter::TwelveEight => (12, 8),
        }
    }

    /// Steps in a bar.
    pub(super) fn bar(self) -> Step {
        let (beats, unit) = self.signature();
        Step::from(beats) * QUARTER * 4 / Step::from(unit)
    }

    /// Whether its beats divide in three.
    pub(super) fn is_compound(self) -> bool {
        self.signature().1 == 8
    }

    /// Steps in a felt beat: a quarter, or a dotted one.
    pub(super) fn pulse(self) -> Step {
        if self.is_compound() { 18 } else { QUARTER }
    }

    /// Where the second chord of a bar sets in.
    pub(super) fn middle(self) -> Step {
        match self {
            Meter::FourFour | Meter::ThreeFour => 24,
            Meter::TwoFour => 12,
            Meter::SixEight => 18,
            Meter::TwelveEight => 36,
        }
    }

    /// Whether a note that sets in at `at` steps stands on a strong beat.
    pub(super) fn is_strong(self, at: Step) -> bool {
        let at = at % self.bar();
        at == 0 || (at == self.middle() && self != Meter::ThreeFour)
    }

    /// The longest duration up to `steps` that the tokenizer keeps exactly in this metre; 0 if there is none.
    pub(super) fn hold(self, steps: Step) -> Step {
        // The tokenizer's durations in twelfths of the written beat.
        const TABLE: [Step; 24] =
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 18, 21, 24, 30, 36, 42, 48, 60, 72, 84, 96];
        // An eighth has twelve positions too, each half a step.
        let fine = if self.is_compound() { 2 } else { 1 };
        let whole_steps = TABLE.iter().filter(|d| **d % fine == 0).map(|d| d / fine);
        whole_steps.filter(|d| *d <= steps).max().unwrap_or(0)
    }
}

/// The scales that songs are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    Major,
    Minor,
    Dorian,
    Mixolydian,
}

impl Mode {
    fn scale(self) -> [i32; 7] {
        match self {
            Mode::Major => [0, 2, 4, 5, 7, 9, 11],
            Mode::Minor => [0, 2, 3, 5, 7, 8, 10],
            Mode::Dorian => [0, 2, 3, 5, 7, 9, 10],
            Mode::Mixolydian => [0, 2, 4, 5, 7, 9, 10],
        }
    }
}

/// A tonic and a scale on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Pitch class of the tonic, 0 to 11.
    pub(super) tonic: i32,
    pub(super) mode: Mode,
}

impl Key {
    /// Semitones from the tonic up to a scale degree; 0 is the tonic, 7 the one above, -1 the note below.
    fn above(self, degree: i32) -> i32 {
        12 * degree.div_euclid(7) + self.mode.scale()[degree.rem_euclid(7) as usize]
    }

    /// The same, under a chord that may alter the degree.
    pub(super) fn under(self, degree: i32, chord: Chord) -> i32 {
        let third = self.above(chord.root + 2) - self.above(chord.root);
        let is_third = (degree - chord.root).rem_euclid(7) == 2;
        // Over the dominant of a minor key the sixth degree goes up with the seventh: no augmented second.
        let is_sixth = self.mode == Mode::Minor && chord.root == 4 && degree.rem_euclid(7) == 5;
        let raised = chord.major && third == 3 && (is_third || is_sixth);
        self.above(degree) + i32::from(raised)
    }

    /// Whether a pitch belongs to the scale.
    #[cfg(test)]
    pub(super) fn has(self, pitch: i32) -> bool {
        self.mode.scale().contains(&(pitch - self.tonic).rem_euclid(12))
    }

    /// The key `semitones` higher.
    pub(super) fn up(self, semitones: i32) -> Key {
        Key { tonic: (self.tonic + semitones).rem_euclid(12), ..self }
    }

    /// The tonic's pitch that lies nearest to `center`.
    pub(super) fn tonic_near(self, center: i32) -> i32 {
        center - 6 + (self.tonic - (center - 6)).rem_euclid(12)
    }
}

/// A chord on a degree of the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chord {
    /// The degree of its root, 0 to 6.
    pub(super) root: i32,
    /// Whether it has its seventh.
    pub(super) seventh: bool,
    /// Whether its third is major, whatever the scale says.
    pub(super) major: bool,
}

impl Chord {
    /// Whether the degree is one of its tones.
    pub(super) fn has(self, degree: i32) -> bool {
        matches!((degree - self.root).rem_euclid(7), 0 | 2 | 4) || (self.seventh && self.is_seventh(degree))
    }

    fn is_seventh(self, degree: i32) -> bool {
        (degree - self.root).rem_euclid(7) == 6
    }

    /// The degrees of the three voices that accompany the bass: the triad, or third, fifth and seventh.
    fn voices(self) -> [i32; 3] {
        let skip = if self.seventh { 2 } else { 0 };
        [self.root + skip, self.root + skip + 2, self.root + skip + 4]
    }

    /// The chord tone nearest to `degree`, the lower of two.
    pub(super) fn nearest(self, degree: i32) -> i32 {
        let distance = |d: &i32| ((d - degree).abs(), *d);
        (degree - 3..=degree + 3).filter(|d| self.has(*d)).min_by_key(distance).unwrap_or(degree)
    }
}

/// Three pitches in close position, as near as may be to the voices before and to `center`, lowest first.
pub(super) fn voicing(key: Key, chord: Chord, before: Option<[i32; 3]>, center: i32) -> [i32; 3] {
    let degrees = chord.voices();
    let tonic = key.tonic_near(center);
    let mut best = ([0; 3], i32::MAX);
    for lowest in 0..3usize {
        for octave in -2..=2 {
            let voice = |k: usize| {
                let turned = lowest + k;
                tonic + 12 * octave + key.under(degrees[turned % 3] + 7 * (turned / 3) as i32, chord)
            };
            let pitches = [voice(0), voice(1), voice(2)];
            let moves: i32 = before.map_or(0, |b| (0..3).map(|k| (b[k] - pitches[k]).abs()).sum());
            let cost = 2 * moves + 3 * (pitches[1] - center).abs();
            if cost < best.1 {
                best = (pitches, cost);
            }
        }
    }
    best.0
}

/// What a chord symbol of the progressions means: a degree as a Roman numeral, upper case for a major third
/// that the scale may not have, with a `7` for the seventh. Lower case takes the third of the scale.
pub(super) fn chord(symbol: &str) -> Chord {
    let numeral = symbol.trim_end_matches('7');
    const NUMERALS: [&str; 7] = ["i", "ii", "iii", "iv", "v", "vi", "vii"];
    let lower = numeral.to_ascii_lowercase();
    let root = NUMERALS.iter().position(|n| *n == lower).unwrap_or(0) as i32;
    Chord { root, seventh: numeral.len() < symbol.len(), major: lower != numeral }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C_MAJOR: Key = Key { tonic: 0, mode: Mode::Major };
    const A_MINOR: Key = Key { tonic: 9, mode: Mode::Minor };

    #[test]
    fn degrees_give_the_scale_and_chords_alter_it() {
        let pitches: Vec<i32> = (-1..9).map(|d| 60 + C_MAJOR.under(d, chord("I"))).collect();
        assert_eq!(pitches, [59, 60, 62, 64, 65, 67, 69, 71, 72, 74]);
        let tonic = A_MINOR.tonic_near(60);
        assert_eq!(tonic, 57);
        assert_eq!(tonic + A_MINOR.under(6, chord("i")), 67, "G over A minor");
        assert_eq!(tonic + A_MINOR.under(6, chord("V")), 68, "G sharp over E major");
        assert_eq!(tonic + A_MINOR.under(5, chord("V")), 66, "F sharp on the way to it");
        assert_eq!(60 + C_MAJOR.under(3, chord("II7")), 66, "F sharp over D7 in C");
        assert_eq!(60 + C_MAJOR.under(6, chord("V")), 71, "a major chord stays major");
    }

    #[test]
    fn voices_move_little() {
        let c = voicing(C_MAJOR, chord("I"), None, 60);
        let f = voicing(C_MAJOR, chord("IV"), Some(c), 60);
        let g = voicing(C_MAJOR, chord("V7"), Some(f), 60);
        assert_eq!(c, [55, 60, 64]);
        assert_eq!(f, [57, 60, 65]);
        assert_eq!(g, [59, 62, 65], "third, fifth and seventh");
    }

    #[test]
    fn durations_are_those_of_the_tokenizer() {
        assert_eq!([5, 13, 36, 47, 96, 200].map(|d| Meter::FourFour.hold(d)), [5, 12, 36, 42, 96, 96]);
        assert_eq!([5, 7, 11, 18, 20, 36, 40].map(|d| Meter::SixEight.hold(d)), [5, 6, 9, 18, 18, 36, 36]);
        assert_eq!(Meter::FourFour.hold(0), 0);
    }

    #[test]
    fn strong_beats_are_where_they_are_felt() {
        let strong = |meter: Meter| (0..meter.bar()).filter(|at| meter.is_strong(*at)).collect::<Vec<_>>();
        assert_eq!(strong(Meter::FourFour), [0, 24]);
        assert_eq!(strong(Meter::ThreeFour), [0]);
        assert_eq!(strong(Meter::SixEight), [0, 18]);
    }

    #[test]
    fn chord_tones_are_found() {
        assert_eq!(chord("V7"), Chord { root: 4, seventh: true, major: true });
        assert_eq!(chord("vi"), Chord { root: 5, seventh: false, major: false });
        assert_eq!(chord("V").nearest(0), -1);
        assert!(chord("V7").has(3) && !chord("V").has(3));
    }
}
