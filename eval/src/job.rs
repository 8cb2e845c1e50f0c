//! The evaluation job: prompts chosen once, answers of every model, metrics, comparisons. Each step reads
//! what the step before has stored and skips what stands there already.

mod answering;

use std::collections::{BTreeMap, BTreeSet};

use midi_ingest::job::config::key_of;
use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::job::{Experiment, Progress, Shutdown, provenance};
use midi_ingest::pipeline::Worker;
use midi_ingest::score::{Score, Track, smf};
use midi_ingest::shard::{Manifest, Song, Split, Status as SongStatus, read_songs};
use midi_ingest::store::Store;
use midi_ingest::token::Tokenizer;
use midi_ingest::token::control::Control;
use serde::Serialize;

use crate::choose::choose;
use crate::config::{EvalConfig, EvalModel};
use crate::metric::{Measures, Metric, measure};
use crate::prompt::Piece;
use crate::report::Report;
use crate::results::{Answers, GenerationRow, Labels, MetricRow, PromptRow, read, scan, write};

const PROMPTS: &str = "eval/prompts/prompts.parquet";

/// What is to be done, for `plan.json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EvalPlan {
    /// The run.
    pub run_id: String,
    /// Fingerprint of what makes an answer and its metrics what they are, besides the model: configuration, seed and
    /// data.
    pub config_hash: String,
    /// Prompts that are wanted.
    pub prompts: usize,
    /// The models, by name.
    pub models: Vec<String>,
}

/// An evaluation, ready to run.
#[derive(Debug)]
pub struct Eval<'a> {
    experiment: &'a Experiment,
    config: EvalConfig,
    store: Store,
    manifest: Manifest,
    tokenizer: Tokenizer,
    plan: EvalPlan,
}

impl<'a> Eval<'a> {
    /// Validates the `[eval]` table and opens the run's data.
    ///
    /// # Errors
    /// The configuration is wrong (78), ingest has not finished (65), or the store fails (74).
    pub fn new(experiment: &'a Experiment) -> Result<Self> {
        let config: EvalConfig = experiment.section("eval")?;
        config.check()?;
        let models = config.models.iter().map(|model| model.name().to_owned()).collect();
        let store = Store::open(&experiment.out)?;
        let data = Store::open(&format!("{}/ingest", experiment.out))?;
        let manifest = Manifest::load(&data)?;
        let tokenizer = Tokenizer::parse(&String::from_utf8_lossy(&data.read(&manifest.vocabulary.file)?))?;
        if !config.prompts.controls.is_empty() && !tokenizer.has_controls() {
            return Err(Error::mismatch("`eval.prompts.controls`: the tokenizer has no ids for attribute controls")
                .hint("take a tokenizer that has, such as a learned one, or leave the controls out"));
        }
        // Batch and threads change the speed, not the result. Rows say which model and checkpoint they are of, so another
        // model or comparison leaves those that are there as they are.
        let essence = EvalConfig { models: vec![], comparisons: vec![], batch: 1, threads: None, ..config.clone() };
        let config_hash = key_of(&(&essence, experiment.seed, &manifest.key, env!("CARGO_PKG_VERSION")));
        let plan = EvalPlan { run_id: experiment.name.clone(), config_hash, prompts: config.prompts.count, models };
        Ok(Eval { experiment, config, store, manifest, tokenizer, plan })
    }

    /// What the job does.
    pub fn plan(&self) -> &EvalPlan {
        &self.plan
    }

    /// Chooses the prompts and stores them, unless they are stored already. There may be fewer than were wanted, see
    /// [`choose`].
    ///
    /// # Errors
    /// Prompts of another configuration stand there (78), or as [`choose`].
    pub fn prompts(&self) -> Result<Vec<PromptRow>> {
        if let Some(bytes) = self.store.get(PROMPTS)? {
            let rows: Vec<PromptRow> = read(bytes, PROMPTS)?;
            let ours = |row: &PromptRow| (&row.run_id, &row.config_hash) == (&self.plan.run_id, &self.plan.config_hash);
            return if rows.iter().all(ours) { Ok(rows) } else { Err(self.another("eval")) };
        }
        self.provenance()?;
        let mut songs: Vec<Song> = Vec::new();
        for table in &self.manifest.songs {
            let name = format!("ingest/{}", table.path);
            songs.extend(read_songs(self.store.read(&name)?, &name)?);
        }
        songs.retain(|song| song.split == Split::Test && song.status == SongStatus::Accepted && song.midi.is_some());
        let (run, hash) = (&self.plan.run_id, &self.plan.config_hash);
        let rows = choose(
            &songs,
            self.manifest.meter,
            &self.tokenizer,
            &self.config.prompts,
            run,
            hash,
            self.experiment.seed,
        )?;
        self.store.put(PROMPTS, write(&rows)?)?;
        Ok(rows)
    }

