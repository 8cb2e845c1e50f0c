//! Batched recurrent generation. Each prompt has its own random stream, and the network always steps the
//! same number of rows, so an answer does not depend on the prompts beside it, on their number, or on the
//! worker: not even in the last bit of a logit, which matrix products of another number of rows would change.
//!
//! The corrected stop rule: bars are counted, and the answer ends at `FillBar_End` (of a track at `Track_End`), when
//! bar n + 1 begins (n = 1 included), or at the longest length allowed. Where a bar has controls, the model says only
//! that the bar begins; it is then given the bar's opening, as it stands in training samples.

use std::collections::VecDeque;

use midi_ingest::job::draws::Keyed;
use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::sample::Kind;
use midi_ingest::token::Tokenizer;
use midi_ingest::token::vocabulary::{BAR, SPECIAL_END, Token};
use midi_train::model::{Rwkv7, State};
use tch::{Device, Tensor};

use crate::config::SamplerConfig;
use crate::prompt::Prompt;
use crate::sampler::draw;

/// Rows of one step of the network, always; those that no prompt needs are zeros.
const ROWS: usize = 16;

/// What is asked of a model.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name of its random stream.
    pub id: String,
    /// What is asked.
    pub prompt: Prompt,
    /// Bars or a track.
    pub kind: Kind,
    /// Bars to write.
    pub bars: usize,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The drawn ids and the openings that were given, without the id that ended them.
    pub ids: Vec<u16>,
    /// Why it stopped: `fill-end`, `track-end`, `bars`, `max-tokens` or `nothing-allowed`.
    pub stop: &'static str,
}

/// Ids that never come in an answer: special tokens, controls, programs and the bare metaspace.
#[derive(Debug)]
pub struct Banned {
    always: Vec<bool>,
    /// As `always`, and everything that does not begin with a bar.
    at_first: Vec<bool>,
    /// The ids that end an answer, in the order of [`Kind::ALL`].
    ends: [Option<usize>; 2],
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
        let ends = Kind::ALL.map(|kind| pieces.clone().position(|piece| piece == [kind.end()]));
        Banned { always, at_first, ends }
    }

    /// The id that ends an answer of this kind.
    fn end(&self, kind: Kind) -> Option<usize> {
        self.ends[usize::from(kind == Kind::Track)]
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
    /// Ids of an opening that the model is still to be given.
    given: VecDeque<u16>,
}

/// Prompts that take each step together, in the first rows of a state of [`ROWS`] rows.
struct Group<'a> {
    live: Vec<Live<'a>>,
    /// The state after the ids that were read so far.
    state: State,
    /// The logits after these ids, [rows, V].
    logits: Tensor,
}

/// Answers all questions, at most `batch` (but at least 16) at a time; whoever is done makes room for the
/// next. `done` is told each answer with the index of its question, as it is finished.
///
/// # Errors
/// An id that the model does not have; logits that are not numbers (70); or what `done` returns.
pub fn answer(
    model: &Rwkv7,
    tokenizer: &Tokenizer,
    questions: &[Question],
    config: &SamplerConfig,
    seed: u64,
    batch: usize,
    done: &mut dyn FnMut(usize, &Answer) -> Result<()>,
) -> Result<Vec<Answer>> {
    let banned = Banned::of(tokenizer);
    let mut answers = vec![Answer { ids: Vec::new(), stop: "nothing-allowed" }; questions.len()];
    let mut waiting = questions.iter().enumerate();
    let mut groups: Vec<Group<'_>> =
        (0..batch.min(questions.len()).div_ceil(ROWS)).map(|_| Group::empty(model)).collect();
    loop {
        let mut working = false;
        for group in &mut groups {
            group.fill(model, &mut waiting, tokenizer.size(), seed)?;
            working |= !group.live.is_empty();
            group.advance(model, tokenizer, &banned, config, &mut |place, answer| {
                done(place, &answer)?;
                answers[place] = answer;
                Ok(())
            })?;
        }
        if !working {
            return Ok(answers);
        }
    }
}

impl<'a> Group<'a> {
    fn empty(model: &Rwkv7) -> Self {
        let shape = model.shape();
        let logits = Tensor::zeros([0, shape.vocabulary as i64], (tch::Kind::Float, Device::Cpu));
        Group { live: Vec::new(), state: State::zeros(shape, 0), logits }
    }

