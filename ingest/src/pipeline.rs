//! The ingest job: units of a source into songs tables and shards, each committed by a record of its own,
//! and the manifest that makes a data set of them. Any worker may do any unit, twice; the bytes are the same.

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;
use serde::Serialize;

use crate::config::{IngestConfig, TokenizerConfig};
use crate::job::config::key_of;
use crate::job::exit::{Error, Exit, Result};
use crate::job::{Experiment, Progress, Shutdown, provenance};
use crate::shard::{
    Counts, FileRecord, MANIFEST, Manifest, Sample, Song, Split, Status, UnitRecord, VocabularyRecord, write_shard,
    write_songs,
};
use crate::song::Rules;
use crate::source::{self, RawFile, Source, Unit};
use crate::store::{Access, Store};
use crate::token::{Grid, Learner, Tokenizer};

/// Where the vocabulary stands, relative to the ingest folder.
const TOKENIZER: &str = "tokenizer.json";
/// Files that are in memory together.
const BATCH: usize = 64;
/// What is safe when a unit is stopped.
const UNITS_ARE_SAVED: &str = "the units before are committed";

/// Which of the units a process takes: every `of`th, starting with `index`.
#[derive(Clone, Copy, Debug)]
pub struct Worker {
    /// Number of this worker, from 0.
    pub index: usize,
    /// How many workers there are.
    pub of: usize,
}

impl Worker {
    /// The only worker.
    pub const ONLY: Worker = Worker { index: 0, of: 1 };

    /// That there is such a worker.
    ///
    /// # Errors
    /// Its number is not below that of all workers: exit code 78.
    pub fn check(self) -> Result<()> {
        if self.index < self.of {
            return Ok(());
        }
        Err(Error::mismatch(format!("worker {} of {} does not exist", self.index, self.of))
            .hint("workers count from 0"))
    }
}

/// What is to be done, validated.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IngestPlan {
    /// Fingerprint of configuration, seed and input.
    pub key: String,
    /// Fingerprint of the input alone.
    pub input: String,
    /// Units of work.
    pub units: usize,
    /// Files in all units.
    pub files: usize,
    /// Where the data set will stand.
    pub out: String,
}

impl fmt::Display for IngestPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ingest: {} files in {} units -> {}/ingest (key {})",
            self.files,
            self.units,
            self.out,
            &self.key[..12]
        )
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The data set is committed.
    Complete(Box<Manifest>),
    /// This worker's units are; others are still missing.
    Partial {
        /// Units that are committed.
        committed: usize,
        /// Units in all.
        units: usize,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Partial { committed, units } => {
                write!(f, "{committed} of {units} units are committed; the worker of the last one writes the manifest")
            }
            Outcome::Complete(manifest) => {
                let Counts { files, accepted, skipped, rejected, .. } = &manifest.counts;
                write!(f, "{files} files: {accepted} songs, {skipped} left out, {rejected} unreadable")?;
                for (reason, count) in &manifest.counts.reasons {
                    write!(f, "\n  {reason}: {count}")?;
                }
                for split in Split::ALL {
                    let record = manifest.split(split);
                    let songs = manifest.counts.songs.get(&split).copied().unwrap_or(0);
                    write!(f, "\n{}: {songs} songs", split.name())?;
                    if record.samples > 0 {
                        write!(f, ", {} samples, {} tokens", record.samples, record.tokens)?;
                    }
                }
                write!(f, "\nvocabulary: {} tokens", manifest.vocabulary.size)
            }
        }
    }
}

/// An ingest job, ready to run.
#[derive(Debug)]
pub struct Ingest<'a> {
    experiment: &'a Experiment,
    config: IngestConfig,
    source: Box<dyn Source>,
    plan: IngestPlan,
}

impl<'a> Ingest<'a> {
    /// [`Ingest::with_access`] to a source that is open to all.
    ///
    /// # Errors
    /// The configuration is wrong (78), or the source cannot be opened (65 or 74).
    pub fn new(experiment: &'a Experiment) -> Result<Self> {
        Self::with_access(experiment, &Access::default())
    }