    fn provenance(&self) -> Result<()> {
        let env = provenance::Env::of("midi-eval", env!("CARGO_PKG_VERSION"));
        provenance::write(&self.store, "eval", &self.experiment.with_section("eval", &self.config)?, &self.plan, &env)
    }

    /// The error where rows of another configuration stand.
    fn another(&self, at: &str) -> Error {
        Error::mismatch(format!("`{}/{at}` was made by another configuration", self.store.shown()))
            .hint("choose another `name` or `out`, or remove the `eval` folder")
    }

    /// The error where `step` has not done all of its work.
    fn run_first(&self, what: &str, step: &str) -> Error {
        Error::new(Exit::RunAgain, format!("`{}/{what}", self.store.shown()))
            .hint(format!("run `midi-eval {step}` for every model first"))
    }

    /// Every `of`th model, from `worker`.
    ///
    /// # Errors
    /// There is no such worker (78).
    fn share(&self, worker: usize, of: usize) -> Result<impl Iterator<Item = &EvalModel>> {
        Worker { index: worker, of }.check()?;
        Ok(self.config.models.iter().skip(worker).step_by(of))
    }

    /// Lets this worker's models (every `of`th, from `worker`) answer all prompts. Answers that are stored already stay.
    ///
    /// # Errors
    /// There is no such worker, or a checkpoint is missing or does not fit (78), the store fails (74), or the process was
    /// asked to stop (75).
    pub fn generate(&self, worker: usize, of: usize, progress: &Progress, shutdown: &Shutdown) -> Result<()> {
        let models = self.share(worker, of)?;
        let prompts = self.prompts()?;
        self.provenance()?;
        if prompts.len() < self.plan.prompts {
            progress.note(&format!(
                "the test songs have {} different sections that fit `[eval.prompts]`; {} prompts were wanted",
                prompts.len(),
                self.plan.prompts
            ));
        }
        for model in models {
            shutdown.check("the models before have answered")?;
            self.generate_one(model, &prompts, progress, shutdown)?;
        }
        Ok(())
    }

    /// A model's answers to all prompts.
    ///
    /// # Errors
    /// Some are missing yet (75), are of another configuration (78), or answer something else (65).
    fn generations(&self, model: &str, prompts: &[PromptRow]) -> Result<Vec<GenerationRow>> {
        let at = generations(model);
        let bytes =
            self.store.get(&at)?.ok_or_else(|| self.run_first(&format!("{at}` is not there yet"), "generate"))?;
        let rows: Vec<GenerationRow> = read(bytes, &at)?;
        if rows.iter().any(|row| row.config_hash != self.plan.config_hash) {
            return Err(self.another(&at));
        }
        let asked: BTreeSet<&str> = prompts.iter().map(|prompt| prompt.prompt_id.as_str()).collect();
        let told: BTreeSet<&str> = rows.iter().map(|row| row.prompt_id.as_str()).collect();
        if told.len() < rows.len() || !told.is_subset(&asked) {
            return Err(Error::data(format!("`{at}` answers an unknown prompt, or one twice")));
        }
        if rows.len() < prompts.len() {
            let so_far = format!("{at}` has {} of {} answers yet", rows.len(), prompts.len());
            return Err(self.run_first(&so_far, "generate"));
        }
        Ok(rows)
    }

    /// Measures this worker's models' answers.
    ///
    /// # Errors
    /// There is no such worker (78), answers are missing yet (75), or the store fails (74).
    pub fn score(&self, worker: usize, of: usize) -> Result<()> {
        let models = self.share(worker, of)?;
        let prompts = self.prompts()?;
        let by_id: BTreeMap<&str, &PromptRow> = prompts.iter().map(|row| (row.prompt_id.as_str(), row)).collect();
        for model in models {
            let mut rows: Vec<MetricRow> = Vec::new();
            for answer in &self.generations(model.name(), &prompts)? {
                let prompt = by_id[answer.prompt_id.as_str()];
                let original = piece_of(prompt)?.score;
                let measures = match answer.midi.as_deref().map(smf::read) {
                    Some(Ok(infilled)) => {
                        measure(&original, &keep_track(infilled, &original, prompt), &prompt.section())
                    }
                    Some(Err(reject)) => Measures::undefined(reject),
                    None => Measures::undefined(answer.reason.as_deref().unwrap_or("there is no answer")),
                };
                let labels = Labels {
                    run_id: &answer.run_id,
                    prompt_id: &answer.prompt_id,
                    model: &answer.model,
                    checkpoint_hash: &answer.checkpoint_hash,
                    config_hash: &answer.config_hash,
                };
                rows.extend(MetricRow::of(&measures, labels));
            }
            self.store.put(&metrics(model.name()), write(&rows)?)?;
        }
        Ok(())
    }

