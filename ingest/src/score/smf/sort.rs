//! The order of tempos and time signatures that share a tick.
//!
//! The last of several tempos at one tick wins, so the order of equal elements reaches the tokens. The
//! reference sorts with `pdqsort_branchless` (O. Peters, "Pattern-defeating Quicksort", arXiv 2106.05123),
//! which is stable only below 24 elements; this is that algorithm, for keys that are compared by `<`.

/// Below this many elements insertion sort is used, which is stable.
const INSERTION: usize = 24;
/// From this many elements the pivot is Tukey's ninther.
const NINTHER: usize = 128;
/// Elements whose comparison results are buffered in a branchless partition.
const BLOCK: usize = 64;
/// Moves after which a nearly sorted range is given up on.
const PARTIAL_LIMIT: usize = 8;

/// Sorts by `key` in the reference's order of equal elements.
pub(super) fn sort_by_tick<T: Copy, K: Ord>(elements: &mut [T], key: impl Fn(&T) -> K + Copy) {
    if elements.len() < INSERTION {
        insertion(elements, 0, key);
    } else {
        let depth = elements.len().ilog2();
        sort_loop(elements, 0, key, depth, true);
    }
}

/// Insertion sort of `a[low..]`; an element may move down to `low`.
fn insertion<T: Copy, K: Ord>(a: &mut [T], low: usize, key: impl Fn(&T) -> K) {
    for current in low + 1..a.len() {
        let element = a[current];
        let mut hole = current;
        while hole > low && key(&element) < key(&a[hole - 1]) {
            a[hole] = a[hole - 1];
            hole -= 1;
        }
        a[hole] = element;
    }
}

/// Insertion sort that gives up after more than [`PARTIAL_LIMIT`] moves; whether it finished.
fn partial_insertion<T: Copy, K: Ord>(a: &mut [T], key: impl Fn(&T) -> K) -> bool {
    let mut moves = 0;
    for current in 1..a.len() {
        let element = a[current];
        let mut hole = current;
        while hole > 0 && key(&element) < key(&a[hole - 1]) {
            a[hole] = a[hole - 1];
            hole -= 1;
        }
        a[hole] = element;
        moves += current - hole;
        if moves > PARTIAL_LIMIT {
            return false;
        }
    }
    true
}

fn sort2<T, K: Ord>(a: &mut [T], i: usize, j: usize, key: impl Fn(&T) -> K) {
    if key(&a[j]) < key(&a[i]) {
        a.swap(i, j);
    }
}

fn sort3<T, K: Ord>(a: &mut [T], i: usize, j: usize, k: usize, key: impl Fn(&T) -> K + Copy) {
    sort2(a, i, j, key);
    sort2(a, j, k, key);
    sort2(a, i, j, key);
}

/// Sorts `all[low..]`. What stands before `low`, if anything, is not above any of it.
fn sort_loop<T: Copy, K: Ord>(
    all: &mut [T],
    mut low: usize,
    key: impl Fn(&T) -> K + Copy,
    mut bad_allowed: u32,
    mut leftmost: bool,
) {
    loop {
        let size = all.len() - low;
        if size < INSERTION {
            insertion(all, low, key);
            return;
        }
        choose_pivot(&mut all[low..], key);
        if !leftmost && key(&all[low - 1]) >= key(&all[low]) {
            low += partition_left(&mut all[low..], key) + 1;
            continue;
        }
        let (pivot, already) = partition_right(&mut all[low..], key);
        let (left, right) = (pivot, size - pivot - 1);
        let pivot = low + pivot;
        if left < size / 8 || right < size / 8 {
            bad_allowed -= 1;
            if bad_allowed == 0 {
                // The reference changes to heapsort here. Only input made for it gets this far, and no
                // recorded file does; any correct order is as good.
                all[low..].sort_by_key(key);
                return;
            }
            break_pattern(&mut all[low..pivot]);
            break_pattern(&mut all[pivot + 1..]);
        } else if already
            && partial_insertion(&mut all[low..pivot], key)
            && partial_insertion(&mut all[pivot + 1..], key)
        {
            return;
        }
        sort_loop(&mut all[..pivot], low, key, bad_allowed, leftmost);
        low = pivot + 1;
        leftmost = false;
    }
}

/// Moves the median of three elements, or of three medians, to the front.
fn choose_pivot<T: Copy, K: Ord>(a: &mut [T], key: impl Fn(&T) -> K + Copy) {
    let (n, half) = (a.len(), a.len() / 2);
    if n > NINTHER {
        sort3(a, 0, half, n - 1, key);
        sort3(a, 1, half - 1, n - 2, key);
        sort3(a, 2, half + 1, n - 3, key);
        sort3(a, half - 1, half, half + 1, key);
        a.swap(0, half);
    } else {
        sort3(a, half, 0, n - 1, key);
    }
}

/// Exchanges a few elements of one side of a lopsided partition, so that a bad pattern does not repeat.
fn break_pattern<T>(a: &mut [T]) {
    let end = a.len();
    if end < INSERTION {
        return;
    }
    let quarter = end / 4;
    a.swap(0, quarter);
    a.swap(end - 1, end - quarter);
    if end > NINTHER {
        for d in 1..=2 {
            a.swap(d, quarter + d);
        }
        for d in 1..=2 {
            a.swap(end - 1 - d, end - quarter - d);
        }
    }
}

