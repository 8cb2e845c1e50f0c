//! Byte-pair encoding of base ids: a bar's tokens become few ids, each of which stands for several.
//!
//! Ids of special tokens stand alone; each run between them is one word, which begins with the metaspace
//! U+2581 and is merged lowest rank first, leftmost first. The algorithms, one for short words and one for long, give
//! the ids that HF tokenizers gives; tests compare them.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use multiversion::multiversion;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::vocabulary::{BASE_SIZE, SPECIAL_END};

/// Words that a thread remembers, as a power of two; music repeats bars. So many stay in a core's own cache.
const REMEMBERED: usize = 4096;
/// The longest word that is remembered, in base ids. Longer ones hardly come again, and would fill the memory.
const REMEMBERED_IDS: usize = 1024;

/// The longest word, in ids, that is merged by looking for the lowest rank anew each time. It takes no memory, and is
/// faster than a queue as long as the word fits into a few vector registers.
const SHORT: usize = 256;

/// A learned set of merges over the base vocabulary.
#[derive(Debug)]
pub struct Bpe {
    /// For every id the base ids that it stands for, and whether it begins with the metaspace.
    pieces: Vec<(Vec<u16>, bool)>,
    /// The id of each base id on its own; a base id without one vanishes.
    single: Vec<Option<u16>>,
    /// The id of the metaspace on its own.
    metaspace: Option<u16>,
    /// The [`Step`] of two ids that stand side by side.
    merges: FxHashMap<u32, Step>,
    likely: Likely,
    /// What no other model of this process has.
    number: u64,
}

/// Words that were merged lately.
#[derive(Debug, Default)]
struct Lately {
    /// The model's number.
    model: u64,
    /// A word in the place that its hash says.
    words: Vec<Word>,
}

/// A word and its ids.
#[derive(Clone, Debug, Default)]
struct Word {
    base: Vec<u16>,
    ids: Vec<u16>,
}

thread_local! {
    static LATELY: RefCell<Lately> = RefCell::default();
}

impl Lately {
    /// The place of a word of model `model`, where another one may be.
    fn place(&mut self, model: u64, word: &[u16]) -> &mut Word {
        if self.model != model || self.words.is_empty() {
            *self = Lately { model, words: vec![Word::default(); REMEMBERED] };
        }
        let hash = FxBuildHasher.hash_one(word);
        &mut self.words[hash as usize % REMEMBERED]
    }
}

/// A merge: its rank in the upper half, the id that it gives in the lower, so that the first of several steps is the least.
type Step = u32;

/// No merge.
const NONE: Step = u32::MAX;

/// The first of the least steps and its place, unless there is none.
#[multiversion(targets("x86_64+avx2"))]
fn least(steps: &[Step]) -> Option<(usize, Step)> {
    let least = steps.iter().copied().min().filter(|&step| step != NONE)?;
    Some((steps.iter().position(|&step| step == least)?, least))
}

fn result(step: Step) -> u16 {
    (step & 0xffff) as u16
}

fn pair(left: u16, right: u16) -> u32 {
    u32::from(left) << 16 | u32::from(right)
}

/// A set of pairs that may hold others too. Most neighbours have no merge, and this says so from a core's own cache, for
/// which the map is too large.
#[derive(Debug)]
struct Likely(Box<[u64]>);

impl Likely {
    /// Places, as a power of two: 16 KiB of bits.
    const BITS: u32 = 17;

    fn of(pairs: impl Iterator<Item = u32>) -> Self {
        let mut bits = vec![0; 1 << (Self::BITS - 6)];
        for (word, bit) in pairs.map(Self::place) {
            bits[word] |= bit;
        }
        Likely(bits.into())
    }

    fn holds(&self, pair: u32) -> bool {
        let (word, bit) = Self::place(pair);
        self.0[word] & bit != 0
    }

    /// The word and the bit of a pair, by multiplication with 2³² over the golden ratio.
    fn place(pair: u32) -> (usize, u64) {
        let place = pair.wrapping_mul(0x9e37_79b9) >> (32 - Self::BITS);
        ((place >> 6) as usize, 1 << (place & 63))
    }
}

