//! The whole way on composed songs, small: data set, a training of three steps, prompts, answers, tables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use midi_eval::job::Eval;
use midi_eval::results::{GenerationRow, MetricRow, PromptRow, Status, read};
use midi_ingest::job::{Exit, Experiment, Progress, Shutdown};
use midi_ingest::pipeline::{Ingest, Outcome, Worker};
use midi_ingest::sample::Kind;
use midi_ingest::score::bars::{Until, bar_ticks};
use midi_ingest::score::{Meter, Note, Tick, TimeSignature, smf};
use midi_ingest::shard::{Manifest, read_songs};
use midi_ingest::source::compose;
use midi_ingest::token::Tokenizer;
use midi_ingest::token::vocabulary::{INFILL_TRACK, Token};
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
    let before = fs_err::read(&at).expect("is there");
    eval.generate(0, 1, &Progress::silent(), &Shutdown::manual()).expect("nothing to do");
    fs_err::remove_file(&at).expect("removes");
    let one_at_a_time = experiment(out, &["eval.batch=1"]);
    let again = Eval::new(&one_at_a_time).expect("plans");
    again.generate(0, 1, &Progress::silent(), &Shutdown::manual()).expect("answers");
    assert!(before == fs_err::read(&at).expect("is there"), "the batch changes the speed and nothing else");

    let other = experiment(out, &["eval.sampler.temperature=0.5"]);
    let error = Eval::new(&other).expect("plans").prompts().expect_err("another configuration was here");
    assert_eq!(error.exit(), Exit::Mismatch);
    assert!(error.to_string().contains("hint: "), "{error}");
}

#[test]
fn steps_go_on_where_they_were_stopped_and_trust_nothing_that_does_not_belong_together() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path();
    let with = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        untrained(out, SYNTH, "bars = [1, 2]", &sets)
    };
    let small = with(&[]);
    Ingest::new(&small)
        .and_then(|job| job.run(Worker::ONLY, &Progress::silent(), &Shutdown::manual()))
        .expect("ingests");
    let eval = Eval::new(&small).expect("plans");
    let generate = |eval: &Eval<'_>| eval.generate(0, 1, &Progress::silent(), &Shutdown::manual());
    let expect = |result: midi_ingest::job::exit::Result<()>, exit: Exit, text: &str| {
        let error = result.expect_err(text);
        assert_eq!(error.exit(), exit, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };

    let worker = |number, of| eval.generate(number, of, &Progress::silent(), &Shutdown::manual());
    expect(worker(7, 2), Exit::Mismatch, "worker 7 of 2 does not exist");
    expect(eval.score(2, 0), Exit::Mismatch, "workers count from 0");
    expect(eval.score(0, 1), Exit::RunAgain, "run `midi-eval generate`");

    // Of a stopped step the answers stay that were finished, marked here; the others are the same as ever.
    generate(&eval).expect("answers");
    let at = out.join("eval/generations/net.parquet");
    let whole: Vec<GenerationRow> = table(out, "generations/net.parquet");
    let mut part = whole[2..4].to_vec();
    part[0].stop_reason = "kept".to_owned();
    let stale =
        GenerationRow { checkpoint_hash: "another".to_owned(), stop_reason: "stale".to_owned(), ..whole[0].clone() };
    let rows = [vec![stale], part.clone()].concat();
    fs_err::write(&at, midi_eval::results::write(&rows).expect("a table")).expect("writes");
    expect(eval.score(0, 1), Exit::RunAgain, "has 3 of 6 answers yet");
    generate(&eval).expect("goes on");
    let mut resumed: Vec<GenerationRow> = table(out, "generations/net.parquet");
    assert_eq!(resumed[2].stop_reason, "kept");
    resumed[2].stop_reason.clone_from(&whole[2].stop_reason);
    assert_eq!(resumed, whole);

    eval.score(0, 1).expect("measures");
    eval.compare().expect("compares");

    // Another configuration's numbers are not compared, and nothing is written.
    let report = fs_err::read(out.join("report.html")).expect("is there");
    for set in ["eval.prompts.count=7", "eval.sampler.top-p=0.5", "seed=6"] {
        let other = with(&[set]);
        let compared = Eval::new(&other).and_then(|eval| eval.compare()).map(|_| ());
        expect(compared, Exit::Mismatch, "another configuration");
    }
    assert!(report == fs_err::read(out.join("report.html")).expect("is there"));

    // Another model leaves the answers of the others as they are.
    let models = "eval.models=[{kind='untrained', name='net', train='m'}, {kind='untrained', name='wide', train='w'}]";
    let (pairs, width) = ("eval.comparisons=[['net', 'wide']]", "train.w.model.width=128");
    let more = with(&[models, pairs, width, "train.w.model.layers=2", "train.w.steps=1"]);
    let wider = Eval::new(&more).expect("plans");
    let before = fs_err::read(&at).expect("is there");
    generate(&wider).expect("answers");
    assert!(before == fs_err::read(&at).expect("is there"));
    expect(wider.compare().map(|_| ()), Exit::RunAgain, "wide.parquet` is not there yet");
    wider.score(0, 1).expect("measures");
    assert!(wider.compare().expect("compares").terminal().contains("wide"));

    // Under a name that was another model's, every answer is given anew, and must be measured anew.
    let models = "eval.models=[{kind='untrained', name='net', train='w'}, {kind='untrained', name='wide', train='w'}]";
    let renamed = with(&[models, pairs, width, "train.w.model.layers=2", "train.w.steps=1"]);
    let renamed = Eval::new(&renamed).expect("plans");
    generate(&renamed).expect("answers");
    expect(renamed.compare().map(|_| ()), Exit::RunAgain, "net.parquet` is not of the present answers");
    renamed.score(0, 1).expect("measures");
    renamed.compare().expect("compares");
}