    /// Validates the experiment's `[ingest]` table and opens its source.
    ///
    /// # Errors
    /// The configuration is wrong (78), or the source cannot be opened (65 or 74).
    pub fn with_access(experiment: &'a Experiment, access: &Access) -> Result<Self> {
        let config: IngestConfig = experiment.section("ingest")?;
        let rules = Rules::new(&config, experiment.seed)?;
        config.limits.check()?;
        if !(0.0..=1.0).contains(&config.max_bad_fraction) {
            return Err(Error::mismatch("`ingest.max-bad-fraction` must be from 0 to 1"));
        }
        let tokenizer = match &config.tokenizer {
            TokenizerConfig::File { path } => {
                let tokenizer = Tokenizer::load(path.as_ref())?;
                rules.check_tokenizer(&tokenizer)?;
                tokenizer.fingerprint().to_owned()
            }
            TokenizerConfig::Learn { vocabulary, .. } => {
                Learner::check(*vocabulary)?;
                String::new()
            }
        };
        let source = source::open(&config.source, config.files_per_unit, &config.limits, experiment.seed, access)?;
        let input = source.fingerprint();
        // No unit depends on how many bad files are accepted: whoever accepts more goes on with what is there.
        let keyed = IngestConfig { max_bad_fraction: 0.0, ..config.clone() };
        let key = key_of(&(&keyed, experiment.seed, &input, tokenizer, env!("CARGO_PKG_VERSION")));
        let files = source.units().iter().map(|unit| unit.files).sum();
        let plan = IngestPlan { key, input, units: source.units().len(), files, out: experiment.out.clone() };
        Ok(Ingest { experiment, config, source, plan })
    }

    /// What [`Ingest::run`] would do.
    pub fn plan(&self) -> &IngestPlan {
        &self.plan
    }

    /// Does this worker's units that are not committed yet; writes the manifest once all are.
    ///
    /// # Errors
    /// Another configuration's data stands there (78), too many files are unreadable or no sample comes out (65), the
    /// store fails (74), or the process was asked to stop (75, and 10 before there is a vocabulary).
    pub fn run(&self, worker: Worker, progress: &Progress, shutdown: &Shutdown) -> Result<Outcome> {
        worker.check()?;
        let store = Store::open(&format!("{}/ingest", self.experiment.out))?;
        if store.get(MANIFEST)?.is_some() {
            let manifest = Manifest::load(&store)?;
            if manifest.key == self.plan.key {
                progress.note("the data set is committed already; nothing to do");
                return Ok(Outcome::Complete(Box::new(manifest)));
            }
        }
        store.must_refuse_a_second_create()?;
        let key = format!("{}\n", self.plan.key);
        store.commit("key", key.into_bytes())?;
        let env = provenance::Env::of("midi-ingest", env!("CARGO_PKG_VERSION"));
        provenance::write(&store, "", &self.experiment.with_section("ingest", &self.config)?, &self.plan, &env)?;

        let rules = Rules::new(&self.config, self.experiment.seed)?;
        let tokenizer = self.tokenizer(&store, &rules, progress, shutdown)?;
        rules.check_tokenizer(&tokenizer)?;
        let units = self.missing(&store, worker, shutdown)?;
        progress.begin("reading and sampling", units.iter().map(|unit| unit.files as u64).sum(), "files");
        for unit in units {
            self.unit(&store, unit, &rules, &tokenizer, progress, shutdown)?;
        }
        let outcome = self.commit(&store, &tokenizer)?;
        progress.finish(&format!("{} units", self.plan.units));
        Ok(outcome)
    }

    /// This worker's units that are not committed yet.
    fn missing(&self, store: &Store, worker: Worker, shutdown: &Shutdown) -> Result<Vec<&Unit>> {
        let mut missing = Vec::new();
        for unit in self.source.units().iter().filter(|unit| unit.index % worker.of == worker.index) {
            shutdown.check(UNITS_ARE_SAVED)?;
            if self.record(store, unit)?.is_none() {
                missing.push(unit);
            }
        }
        Ok(missing)
    }