impl Bpe {
    /// The most merges: a rank below this, with any id, is a step and not none.
    pub(super) const MOST_MERGES: usize = 0xffff;

    /// The model whose id `n` stands for `pieces[n]` (base ids, and whether a metaspace is in front), and
    /// that merges `merges[rank]` = (left, right, result). There are at most [`Bpe::MOST_MERGES`].
    pub(super) fn new(pieces: Vec<(Vec<u16>, bool)>, merges: &[(u16, u16, u16)]) -> Self {
        let mut single = vec![None; usize::from(BASE_SIZE)];
        let mut metaspace = None;
        for (id, (base, begins)) in pieces.iter().enumerate() {
            match (base.as_slice(), begins) {
                ([], true) => metaspace = Some(id as u16),
                ([one], false) => single[usize::from(*one)] = Some(id as u16),
                _ => {}
            }
        }
        let ranked = merges.iter().enumerate();
        let merges =
            ranked.map(|(rank, (left, right, into))| (pair(*left, *right), (rank as u32) << 16 | u32::from(*into)));
        let merges: FxHashMap<u32, Step> = merges.collect();
        let likely = Likely::of(merges.keys().copied());
        static MODELS: AtomicU64 = AtomicU64::new(1);
        let number = MODELS.fetch_add(1, Ordering::Relaxed);
        Bpe { pieces, single, metaspace, merges, likely, number }
    }

    /// Number of ids.
    pub fn size(&self) -> usize {
        self.pieces.len()
    }

    /// The base ids that `id` stands for; none for an id outside the vocabulary.
    pub fn piece(&self, id: u16) -> &[u16] {
        self.pieces.get(usize::from(id)).map_or(&[], |piece| &piece.0)
    }

    /// Whether `id` is the form that begins a word, with the metaspace in front.
    pub fn begins_word(&self, id: u16) -> bool {
        self.pieces.get(usize::from(id)).is_some_and(|piece| piece.1)
    }

    /// The base ids that a sequence of ids stands for.
    pub fn decode(&self, ids: &[u16]) -> Vec<u16> {
        ids.iter().flat_map(|id| self.piece(*id)).copied().collect()
    }

    /// Encodes base ids that are cut into groups at `groups` (ascending start indices, the first 0).
    pub fn encode(&self, base: &[u16], groups: &[usize]) -> Vec<u16> {
        let mut out = Vec::with_capacity(base.len() / 2);
        let ends = groups.iter().skip(1).copied().chain([base.len()]);
        for (start, end) in groups.iter().zip(ends) {
            self.encode_group(&base[*start..end], &mut out);
        }
        out
    }

    /// Encodes one group, for example a bar.
    pub fn encode_group(&self, group: &[u16], out: &mut Vec<u16>) {
        for part in group.chunk_by(|left, right| *left >= SPECIAL_END && *right >= SPECIAL_END) {
            if part[0] < SPECIAL_END {
                out.extend(self.single[usize::from(part[0])]);
            } else {
                self.encode_word(part, out);
            }
        }
    }

    fn encode_word(&self, word: &[u16], out: &mut Vec<u16>) {
        if word.len() > REMEMBERED_IDS {
            self.merge_long(word, out);
            return;
        }
        LATELY.with_borrow_mut(|lately| {
            let Word { base, ids } = lately.place(self.number, word);
            if base != word {
                base.clear();
                base.extend_from_slice(word);
                ids.clear();
                if word.len() < SHORT { self.merge_short(word, ids) } else { self.merge_long(word, ids) }
            }
            out.extend_from_slice(ids);
        });
    }

    /// The ids of a word on their own, the metaspace in front.
    fn letters(&self, word: &[u16]) -> impl Iterator<Item = u16> {
        let letters = word.iter().filter_map(|base| self.single.get(usize::from(*base)).copied().flatten());
        self.metaspace.into_iter().chain(letters)
    }

