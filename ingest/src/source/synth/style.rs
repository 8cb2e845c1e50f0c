//! The styles that songs are written in: instruments, tracks, tempi, and which harmony and figures they take.

use super::figures::*;
use super::instruments::*;
use super::theory::Meter;

/// What a track does in the music.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Melody,
    Double,
    Counter,
    Chords,
    Arpeggio,
    Pad,
    Bass,
    Drums,
    Percussion,
}

/// How much the melody moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Calm,
    Flowing,
    Lively,
    Syncopated,
}

/// A way of writing songs.
#[derive(Debug)]
pub(super) struct Style {
    /// Felt beats in a minute, slowest and fastest.
    pub(super) tempo: (u32, u32),
    pub(super) flow: &'static [Flow],
    /// Whether eighths are long-short.
    pub(super) swing: bool,
    pub(super) harmony: &'static [Harmony],
    pub(super) figures: &'static [Figures],
    /// The tracks that every song of the style has.
    pub(super) core: &'static [Role],
    /// The tracks that it may have.
    pub(super) extra: &'static [Role],
    pub(super) lead: &'static [Instrument],
    pub(super) second: &'static [Instrument],
    pub(super) chords: &'static [Instrument],
    pub(super) arpeggio: &'static [Instrument],
    pub(super) pad: &'static [Instrument],
    pub(super) bass: &'static [Instrument],
}

use Flow::{Calm, Flowing, Lively, Syncopated};
use Role::{Arpeggio, Bass, Chords, Counter, Double, Drums, Melody, Pad, Percussion};