/// A job without training: the network as it was before its first step, and the copied bars.
fn untrained(out: &Path, ingest: &str, prompts: &str, sets: &[String]) -> Experiment {
    let text = format!(
        "name = 'small'\nseed = 5\nout = '{}'\n[ingest]\n{ingest}\n\
         [ingest.tokenizer]\nkind = 'learn'\nvocabulary = 750\n[ingest.split]\nvalid = 0.0\ntest = 0.5\n\
         [ingest.sample]\ncontext-tokens = 256\ncontrols = 0.5\ntrack-infill = 0.3\n\
         [train.m]\nsteps = 1\nthreads = 1\n[train.m.model]\nlayers = 2\nwidth = 64\n\
         [eval]\ncomparisons = [['copy', 'net']]\n\
         [[eval.models]]\nkind = 'untrained'\nname = 'net'\ntrain = 'm'\n\
         [[eval.models]]\nkind = 'copy-before'\nname = 'copy'\n\
         [eval.prompts]\ncount = {PROMPTS}\n{prompts}\n[eval.sampler]\nmax-tokens = 60\n",
        out.display()
    );
    Experiment::parse(Path::new("test.toml"), &text, sets).expect("parses")
}

/// Runs ingest and eval, checks every answer, and returns the data set, the prompts and the report.
fn evaluate(experiment: &Experiment) -> (Manifest, Vec<PromptRow>, String) {
    let outcome = Ingest::new(experiment).expect("plans").run(Worker::ONLY, &Progress::silent(), &Shutdown::manual());
    let Ok(Outcome::Complete(manifest)) = outcome else { panic!("{outcome:?}") };
    let eval = Eval::new(experiment).expect("plans");
    eval.generate(0, 1, &Progress::silent(), &Shutdown::manual()).expect("answers");
    eval.score(0, 1).expect("measures");
    let report = eval.compare().expect("compares").terminal();
    let out = Path::new(&experiment.out);
    let prompts: Vec<PromptRow> = table(out, "prompts/prompts.parquet");
    assert_eq!(prompts.len(), PROMPTS);
    for model in ["net", "copy"] {
        let answers: Vec<GenerationRow> = table(out, &format!("generations/{model}.parquet"));
        for (prompt, answer) in prompts.iter().zip(&answers) {
            nothing_but_the_section_changed(prompt, answer.midi.as_deref().expect("a file"));
        }
    }
    (*manifest, prompts, report)
}

const SYNTH: &str = "[ingest.source]\nkind = 'synth'\nsongs = 20\n";

#[test]
fn controls_are_asked_for_with_the_originals_values_and_measured() {
    let folder = tempfile::tempdir().expect("folder");
    let prompts = "bars = [1, 2]\ncontext-factor = 2\ncontrols = ['density', 'polyphony']";
    let experiment = untrained(folder.path(), SYNTH, prompts, &[]);
    let (_, prompts, report) = evaluate(&experiment);
    let tokenizer = Tokenizer::load(&folder.path().join("ingest/tokenizer.json")).expect("loads");
    let answers: Vec<GenerationRow> = table(folder.path(), "generations/net.parquet");
    for (prompt, answer) in prompts.iter().zip(&answers) {
        assert_eq!(prompt.openings.len(), (prompt.bar_end - prompt.bar_start) as usize);
        let names = |ids: &[u16]| -> Vec<String> {
            let base = tokenizer.bpe().decode(ids).into_iter().filter_map(Token::of);
            base.map(|token| token.to_string()).filter(|name| name.starts_with("AC")).collect()
        };
        let asked = names(&prompt.openings.concat());
        let original = smf::read(&prompt.midi).expect("reads");
        let passage = midi_eval::metric::passages(&original, &original, &prompt.section()).expect("a section").0;
        let expected = midi_eval::metric::controls::controls(&passage).into_iter().flat_map(|controls| {
            let density = match controls.density() {
                18 => "ACBarNoteDensity_18+".to_owned(),
                notes => format!("ACBarNoteDensity_{notes}"),
            };
            let voices = controls.voices.filter(|_| !prompt.is_drum).into_iter().flat_map(|(fewest, most)| {
                [format!("ACBarOnsetPolyphonyMin_{fewest}"), format!("ACBarOnsetPolyphonyMax_{most}")]
            });
            voices.chain([density]).collect::<Vec<_>>()
        });
        assert_eq!(asked, expected.collect::<Vec<_>>(), "what is asked for is what is measured");
        let given = names(&answer.tokens);
        assert!(asked.starts_with(&given) && !given.is_empty(), "{given:?} of {asked:?}");
    }
    assert!(report.contains("density_delta") && report.contains("polyphony_delta"), "{report}");
    assert!(!report.contains("duration_delta"), "it was not asked for: {report}");
}

