//! A network without training is as good as any here: what counts is when answers end and on what they depend.

use std::sync::Arc;

use midi_ingest::score::smf;
use midi_ingest::source::compose;
use midi_ingest::token::{Grid, Learner};
use midi_train::model::{Shape, init};
use midi_train::wkv::CpuWkv;

use super::*;
use crate::prompt::Piece;
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
        let prompt = piece.prompt(tokenizer, track, start..start + bars, 1);
        Question { id: format!("p{k}"), prompt, bars }
    };
    (0..count).map(question).collect()
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
        let done = &mut |_| {
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
    let answers = answer(&network(&tokenizer), &tokenizer, &questions, &sampler(300), 1, 16, &mut |_| Ok(()));
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
    let weights = init::init(shape, 3).iter().map(|(name, value)| (name.to_owned(), value * f64::NAN)).collect();
    let model = Rwkv7::new(weights, Arc::new(CpuWkv::new())).expect("a model");
    let questions = questions(&tokenizer, 1);
    let error = answer(&model, &tokenizer, &questions, &sampler(5), 1, 16, &mut |_| Ok(())).expect_err("no numbers");
    assert_eq!(error.exit(), Exit::Diverged);
    assert!(error.to_string().contains("p0"), "{error}");
}

#[test]
fn a_request_to_stop_between_answers_is_passed_on() {
    let tokenizer = tokenizer();
    let stop = &mut |_| Err(Error::new(Exit::RunAgain, "asked to stop"));
    let questions = questions(&tokenizer, 3);
    let error = answer(&network(&tokenizer), &tokenizer, &questions, &sampler(3), 1, 16, stop).expect_err("stops");
    assert_eq!(error.exit(), Exit::RunAgain);
}
