//! Samples from the shards of a manifest, as right-padded batches of one sample a row, or several.

use std::ops::Range;

use midi_ingest::job::exit::{Error, Result};
use midi_ingest::shard::{Manifest, ShardReader, Split};
use midi_ingest::store::{LocalFile, Store};

/// The label of a position that is not a target of the loss.
pub const NO_TARGET: i64 = -100;

/// The id that fills rows up; such positions are never targets.
const PAD: i64 = 0;

/// Rows of one length: inputs are a sample's ids without the last, labels the ids without the first. A row
/// holds one sample, or several that know nothing of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Positions of a row: those of the longest.
    pub columns: usize,
    /// Input ids, row by row.
    pub ids: Vec<i64>,
    /// Labels, row by row; [`NO_TARGET`] where there is none.
    pub labels: Vec<i64>,
    /// Places (row · columns + column) at which a sample begins that is not the first of its row: the
    /// network forgets there what was before. Ascending.
    pub resets: Vec<i64>,
    /// Which sample stands where.
    pub placed: Vec<Placed>,
    /// Positions that are targets.
    pub targets: u64,
    /// Positions that are not padding.
    pub tokens: u64,
}

impl Batch {
    /// One sample a row, all of `columns` positions, of which every one is a target: the labels are the ids, each a place
    /// earlier, with the first id behind the last.
    ///
    /// # Panics
    /// There are no ids for `columns` of each row.
    pub fn full(columns: usize, ids: Vec<i64>) -> Self {
        assert!(columns > 0 && ids.len().is_multiple_of(columns), "{} ids in rows of {columns}", ids.len());
        let rows = ids.len() / columns;
        let mut labels = ids.clone();
        labels.rotate_left(ids.len().min(1));
        let placed = (0..rows).map(|row| Placed { sample: row as u64, at: row * columns, length: columns }).collect();
        let count = ids.len() as u64;
        Batch { rows, columns, ids, labels, resets: Vec::new(), placed, targets: count, tokens: count }
    }

    /// The rows in `count` parts of as many rows each as goes, in order; none is empty. A part's columns are those of its
    /// own longest row.
    pub fn parts(&self, count: usize) -> Vec<Batch> {
        let count = count.clamp(1, self.rows.max(1));
        (0..count).map(|part| self.part(part * self.rows / count..(part + 1) * self.rows / count)).collect()
    }

    fn part(&self, rows: Range<usize>) -> Batch {
        let places = rows.start * self.columns..rows.end * self.columns;
        let inside = self.placed.iter().filter(|placed| places.contains(&placed.at));
        let columns = inside.clone().map(|placed| placed.at % self.columns + placed.length).max().unwrap_or(1);
        let moved = |at: usize| (at / self.columns - rows.start) * columns + at % self.columns;
        let cut = |values: &[i64]| {
            let kept = values[places.clone()].chunks(self.columns).flat_map(|row| &row[..columns]);
            kept.copied().collect::<Vec<i64>>()
        };
        let labels = cut(&self.labels);
        Batch {
            rows: rows.len(),
            columns,
            ids: cut(&self.ids),
            targets: labels.iter().filter(|&&label| label != NO_TARGET).count() as u64,
            labels,
            resets: self
                .resets
                .iter()
                .filter(|&&place| places.contains(&(place as usize)))
                .map(|&place| moved(place as usize) as i64)
                .collect(),
            tokens: inside.clone().map(|placed| placed.length as u64).sum(),
            placed: inside.map(|placed| Placed { at: moved(placed.at), ..*placed }).collect(),
        }
    }
}

/// A sample in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its index in the data set.
    pub sample: u64,
    /// Where it begins: row · columns + column.
    pub at: usize,
    /// Its positions.
    pub length: usize,
}

/// One split of a data set, its shards mapped into memory.
#[derive(Debug)]
pub struct Dataset {
    shards: Vec<Shard>,
    /// Whether an id is never a target.
    unscored: Vec<bool>,
    context: usize,
    samples: u64,
}

#[derive(Debug)]
struct Shard {
    reader: ShardReader,
    /// Samples before this shard.
    first: u64,
    path: String,
    /// Keeps a downloaded copy alive as long as it is mapped.
    _file: LocalFile,
}

