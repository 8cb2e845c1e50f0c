//! Samples from the shards of a manifest, as right-padded batches.

use midi_ingest::job::exit::{Error, Result};
use midi_ingest::shard::{Manifest, ShardReader, Split};
use midi_ingest::store::{LocalFile, Store};

/// The label of a position that is not a target of the loss.
pub const NO_TARGET: i64 = -100;

/// The id that fills rows up; such positions are never targets.
const PAD: i64 = 0;

/// Rows of one length: inputs are a sample's ids without the last, labels the ids without the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Sequences.
    pub rows: usize,
    /// Positions of a sequence: those of the longest.
    pub columns: usize,
    /// Input ids, row by row.
    pub ids: Vec<i64>,
    /// Labels, row by row; [`NO_TARGET`] where there is none.
    pub labels: Vec<i64>,
    /// Positions that are targets.
    pub targets: u64,
    /// Positions that are not padding.
    pub tokens: u64,
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

    /// The samples `indices` as one batch.
    ///
    /// # Errors
    /// As [`Dataset::sample`].
    pub fn batch(&self, indices: &[u64]) -> Result<Batch> {
        let samples = indices.iter().map(|&index| self.sample(index)).collect::<Result<Vec<_>>>()?;
        let columns = samples.iter().map(|ids| ids.len().saturating_sub(1)).max().unwrap_or(0).max(1);
        let mut batch = Batch {
            rows: samples.len(),
            columns,
            ids: vec![PAD; samples.len() * columns],
            labels: vec![NO_TARGET; samples.len() * columns],
            targets: 0,
            tokens: 0,
        };
        let rows = batch.ids.chunks_exact_mut(columns).zip(batch.labels.chunks_exact_mut(columns));
        for ((ids, labels), sample) in rows.zip(samples) {
            for (position, pair) in sample.windows(2).enumerate() {
                let (input, target) = (pair[0], pair[1]);
                ids[position] = i64::from(input);
                if self.is_target(target) {
                    labels[position] = i64::from(target);
                    batch.targets += 1;
                }
            }
            batch.tokens += sample.len().saturating_sub(1) as u64;
        }
        Ok(batch)
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