    /// The commit record of a unit, if it is there.
    fn record(&self, store: &Store, unit: &Unit) -> Result<Option<UnitRecord>> {
        let name = record_name(unit);
        let Some(bytes) = store.get(&name)? else { return Ok(None) };
        let record: UnitRecord = serde_json::from_slice(&bytes)
            .map_err(|e| Error::data(format!("`{}/{name}` is not a unit record", store.shown())).because(e))?;
        if record.key != self.plan.key {
            return Err(Error::mismatch(format!("`{}/{name}` was made by another configuration", store.shown()))
                .hint("choose another `name` or `out`, or remove the folder"));
        }
        Ok(Some(record))
    }

    /// The vocabulary: from the store if it is there, else from the file or learned, and then stored.
    fn tokenizer(
        &self,
        store: &Store,
        rules: &Rules<'_>,
        progress: &Progress,
        shutdown: &Shutdown,
    ) -> Result<Tokenizer> {
        if let Some(bytes) = store.get(TOKENIZER)? {
            return Tokenizer::parse(&String::from_utf8_lossy(&bytes))
                .map_err(|e| Error::data(format!("in `{}/{TOKENIZER}`", store.shown())).because(e));
        }
        let text = match &self.config.tokenizer {
            TokenizerConfig::File { path } => {
                fs_err::read_to_string(path).map_err(|e| Error::storage(format!("cannot read `{path}`"), e))?
            }
            TokenizerConfig::Learn { vocabulary, songs } => {
                self.learn(rules, *vocabulary, *songs, progress, shutdown)?.to_file()
            }
        };
        store.commit(TOKENIZER, text.clone().into_bytes())?;
        Tokenizer::parse(&text)
    }

    /// Learns a vocabulary of `size` tokens from the first `songs` accepted training songs.
    ///
    /// # Errors
    /// `size` is out of range (78), there is no music (65), the source fails, or the process was asked to stop (10).
    pub fn vocabulary(&self, size: usize, songs: usize, progress: &Progress, shutdown: &Shutdown) -> Result<Tokenizer> {
        self.learn(&Rules::new(&self.config, self.experiment.seed)?, size, songs, progress, shutdown)
    }

