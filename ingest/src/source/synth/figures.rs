//! What the styles choose from: progressions, figures of the accompaniment, drums, and rhythms of the tune.
//!
//! A figure is one bar as text, on an even grid. Chords: `x` strikes all voices, `0` to `2` one of them. Bass: `R`oot,
//! `F`ifth, `O`ctave, `3` third, `A`pproach to the next chord. Drums: `X` loud, `x`, `o` soft. `.` holds, `-` is silent.

use super::style::Flow::{self, Calm, Flowing, Lively, Syncopated};
use super::theory::{Meter, Mode};

/// One bar of drums: what is played all along, and the bar that ends a section.
#[derive(Debug)]
pub(super) struct Kit {
    pub(super) beat: &'static [(u8, &'static str)],
    pub(super) fill: &'static [(u8, &'static str)],
    pub(super) light: &'static [(u8, &'static str)],
}

/// What the accompaniment plays in one metre. 12/8 plays the bars of 6/8 twice.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) meter: Meter,
    pub(super) chords: &'static [&'static str],
    pub(super) arpeggio: &'static [&'static str],
    pub(super) bass: &'static [&'static str],
    pub(super) kits: &'static [Kit],
}

/// Progressions of four bars, bars parted by blanks and the two chords of a bar by `/`.
#[derive(Debug)]
pub(super) struct Harmony {
    pub(super) mode: Mode,
    /// They end on a half cadence, or otherwise in the air.
    pub(super) open: &'static [&'static str],
    /// They end on the tonic.
    pub(super) closed: &'static [&'static str],
}

pub(super) const MAJOR: Harmony = Harmony {
    mode: Mode::Major,
    open: &["I vi IV V", "I IV ii V", "I V vi IV/V", "I iii IV V", "vi IV I V", "I ii IV V", "I I IV V", "IV I ii V"],
    closed: &["I vi ii/V I", "I IV V I", "vi ii V I", "IV V I I", "I V vi/V I", "ii V I I"],
};
pub(super) const MINOR: Harmony = Harmony {
    mode: Mode::Minor,
    open: &["i VI iv V", "i iv VI V", "i VII VI V", "i iv i V", "VI iv i V"],
    closed: &["i VI iv/V i", "i iv V i", "VI iv V i", "iv V i i"],
};
pub(super) const POP_MAJOR: Harmony = Harmony {
    mode: Mode::Major,
    open: &["I V vi IV", "vi IV I V", "I vi IV V", "IV V vi I", "I IV vi V"],
    closed: &["I V IV I", "vi IV V I", "IV V I I", "ii V I I"],
};
pub(super) const POP_MINOR: Harmony = Harmony {
    mode: Mode::Minor,
    open: &["i VI III VII", "i VII VI VII", "i iv VII III", "i III VII VI"],
    closed: &["i VI VII i", "iv VI VII i", "i VI V i"],
};
pub(super) const DORIAN: Harmony = Harmony {
    mode: Mode::Dorian,
    open: &["i IV i VII", "i VII i IV", "i i VII VII"],
    closed: &["i VII IV i", "i IV VII i", "i VII v i"],
};
pub(super) const MIXOLYDIAN: Harmony =
    Harmony { mode: Mode::Mixolydian, open: &["I VII IV IV", "I I VII IV"], closed: &["I VII IV I", "IV VII I I"] };
pub(super) const JAZZ_MAJOR: Harmony = Harmony {
    mode: Mode::Major,
    open: &["i7 vi7 ii7 V7", "i7 II7 ii7 V7", "iii7 vi7 ii7 V7", "i7 iv7 iii7/vi7 ii7/V7"],
    closed: &["ii7 V7 i7 i7", "i7 vi7 ii7/V7 i7", "iv7 iii7/vi7 ii7/V7 i7"],
};
pub(super) const JAZZ_MINOR: Harmony = Harmony {
    mode: Mode::Minor,
    open: &["i7 iv7 ii7 V7", "i7 vi7 ii7 V7", "i7 i7 ii7 V7"],
    closed: &["ii7 V7 i7 i7", "iv7 vii7 ii7/V7 i7"],
};

