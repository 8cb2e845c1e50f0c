//! One model answers the prompts. Finished answers are stored now and then and when the process is asked to stop, and a
//! later call asks for the others only: each prompt has its own random stream, so they are the same as ever.

use std::collections::BTreeMap;

use midi_ingest::job::exit::Result;
use midi_ingest::job::{Progress, Shutdown};
use midi_ingest::score::smf;

use super::{Eval, generations, piece_of};
use crate::config::EvalModel;
use crate::generate::{Answer, Question, answer};
use crate::models::{Answerer, open};
use crate::prompt::{Piece, Prompt};
use crate::results::{GenerationRow, PromptRow, Status, read, write};
use crate::splice::{bars_of, splice};

/// Finished answers of a model are stored whenever so many have come, or a sixteenth of all if that is more: a process
/// that is killed loses no others, and a large table is not written over and over.
const STORE_EVERY: usize = 64;

impl Eval<'_> {
    /// Lets one model answer the prompts that it has not answered yet.
    pub(super) fn generate_one(
        &self,
        model: &EvalModel,
        prompts: &[PromptRow],
        progress: &Progress,
        shutdown: &Shutdown,
    ) -> Result<()> {
        if let Some(threads) = self.config.threads {
            tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        }
        let (name, at) = (model.name(), generations(model.name()));
        let mut warn = |text: &str| progress.note(text);
        let (answerer, hash) = open(model, self.experiment, &self.manifest.vocabulary, &mut warn)?;
        let mut answered = self.answered(&at, &hash, prompts)?;
        let mut stored = answered.len();
        if stored == prompts.len() {
            progress.note(&format!("{name} has answered already"));
            return Ok(());
        }
        if stored > 0 {
            progress.note(&format!("{name} has answered {stored} of {} prompts already", prompts.len()));
        }
        let waiting: Vec<usize> = (0..prompts.len()).filter(|index| !answered.contains_key(index)).collect();
        let every = STORE_EVERY.max(prompts.len() / 16);
        progress.begin(&format!("{name} answers"), waiting.len() as u64, "prompts");
        let mut keep = |index: usize, answer: Option<&Answer>| -> Result<()> {
            answered.insert(index, self.generation(&prompts[index], name, &hash, answer)?);
            progress.advance(1);
            if answered.len() >= stored + every {
                self.put_generations(&at, &answered)?;
                stored = answered.len();
            }
            shutdown.check("the answers so far are kept")
        };
        let outcome = match &answerer {
            Answerer::CopyBefore => waiting.iter().try_for_each(|index| keep(*index, None)),
            Answerer::Network(network) => {
                let questions: Vec<Question> = waiting.iter().map(|index| question(&prompts[*index])).collect();
                let (sampler, seed, batch) = (&self.config.sampler, self.experiment.seed, self.config.batch);
                let mut done = |place: usize, answer: &Answer| keep(waiting[place], Some(answer));
                answer(network, &self.tokenizer, &questions, sampler, seed, batch, &mut done).map(|_| ())
            }
        };
        if answered.len() > stored {
            self.put_generations(&at, &answered)?;
        }
        outcome?;
        progress.finish(&format!("{name} answered {} prompts", waiting.len()));
        Ok(())
    }

    /// The stored answers of a model to these prompts, by the prompt's place; those of another checkpoint or
    /// configuration do not count.
    fn answered(&self, at: &str, hash: &str, prompts: &[PromptRow]) -> Result<BTreeMap<usize, GenerationRow>> {
        let Some(bytes) = self.store.get(at)? else { return Ok(BTreeMap::new()) };
        let same = |row: &GenerationRow| row.checkpoint_hash == hash && row.config_hash == self.plan.config_hash;
        let mut rows: BTreeMap<String, GenerationRow> = read::<GenerationRow>(bytes, at)?
            .into_iter()
            .filter(same)
            .map(|row| (row.prompt_id.clone(), row))
            .collect();
        let places = prompts.iter().enumerate();
        Ok(places.filter_map(|(place, prompt)| Some((place, rows.remove(&prompt.prompt_id)?))).collect())
    }

    /// Stores answers, in the order of their prompts.
    fn put_generations(&self, at: &str, answered: &BTreeMap<usize, GenerationRow>) -> Result<()> {
        let rows: Vec<GenerationRow> = answered.values().cloned().collect();
        self.store.put(at, write(&rows)?)
    }

    /// The row of an answer; without one, of the bars before the section, copied.
    fn generation(
        &self,
        prompt: &PromptRow,
        model: &str,
        hash: &str,
        answer: Option<&Answer>,
    ) -> Result<GenerationRow> {
        let piece = piece_of(prompt)?;
        let (track, bars) = (prompt.track as usize, prompt.bar_start as usize..prompt.bar_end as usize);
        let (tokens, fill, stop) = match answer {
            Some(Answer { ids, stop }) => (ids.clone(), bars_of(&self.tokenizer.bpe().decode(ids)), *stop),
            None => (Vec::new(), bars_before(&piece, track, bars.clone()), "copied"),
        };
        Ok(GenerationRow {
            run_id: self.plan.run_id.clone(),
            prompt_id: prompt.prompt_id.clone(),
            model: model.to_owned(),
            checkpoint_hash: hash.to_owned(),
            config_hash: self.plan.config_hash.clone(),
            seed: self.experiment.seed,
            tokens,
            stop_reason: stop.to_owned(),
            status: Status::Ok,
            reason: None,
            midi: Some(smf::write(&splice(&piece, track, bars, &fill))),
        })
    }
}