    fn learn(
        &self,
        rules: &Rules<'_>,
        size: usize,
        songs: usize,
        progress: &Progress,
        shutdown: &Shutdown,
    ) -> Result<Tokenizer> {
        Learner::check(size)?;
        progress.begin("learning the vocabulary", self.plan.files.min(songs) as u64, "songs");
        let mut learner = Learner::default();
        let mut left = songs;
        'units: for unit in self.source.units() {
            for batch in batches(self.source.as_ref(), unit)? {
                if shutdown.is_asked() {
                    return Err(Error::new(Exit::PeerLost, "stopped on request; the vocabulary was not learned yet")
                        .hint("run the same command again; it begins anew"));
                }
                let read = batch?.into_par_iter().map(|file| rules.read(file)).collect::<Vec<_>>();
                for (song, score) in read {
                    let Some(score) = score.filter(|_| song.split == Split::Train) else { continue };
                    if left == 0 {
                        break 'units;
                    }
                    left -= 1;
                    progress.advance(1);
                    for track in Grid::of(&score).and_then(|grid| grid.encode()).unwrap_or_default() {
                        learner.add(&track);
                    }
                }
            }
        }
        let tokenizer = learner.learn(size)?;
        progress.finish(&format!("a vocabulary of {} tokens from {} songs", tokenizer.size(), songs - left));
        Ok(tokenizer)
    }

    /// Does one unit and commits it. A stop request drops it.
    fn unit(
        &self,
        store: &Store,
        unit: &Unit,
        rules: &Rules<'_>,
        tokenizer: &Tokenizer,
        progress: &Progress,
        shutdown: &Shutdown,
    ) -> Result<()> {
        let mut songs: Vec<Song> = Vec::with_capacity(unit.files.min(4096));
        let mut samples: BTreeMap<Split, Vec<Sample>> = BTreeMap::new();
        let mut counts = Counts::default();
        for batch in batches(self.source.as_ref(), unit)? {
            shutdown.check(UNITS_ARE_SAVED)?;
            let batch = batch?;
            let files = batch.len() as u64;
            let done = batch.into_par_iter().map(|file| {
                let (song, score) = rules.read(file);
                let samples = score.map(|score| rules.samples(&song, &score, tokenizer)).unwrap_or_default();
                (song, samples)
            });
            for (song, drawn) in done.collect::<Vec<_>>() {
                count(&mut counts, &song);
                samples.entry(song.split).or_default().extend(drawn);
                songs.push(song);
            }
            progress.advance(files);
        }
        let table = write_songs(&songs)?;
        let name = format!("songs/{}.parquet", unit.name);
        let table_record = FileRecord::of(name.clone(), &table, songs.len(), 0);
        store.put(&name, table)?;
        let mut shards = BTreeMap::new();
        for (split, samples) in samples.into_iter().filter(|(_, samples)| !samples.is_empty()) {
            let bytes = write_shard(&samples)?;
            let name = format!("shards/{}/{}.arrow", split.name(), unit.name);
            let tokens = samples.iter().map(|sample| sample.input_ids.len()).sum();
            shards.insert(split, FileRecord::of(name.clone(), &bytes, samples.len(), tokens));
            store.put(&name, bytes)?;
        }
        let key = self.plan.key.clone();
        let record = UnitRecord { key, unit: unit.name.clone(), songs: table_record, shards, counts };
        store.commit(&record_name(unit), json(&record)?)?;
        Ok(())
    }

    /// Writes the manifest if every unit is committed.
    fn commit(&self, store: &Store, tokenizer: &Tokenizer) -> Result<Outcome> {
        let mut records = Vec::with_capacity(self.plan.units);
        for unit in self.source.units() {
            records.extend(self.record(store, unit)?);
        }
        if records.len() < self.plan.units {
            return Ok(Outcome::Partial { committed: records.len(), units: self.plan.units });
        }
        let vocabulary = VocabularyRecord {
            file: TOKENIZER.to_owned(),
            size: tokenizer.size(),
            fingerprint: tokenizer.fingerprint().to_owned(),
            no_loss_ids: tokenizer.no_loss_ids(),
        };
        let context_tokens = self.config.sample.context_tokens;
        let mut manifest = Manifest::of_units(&self.plan.key, vocabulary, context_tokens, &records);
        manifest.meter = self.config.meter;
        let (bad, files) = (manifest.counts.rejected as f64, manifest.counts.files as f64);
        if bad > self.config.max_bad_fraction * files {
            return Err(Error::data(format!("{bad} of {files} files are unreadable, see {}/songs", store.shown()))
                .hint("raise `ingest.max-bad-fraction` if that is expected of this source"));
        }
        let songs = manifest.counts.songs.get(&Split::Train).copied().unwrap_or(0);
        if songs > 0 && manifest.split(Split::Train).samples == 0 {
            return Err(Error::data(format!("none of the {songs} training songs gave a sample"))
                .hint("raise `ingest.sample.context-tokens`, or take longer songs, with another `name` or `out`"));
        }
        store.commit(MANIFEST, json(&manifest)?)?;
        Ok(Outcome::Complete(Box::new(manifest)))
    }
}

fn record_name(unit: &Unit) -> String {
    format!("units/{}.json", unit.name)
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::bug("a record does not serialise").because(e))
}

fn count(counts: &mut Counts, song: &Song) {
    counts.files += 1;
    match song.status {
        Status::Accepted => {
            counts.accepted += 1;
            *counts.songs.entry(song.split).or_default() += 1;
        }
        Status::Skipped => counts.skipped += 1,
        Status::Rejected => counts.rejected += 1,
    }
    if let Some(reason) = &song.reason {
        let name = reason.split(": ").take(2).collect::<Vec<_>>().join(": ");
        *counts.reasons.entry(name).or_default() += 1;
    }
}

/// The files of a unit, some at a time.
fn batches<'a>(source: &'a dyn Source, unit: &Unit) -> Result<impl Iterator<Item = Result<Vec<RawFile>>> + 'a> {
    let mut files = source.read(unit)?;
    Ok(std::iter::from_fn(move || {
        let batch: Result<Vec<RawFile>> = files.by_ref().take(BATCH).collect();
        if batch.as_ref().is_ok_and(Vec::is_empty) { None } else { Some(batch) }
    }))
}

#[cfg(test)]
mod tests;