pub(super) const NO_KITS: &[Kit] = &[];
pub(super) const POP_KITS: &[Kit] = &[
    Kit {
        beat: &[(42, "XoXoXoXo"), (38, "-x-x"), (36, "x---x-x-")],
        fill: &[(42, "XoXo----"), (38, "--x-xx--"), (45, "------x-"), (41, "-------x"), (36, "x---x---")],
        light: &[(42, "xxxx"), (36, "x-x-")],
    },
    Kit {
        beat: &[(42, "XoXoXoXo"), (38, "-x-x"), (36, "x--xx---")],
        fill: &[(42, "XoXo----"), (38, "--x-x-x-"), (45, "-----x-x"), (36, "x--xx---")],
        light: &[(37, "-x-x"), (36, "x---")],
    },
    Kit {
        beat: &[(42, "-x-x-x-x"), (38, "-x-x"), (36, "xxxx")],
        fill: &[(42, "-x-x----"), (38, "--x-xxxx"), (36, "xxxx")],
        light: &[(36, "xxxx")],
    },
];
pub(super) const ROCK_KITS: &[Kit] = &[
    Kit {
        beat: &[(42, "XoXoXoXo"), (38, "-X-X"), (36, "x-----xx")],
        fill: &[(36, "x---x---"), (38, "--X-xx--"), (45, "------x-"), (43, "-------x")],
        light: &[(42, "xxxx"), (36, "x-x-")],
    },
    Kit {
        beat: &[(51, "xxxx"), (38, "-X-X"), (36, "x--xx-x-")],
        fill: &[(36, "x--xx---"), (38, "--X---xx"), (48, "-----x--")],
        light: &[(51, "xxxx"), (36, "x---")],
    },
];
pub(super) const BALLAD_KITS: &[Kit] = &[Kit {
    beat: &[(42, "XoXoXoXo"), (37, "--x-"), (36, "x----x--")],
    fill: &[(42, "XoXo----"), (38, "----x-xx"), (36, "x-------")],
    light: &[(42, "xxxx")],
}];
pub(super) const BOSSA_KITS: &[Kit] = &[Kit {
    beat: &[(42, "XoXoXoXo"), (37, "x--x--x-"), (36, "x--xx--x")],
    fill: &[(42, "XoXoXo--"), (37, "x--x----"), (38, "------xx"), (36, "x--xx---")],
    light: &[(37, "x--x--x-")],
}];
pub(super) const SWING_KITS: &[Kit] = &[Kit {
    beat: &[(51, "x-xox-xo"), (44, "-x-x"), (36, "x---")],
    fill: &[(51, "x-xo----"), (38, "----x-xx"), (36, "x-----x-")],
    light: &[(44, "-x-x")],
}];
pub(super) const MARCH_KITS: &[Kit] =
    &[Kit { beat: &[(36, "x-"), (38, "-oxo"), (42, "-x")], fill: &[(36, "x-"), (38, "xxxx")], light: &[(38, "-o-o")] }];
pub(super) const WALTZ_KITS: &[Kit] =
    &[Kit { beat: &[(36, "x--"), (42, "-xx")], fill: &[(36, "x--"), (38, "--xxxx")], light: &[(42, "-xx")] }];
pub(super) const SIX_KITS: &[Kit] = &[Kit {
    beat: &[(42, "xoooo-"), (36, "x-----"), (38, "---x--")],
    fill: &[(36, "x-----"), (38, "---xxx")],
    light: &[(42, "x--x--")],
}];

pub(super) const fn figures(
    meter: Meter,
    chords: &'static [&'static str],
    arpeggio: &'static [&'static str],
    bass: &'static [&'static str],
    kits: &'static [Kit],
) -> Figures {
    Figures { meter, chords, arpeggio, bass, kits }
}