/// A prompt as a model is asked.
fn question(prompt: &PromptRow) -> Question {
    Question {
        id: prompt.prompt_id.clone(),
        prompt: Prompt { tokens: prompt.tokens.clone(), openings: prompt.openings.clone() },
        kind: prompt.kind,
        bars: (prompt.bar_end - prompt.bar_start) as usize,
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use midi_ingest::job::{Exit, Experiment};
    use midi_ingest::pipeline::{Ingest, Worker};

    use super::*;

    #[test]
    fn a_model_that_is_stopped_keeps_its_answers_and_gives_the_others_later() {
        let folder = tempfile::tempdir().expect("folder");
        let text = format!(
            "name = 'small'\nseed = 5\nout = '{}'\n[ingest.source]\nkind = 'synth'\nsongs = 20\n\
             [ingest.tokenizer]\nkind = 'learn'\nvocabulary = 750\n[ingest.split]\nvalid = 0.0\ntest = 0.5\n\
             [train.m]\nsteps = 1\n[train.m.model]\nlayers = 2\nwidth = 64\n\
             [[eval.models]]\nkind = 'untrained'\nname = 'net'\ntrain = 'm'\n\
             [[eval.models]]\nkind = 'copy-before'\nname = 'copy'\n\
             [eval.prompts]\ncount = 5\nbars = [1]\n[eval.sampler]\nmax-tokens = 40\n",
            folder.path().display()
        );
        let experiment = Experiment::parse(Path::new("test.toml"), &text, &[]).expect("parses");
        let (silent, stopped) = (Progress::silent(), Shutdown::manual());
        Ingest::new(&experiment).and_then(|job| job.run(Worker::ONLY, &silent, &stopped)).expect("ingests");
        let eval = Eval::new(&experiment).expect("plans");
        let prompts = eval.prompts().expect("chooses");
        stopped.ask();
        for model in &eval.config.models {
            let at = generations(model.name());
            let stored = || eval.store.get(&at).expect("reads");
            let mut calls = 0;
            while let Err(error) = eval.generate_one(model, &prompts, &silent, &stopped) {
                assert_eq!(error.exit(), Exit::RunAgain, "{error}");
                calls += 1;
                let rows: Vec<GenerationRow> = read(stored().expect("a table"), &at).expect("reads");
                assert!(rows.len() >= calls, "each call brings it further");
            }
            let parts = stored();
            eval.store.delete(&at).expect("removes");
            eval.generate_one(model, &prompts, &silent, &Shutdown::manual()).expect("answers");
            assert!(calls > 1 && parts == stored(), "the same bytes as at once");
        }
    }
}
