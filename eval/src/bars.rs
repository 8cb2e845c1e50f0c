//! Where bars begin, past a score's end too: the grid goes on there in the metre that is in force.

use midi_ingest::score::{Score, Tick, TimeSignature};

/// The metre in force at `tick`, by the rule of [`midi_ingest::score::bars::bar_ticks`]: 4/4 until another one begins,
/// and a first one that is not at tick 0 does not count.
pub(crate) fn metre_at(score: &Score, tick: Tick) -> TimeSignature {
    let in_force = score.time_signatures.iter().enumerate().rfind(|(index, metre)| {
        metre.numerator > 0 && metre.denominator > 0 && metre.tick <= tick && (*index > 0 || metre.tick == 0)
    });
    in_force.map_or(TimeSignature { tick: 0, numerator: 4, denominator: 4 }, |(_, metre)| *metre)
}

/// Lets `grid`, the starts of the score's bars in ticks, reach exactly to the start of bar `last`.
pub(crate) fn continue_to(grid: &mut Vec<Tick>, last: usize, score: &Score) {
    if grid.is_empty() {
        grid.push(0);
    }
    let mut next = grid[grid.len() - 1];
    let length = metre_at(score, next).ticks_per_bar(score.ticks_per_quarter);
    while grid.len() <= last {
        next = next.saturating_add(length);
        grid.push(next);
    }
    grid.truncate(last + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(metres: &[(Tick, u8, u8)]) -> Score {
        let metre = |&(tick, numerator, denominator)| TimeSignature { tick, numerator, denominator };
        Score { ticks_per_quarter: 12, time_signatures: metres.iter().map(metre).collect(), ..Score::default() }
    }

    #[test]
    fn the_last_metre_that_has_begun_is_in_force() {
        let metre = |metres: &[(Tick, u8, u8)], tick| {
            let metre = metre_at(&score(metres), tick);
            (metre.numerator, metre.denominator)
        };
        assert_eq!(metre(&[], 0), (4, 4));
        assert_eq!(metre(&[(0, 2, 4), (96, 6, 8)], 95), (2, 4));
        assert_eq!(metre(&[(0, 2, 4), (96, 6, 8), (96, 3, 4)], 96), (3, 4));
        assert_eq!(metre(&[(0, 2, 4), (96, 0, 4)], 200), (2, 4));
        assert_eq!(metre(&[(48, 2, 4)], 100), (4, 4));
    }

    #[test]
    fn the_grid_goes_on_in_the_last_bars_metre() {
        let mut grid = vec![0, 24, 48];
        continue_to(&mut grid, 4, &score(&[(0, 2, 4), (48, 4, 4)]));
        assert_eq!(grid, [0, 24, 48, 96, 144]);
        continue_to(&mut grid, 1, &score(&[(0, 2, 4), (48, 4, 4)]));
        assert_eq!(grid, [0, 24]);
    }
}