    fn step(&self, left: u16, right: u16) -> Step {
        let pair = pair(left, right);
        if !self.likely.holds(pair) {
            return NONE;
        }
        self.merges.get(&pair).copied().unwrap_or(NONE)
    }

    /// Merges one word of less than [`SHORT`] base ids.
    fn merge_short(&self, word: &[u16], out: &mut Vec<u16>) {
        let begin = out.len();
        out.extend(self.letters(word));
        let symbols = &mut out[begin..];
        // The step that each symbol takes with the next one.
        let mut steps = [NONE; SHORT];
        for (step, two) in steps.iter_mut().zip(symbols.windows(2)) {
            *step = self.step(two[0], two[1]);
        }
        let mut count = symbols.len();
        while let Some((at, first)) = least(&steps[..count]) {
            symbols.copy_within(at + 2..count, at + 1);
            steps.copy_within(at + 1..count, at);
            count -= 1;
            symbols[at] = result(first);
            steps[at] = if at + 1 < count { self.step(symbols[at], symbols[at + 1]) } else { NONE };
            if at > 0 {
                steps[at - 1] = self.step(symbols[at - 1], symbols[at]);
            }
        }
        out.truncate(begin + count);
    }

    /// Merges one word of any length, in a time that hardly grows faster than the word.
    fn merge_long(&self, word: &[u16], out: &mut Vec<u16>) {
        const END: u32 = u32::MAX;
        let mut symbols: Vec<u16> = self.letters(word).collect();
        let count = symbols.len() as u32;
        let mut next: Vec<u32> = (1..=count).map(|k| if k == count { END } else { k }).collect();
        let mut previous: Vec<u32> = (0..count).map(|k| k.wrapping_sub(1)).collect();
        let mut alive = vec![true; symbols.len()];
        let entry = |at: u32, left: u16, right: u16| {
            let step = self.step(left, right);
            (step != NONE).then_some(Reverse((step, at, left, right)))
        };
        let pairs = symbols.windows(2).enumerate();
        let mut queue: BinaryHeap<_> = pairs.filter_map(|(at, two)| entry(at as u32, two[0], two[1])).collect();
        while let Some(Reverse((step, at, left, right))) = queue.pop() {
            let here = at as usize;
            let there = next[here];
            // An entry is stale once either of its symbols was merged into another.
            if !alive[here] || symbols[here] != left || there == END || symbols[there as usize] != right {
                continue;
            }
            symbols[here] = result(step);
            alive[there as usize] = false;
            let after = next[there as usize];
            next[here] = after;
            if after != END {
                previous[after as usize] = at;
                queue.extend(entry(at, symbols[here], symbols[after as usize]));
            }
            let before = previous[here];
            if before != END {
                queue.extend(entry(before, symbols[before as usize], symbols[here]));
            }
        }
        out.extend(symbols.into_iter().zip(alive).filter_map(|(symbol, alive)| alive.then_some(symbol)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A model of 40 letters and merges of any two ids that were there before.
    fn model(pairs: &[(u16, u16)]) -> Bpe {
        let mut pieces: Vec<(Vec<u16>, bool)> = (0..40).map(|k| (vec![SPECIAL_END + k], false)).collect();
        pieces.push((Vec::new(), true));
        let mut merges = Vec::new();
        for &(left, right) in pairs {
            let count = pieces.len() as u16;
            merges.push((left % count, right % count, count));
            pieces.push((Vec::new(), false));
        }
        Bpe::new(pieces, &merges)
    }

    proptest! {
        #[test]
        fn short_words_are_merged_as_long_ones_are(
            pairs in prop::collection::vec((0u16..200, 0u16..200), 0..150),
            word in prop::collection::vec(0u16..44, 1..SHORT),
        ) {
            let bpe = model(&pairs);
            let word: Vec<u16> = word.into_iter().map(|letter| SPECIAL_END + letter).collect();
            let (mut short, mut long) = (vec![7], vec![7]);
            bpe.merge_short(&word, &mut short);
            bpe.merge_long(&word, &mut long);
            prop_assert_eq!(short, long);
        }
    }
}
