//! Byte-pair encoding of base ids: a bar's tokens become few ids, each of which stands for several.
//!
//! Ids of special tokens stand alone; each run between them is one word, which begins with the metaspace
//! U+2581 and is merged lowest rank first, leftmost first. The algorithm gives the ids that HF tokenizers
//! gives; a test compares them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::RwLock;

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::vocabulary::{BASE_SIZE, SPECIAL_END};

/// Words that are remembered; music repeats bars.
const CACHE_WORDS: usize = 100_000;
/// The longest word that is remembered, in base ids. Longer ones hardly come again, and would fill the memory.
const CACHE_WORD_IDS: usize = 1024;

/// A learned set of merges over the base vocabulary.
#[derive(Debug)]
pub struct Bpe {
    /// For every id the base ids that it stands for, and whether it begins with the metaspace.
    pieces: Vec<(Vec<u16>, bool)>,
    /// The id of each base id on its own; a base id without one vanishes.
    single: Vec<Option<u16>>,
    /// The id of the metaspace on its own.
    metaspace: Option<u16>,
    merges: FxHashMap<u32, Merge>,
    cache: RwLock<Cache>,
}

/// Words that were merged before, with their ids.
type Cache = HashMap<Box<[u16]>, Box<[u16]>, FxBuildHasher>;

#[derive(Clone, Copy, Debug)]
struct Merge {
    rank: u32,
    into: u16,
}

fn pair(left: u16, right: u16) -> u32 {
    u32::from(left) << 16 | u32::from(right)
}

impl Bpe {
    /// The model whose id `n` stands for `pieces[n]` (base ids, and whether a metaspace is in front), and
    /// that merges `merges[rank]` = (left, right, result).
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
            ranked.map(|(rank, (left, right, into))| (pair(*left, *right), Merge { rank: rank as u32, into: *into }));
        Bpe { pieces, single, metaspace, merges: merges.collect(), cache: RwLock::default() }
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
        if let Ok(cache) = self.cache.read()
            && let Some(ids) = cache.get(word)
        {
            out.extend_from_slice(ids);
            return;
        }
        let ids = self.merge(word);
        out.extend_from_slice(&ids);
        if let Ok(mut cache) = self.cache.write()
            && cache.len() < CACHE_WORDS
            && word.len() <= CACHE_WORD_IDS
        {
            cache.insert(word.into(), ids.into());
        }
    }

    /// Merges one word, the metaspace in front of it.
    fn merge(&self, word: &[u16]) -> Vec<u16> {
        const END: u32 = u32::MAX;
        let letters = word.iter().filter_map(|base| self.single.get(usize::from(*base)).copied().flatten());
        let mut symbols: Vec<u16> = self.metaspace.into_iter().chain(letters).collect();
        let count = symbols.len() as u32;
        let mut next: Vec<u32> = (1..=count).map(|k| if k == count { END } else { k }).collect();
        let mut previous: Vec<u32> = (0..count).map(|k| k.wrapping_sub(1)).collect();
        let mut alive = vec![true; symbols.len()];
        let merge_of = |left: u16, right: u16| self.merges.get(&pair(left, right)).copied();
        let mut queue: BinaryHeap<Reverse<(u32, u32, u16, u16)>> = symbols
            .windows(2)
            .enumerate()
            .filter_map(|(at, two)| Some(Reverse((merge_of(two[0], two[1])?.rank, at as u32, two[0], two[1]))))
            .collect();
        while let Some(Reverse((_, at, left, right))) = queue.pop() {
            let here = at as usize;
            let there = next[here];
            // An entry is stale once either of its symbols was merged into another.
            if !alive[here] || symbols[here] != left || there == END || symbols[there as usize] != right {
                continue;
            }
            let Some(merge) = merge_of(left, right) else { continue };
            symbols[here] = merge.into;
            alive[there as usize] = false;
            let after = next[there as usize];
            next[here] = after;
            if after != END {
                previous[after as usize] = at;
                if let Some(merge) = merge_of(symbols[here], symbols[after as usize]) {
                    queue.push(Reverse((merge.rank, at, symbols[here], symbols[after as usize])));
                }
            }
            let before = previous[here];
            if before != END
                && let Some(merge) = merge_of(symbols[before as usize], symbols[here])
            {
                queue.push(Reverse((merge.rank, before, symbols[before as usize], symbols[here])));
            }
        }
        symbols.into_iter().zip(alive).filter_map(|(symbol, alive)| alive.then_some(symbol)).collect()
    }
}