pub(super) const EIGHTHS: &[&str] = &["01210121", "02120212", "01212121", "0121"];
pub(super) const THREES: &[&str] = &["012121", "012", "0-1-2-"];
pub(super) const SIXES: &[&str] = &["012121", "012210"];
pub(super) const WALTZ: Figures =
    figures(Meter::ThreeFour, &["-xx", "x..", "-x."], THREES, &["R..", "R.F", "R3F"], WALTZ_KITS);
pub(super) const SIX: Figures =
    figures(Meter::SixEight, &["x..x..", "--x--x", "x....."], SIXES, &["R..F..", "R.....", "R..R.A"], SIX_KITS);
pub(super) const MARCH: Figures = figures(Meter::TwoFour, &["-x-x", "-x"], &["0121"], &["RF", "R.FA"], MARCH_KITS);
pub(super) const POP: Figures = figures(
    Meter::FourFour,
    &["x...", "x..x..x.", "xxxx", "x.x."],
    EIGHTHS,
    &["R..RR.F.", "RRRRRRRR", "R...F.A."],
    POP_KITS,
);

/// A hand percussion layer: instruments and one bar, for simple and compound metres.
pub(super) fn percussion(meter: Meter) -> &'static [&'static [(u8, &'static str)]] {
    match meter {
        Meter::FourFour => &[&[(82, "oxoxoxox")], &[(54, "-x-x")], &[(64, "x--x--x-"), (63, "-xx-xx-x")]],
        Meter::TwoFour => &[&[(54, "-x")], &[(82, "oxox")]],
        Meter::ThreeFour => &[&[(81, "x--")], &[(54, "-xx")]],
        Meter::SixEight | Meter::TwelveEight => &[&[(54, "--x--x")], &[(82, "xooxoo")]],
    }
}

/// How a stretch of the melody may move: lengths in steps that fill a half bar of 4/4, a bar of 3/4 or a beat of 6/8.
/// A negative one is a rest.
pub(super) fn cells(meter: Meter, flow: Flow) -> &'static [&'static [i64]] {
    match (meter, flow) {
        (Meter::FourFour | Meter::TwoFour, Calm) => &[&[24], &[12, 12], &[18, 6], &[12, 12]],
        (Meter::FourFour | Meter::TwoFour, Flowing) => &[&[12, 12], &[12, 6, 6], &[6, 6, 12], &[18, 6], &[12, 12]],
        (Meter::FourFour | Meter::TwoFour, Lively) => {
            &[&[6, 6, 6, 6], &[12, 6, 6], &[6, 6, 12], &[9, 3, 12], &[12, 12]]
        }
        (Meter::FourFour | Meter::TwoFour, Syncopated) => {
            &[&[6, 12, 6], &[18, 6], &[12, 6, 6], &[-6, 6, 12], &[-6, 6, 6, 6]]
        }
        (Meter::ThreeFour, Calm) => &[&[24, 12], &[12, 12, 12], &[36]],
        (Meter::ThreeFour, Flowing) => &[&[12, 12, 12], &[24, 6, 6], &[18, 6, 12], &[12, 6, 6, 12], &[24, 12]],
        (Meter::ThreeFour, Lively | Syncopated) => &[&[12, 6, 6, 6, 6], &[6, 6, 6, 6, 12], &[12, 12, 12], &[18, 6, 12]],
        (Meter::SixEight | Meter::TwelveEight, Calm) => &[&[18], &[12, 6]],
        (Meter::SixEight | Meter::TwelveEight, Flowing) => &[&[12, 6], &[6, 6, 6], &[12, 6], &[18]],
        (Meter::SixEight | Meter::TwelveEight, Lively | Syncopated) => &[&[6, 6, 6], &[12, 6], &[6, 6, 6]],
    }
}