    /// Reads the prompts of as many waiting questions as there are free rows.
    fn fill(
        &mut self,
        model: &Rwkv7,
        waiting: &mut dyn Iterator<Item = (usize, &'a Question)>,
        vocabulary: usize,
        seed: u64,
    ) -> Result<()> {
        let (mut states, mut logits) = (Vec::new(), vec![self.logits.shallow_clone()]);
        for (place, question) in waiting.take(ROWS - self.live.len()) {
            let ids: Vec<i64> = question.prompt.tokens.iter().map(|id| i64::from(*id)).collect();
            let (last, state) = model.prefill(&Tensor::from_slice(&ids).unsqueeze(0), None)?;
            states.push(state);
            logits.push(last);
            let mut seen = vec![false; vocabulary];
            question.prompt.tokens.iter().for_each(|id| seen[usize::from(*id)] = true);
            let draws = Keyed::new(seed, &format!("generate/{}", question.id), 0);
            let mut live = Live { question, place, draws, seen, ids: Vec::new(), bars: 0, given: VecDeque::new() };
            live.open();
            self.live.push(live);
        }
        if !states.is_empty() {
            states.insert(0, std::mem::replace(&mut self.state, State::zeros(model.shape(), 0)));
            self.state = State::concat(&states)?;
            self.logits = Tensor::cat(&logits, 0);
        }
        Ok(())
    }

    /// Draws an id for every prompt, hands over those that are finished, and steps the others.
    fn advance(
        &mut self,
        model: &Rwkv7,
        tokenizer: &Tokenizer,
        banned: &Banned,
        config: &SamplerConfig,
        finished: &mut dyn FnMut(usize, Answer) -> Result<()>,
    ) -> Result<()> {
        if self.live.is_empty() {
            return Ok(());
        }
        let values: Vec<f32> = Vec::try_from(self.logits.to_kind(tch::Kind::Float).contiguous().view([-1]))
            .map_err(|e| Error::bug("logits cannot be read").because(e))?;
        let (mut going, mut rows, mut next) = (Vec::new(), Vec::new(), Vec::new());
        let live = std::mem::take(&mut self.live).into_iter().zip(values.chunks(tokenizer.size()));
        for (row, (mut one, logits)) in live.enumerate() {
            if logits.iter().any(|logit| !logit.is_finite()) {
                return Err(Error::new(
                    Exit::Diverged,
                    format!("prompt `{}`: logits are not numbers", one.question.id),
                )
                .hint("the model's training diverged; take an earlier checkpoint"));
            }
            match one.next(logits, tokenizer, banned, config) {
                Ok(id) => {
                    going.push(one);
                    rows.push(row);
                    next.push(i64::from(id));
                }
                Err(stop) => finished(one.place, Answer { ids: one.ids, stop })?,
            }
        }
        self.live = going;
        let kept = self.state.select(&rows)?;
        if self.live.is_empty() {
            self.state = kept;
            self.logits = self.logits.narrow(0, 0, 0);
            return Ok(());
        }
        let idle = ROWS - rows.len();
        next.extend(std::iter::repeat_n(0, idle));
        let (logits, state) = model.step(&next, &State::concat(&[kept, State::zeros(model.shape(), idle)])?)?;
        let used: Vec<usize> = (0..rows.len()).collect();
        self.state = state.select(&used)?;
        self.logits = logits.narrow(0, 0, rows.len() as i64);
        Ok(())
    }
}

impl Live<'_> {
    /// Begins the next bar with its opening; returns whether it has one.
    fn open(&mut self) -> bool {
        let Some(opening) = self.question.prompt.openings.get(self.bars).filter(|opening| !opening.is_empty()) else {
            return false;
        };
        self.given.extend(opening);
        self.bars += 1;
        true
    }

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
        if let Some(id) = self.given.pop_front() {
            self.ids.push(id);
            return Ok(id);
        }
        let Question { kind, bars, .. } = *self.question;
        let mut barred = if self.ids.is_empty() { banned.at_first.clone() } else { banned.always.clone() };
        // A track may end before the others do.
        let may_end = self.bars >= bars || (kind == Kind::Track && self.bars > 0);
        if let Some(end) = banned.end(kind).filter(|_| may_end) {
            barred[end] = false;
        }
        let id = draw(logits, &self.seen, &barred, config, &mut self.draws).ok_or("nothing-allowed")?;
        if banned.end(kind) == Some(id) {
            return Err(if kind == Kind::Track { "track-end" } else { "fill-end" });
        }
        let begun = tokenizer.bpe().piece(id as u16).iter().filter(|base| **base == BAR).count();
        if self.bars + begun > bars {
            return Err("bars");
        }
        if begun > 0
            && self.open()
            && let Some(id) = self.given.pop_front()
        {
            self.ids.push(id);
            return Ok(id);
        }
        self.bars += begun;
        self.seen[id] = true;
        self.ids.push(id as u16);
        Ok(id as u16)
    }
}

#[cfg(test)]
mod tests;