#[test]
fn whole_tracks_are_written_from_the_others() {
    let folder = tempfile::tempdir().expect("folder");
    let prompts = "bars = [2, 4]\ninfill = 'track'\ncontrols = ['density', 'repetition']";
    let others =
        ["eval.models=[{kind='untrained', name='net', train='m'}, {kind='untrained', name='copy', train='m'}]"
            .to_owned()];
    let (_, prompts, report) = evaluate(&untrained(folder.path(), SYNTH, prompts, &others));
    assert!(!report.contains("_delta"), "controls of tracks are not measured: {report}");
    let tokenizer = Tokenizer::load(&folder.path().join("ingest/tokenizer.json")).expect("loads");
    for prompt in &prompts {
        assert_eq!((prompt.kind, prompt.context_bars, prompt.openings.len()), (Kind::Track, 0, 0));
        let base = tokenizer.bpe().decode(&prompt.tokens);
        let at = base.iter().position(|id| *id == INFILL_TRACK).expect("a track is asked for");
        let names: Vec<String> = base[at..].iter().filter_map(|id| Token::of(*id)).map(|t| t.to_string()).collect();
        let program = if prompt.is_drum { -1 } else { i16::from(prompt.program) };
        assert_eq!(names[..3], ["Infill_Track".to_owned(), "Track_Start".to_owned(), format!("Program_{program}")]);
        assert!(names[3].starts_with("ACTrackNoteDensityMin_") && names[4].starts_with("ACTrackNoteDensityMax_"));
        assert!(names.get(5).is_none_or(|name| name.starts_with("ACTrackRepetition_")) && names.len() <= 6);
    }
}

/// Songs whose bars are called beats: what ingest, prompts and answers call a bar is four of them.
#[test]
fn bars_are_those_of_the_regrouped_meter_all_the_way() {
    let folder = tempfile::tempdir().expect("folder");
    let songs = folder.path().join("songs");
    fs_err::create_dir(&songs).expect("folder");
    for number in 0..16 {
        let mut score = compose(7, number);
        score.time_signatures = vec![TimeSignature { tick: 0, numerator: 1, denominator: 4 }];
        fs_err::write(songs.join(format!("{number}.mid")), smf::write(&score)).expect("writes");
    }
    let source = format!("[ingest.source]\nkind = 'folder'\nuri = '{}'\n", songs.display());
    let prompts = "bars = [1, 2]\ncontext-factor = 2\ncontrols = ['density']";
    let experiment = untrained(folder.path(), &format!("meter = 'regroup'\n{source}"), prompts, &[]);
    let (manifest, prompts, _) = evaluate(&experiment);
    assert_eq!(manifest.meter, Meter::Regroup);
    let mut rows = Vec::new();
    for record in &manifest.songs {
        let bytes = fs_err::read(folder.path().join("ingest").join(&record.path)).expect("is there");
        rows.extend(read_songs(bytes.into(), &record.path).expect("reads"));
    }
    let tokenizer = Tokenizer::load(&folder.path().join("ingest/tokenizer.json")).expect("loads");
    let common = (4, 4);
    for prompt in &prompts {
        let original = smf::read(&prompt.midi).expect("reads");
        let metres = original.time_signatures.iter().map(|metre| (metre.numerator, metre.denominator));
        assert!(metres.eq([common]), "four beats are a bar");
        let song = rows.iter().find(|song| song.id == prompt.song_id).expect("its row");
        let bars = bar_ticks(&original, Until::End).expect("bars");
        assert_eq!(bars.len(), song.bars as usize, "the bars of the data set");
        let bar = Tick::from(original.ticks_per_quarter) * 4;
        assert!(bars.windows(2).all(|two| two[1] - two[0] == bar));
        let metres: BTreeSet<String> = tokenizer
            .bpe()
            .decode(&[prompt.tokens.clone(), prompt.openings.concat()].concat())
            .into_iter()
            .filter_map(Token::of)
            .filter(|token| matches!(token, Token::TimeSignature(_)))
            .map(|token| token.to_string())
            .collect();
        assert!(metres.into_iter().eq(["TimeSig_4/4".to_owned()]));
    }
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
