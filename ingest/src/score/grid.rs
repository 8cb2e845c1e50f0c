//! The values that music is rounded to before it becomes tokens: 12 positions a beat, 24 velocities,
//! 24 durations, 48 tempos, 9 metres (the configuration of the published tokenizer).

use std::ops::Range;
use std::sync::LazyLock;

use super::{Tick, TimeSignature};

/// Positions in a beat.
pub const POSITIONS_PER_BEAT: Tick = 12;

/// Pitches that are kept on pitched tracks.
pub const PITCHES: Range<u8> = 21..109;

/// Pitches that are kept on drum tracks.
pub const DRUM_PITCHES: Range<u8> = 27..88;

/// Programs that are kept; quirk: 127 is missing.
pub const PROGRAMS: Range<u8> = 0..127;

/// The metres, in vocabulary order, as (numerator, denominator).
pub const METRES: [(u8, u8); 9] = [(3, 8), (12, 8), (6, 8), (5, 4), (6, 4), (3, 4), (2, 4), (1, 4), (4, 4)];

/// Tempo where none is given, in microseconds a quarter: 120.21 quarters a minute.
pub const DEFAULT_MICROS_PER_QUARTER: u32 = 499_127;

/// The velocities, ascending: ⌊127·k/24⌋ for k = 1 to 24.
pub const VELOCITIES: [u8; 24] = {
    let mut table = [0; 24];
    let mut k = 0;
    while k < 24 {
        table[k] = (127 * (k + 1) / 24) as u8;
        k += 1;
    }
    table
};

/// The durations, ascending, as (beats, positions, positions in a beat): the finer the shorter.
pub const DURATIONS: [(u8, u8, u8); 24] = {
    let mut table = [(0, 0, 0); 24];
    let mut at = 0;
    let mut beat = 0;
    while beat <= 8 {
        let resolution = match beat {
            0 => 12,
            1 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        let mut position = if beat == 0 { 1 } else { 0 };
        while position < resolution {
            table[at] = (beat, position, resolution);
            at += 1;
            position += 1;
        }
        beat += 1;
    }
    table
};

/// The durations in ticks, ascending, for a beat of `ticks_per_beat` ticks.
pub fn duration_ticks(ticks_per_beat: Tick) -> [Tick; 24] {
    DURATIONS.map(|(beats, positions, resolution)| {
        let (beats, positions, resolution) = (Tick::from(beats), Tick::from(positions), Tick::from(resolution));
        (beats * resolution + positions) * ticks_per_beat / resolution
    })
}

/// The tempos in quarters a minute, ascending: 48 from 50 to 200, rounded to two decimals.
pub static TEMPOS: LazyLock<[f64; 48]> = LazyLock::new(|| {
    std::array::from_fn(|k| {
        let exact = 50.0 + k as f64 * (150.0 / 47.0);
        (exact * 100.0).round() / 100.0
    })
});

/// The tempos in microseconds a quarter, ascending.
static TEMPO_MICROS: LazyLock<[f64; 48]> = LazyLock::new(|| {
    let mut micros = TEMPOS.map(|tempo| 60_000_000.0 / tempo);
    micros.reverse();
    micros
});

/// The table's tempo that is nearest in microseconds, cut to a whole number.
pub(super) fn nearest_tempo(micros_per_quarter: u32) -> u32 {
    nearest(&*TEMPO_MICROS, f64::from(micros_per_quarter)) as u32
}

/// Index of the entry of [`TEMPOS`] that a tempo of the grid stands for.
pub fn tempo_index(micros_per_quarter: u32) -> usize {
    let tempo = 60_000_000.0 / f64::from(micros_per_quarter.max(1));
    let above = TEMPOS.partition_point(|entry| *entry < tempo).min(TEMPOS.len() - 1);
    match above.checked_sub(1) {
        Some(below) if (tempo - TEMPOS[below]).abs() < (TEMPOS[above] - tempo).abs() => below,
        _ => above,
    }
}

/// Index in [`METRES`], if the metre is there.
pub fn metre_index(signature: &TimeSignature) -> Option<usize> {
    METRES.iter().position(|metre| *metre == (signature.numerator, signature.denominator))
}

/// The entry of an ascending, non-empty table with the smallest distance; a tie takes the larger entry.
pub(super) fn nearest<T>(table: &[T], value: T) -> T
where
    T: Copy + PartialOrd + std::ops::Sub<Output = T>,
{
    let above = table.partition_point(|entry| *entry < value);
    let last = table.len() - 1;
    if above > last {
        return table[last];
    }
    match above.checked_sub(1) {
        Some(below) if value - table[below] < table[above] - value => table[below],
        _ => table[above],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_hold_the_published_values() {
        assert_eq!(VELOCITIES[..4], [5, 10, 15, 21]);
        assert_eq!(VELOCITIES[23], 127);
        assert_eq!(duration_ticks(12)[..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(duration_ticks(12)[12..], [15, 18, 21, 24, 30, 36, 42, 48, 60, 72, 84, 96]);
        assert_eq!(duration_ticks(24)[23], 192);
        assert_eq!((TEMPOS[0], TEMPOS[1], TEMPOS[22], TEMPOS[47]), (50.0, 53.19, 120.21, 200.0));
    }

    #[test]
    fn the_nearest_entry_wins_and_ties_go_up() {
        assert_eq!(nearest(&[2, 4, 8], 3), 4);
        assert_eq!(nearest(&[2, 4, 8], 5), 4);
        assert_eq!(nearest(&[2, 4, 8], 99), 8);
        assert_eq!(nearest(&[2, 4, 8], -9), 2);
    }

    #[test]
    fn every_tempo_of_the_grid_finds_its_entry() {
        for (index, tempo) in TEMPOS.iter().enumerate() {
            let micros = (60_000_000.0 / tempo) as u32;
            assert_eq!(tempo_index(micros), index);
            assert_eq!(nearest_tempo(micros), micros);
        }
        assert_eq!(TEMPOS[tempo_index(DEFAULT_MICROS_PER_QUARTER)], 120.21);
    }
}
