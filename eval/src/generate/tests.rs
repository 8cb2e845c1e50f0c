//! A network without training is as good as any here: what counts is when answers end and on what they depend.

use std::sync::Arc;

use midi_ingest::score::smf;
use midi_ingest::source::compose;
use midi_ingest::token::control::Asked;
use midi_ingest::token::{Grid, Learner};
use midi_train::model::{Shape, init};
use midi_train::wkv::CpuWkv;

use super::*;
use crate::prompt::{Piece, Request};
use crate::splice::bars_of;

fn tokenizer() -> Tokenizer {
    let mut learner = Learner::default();
    let grid = Grid::of(&compose(1, 0)).expect("a grid");
    grid.encode().expect("encodes").iter().for_each(|tokens| learner.add(tokens));
    learner.learn(700).expect("learns")
}

fn network(tokenizer: &Tokenizer) -> Rwkv7 {
    let shape = Shape::new(2, 64, tokenizer.size()).expect("a shape");
    Rwkv7::new(init::init(shape, 3), Arc::new(CpuWkv::new())).expect("a model")
}

/// `count` prompts of one and two bars in turn.
fn questions(tokenizer: &Tokenizer, count: usize) -> Vec<Question> {
    let piece = Piece::read(&smf::write(&compose(1, 1))).expect("a piece");
    let question = |k: usize| {
        let (track, start, bars) = (k % piece.tracks.len(), k % 5, 1 + k % 2);
        ask(tokenizer, &piece, Kind::Bars, track, start..start + bars, &[])
    };
    (0..count).map(|k| Question { id: format!("p{k}"), ..question(k) }).collect()
}

fn ask(
    tokenizer: &Tokenizer,
    piece: &Piece,
    kind: Kind,
    track: usize,
    bars: std::ops::Range<usize>,
    controls: &[&str],
) -> Question {
    let asked = controls.iter().map(|text| Asked::parse(text, kind == Kind::Bars).expect("a control")).collect();
    let controls = Asked::in_order(asked, piece.controls(kind, track), bars.len()).expect("in order");
    let request = Request { kind, track, bars: bars.clone(), context: 1, controls };
    let prompt = piece.prompt(tokenizer, &request).expect("a prompt");
    Question { id: String::new(), prompt, kind, bars: bars.len() }
}

fn sampler(max_tokens: usize) -> SamplerConfig {
    SamplerConfig { epsilon: 0.0, top_k: None, top_p: 1.0, max_tokens, ..SamplerConfig::default() }
}

#[test]
fn answers_do_not_depend_on_the_batch_or_on_the_prompts_beside_them() {
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let questions = questions(&tokenizer, 21);
    let ask = |questions: &[Question], batch| {
        let mut count = 0;
        let done = &mut |_, _: &Answer| {
            count += 1;
            Ok(())
        };
        let answers = answer(&model, &tokenizer, questions, &sampler(30), 1, batch, done).expect("answers");
        assert_eq!(count, questions.len());
        answers
    };
    let all = ask(&questions, 16);
    assert_eq!(all, ask(&questions, 1));
    assert_eq!(all, ask(&questions, 40));
    for k in [0, 7, 20] {
        assert_eq!(all[k..k + 1], ask(&questions[k..k + 1], 16), "alone");
    }
    assert!(all.iter().any(|answer| answer.ids != all[0].ids));
}

#[test]
fn logits_of_a_row_are_the_same_bits_whatever_the_other_rows_hold() {
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let ids = Tensor::from_slice(&[9i64, 5, 11, 5]).unsqueeze(0);
    let (_, state) = model.prefill(&ids, None).expect("runs");
    let one = State::concat(&[state, State::zeros(model.shape(), ROWS - 1)]).expect("fits");
    let mut tokens = vec![0i64; ROWS];
    tokens[0] = 7;
    let (alone, _) = model.step(&tokens, &one).expect("runs");
    for row in 0..ROWS {
        let places: Vec<usize> = (0..ROWS).map(|k| usize::from(k != row)).collect();
        let tokens: Vec<i64> = (0..ROWS).map(|k| if k == row { 7 } else { 20 + k as i64 }).collect();
        let (beside, _) = model.step(&tokens, &one.select(&places).expect("rows")).expect("runs");
        assert!(beside.get(row as i64).equal(&alone.get(0)), "row {row}");
    }
}