/// Every style.
pub(super) const STYLES: &[Style] = &[
    // Ballad.
    Style {
        tempo: (60, 84),
        flow: &[Calm, Flowing],
        swing: false,
        harmony: &[MAJOR, MINOR, POP_MAJOR],
        figures: &[
            figures(Meter::FourFour, &["x.x.", "x...", "xxxx"], EIGHTHS, &["R.F.", "R...", "R..RF..."], BALLAD_KITS),
            figures(Meter::TwelveEight, &["x..x..", "x....."], SIXES, &["R.....", "R..F.."], SIX_KITS),
        ],
        core: &[Melody, Arpeggio, Bass],
        extra: &[Pad, Counter, Drums, Double],
        lead: &[PIANO, FLUTE, OBOE, ALTO_SAX, VIOLIN],
        second: &[CELLO, CLARINET, HORN],
        chords: &[ELECTRIC_PIANO, PIANO],
        arpeggio: &[PIANO, NYLON_GUITAR, HARP],
        pad: &[STRINGS, WARM_PAD],
        bass: &[FINGER_BASS, ACOUSTIC_BASS],
    },
    // Waltz.
    Style {
        tempo: (96, 168),
        flow: &[Calm, Flowing],
        swing: false,
        harmony: &[MAJOR, MINOR, MAJOR],
        figures: &[WALTZ],
        core: &[Melody, Chords, Bass],
        extra: &[Counter, Double, Drums, Arpeggio],
        lead: &[VIOLIN, FLUTE, CLARINET, ACCORDION],
        second: &[CLARINET, VIOLA, HORN],
        chords: &[PIANO, STRINGS, ACCORDION],
        arpeggio: &[HARP],
        pad: &[STRINGS],
        bass: &[CONTRABASS, ACOUSTIC_BASS],
    },
    // March.
    Style {
        tempo: (100, 126),
        flow: &[Flowing, Lively],
        swing: false,
        harmony: &[MAJOR, MAJOR, MINOR],
        figures: &[MARCH],
        core: &[Melody, Chords, Bass, Drums],
        extra: &[Counter, Double],
        lead: &[TRUMPET, CLARINET, FLUTE],
        second: &[TROMBONE, HORN],
        chords: &[HORN, BRASS],
        arpeggio: &[CLARINET],
        pad: &[BRASS],
        bass: &[TUBA],
    },
    // Pop.
    Style {
        tempo: (88, 132),
        flow: &[Flowing, Syncopated],
        swing: false,
        harmony: &[POP_MAJOR, POP_MINOR],
        figures: &[POP],
        core: &[Melody, Chords, Bass, Drums],
        extra: &[Pad, Arpeggio, Counter, Double, Percussion],
        lead: &[PIANO, SQUARE, SOPRANO_SAX, CLEAN_GUITAR],
        second: &[STRINGS, ELECTRIC_PIANO],
        chords: &[PIANO, ELECTRIC_PIANO, STEEL_GUITAR],
        arpeggio: &[CLEAN_GUITAR, VIBRAPHONE],
        pad: &[SYNTH_STRINGS, WARM_PAD, STRINGS],
        bass: &[FINGER_BASS],
    },
    // Rock.
    Style {
        tempo: (112, 160),
        flow: &[Syncopated, Lively],
        swing: false,
        harmony: &[POP_MINOR, MIXOLYDIAN, POP_MAJOR],
        figures: &[figures(
            Meter::FourFour,
            &["x..x..x.", "xxxx", "x-xx-xx-"],
            EIGHTHS,
            &["RRRRRRRR", "R.RRR.FA", "RORORORO"],
            ROCK_KITS,
        )],
        core: &[Melody, Chords, Bass, Drums],
        extra: &[Arpeggio, Double, Pad, Percussion],
        lead: &[OVERDRIVE, DISTORTION],
        second: &[CLEAN_GUITAR, BRASS],
        chords: &[OVERDRIVE, CLEAN_GUITAR],
        arpeggio: &[CLEAN_GUITAR],
        pad: &[ORGAN],
        bass: &[PICK_BASS],
    },
    // Bossa.
    Style {
        tempo: (112, 144),
        flow: &[Syncopated, Calm],
        swing: false,
        harmony: &[JAZZ_MAJOR, JAZZ_MINOR],
        figures: &[figures(
            Meter::FourFour,
            &["x..x..x.", "x-x--x-x", "-x--x.x-"],
            &["01210121", "0121"],
            &["R..FF..R", "R..RF..F"],
            BOSSA_KITS,
        )],
        core: &[Melody, Chords, Bass, Drums],
        extra: &[Counter, Pad, Percussion, Double],
        lead: &[FLUTE, SOPRANO_SAX, VIBRAPHONE],
        second: &[JAZZ_GUITAR, CLARINET],
        chords: &[NYLON_GUITAR, ELECTRIC_PIANO],
        arpeggio: &[VIBRAPHONE],
        pad: &[STRINGS],
        bass: &[ACOUSTIC_BASS],
    },
    // Swing.
    Style {
        tempo: (120, 184),
        flow: &[Flowing, Syncopated],
        swing: true,
        harmony: &[JAZZ_MAJOR, JAZZ_MINOR],
        figures: &[figures(Meter::FourFour, &["x--x----", "-x-x", "x..."], &["0121"], &["R3FA", "R3FO"], SWING_KITS)],
        core: &[Melody, Chords, Bass, Drums],
        extra: &[Counter, Double],
        lead: &[ALTO_SAX, TRUMPET, CLARINET],
        second: &[TENOR_SAX, TROMBONE],
        chords: &[PIANO, JAZZ_GUITAR],
        arpeggio: &[VIBRAPHONE],
        pad: &[STRINGS],
        bass: &[ACOUSTIC_BASS],
    },
    // Chamber.
    Style {
        tempo: (72, 120),
        flow: &[Flowing, Calm, Lively],
        swing: false,
        harmony: &[MAJOR, MINOR],
        figures: &[
            figures(Meter::FourFour, &["x...", "x.x."], &["02120212", "0121"], &["R.F.", "R3FA", "R..."], NO_KITS),
            figures(Meter::ThreeFour, &["x..", "-xx"], THREES, &["R..", "R.F"], NO_KITS),
            figures(Meter::SixEight, &["x..x.."], SIXES, &["R..F..", "R....."], NO_KITS),
        ],
        core: &[Melody, Counter, Bass],
        extra: &[Chords, Arpeggio, Double],
        lead: &[VIOLIN, FLUTE, OBOE],
        second: &[VIOLA, CLARINET],
        chords: &[HARPSICHORD, STRINGS],
        arpeggio: &[PIZZICATO, HARPSICHORD],
        pad: &[STRINGS],
        bass: &[CELLO, BASSOON],
    },
    // Folk.
    Style {
        tempo: (88, 120),
        flow: &[Lively, Flowing],
        swing: false,
        harmony: &[MAJOR, DORIAN, MIXOLYDIAN],
        figures: &[
            SIX,
            figures(Meter::TwoFour, &["-x-x", "x."], &["0121"], &["RF", "R."], NO_KITS),
            figures(Meter::FourFour, &["xxxx", "-x-x", "x.x."], &["01210121"], &["R.F.", "R.R.F.A."], NO_KITS),
        ],
        core: &[Melody, Chords, Bass],
        extra: &[Double, Counter, Arpeggio, Percussion],
        lead: &[FIDDLE, WHISTLE, ACCORDION],
        second: &[CLARINET, VIOLA],
        chords: &[STEEL_GUITAR],
        arpeggio: &[HARP, NYLON_GUITAR],
        pad: &[STRINGS],
        bass: &[ACOUSTIC_BASS, CELLO],
    },
];
