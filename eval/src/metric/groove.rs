//! Groove similarity (GS): how alike the rhythms of neighbouring bars are.
//!
//! Source: arXiv 2506.13001, section 4, after Wu and Yang's grooving pattern similarity. Unit: none,
//! higher is better. Conventions: a bar's rhythm is the set of its 1/32 cells with an onset, S the
//! number of cells in the longest bar of the section and its context, H the number of cells in which
//! neighbouring bars differ, summed over the N-1 pairs; pitch is ignored. Metrics, each of one score:
//!
//! - [`paper`]: `1 - H/(S N)` with cells of `tpq div 8` ticks,
//! - [`Groove::paper_norm`]: the same with exact cells, defined at every resolution,
//! - [`Groove::pair_norm`]: `1 - H/(S (N-1))`, which can be compared across N.
//!
//! One bar and an empty section are perfectly regular: the paper's form is 1 there.

use std::collections::BTreeSet;

use midi_ingest::score::Tick;

use super::{Passage, Undefined};

/// The counts behind the exact forms of GS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groove {
    /// H, cells in which neighbouring bars differ.
    pub hamming: usize,
    /// S, cells in the longest bar.
    pub cells: usize,
    /// N, bars.
    pub bars: usize,
}

impl Groove {
    /// `1 - H/(S N)`, `[1/N, 1]`.
    pub fn paper_norm(self) -> f64 {
        1.0 - self.hamming as f64 / (self.cells * self.bars) as f64
    }

    /// `1 - H/(S (N-1))`, `[0, 1]`.
    ///
    /// # Errors
    /// One bar has no neighbour.
    pub fn pair_norm(self) -> Result<f64, Undefined> {
        if self.bars < 2 {
            return Err(Undefined::OneBar);
        }
        Ok(1.0 - self.hamming as f64 / (self.cells * (self.bars - 1)) as f64)
    }
}

/// The paper's GS.
///
/// # Errors
/// The resolution has no 1/32 note, or an onset lies past the last whole cell.
pub fn paper(passage: &Passage) -> Result<f64, Undefined> {
    let cell = passage.ticks_per_quarter() / 8;
    if cell == 0 || passage.longest_bar() < cell {
        return Err(Undefined::Coarse);
    }
    let cells = passage.longest_bar() / cell;
    let rhythms = rhythms(passage, |offset| offset / cell);
    if rhythms.iter().flatten().any(|&onset| onset >= cells) {
        return Err(Undefined::PastGrid);
    }
    Ok(Groove { hamming: hamming(&rhythms), cells: cells as usize, bars: passage.bar_count() }.paper_norm())
}

/// GS on exact cells: an onset `t` ticks into its bar is in cell `floor(8 t / tpq)`.
pub fn exact(passage: &Passage) -> Groove {
    let quarter = passage.ticks_per_quarter();
    let rhythms = rhythms(passage, |offset| offset.saturating_mul(8) / quarter);
    let whole_and_begun = (passage.longest_bar().saturating_mul(8) + quarter - 1) / quarter;
    Groove { hamming: hamming(&rhythms), cells: whole_and_begun.max(1) as usize, bars: passage.bar_count() }
}

/// The cells with an onset, of each bar.
fn rhythms(passage: &Passage, cell: impl Fn(Tick) -> Tick) -> Vec<BTreeSet<Tick>> {
    let rhythm = |bar: std::ops::Range<Tick>| {
        let start = bar.start;
        passage.notes_in(bar).map(|note| cell(note.tick - start)).collect()
    };
    passage.bars().map(rhythm).collect()
}

fn hamming(rhythms: &[BTreeSet<Tick>]) -> usize {
    rhythms.windows(2).map(|pair| pair[0].symmetric_difference(&pair[1]).count()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::{pair, score, section};
    use super::super::window::{passages, tests};
    use super::*;

    fn passage(bars: usize, notes: &[(Tick, Tick, u8)]) -> Passage {
        pair(bars, notes, &[]).0
    }

    #[test]
    fn equal_bars_are_perfect_whatever_the_pitch() {
        let equal = passage(2, &[(0, 10, 60), (480, 10, 62), (1920, 10, 70), (2400, 10, 40)]);
        assert_eq!(paper(&equal), Ok(1.0));
        assert_eq!(exact(&equal).pair_norm(), Ok(1.0));
    }

    #[test]
    fn each_different_cell_costs_its_share() {
        // Bar 0 has cells {0, 8}, bar 1 has {0}: one of 32 cells differs.
        let passage = passage(2, &[(0, 10, 60), (480, 10, 62), (1920, 10, 70)]);
        assert_eq!(paper(&passage), Ok(1.0 - 1.0 / 64.0));
        assert_eq!(exact(&passage), Groove { hamming: 1, cells: 32, bars: 2 });
        assert_eq!(exact(&passage).pair_norm(), Ok(1.0 - 1.0 / 32.0));
    }

    #[test]
    fn an_empty_section_and_a_single_bar_are_regular() {
        assert_eq!(paper(&passage(2, &[])), Ok(1.0));
        assert_eq!(paper(&passage(1, &[(0, 10, 60)])), Ok(1.0));
        assert_eq!(exact(&passage(1, &[(0, 10, 60)])).pair_norm(), Err(Undefined::OneBar));
    }

    #[test]
    fn resolutions_without_whole_cells_are_undefined_in_the_papers_form_only() {
        let own = |song: &midi_ingest::score::Score| passages(song, song, &section(0..1, 0)).expect("valid").0;
        // 100 ticks: cells of 12 ticks, 33 of them; tick 396 begins a 34th.
        let odd = own(&tests::score(100, &[(396, 4, 60), (800, 4, 60)]));
        assert_eq!(paper(&odd), Err(Undefined::PastGrid));
        assert_eq!(exact(&odd).paper_norm(), 1.0);
        assert_eq!(exact(&odd).cells, 32);
        let coarse = own(&score(4, &[(0, 4, 60), (100, 4, 60)]));
        assert_eq!(paper(&coarse), Err(Undefined::Coarse));
        assert_eq!(exact(&coarse).cells, 32);
    }
}
