//! The instruments that the composer writes for, with the ranges that it keeps them in.

/// A General MIDI program and the range that the General MIDI 2 recommendation gives it, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instrument {
    pub(super) program: u8,
    pub(super) low: i32,
    pub(super) high: i32,
}

const fn of(program: u8, low: i32, high: i32) -> Instrument {
    Instrument { program, low, high }
}

pub(super) const PIANO: Instrument = of(0, 21, 108);
pub(super) const ELECTRIC_PIANO: Instrument = of(4, 28, 103);
pub(super) const HARPSICHORD: Instrument = of(6, 41, 89);
pub(super) const VIBRAPHONE: Instrument = of(11, 53, 89);
pub(super) const ORGAN: Instrument = of(19, 21, 108);
pub(super) const ACCORDION: Instrument = of(21, 53, 89);
pub(super) const NYLON_GUITAR: Instrument = of(24, 40, 84);
pub(super) const STEEL_GUITAR: Instrument = of(25, 40, 84);
pub(super) const JAZZ_GUITAR: Instrument = of(26, 40, 86);
pub(super) const CLEAN_GUITAR: Instrument = of(27, 40, 86);
pub(super) const OVERDRIVE: Instrument = of(29, 40, 86);
pub(super) const DISTORTION: Instrument = of(30, 40, 86);
pub(super) const ACOUSTIC_BASS: Instrument = of(32, 28, 55);
pub(super) const FINGER_BASS: Instrument = of(33, 28, 55);
pub(super) const PICK_BASS: Instrument = of(34, 28, 55);
pub(super) const VIOLIN: Instrument = of(40, 55, 93);
pub(super) const VIOLA: Instrument = of(41, 48, 84);
pub(super) const CELLO: Instrument = of(42, 36, 72);
pub(super) const CONTRABASS: Instrument = of(43, 28, 55);
pub(super) const PIZZICATO: Instrument = of(45, 28, 93);
pub(super) const HARP: Instrument = of(46, 23, 103);
pub(super) const STRINGS: Instrument = of(48, 28, 96);
pub(super) const SYNTH_STRINGS: Instrument = of(50, 36, 96);
pub(super) const TRUMPET: Instrument = of(56, 58, 94);
pub(super) const TROMBONE: Instrument = of(57, 34, 75);
pub(super) const TUBA: Instrument = of(58, 29, 55);
pub(super) const HORN: Instrument = of(60, 41, 77);
pub(super) const BRASS: Instrument = of(61, 36, 96);
pub(super) const SOPRANO_SAX: Instrument = of(64, 54, 87);
pub(super) const ALTO_SAX: Instrument = of(65, 49, 80);
pub(super) const TENOR_SAX: Instrument = of(66, 42, 75);
pub(super) const OBOE: Instrument = of(68, 58, 91);
pub(super) const BASSOON: Instrument = of(70, 34, 72);
pub(super) const CLARINET: Instrument = of(71, 50, 91);
pub(super) const FLUTE: Instrument = of(73, 60, 96);
pub(super) const WHISTLE: Instrument = of(78, 60, 96);
pub(super) const SQUARE: Instrument = of(80, 21, 108);
pub(super) const WARM_PAD: Instrument = of(89, 36, 96);
pub(super) const FIDDLE: Instrument = of(110, 55, 96);
