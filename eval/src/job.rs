//! The evaluation job: prompts chosen once, answers of every model, metrics, comparisons. Each step reads
//! what the step before has stored and skips what stands there already.

use std::time::Instant;

use midi_ingest::job::config::key_of;
use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::job::{Experiment, Progress, Shutdown, provenance};
use midi_ingest::score::smf;
use midi_ingest::shard::{Manifest, Song, Split, Status as SongStatus, read_songs};
use midi_ingest::store::Store;
use midi_ingest::token::Tokenizer;
use serde::Serialize;

use crate::choose::choose;
use crate::config::{EvalConfig, EvalModel};
use crate::generate::{Question, answer};
use crate::metric::{Measures, Metric, measure};
use crate::models::{Answerer, open};
use crate::prompt::{Piece, Prompt};
use crate::report::Report;
use crate::results::{Answers, GenerationRow, Labels, MetricRow, PromptRow, Status, read, scan, write};
use crate::splice::{bars_of, splice};

const PROMPTS: &str = "eval/prompts/prompts.parquet";

/// What is to be done, for `plan.json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EvalPlan {
    /// The run.
    pub run_id: String,
    /// Fingerprint of configuration, seed and data.
    pub config_hash: String,
    /// Prompts.
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
        // Batch and threads change the speed, not the result.
        let essence = EvalConfig { batch: 1, threads: None, ..config.clone() };
        let config_hash = key_of(&(&essence, experiment.seed, &manifest.key, env!("CARGO_PKG_VERSION")));
        let plan = EvalPlan { run_id: experiment.name.clone(), config_hash, prompts: config.prompts.count, models };
        Ok(Eval { experiment, config, store, manifest, tokenizer, plan })
    }

    /// What the job does.
    pub fn plan(&self) -> &EvalPlan {
        &self.plan
    }

    /// Chooses the prompts and stores them, unless they are stored already.
    ///
    /// # Errors
    /// Prompts of another configuration stand there (78), or as [`choose`].
    pub fn prompts(&self) -> Result<Vec<PromptRow>> {
        if let Some(bytes) = self.store.get(PROMPTS)? {
            let rows: Vec<PromptRow> = read(bytes, PROMPTS)?;
            if rows.iter().any(|row| row.config_hash != self.plan.config_hash) {
                return Err(Error::mismatch(format!(
                    "`{}/eval` was made by another configuration",
                    self.store.shown()
                ))
                .hint("choose another `name` or `out`, or remove the `eval` folder"));
            }
            return Ok(rows);
        }
        let env = provenance::Env::of("midi-eval", env!("CARGO_PKG_VERSION"));
        provenance::write(&self.store, "eval", self.experiment, &self.plan, &env)?;
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

    /// Lets this worker's models (every `of`th, from `worker`) answer all prompts.
    ///
    /// # Errors
    /// A checkpoint is missing or does not fit (78), the store fails (74), or the process was asked to stop (75).
    pub fn generate(&self, worker: usize, of: usize, progress: &Progress, shutdown: &Shutdown) -> Result<()> {
        let prompts = self.prompts()?;
        for model in self.config.models.iter().skip(worker).step_by(of.max(1)) {
            shutdown.check("the models before have answered")?;
            self.generate_one(model, &prompts, progress, shutdown)?;
        }
        Ok(())
    }

    fn generate_one(
        &self,
        model: &EvalModel,
        prompts: &[PromptRow],
        progress: &Progress,
        shutdown: &Shutdown,
    ) -> Result<()> {
        if let Some(threads) = self.config.threads {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        }
        let mut warn = |text: &str| progress.note(text);
        let (answerer, hash) = open(model, self.experiment, &self.manifest.vocabulary, &mut warn)?;
        let at = format!("eval/generations/{}.parquet", model.name());
        if let Some(bytes) = self.store.get(&at)? {
            let rows: Vec<GenerationRow> = read(bytes, &at)?;
            let same = |row: &GenerationRow| row.checkpoint_hash == hash && row.config_hash == self.plan.config_hash;
            if rows.len() == prompts.len() && rows.iter().all(same) {
                progress.note(&format!("{} has answered already", model.name()));
                return Ok(());
            }
        }
        progress.begin(&format!("{} answers", model.name()), prompts.len() as u64, "prompts");
        let began = Instant::now();
        let pieces = prompts.iter().map(piece_of).collect::<Result<Vec<_>>>()?;
        let mut rows = Vec::with_capacity(prompts.len());
        let answers = match &answerer {
            Answerer::CopyBefore => None,
            Answerer::Network(network) => {
                let question = |row: &PromptRow| Question {
                    id: row.prompt_id.clone(),
                    prompt: Prompt { tokens: row.tokens.clone(), openings: row.openings.clone() },
                    kind: row.kind,
                    bars: (row.bar_end - row.bar_start) as usize,
                };
                let questions: Vec<Question> = prompts.iter().map(question).collect();
                let mut done = |_| {
                    progress.advance(1);
                    shutdown.check("no answer of this model is kept")
                };
                let (sampler, seed) = (&self.config.sampler, self.experiment.seed);
                Some(answer(network, &self.tokenizer, &questions, sampler, seed, self.config.batch, &mut done)?)
            }
        };
        for (index, (prompt, piece)) in prompts.iter().zip(&pieces).enumerate() {
            let (track, bars) = (prompt.track as usize, prompt.bar_start as usize..prompt.bar_end as usize);
            let (ids, fill, stop) = match &answers {
                Some(answers) => {
                    let answer = &answers[index];
                    (answer.ids.clone(), bars_of(&self.tokenizer.bpe().decode(&answer.ids)), answer.stop)
                }
                None => (Vec::new(), bars_before(piece, track, bars.clone()), "copied"),
            };
            rows.push(GenerationRow {
                run_id: self.plan.run_id.clone(),
                prompt_id: prompt.prompt_id.clone(),
                model: model.name().to_owned(),
                checkpoint_hash: hash.clone(),
                config_hash: self.plan.config_hash.clone(),
                seed: self.experiment.seed,
                tokens: ids,
                stop_reason: stop.to_owned(),
                seconds: began.elapsed().as_secs_f64() / prompts.len() as f64,
                status: Status::Ok,
                reason: None,
                midi: Some(smf::write(&splice(piece, track, bars, &fill))),
            });
        }
        self.store.put(&at, write(&rows)?)?;
        progress.finish(&format!("{} answered {} prompts", model.name(), rows.len()));
        Ok(())
    }

    /// Measures this worker's models' answers.
    ///
    /// # Errors
    /// Answers are missing (65), or the store fails (74).
    pub fn score(&self, worker: usize, of: usize) -> Result<()> {
        let prompts = self.prompts()?;
        for model in self.config.models.iter().skip(worker).step_by(of.max(1)) {
            let at = format!("eval/generations/{}.parquet", model.name());
            let answers: Vec<GenerationRow> = read(self.store.read(&at)?, &at)?;
            let mut rows: Vec<MetricRow> = Vec::new();
            for answer in &answers {
                let prompt = prompts.iter().find(|prompt| prompt.prompt_id == answer.prompt_id);
                let prompt = prompt.ok_or_else(|| Error::data(format!("`{at}` answers an unknown prompt")))?;
                let original = piece_of(prompt)?.score;
                let measures = match answer.midi.as_deref().map(smf::read) {
                    Some(Ok(infilled)) => measure(&original, &keep_tracks(infilled, prompt), &prompt.section()),
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
            self.store.put(&format!("eval/metrics/{}.parquet", model.name()), write(&rows)?)?;
        }
        Ok(())
    }

    /// Compares the models and writes the report; returns it.
    ///
    /// # Errors
    /// Metrics of a model are missing yet (75), or the store fails (74).
    pub fn compare(&self) -> Result<Report> {
        let mut rows = Vec::new();
        for model in &self.plan.models {
            let at = format!("eval/metrics/{model}.parquet");
            let bytes = self.store.get(&at)?.ok_or_else(|| {
                Error::new(Exit::RunAgain, format!("`{}/{at}` is not there yet", self.store.shown()))
                    .hint("run `midi-eval generate` and `midi-eval score` for every model first")
            })?;
            if self.store.local_path(&at).is_none() {
                rows.extend(read::<MetricRow>(bytes, &at)?);
            }
        }
        if let Some(folder) = self.store.local_path("eval/metrics") {
            rows = scan::metric_rows(&folder, &self.plan.run_id)?;
        }
        let answers = Answers::new(&rows)?;
        let pairs = &self.config.comparisons;
        let mut metrics = Metric::PAPER.to_vec();
        if !self.config.prompts.controls.is_empty() {
            metrics.extend(Metric::CONTROLS);
        }
        let report = Report::new(&answers, &metrics, &self.plan.models, pairs, self.experiment.seed)?;
        self.store.put("eval/comparisons/comparisons.parquet", write(&report.comparisons)?)?;
        self.store.put("report.html", report.html().into_bytes())?;
        Ok(report)
    }
}

fn piece_of(prompt: &PromptRow) -> Result<Piece> {
    Piece::read(&prompt.midi)
        .map_err(|e| Error::data(format!("the original of prompt `{}` cannot be read", prompt.prompt_id)).because(e))
}

/// A track that an answer left without notes is missing in its file; it is put back, empty, so that the
/// index of the section's track stays right.
fn keep_tracks(mut infilled: midi_ingest::score::Score, prompt: &PromptRow) -> midi_ingest::score::Score {
    if let Ok(piece) = piece_of(prompt)
        && infilled.tracks.len() + 1 == piece.score.tracks.len()
    {
        let empty =
            midi_ingest::score::Track { program: prompt.program, is_drum: prompt.is_drum, ..Default::default() };
        infilled.tracks.insert(prompt.track as usize, empty);
    }
    infilled
}

/// The bars just before the section; just after it, where there are too few before.
fn bars_before(piece: &Piece, track: usize, bars: std::ops::Range<usize>) -> Vec<Vec<u16>> {
    let count = bars.len();
    let from = match bars.start.checked_sub(count) {
        Some(before) => before..bars.start,
        None => bars.end..bars.end + count,
    };
    piece.tracks[track].slice(from).to_vec()
}