    /// Compares the models and writes the report; returns it.
    ///
    /// # Errors
    /// Metrics of a model's answers are missing yet (75), are of another configuration (78), or the store fails (74).
    pub fn compare(&self) -> Result<Report> {
        let prompts = self.prompts()?;
        let rows = self.metrics(&prompts)?;
        let (models, pairs) = (&self.plan.models, &self.config.comparisons);
        let report = Report::new(&Answers::new(&rows)?, &self.reported()?, models, pairs, self.experiment.seed)?;
        self.store.put("eval/comparisons/comparisons.parquet", write(&report.comparisons)?)?;
        self.store.put("report.html", report.html().into_bytes())?;
        Ok(report)
    }

    /// The metrics of all models' answers to all prompts.
    fn metrics(&self, prompts: &[PromptRow]) -> Result<Vec<MetricRow>> {
        for model in &self.plan.models {
            let at = metrics(model);
            if self.store.entry(&at)?.is_none() {
                return Err(self.run_first(&format!("{at}` is not there yet"), "score"));
            }
        }
        let mut rows = match self.store.local_path("eval/metrics") {
            Some(folder) => scan::metric_rows(&folder, &self.plan.run_id)?,
            None => {
                let tables = self.plan.models.iter().map(|model| read(self.store.read(&metrics(model))?, model));
                tables.collect::<Result<Vec<Vec<MetricRow>>>>()?.concat()
            }
        };
        // There may be tables of models that were compared once.
        rows.retain(|row| self.plan.models.contains(&row.model));
        if rows.iter().any(|row| row.config_hash != self.plan.config_hash) {
            return Err(self.another("eval/metrics"));
        }
        for model in &self.plan.models {
            let measured: BTreeSet<(&str, &str)> = rows
                .iter()
                .filter(|row| row.model == *model)
                .map(|row| (row.prompt_id.as_str(), row.checkpoint_hash.as_str()))
                .collect();
            let answers = self.generations(model, prompts)?;
            if measured != answers.iter().map(|row| (row.prompt_id.as_str(), row.checkpoint_hash.as_str())).collect() {
                return Err(self.run_first(&format!("{}` is not of the present answers", metrics(model)), "score"));
            }
        }
        Ok(rows)
    }

    /// What is compared: how well bars were filled, and how the controls were followed that were asked for. Controls of
    /// whole tracks are not measured.
    fn reported(&self) -> Result<Vec<Metric>> {
        let asked = self.config.prompts.asked()?;
        let controls = asked.iter().filter_map(|one| match one.control {
            Control::BarNoteDensity => Some(Metric::DensityDelta),
            Control::BarNoteDuration => Some(Metric::DurationDelta),
            Control::BarOnsetPolyphony => Some(Metric::PolyphonyDelta),
            _ => None,
        });
        Ok(Metric::REPORTED.into_iter().chain(controls).collect())
    }
}

/// Where a model's answers stand.
fn generations(model: &str) -> String {
    format!("eval/generations/{model}.parquet")
}

/// Where the metrics of a model's answers stand.
fn metrics(model: &str) -> String {
    format!("eval/metrics/{model}.parquet")
}

fn piece_of(prompt: &PromptRow) -> Result<Piece> {
    Piece::read(&prompt.midi)
        .map_err(|e| Error::data(format!("the original of prompt `{}` cannot be read", prompt.prompt_id)).because(e))
}

/// A track that an answer left without notes is missing in its file; it is put back, empty, so that the
/// index of the section's track stays right.
fn keep_track(mut infilled: Score, original: &Score, prompt: &PromptRow) -> Score {
    if infilled.tracks.len() + 1 == original.tracks.len() {
        let empty = Track { program: prompt.program, is_drum: prompt.is_drum, ..Track::default() };
        infilled.tracks.insert(prompt.track as usize, empty);
    }
    infilled
}
