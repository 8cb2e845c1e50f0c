//! The whole way on composed songs, small: data set, a training of three steps, prompts, answers, tables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use midi_eval::job::Eval;
use midi_eval::results::{GenerationRow, MetricRow, PromptRow, Status, read};
use midi_ingest::job::{Exit, Experiment, Progress, Shutdown};
use midi_ingest::pipeline::{Ingest, Outcome, Worker};
use midi_ingest::score::bars::{Until, bar_ticks};
use midi_ingest::score::{Note, smf};
use midi_train::trainer;

const PROMPTS: usize = 6;

fn experiment(out: &Path, sets: &[&str]) -> Experiment {
    let text = format!(
        "name = 'small'\nseed = 5\nout = '{}'\n\
         [ingest.source]\nkind = 'synth'\nsongs = 24\n\
         [ingest.tokenizer]\nkind = 'learn'\nvocabulary = 750\n\
         [ingest.split]\nvalid = 0.1\ntest = 0.3\n\
         [ingest.sample]\ncontext-tokens = 256\n\
         [train.m]\nsteps = 3\nglobal-batch = 2\nthreads = 1\n[train.m.model]\nlayers = 2\nwidth = 64\n\
         [eval]\ncomparisons = [['copy', 'net']]\n\
         [[eval.models]]\nkind = 'trained'\nname = 'net'\ntrain = 'm'\n\
         [[eval.models]]\nkind = 'untrained'\nname = 'first'\ntrain = 'm'\n\
         [[eval.models]]\nkind = 'copy-before'\nname = 'copy'\n\
         [eval.prompts]\ncount = {PROMPTS}\nbars = [1, 2]\ncontext-factor = 2\n\
         [eval.sampler]\nmax-tokens = 40\n",
        out.display()
    );
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Experiment::parse(Path::new("test.toml"), &text, &sets).expect("parses")
}

fn prepare(out: &Path) {
    let experiment = experiment(out, &[]);
    let outcome = Ingest::new(&experiment).expect("plans").run(Worker::ONLY, &Progress::silent(), &Shutdown::manual());
    assert!(matches!(outcome, Ok(Outcome::Complete(_))), "{outcome:?}");
    trainer::run(&experiment, "m", &Progress::silent(), &Shutdown::manual()).expect("trains");
}

fn table<R: midi_eval::results::table::Row>(out: &Path, name: &str) -> Vec<R> {
    read(fs_err::read(out.join("eval").join(name)).expect("is there").into(), name).expect("reads")
}

#[test]
fn every_model_answers_every_prompt_and_all_is_measured_and_compared() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    let small = experiment(out, &[]);
    let error = Eval::new(&small).expect_err("nothing was ingested");
    assert!(matches!(error.exit(), Exit::BadData | Exit::RunAgain), "{error}");

    prepare(out);
    let eval = Eval::new(&small).expect("plans");
    let error = eval.compare().expect_err("no metrics are there");
    assert_eq!(error.exit(), Exit::RunAgain, "{error}");

    // Two workers share the models; then the first one's tables must still be the second one's prompts.
    for worker in [1, 0] {
        eval.generate(worker, 2, &Progress::silent(), &Shutdown::manual()).expect("answers");
        eval.score(worker, 2).expect("measures");
    }
    let report = eval.compare().expect("compares");
    assert!(report.terminal().contains("net") && out.join("report.html").is_file());

    let prompts: Vec<PromptRow> = table(out, "prompts/prompts.parquet");
    assert_eq!(prompts.len(), PROMPTS);
    let by_id: BTreeMap<&str, &PromptRow> = prompts.iter().map(|row| (row.prompt_id.as_str(), row)).collect();
    for model in ["net", "first", "copy"] {
        let answers: Vec<GenerationRow> = table(out, &format!("generations/{model}.parquet"));
        assert_eq!(answers.len(), PROMPTS);
        for answer in &answers {
            assert_eq!((answer.status, answer.model.as_str()), (Status::Ok, model));
            nothing_but_the_section_changed(by_id[answer.prompt_id.as_str()], answer.midi.as_deref().expect("a file"));
        }
        let metrics: Vec<MetricRow> = table(out, &format!("metrics/{model}.parquet"));
        let named: BTreeSet<(&str, &str)> =
            metrics.iter().map(|row| (row.prompt_id.as_str(), row.metric.as_str())).collect();
        assert_eq!(named.len(), metrics.len(), "one row a prompt and metric");
        for metric in ["cp", "gs", "pche", "f1"] {
            assert_eq!(metrics.iter().filter(|row| row.metric == metric).count(), PROMPTS, "{metric}");
        }
    }

    // A second run finds everything done, and the same bytes come again where nothing was kept.
    let at = out.join("eval/generations/net.parquet");
    let before: Vec<GenerationRow> = table(out, "generations/net.parquet");
    eval.generate(0, 1, &Progress::silent(), &Shutdown::manual()).expect("nothing to do");
    fs_err::remove_file(&at).expect("removes");
    let one_at_a_time = experiment(out, &["eval.batch=1"]);
    let again = Eval::new(&one_at_a_time).expect("plans");
    again.generate(0, 1, &Progress::silent(), &Shutdown::manual()).expect("answers");
    let after: Vec<GenerationRow> = table(out, "generations/net.parquet");
    let essence = |rows: &[GenerationRow]| -> Vec<(String, Vec<u16>, Option<Vec<u8>>)> {
        rows.iter().map(|row| (row.prompt_id.clone(), row.tokens.clone(), row.midi.clone())).collect()
    };
    assert_eq!(essence(&before), essence(&after), "the batch changes the speed and nothing else");

    let other = experiment(out, &["eval.sampler.temperature=0.5"]);
    let error = Eval::new(&other).expect("plans").prompts().expect_err("another configuration was here");
    assert_eq!(error.exit(), Exit::Mismatch);
    assert!(error.to_string().contains("hint: "), "{error}");
}

fn nothing_but_the_section_changed(prompt: &PromptRow, answered: &[u8]) {
    let original = smf::read(&prompt.midi).expect("reads");
    let infilled = smf::read(answered).expect("reads");
    let bars = bar_ticks(&original, Until::End).expect("bars");
    let tick = |bar: u32| bars.get(bar as usize).copied().unwrap_or(midi_ingest::score::Tick::MAX);
    let section = tick(prompt.bar_start)..tick(prompt.bar_end);
    let mut rest = infilled.tracks.iter();
    for (index, track) in original.tracks.iter().enumerate() {
        let outside: Vec<Note> = track.notes.iter().filter(|note| !section.contains(&note.tick)).copied().collect();
        if index != prompt.track as usize {
            assert_eq!(rest.next().map(|track| &track.notes), Some(&track.notes), "track {index}");
        } else if let Some(found) = rest.next() {
            let kept: Vec<Note> = found.notes.iter().filter(|note| !section.contains(&note.tick)).copied().collect();
            assert_eq!(kept, outside);
        }
    }
}