#[test]
fn answers_begin_with_a_bar_and_never_hold_one_too_many() {
    let tokenizer = tokenizer();
    let questions = questions(&tokenizer, 6);
    let answers = answer(&network(&tokenizer), &tokenizer, &questions, &sampler(300), 1, 16, &mut |_, _| Ok(()));
    let answers = answers.expect("answers");
    for (question, answer) in questions.iter().zip(&answers) {
        let base = tokenizer.bpe().decode(&answer.ids);
        let bars = bars_of(&base);
        assert_eq!(base.first(), Some(&BAR), "something stands before the first bar");
        assert!(bars.len() <= question.bars);
        match answer.stop {
            "max-tokens" => assert_eq!(answer.ids.len(), 300),
            stop => {
                assert!(stop == "fill-end" || stop == "bars", "{stop}");
                assert_eq!(bars.len(), question.bars);
            }
        }
    }
    // One bar is asked for: the second must end the answer, which the published code did not do.
    assert!(questions.iter().zip(&answers).any(|(q, a)| q.bars == 1 && a.stop != "max-tokens"));
}

#[test]
fn logits_that_are_no_numbers_end_the_job_as_diverged() {
    let tokenizer = tokenizer();
    let shape = Shape::new(2, 64, tokenizer.size()).expect("a shape");
    let questions = questions(&tokenizer, 1);
    let weights = init::init(shape, 3).iter().map(|(name, value)| (name.to_owned(), value * f64::NAN)).collect();
    let model = Rwkv7::new(weights, Arc::new(CpuWkv::new())).expect("a model");
    let error = answer(&model, &tokenizer, &questions, &sampler(5), 1, 16, &mut |_, _| Ok(())).expect_err("no numbers");
    assert_eq!(error.exit(), Exit::Diverged);
    assert!(error.to_string().contains("p0"), "{error}");
}

#[test]
fn a_request_to_stop_between_answers_is_passed_on() {
    let tokenizer = tokenizer();
    let stop = &mut |_, _: &Answer| Err(Error::new(Exit::RunAgain, "asked to stop"));
    let questions = questions(&tokenizer, 3);
    let error = answer(&network(&tokenizer), &tokenizer, &questions, &sampler(3), 1, 16, stop).expect_err("stops");
    assert_eq!(error.exit(), Exit::RunAgain);
}

/// A pitched track of a composed piece, which every control suits.
fn pitched(piece: &Piece) -> usize {
    piece.score.tracks.iter().position(|track| !track.is_drum).expect("a pitched track")
}

#[test]
fn bars_with_controls_begin_with_them_whatever_the_model_says() {
    let tokenizer = tokenizer();
    let piece = Piece::read(&smf::write(&compose(1, 1))).expect("a piece");
    let question = ask(&tokenizer, &piece, Kind::Bars, pitched(&piece), 2..5, &["density=3,5,18+", "polyphony=1-2"]);
    let (model, mut whole) = (network(&tokenizer), 0);
    for seed in 0..6 {
        let answers =
            answer(&model, &tokenizer, std::slice::from_ref(&question), &sampler(400), seed, 1, &mut |_, _| Ok(()));
        let answer = answers.expect("answers").remove(0);
        let bars = bars_of(&tokenizer.bpe().decode(&answer.ids));
        assert!(!bars.is_empty() && bars.len() <= 3);
        whole += usize::from(bars.len() == 3);
        for (bar, opening) in bars.iter().zip(&question.prompt.openings) {
            let controls = |ids: &[u16]| -> Vec<u16> {
                ids.iter().copied().filter(|id| matches!(Token::of(*id), Some(Token::Control(_)))).collect()
            };
            let opening = tokenizer.bpe().decode(opening);
            assert!(bar.starts_with(&opening));
            assert_eq!((controls(bar), opening.len()), (controls(&opening), 2 + 3), "once, and only its own");
        }
    }
    assert!(whole > 0, "some answers have all bars");
}

#[test]
fn a_track_ends_with_its_own_token() {
    let tokenizer = tokenizer();
    let piece = Piece::read(&smf::write(&compose(1, 1))).expect("a piece");
    let track = pitched(&piece);
    let question = ask(&tokenizer, &piece, Kind::Track, track, 0..2, &["density=1-4", "repetition=1"]);
    let end = tokenizer.bpe().decode(&question.prompt.tokens);
    assert!(question.prompt.openings.is_empty() && matches!(Token::of(end[end.len() - 1]), Some(Token::Control(_))));
    let model = network(&tokenizer);
    let mut stops = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let answers =
            answer(&model, &tokenizer, std::slice::from_ref(&question), &sampler(400), seed, 1, &mut |_, _| Ok(()));
        let answer = answers.expect("answers").remove(0);
        let bars = bars_of(&tokenizer.bpe().decode(&answer.ids));
        assert!((1..=2).contains(&bars.len()) && bars[0][0] == BAR);
        stops.insert(answer.stop);
    }
    assert!(stops.iter().all(|stop| ["track-end", "bars", "max-tokens"].contains(stop)), "{stops:?}");
    assert!(stops.contains("track-end"), "{stops:?}");
}
