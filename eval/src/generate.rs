//! Batched recurrent generation. Each prompt has its own random stream, so its answer does not depend on
//! the prompts beside it, on their number, or on the worker.
//!
//! The corrected stop rule: bars are counted, and the answer ends at `FillBar_End`, when bar n + 1 begins
//! (n = 1 included), or at the longest length allowed.

use midi_ingest::job::draws::Keyed;
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::token::Tokenizer;
use midi_ingest::token::vocabulary::{BAR, FILL_END, SPECIAL_END, Token};
use midi_train::model::{Rwkv7, State};
use tch::{Kind, Tensor};

use crate::config::SamplerConfig;
use crate::sampler::draw;

/// What is asked of a model.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name of its random stream.
    pub id: String,
    /// The prompt's ids, the last of which is `FillBar_Start`.
    pub prompt: Vec<u16>,
    /// Bars to infill.
    pub bars: usize,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The drawn ids, without the one that ended them.
    pub ids: Vec<u16>,
    /// Why it stopped: `fill-end`, `bars`, `max-tokens` or `nothing-allowed`.
    pub stop: &'static str,
}

/// Ids that never come in an answer: special tokens, controls, programs and the bare metaspace.
#[derive(Debug)]
pub struct Banned {
    always: Vec<bool>,
    /// As `always`, and everything that does not begin with a bar.
    at_first: Vec<bool>,
    end: Option<usize>,
}

impl Banned {
    /// For a tokenizer.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let bad = |id: &u16| {
            *id < SPECIAL_END || matches!(Token::of(*id), None | Some(Token::Control(_) | Token::Program(_)))
        };
        let pieces = (0..tokenizer.size()).map(|id| tokenizer.bpe().piece(id as u16));
        let always: Vec<bool> = pieces.clone().map(|piece| piece.is_empty() || piece.iter().any(bad)).collect();
        let at_first = pieces.clone().zip(&always).map(|(piece, banned)| *banned || piece[0] != BAR).collect();
        let end = pieces.into_iter().position(|piece| piece == [FILL_END]);
        Banned { always, at_first, end }
    }
}

/// A prompt that is being answered.
struct Live<'a> {
    question: &'a Question,
    place: usize,
    draws: Keyed,
    seen: Vec<bool>,
    ids: Vec<u16>,
    bars: usize,
}

/// Answers all questions, `batch` at a time; `done` is told of each that is finished.
///
/// # Errors
/// An id that the model does not have.
pub fn answer(
    model: &Rwkv7,
    tokenizer: &Tokenizer,
    questions: &[Question],
    config: &SamplerConfig,
    seed: u64,
    batch: usize,
    done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Answer>> {
    let banned = Banned::of(tokenizer);
    let mut answers = vec![Answer { ids: Vec::new(), stop: "nothing-allowed" }; questions.len()];
    for (chunk, group) in questions.chunks(batch.max(1)).enumerate() {
        let mut live = Vec::with_capacity(group.len());
        let (mut states, mut logits) = (Vec::new(), Vec::new());
        for (offset, question) in group.iter().enumerate() {
            let ids: Vec<i64> = question.prompt.iter().map(|id| i64::from(*id)).collect();
            let (last, state) = model.prefill(&Tensor::from_slice(&ids).unsqueeze(0), None)?;
            states.push(state);
            logits.push(last);
            let mut seen = vec![false; tokenizer.size()];
            question.prompt.iter().for_each(|id| seen[usize::from(*id)] = true);
            let draws = Keyed::new(seed, &format!("generate/{}", question.id), 0);
            let place = chunk * batch.max(1) + offset;
            live.push(Live { question, place, draws, seen, ids: Vec::new(), bars: 0 });
        }
        let mut state = State::concat(&states)?;
        let mut logits = Tensor::cat(&logits, 0);
        loop {
            let mut rows = Vec::new();
            let mut next = Vec::new();
            let width = tokenizer.size();
            let values: Vec<f32> = Vec::try_from(logits.to_kind(Kind::Float).contiguous().view([-1]))
                .map_err(|e| Error::bug("logits cannot be read").because(e))?;
            for (row, one) in live.iter_mut().enumerate() {
                match one.next(&values[row * width..(row + 1) * width], tokenizer, &banned, config) {
                    Ok(id) => {
                        rows.push(row);
                        next.push(i64::from(id));
                    }
                    Err(stop) => {
                        answers[one.place] = Answer { ids: std::mem::take(&mut one.ids), stop };
                        done(one.place)?;
                    }
                }
            }
            if rows.is_empty() {
                break;
            }
            if rows.len() < live.len() {
                state = state.select(&rows)?;
                let mut row = 0;
                live.retain(|_| {
                    row += 1;
                    rows.binary_search(&(row - 1)).is_ok()
                });
            }
            (logits, state) = model.step(&next, &state)?;
        }
    }
    Ok(answers)
}

impl Live<'_> {
    /// The next id, or why there is none.
    fn next(
        &mut self,
        logits: &[f32],
        tokenizer: &Tokenizer,
        banned: &Banned,
        config: &SamplerConfig,
    ) -> std::result::Result<u16, &'static str> {
        if self.ids.len() >= config.max_tokens {
            return Err("max-tokens");
        }
        let mut barred = if self.ids.is_empty() { banned.at_first.clone() } else { banned.always.clone() };
        if let Some(end) = banned.end.filter(|_| self.bars >= self.question.bars) {
            barred[end] = false;
        }
        let id = draw(logits, &self.seen, &barred, config, &mut self.draws).ok_or("nothing-allowed")?;
        if banned.end == Some(id) {
            return Err("fill-end");
        }
        let begun = tokenizer.bpe().piece(id as u16).iter().filter(|base| **base == BAR).count();
        if self.bars + begun > self.question.bars {
            return Err("bars");
        }
        self.bars += begun;
        self.seen[id] = true;
        self.ids.push(id as u16);
        Ok(id as u16)
    }
}