impl Dataset {
    /// Opens the shards of `split` below `store`, which is open at the ingest folder.
    ///
    /// # Errors
    /// A shard is missing, of another size than the manifest says, or not readable: exit code 65.
    pub fn open(store: &Store, manifest: &Manifest, split: Split) -> Result<Self> {
        let mut unscored = vec![false; manifest.vocabulary.size];
        for &id in &manifest.vocabulary.no_loss_ids {
            if let Some(unscored) = unscored.get_mut(usize::from(id)) {
                *unscored = true;
            }
        }
        let mut dataset = Dataset { shards: Vec::new(), unscored, context: manifest.context_tokens, samples: 0 };
        for record in manifest.split(split).shards {
            let changed = |what: String| {
                Error::data(format!("the shard `{}/{}` {what}", store.shown(), record.path))
                    .hint("remove the run's `ingest` folder and run ingest again")
            };
            let file = store.file(&record.path)?;
            let bytes = fs_err::metadata(file.path()).map_err(|e| changed("cannot be read".into()).because(e))?.len();
            if bytes != record.bytes {
                return Err(changed(format!("has {bytes} bytes, and {} in the manifest", record.bytes)));
            }
            let reader = ShardReader::open(file.path())?;
            if reader.len() as u64 != record.rows {
                return Err(changed(format!("has {} samples, and {} in the manifest", reader.len(), record.rows)));
            }
            let first = dataset.samples;
            dataset.samples += record.rows;
            dataset.shards.push(Shard { reader, first, path: record.path.clone(), _file: file });
        }
        Ok(dataset)
    }

    /// The number of samples.
    pub fn len(&self) -> u64 {
        self.samples
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// The ids of sample `index`, in manifest order.
    ///
    /// # Errors
    /// There is no such sample (a bug), or it breaks what ingest guarantees: exit code 65.
    pub fn sample(&self, index: u64) -> Result<&[u16]> {
        let after = self.shards.partition_point(|shard| shard.first <= index);
        let shard = after.checked_sub(1).and_then(|at| self.shards.get(at)).filter(|_| index < self.samples);
        let shard = shard.ok_or_else(|| Error::bug(format!("sample {index} of {}", self.samples)))?;
        let row = (index - shard.first) as usize;
        let ids = shard.reader.input_ids(row);
        let bad = |what: String| Error::data(format!("sample {row} of the shard `{}` {what}", shard.path));
        if ids.len() > self.context {
            return Err(bad(format!("has {} tokens, the context {}", ids.len(), self.context)));
        }
        match ids.iter().find(|id| usize::from(**id) >= self.unscored.len()) {
            Some(id) => Err(bad(format!("holds the id {id}, the vocabulary ends at {}", self.unscored.len()))),
            None => Ok(ids),
        }
    }

    /// The samples `indices` as one batch, a row each.
    ///
    /// # Errors
    /// As [`Dataset::sample`].
    pub fn batch(&self, indices: &[u64]) -> Result<Batch> {
        Ok(self.fill(&self.samples(indices)?.into_iter().map(|sample| vec![sample]).collect::<Vec<_>>()))
    }

    /// The samples `indices` as one batch of as few rows as first-fit-decreasing gives, each as long as the
    /// longest sample.
    ///
    /// # Errors
    /// As [`Dataset::sample`].
    pub fn packed_batch(&self, indices: &[u64]) -> Result<Batch> {
        let samples = self.samples(indices)?;
        let sizes: Vec<usize> = samples.iter().map(|(_, ids)| positions(ids)).collect();
        let rows = pack(&sizes);
        let of_row = |row: &Vec<usize>| row.iter().map(|&index| samples[index]).collect();
        Ok(self.fill(&rows.iter().map(of_row).collect::<Vec<Vec<(u64, &[u16])>>>()))
    }

    fn samples(&self, indices: &[u64]) -> Result<Vec<(u64, &[u16])>> {
        indices.iter().map(|&index| Ok((index, self.sample(index)?))).collect()
    }

    /// A batch of the rows given, each a list of samples.
    fn fill(&self, rows: &[Vec<(u64, &[u16])>]) -> Batch {
        let length = |row: &Vec<(u64, &[u16])>| row.iter().map(|(_, ids)| positions(ids)).sum::<usize>();
        let columns = rows.iter().map(length).max().unwrap_or(0).max(1);
        let mut batch = Batch {
            rows: rows.len(),
            columns,
            ids: vec![PAD; rows.len() * columns],
            labels: vec![NO_TARGET; rows.len() * columns],
            resets: Vec::new(),
            placed: Vec::new(),
            targets: 0,
            tokens: 0,
        };
        for (number, row) in rows.iter().enumerate() {
            let mut place = number * columns;
            for (index, sample) in row {
                batch.placed.push(Placed { sample: *index, at: place, length: positions(sample) });
                if place > number * columns {
                    batch.resets.push(place as i64);
                }
                for pair in sample.windows(2) {
                    let (input, target) = (pair[0], pair[1]);
                    batch.ids[place] = i64::from(input);
                    if self.is_target(target) {
                        batch.labels[place] = i64::from(target);
                        batch.targets += 1;
                    }
                    place += 1;
                }
                batch.tokens += positions(sample) as u64;
            }
        }
        batch
    }

    /// Whether `id` counts where it is to be predicted.
    pub(super) fn is_target(&self, id: u16) -> bool {
        !self.unscored[usize::from(id)]
    }

    /// The size of the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.unscored.len()
    }
}