/// Elements equal to the pivot go left; returns the pivot's place.
fn partition_left<T: Copy, K: Ord>(a: &mut [T], key: impl Fn(&T) -> K) -> usize {
    let pivot = a[0];
    let (mut first, mut last) = (0, a.len() - 1);
    while key(&pivot) < key(&a[last]) {
        last -= 1;
    }
    if last + 1 == a.len() {
        while first < last {
            first += 1;
            if key(&pivot) < key(&a[first]) {
                break;
            }
        }
    } else {
        first += 1;
        while key(&pivot) >= key(&a[first]) {
            first += 1;
        }
    }
    while first < last {
        a.swap(first, last);
        last -= 1;
        while key(&pivot) < key(&a[last]) {
            last -= 1;
        }
        first += 1;
        while key(&pivot) >= key(&a[first]) {
            first += 1;
        }
    }
    a[0] = a[last];
    a[last] = pivot;
    last
}

/// Elements equal to the pivot go right; returns the pivot's place and whether nothing had to move.
fn partition_right<T: Copy, K: Ord>(a: &mut [T], key: impl Fn(&T) -> K) -> (usize, bool) {
    let pivot = a[0];
    let below = |element: &T| key(element) < key(&pivot);
    let (mut first, mut last) = (1, a.len());
    while below(&a[first]) {
        first += 1;
    }
    if first == 1 {
        while first < last {
            last -= 1;
            if below(&a[last]) {
                break;
            }
        }
    } else {
        last -= 1;
        while !below(&a[last]) {
            last -= 1;
        }
    }
    let already = first >= last;
    if !already {
        a.swap(first, last);
        first = swap_blocks(a, first + 1, last, below);
    }
    let place = first - 1;
    a[0] = a[place];
    a[place] = pivot;
    (place, already)
}

/// The branchless middle of the partition: offsets of misplaced elements are gathered in blocks from both
/// ends and exchanged in a cycle. Returns the first index of the right part.
fn swap_blocks<T: Copy>(a: &mut [T], mut first: usize, mut last: usize, below: impl Fn(&T) -> bool) -> usize {
    let (mut left_base, mut right_base) = (first, last);
    let (mut left, mut right): (Vec<usize>, Vec<usize>) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    while first < last {
        let unknown = last - first;
        let left_split = match (left.is_empty(), right.is_empty()) {
            (false, _) => 0,
            (true, true) => unknown / 2,
            (true, false) => unknown,
        };
        let right_split = if right.is_empty() { unknown - left_split } else { 0 };
        for offset in 0..left_split.min(BLOCK) {
            if !below(&a[first]) {
                left.push(offset);
            }
            first += 1;
        }
        for offset in 0..right_split.min(BLOCK) {
            last -= 1;
            if below(&a[last]) {
                right.push(offset + 1);
            }
        }
        let count = left.len().min(right.len());
        if left.len() == right.len() {
            for k in 0..count {
                a.swap(left_base + left[k], right_base - right[k]);
            }
        } else if count > 0 {
            let mut l = left_base + left[0];
            let mut r = right_base - right[0];
            let saved = a[l];
            a[l] = a[r];
            for k in 1..count {
                l = left_base + left[k];
                a[r] = a[l];
                r = right_base - right[k];
                a[l] = a[r];
            }
            a[r] = saved;
        }
        left.drain(..count);
        right.drain(..count);
        if left.is_empty() {
            left_base = first;
        }
        if right.is_empty() {
            right_base = last;
        }
    }
    if !left.is_empty() {
        for offset in left.iter().rev() {
            last -= 1;
            a.swap(left_base + offset, last);
        }
        first = last;
    }
    if !right.is_empty() {
        for offset in right.iter().rev() {
            a.swap(right_base - offset, first);
            first += 1;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::draws::{Draws, Keyed};

    /// Every input of these kinds must come out sorted, with the same elements.
    fn sorts(input: Vec<u32>) {
        let mut got: Vec<(u32, usize)> = input.iter().copied().enumerate().map(|(i, k)| (k, i)).collect();
        sort_by_tick(&mut got, |element| element.0);
        let mut expected = input;
        expected.sort_unstable();
        assert_eq!(got.iter().map(|element| element.0).collect::<Vec<_>>(), expected);
        let mut indices: Vec<usize> = got.iter().map(|element| element.1).collect();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..got.len()), "no element is lost or doubled");
    }

    #[test]
    fn every_shape_of_input_is_sorted() {
        for n in [0, 1, 2, 23, 24, 25, 100, 128, 129, 130, 1000, 3000] {
            let mut draws = Keyed::new(5, "sort", n as u64);
            sorts((0..n).collect());
            sorts((0..n).rev().collect());
            sorts((0..n).map(|k| k % 7).collect());
            sorts((0..n).map(|k| if k < n / 2 { k } else { n - k }).collect());
            sorts((0..n).map(|_| draws.below(50) as u32).collect());
            sorts((0..n).map(|_| draws.below(1 << 30) as u32).collect());
        }
    }

    #[test]
    fn few_elements_keep_their_order() {
        let mut few: Vec<(u32, usize)> = (0..23).map(|k| ((k % 3) as u32, k)).collect();
        let mut expected = few.clone();
        expected.sort_by_key(|element| element.0);
        sort_by_tick(&mut few, |element| element.0);
        assert_eq!(few, expected);
    }
}