/// Positions that a sample takes in a row.
fn positions(sample: &[u16]) -> usize {
    sample.len().saturating_sub(1)
}

/// Sizes into as few rows of the largest size as first-fit-decreasing finds: the indices of each row. The
/// rows, and what is in a row, are in the order of the indices.
fn pack(sizes: &[usize]) -> Vec<Vec<usize>> {
    let room = sizes.iter().copied().max().unwrap_or(0);
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(sizes[index]), index));
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    for index in order {
        match rows.iter_mut().find(|(used, _)| used + sizes[index] <= room) {
            Some((used, row)) => {
                *used += sizes[index];
                row.push(index);
            }
            None => rows.push((sizes[index], vec![index])),
        }
    }
    let mut rows: Vec<Vec<usize>> = rows.into_iter().map(|(_, row)| row).collect();
    rows.iter_mut().for_each(|row| row.sort_unstable());
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_samples_fill_the_rows_of_long_ones_up() {
        assert_eq!(pack(&[3, 9, 6, 2, 1, 6]), [vec![0, 2], vec![1], vec![3, 4, 5]]);
        assert!(pack(&[]).is_empty());
    }

    /// A batch of one sample or two a row, where ids are their places' numbers.
    fn batch(lengths: &[Vec<usize>]) -> Batch {
        let columns = lengths.iter().map(|row| row.iter().sum()).max().unwrap_or(1);
        let mut batch = Batch {
            rows: lengths.len(),
            columns,
            ids: vec![PAD; lengths.len() * columns],
            labels: vec![NO_TARGET; lengths.len() * columns],
            resets: vec![],
            placed: vec![],
            targets: 0,
            tokens: 0,
        };
        for (row, lengths) in lengths.iter().enumerate() {
            let mut at = row * columns;
            for &length in lengths {
                if at > row * columns {
                    batch.resets.push(at as i64);
                }
                batch.placed.push(Placed { sample: batch.placed.len() as u64, at, length });
                for place in at..at + length {
                    batch.ids[place] = place as i64;
                    batch.labels[place] = if place % 3 == 0 { NO_TARGET } else { 7 };
                    batch.targets += u64::from(place % 3 != 0);
                }
                (at, batch.tokens) = (at + length, batch.tokens + length as u64);
            }
        }
        batch
    }

    #[test]
    fn parts_hold_what_the_whole_holds() {
        let whole = batch(&[vec![3], vec![2, 4], vec![9], vec![1, 1], vec![4]]);
        assert_eq!(whole.parts(1), std::slice::from_ref(&whole));
        for count in [2, 3, 5, 8] {
            let parts = whole.parts(count);
            assert_eq!(parts.len(), count.min(5));
            let sum = |value: fn(&Batch) -> u64| parts.iter().map(value).sum::<u64>();
            assert_eq!((sum(|part| part.targets), sum(|part| part.tokens)), (whole.targets, whole.tokens));
            assert_eq!(sum(|part| part.rows as u64), 5);
            assert_eq!(sum(|part| part.resets.len() as u64), 2);
            let placed = parts.iter().flat_map(|part| part.placed.iter().map(move |placed| (part, placed)));
            for ((part, placed), original) in placed.zip(&whole.placed) {
                assert_eq!((placed.sample, placed.length), (original.sample, original.length));
                let (here, there) = (placed.at..placed.at + placed.length, original.at..original.at + original.length);
                assert_eq!(part.ids[here.clone()], whole.ids[there.clone()]);
                assert_eq!(part.labels[here], whole.labels[there]);
                let begins_inside = |batch: &Batch, at: usize| !at.is_multiple_of(batch.columns);
                assert_eq!(begins_inside(part, placed.at), part.resets.contains(&(placed.at as i64)));
            }
        }
        let columns: Vec<usize> = whole.parts(5).iter().map(|part| part.columns).collect();
        assert_eq!(columns, [3, 6, 9, 2, 4], "a part is as long as its own longest row");
    }

    proptest! {
        #[test]
        fn every_sample_is_packed_once_and_no_row_overflows(sizes in prop::collection::vec(1usize..200, 1..40)) {
            let rows = pack(&sizes);
            let mut all: Vec<usize> = rows.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>());
            let room = *sizes.iter().max().expect("there is one");
            let used = |row: &Vec<usize>| row.iter().map(|&index| sizes[index]).sum::<usize>();
            prop_assert!(rows.iter().all(|row| used(row) <= room));
            // First fit leaves at most one row that is not more than half full.
            prop_assert!(rows.iter().filter(|row| used(row) * 2 <= room).count() <= 1);
        }
    }
}
