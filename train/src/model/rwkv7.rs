//! The network: embedding, blocks, head; over whole sequences for training, and from a carried state for
//! generation. Weights are f32; in bf16 a pass works on copies of them, through which gradients flow back.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor, no_grad};

use super::block::{Before, Block, LayerNorm};
use super::dropout::Dropout;
use super::linear::{Adapters, LORA_A, LORA_B};
use super::parameters::Parameters;
use super::resets::Resets;
use super::shape::Shape;
use super::state::State;
use super::time_mix::Stages;
use crate::config::Precision;
use crate::cuda::{Launcher, fused};
use crate::data::Batch;
use crate::fault;
use crate::wkv::WkvBackend;

/// How adapters work.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoraTerms {
    /// α / r.
    pub scale: f64,
    /// The share of their input that becomes zero in training.
    pub dropout: f64,
    /// Seed of the dropout.
    pub seed: u64,
}

/// The name of a layer's tuned state, [H, 64, 64].
pub fn time_state_name(layer: usize) -> String {
    format!("blocks.{layer}{TIME_STATE}")
}

const TIME_STATE: &str = ".att.time_state";

/// Whether a parameter is none of the network, but of its tuning.
pub fn is_tuning(name: &str) -> bool {
    [TIME_STATE, LORA_A, LORA_B].iter().any(|end| name.ends_with(end))
}

/// RWKV-7 on given parameters.
#[derive(Debug)]
pub struct Rwkv7 {
    shape: Shape,
    parameters: Parameters,
    /// Those of `parameters` that collect gradients.
    trained: Parameters,
    backend: Arc<dyn WkvBackend>,
    terms: LoraTerms,
    dropout: Arc<Dropout>,
    /// The tuned WKV state before the first token, one [H, 64, 64] a layer.
    time_state: Option<Vec<Tensor>>,
    precision: Precision,
    adapters: Adapters,
    layers: Layers,
    embedding: Tensor,
    head: Tensor,
}

/// What stands between embedding and head.
#[derive(Debug)]
struct Layers {
    ln0: LayerNorm,
    blocks: Vec<Block>,
    ln_out: LayerNorm,
}

impl Layers {
    fn of(parameters: &Parameters, layers: usize, adapters: &Adapters) -> Result<Self> {
        Ok(Layers {
            ln0: LayerNorm::of(parameters, "blocks.0.ln0")?,
            blocks: (0..layers).map(|layer| Block::of(parameters, layer, adapters)).collect::<Result<_>>()?,
            ln_out: LayerNorm::of(parameters, "ln_out")?,
        })
    }
}

impl Rwkv7 {
    /// The network on `parameters`, whose shapes say how large it is.
    ///
    /// # Errors
    /// They are not those of an RWKV-7 network, or not f32: exit code 78.
    pub fn new(parameters: Parameters, backend: Arc<dyn WkvBackend>) -> Result<Self> {
        Self::tuned(parameters, backend, LoraTerms::default())
    }

    /// As [`Rwkv7::new`], where `parameters` may also hold tuned states (`blocks.<i>.att.time_state`, from
    /// which every sequence then begins) and low-rank adapters ([`LORA_A`](super::LORA_A),
    /// [`LORA_B`](super::LORA_B)), which work on `terms`.
    ///
    /// # Errors
    /// As [`Rwkv7::new`].
    pub fn tuned(parameters: Parameters, backend: Arc<dyn WkvBackend>, terms: LoraTerms) -> Result<Self> {
        let shape = parameters.only(|name| !is_tuning(name)).shape()?;
        let dropout = Arc::new(Dropout::new(terms.dropout, terms.seed));
        let adapters = Adapters { scale: terms.scale, dropout: Arc::clone(&dropout) };
        let state = |layer| parameters.find(&time_state_name(layer)).map(Tensor::shallow_clone);
        Ok(Rwkv7 {
            shape,
            trained: Parameters::new(),
            backend,
            terms,
            dropout,
            time_state: (0..shape.layers).map(state).collect(),
            precision: Precision::F32,
            layers: Layers::of(&parameters, shape.layers, &adapters)?,
            adapters,
            embedding: parameters.get("emb.weight")?.shallow_clone(),
            head: parameters.get("head.weight")?.shallow_clone(),
            parameters,
        })
    }

    /// The same network, computed in `precision`.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Rwkv7 { precision, ..self }
    }

    /// `count` networks on this one's weights, for as many threads. Each has gradients of its own.
    ///
    /// # Errors
    /// None, for a network that could be made.
    pub fn twins(&self, count: usize) -> Result<Vec<Self>> {
        let twin = |_| {
            let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(tensor.requires_grad());
            let parameters = self.parameters.iter().map(|(name, tensor)| (name.to_owned(), leaf(tensor))).collect();
            let twin = Self::tuned(parameters, Arc::clone(&self.backend), self.terms)?.in_precision(self.precision);
            Ok(Rwkv7 { trained: twin.parameters.only(|name| self.trained.find(name).is_some()), ..twin })
        };
        (0..count).map(twin).collect()
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where the parameters are, and the ids of a pass must be.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// What starts kernels of this package where the network computes; none on a processor.
    pub fn launcher(&self) -> Option<&Arc<dyn Launcher>> {
        self.backend.launcher()
    }

    /// The parameters by name.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters, for an optimiser that changes them in place.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// The weights of the head, [V, D].
    pub fn head(&self) -> &Tensor {
        &self.head
    }

    /// Makes all parameters trainable, so that a backward pass leaves their gradients, or none.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.train_only(|_| trainable);
    }

    /// Makes the parameters that `trains` names trainable, and no others.
    pub fn train_only(&mut self, trains: impl Fn(&str) -> bool) {
        self.parameters.set_trainable(false);
        self.trained = self.parameters.only(trains);
        self.trained.set_trainable(true);
    }

    /// The trainable parameters; they share memory with the network.
    pub fn trained(&self) -> &Parameters {
        &self.trained
    }

    /// Turns the adapters' dropout on, for `batch` at `step`, or off.
    pub fn set_dropout(&self, at: Option<(u64, &Batch)>) {
        match at {
            Some((step, batch)) => self.dropout.turn_on(step, batch),
            None => self.dropout.turn_off(),
        }
    }

    /// Training's forward pass: ids [B, T] (i64) to logits [B, T, V]. `time_state`, one [H, 64, 64] a
    /// layer, is the WKV state that every sequence starts from; zero if left out.
    ///
    /// # Errors
    /// An id that the vocabulary does not have, or a time state that does not fit.
    pub fn forward(&self, ids: &Tensor, time_state: Option<&[Tensor]>) -> Result<Tensor> {
        Ok(self.logits(&self.hidden(ids, time_state)?))
    }

    /// As [`Rwkv7::forward`], up to the input of the head: [B, T, D].
    ///
    /// # Errors
    /// As [`Rwkv7::forward`].
    pub fn hidden(&self, ids: &Tensor, time_state: Option<&[Tensor]>) -> Result<Tensor> {
        self.hidden_with_stages(ids, time_state, None).map(|(hidden, _)| hidden)
    }

    /// As [`Rwkv7::hidden`] from a state of zeros, for rows that hold several sequences: at `resets` the
    /// network forgets what was before.
    ///
    /// # Errors
    /// As [`Rwkv7::forward`].
    pub fn hidden_of_packed(&self, ids: &Tensor, resets: &Resets) -> Result<Tensor> {
        let before = vec![Before::default(); self.shape.layers];
        self.pass(ids, &before, Some(resets), true, None).map(|(hidden, _)| hidden)
    }

    /// As [`Rwkv7::hidden`], with the state after the last token; `stages` is shown every activation.
    ///
    /// # Errors
    /// As [`Rwkv7::forward`].
    pub fn hidden_with_stages(
        &self,
        ids: &Tensor,
        time_state: Option<&[Tensor]>,
        stages: Option<Stages<'_>>,
    ) -> Result<(Tensor, State)> {
        let batch = ids.size2().map_err(fault::torch)?.0;
        let expanded =
            time_state.or(self.time_state.as_deref()).map(|layers| self.expand(layers, batch)).transpose()?;
        let before = |layer: usize| Before {
            wkv: expanded.as_ref().map(|layers: &Vec<Tensor>| &layers[layer]),
            ..Before::default()
        };
        let before: Vec<Before<'_>> = (0..self.shape.layers).map(before).collect();
        self.pass(ids, &before, None, true, stages)
    }

    /// The head: hidden rows [.., D] to logits [.., V].
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(&self.head.to_kind(hidden.kind()), None::<&Tensor>)
    }

    /// Generation's forward pass over prompts of one length: ids [B, T] (i64) after `state` to the logits
    /// of the last token, [B, V], and the state after it. No state means the start of a sequence.
    ///
    /// # Errors
    /// An id that the vocabulary does not have, or a state of another batch size.
    pub fn prefill(&self, ids: &Tensor, state: Option<&State>) -> Result<(Tensor, State)> {
        no_grad(|| {
            let (hidden, state) = self.carry(ids, state)?;
            Ok((self.logits(&hidden.select(1, -1)), state))
        })
    }

    /// As [`Rwkv7::prefill`], with the logits of every token: [B, T, V].
    ///
    /// # Errors
    /// As [`Rwkv7::prefill`].
    pub fn prefill_all(&self, ids: &Tensor, state: Option<&State>) -> Result<(Tensor, State)> {
        no_grad(|| {
            let (hidden, state) = self.carry(ids, state)?;
            Ok((self.logits(&hidden), state))
        })
    }

    /// One token a sequence: ids (B of them) after `state` to logits [B, V] and the state after them.
    ///
    /// # Errors
    /// As [`Rwkv7::prefill`].
    pub fn step(&self, ids: &[i64], state: &State) -> Result<(Tensor, State)> {
        self.prefill(&Tensor::from_slice(ids).unsqueeze(1), Some(state))
    }

    fn carry(&self, ids: &Tensor, state: Option<&State>) -> Result<(Tensor, State)> {
        let batch = ids.size2().map_err(fault::torch)?.0;
        if let Some(state) = state
            && (state.batch() as i64 != batch || state.layers.len() != self.shape.layers)
        {
            return Err(Error::bug(format!("a state of {} sequences for {batch}", state.batch())));
        }
        let begin = match (state, &self.time_state) {
            (None, Some(tuned)) => Some(State::of_time_state(self.shape, tuned, batch as usize)?),
            _ => None,
        };
        let before: Vec<Before<'_>> = match state.or(begin.as_ref()) {
            Some(state) => state.layers.iter().map(Before::from).collect(),
            None => vec![Before::default(); self.shape.layers],
        };
        self.pass(ids, &before, None, false, None)
    }

    /// The pass over all blocks, each from its entry of `before`.
    fn pass(
        &self,
        ids: &Tensor,
        before: &[Before<'_>],
        resets: Option<&Resets>,
        differentiable: bool,
        mut stages: Option<Stages<'_>>,
    ) -> Result<(Tensor, State)> {
        let looked_up = Tensor::f_embedding(&self.embedding, ids, -1, false, false).map_err(|e| {
            Error::data(format!("an id is not in the vocabulary of {} ids", self.shape.vocabulary))
                .because(fault::torch(e).to_string())
        })?;
        // The rows are rounded, not the table: the gradient of a token that comes often is summed in f32.
        let (embedded, rounded);
        let layers = match self.precision {
            Precision::F32 => {
                embedded = looked_up;
                &self.layers
            }
            Precision::Bf16 => {
                embedded = looked_up.to_kind(Kind::BFloat16);
                rounded = self.rounded()?;
                &rounded
            }
        };
        let mut x = layers.ln0.forward(&embedded);
        if let Some(stages) = &mut stages {
            stages("act.ln0", &x);
        }
        let mut v_first = None;
        let mut states = Vec::with_capacity(layers.blocks.len());
        for (block, &before) in layers.blocks.iter().zip(before) {
            let stages = stages.as_deref_mut().map(|stages| stages as Stages<'_>);
            let passed = block.forward(&self.backend, &x, v_first.as_ref(), before, resets, differentiable, stages)?;
            (x, v_first) = (passed.x, Some(passed.v_first));
            states.push(passed.state);
        }
        let x = layers.ln_out.forward(&x);
        if let Some(stages) = &mut stages {
            stages("act.ln_out", &x);
        }
        Ok((x, State { layers: states }))
    }

    /// The layers on bf16 copies of their weights, which hand gradients on to these.
    fn rounded(&self) -> Result<Layers> {
        let inside = self.parameters.only(|name| !name.starts_with("emb.") && !name.starts_with("head."));
        let tensors: Vec<&Tensor> = inside.iter().map(|(_, tensor)| tensor).collect();
        let copies = match self.launcher() {
            Some(launcher) => fused::rounded(launcher, &tensors)?,
            None => tensors.iter().map(|tensor| tensor.to_kind(Kind::BFloat16)).collect(),
        };
        let names = inside.iter().map(|(name, _)| name.to_owned());
        Layers::of(&names.zip(copies).collect(), self.shape.layers, &self.adapters)
    }

    /// Initial WKV states, one [H, 64, 64] a layer, for every sequence of a batch.
    fn expand(&self, time_state: &[Tensor], batch: i64) -> Result<Vec<Tensor>> {
        let (heads, head) = (self.shape.heads() as i64, super::shape::HEAD as i64);
        let fits = |tensor: &Tensor| tensor.size() == [heads, head, head] && tensor.kind() == Kind::Float;
        if time_state.len() != self.shape.layers || !time_state.iter().all(fits) {
            return Err(Error::mismatch(format!(
                "a time state is one f32 tensor [{heads}, {head}, {head}] a layer, for {} layers",
                self.shape.layers
            )));
        }
        Ok(time_state.iter().map(|layer| layer.unsqueeze(0).expand([batch, heads, head, head], false)).collect())
    }
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::exit::Exit;
    use tch::Device;

    use super::*;
    use crate::model::init::init;
    use crate::wkv::CpuWkv;

    /// A network whose every parameter takes part: the first values leave some branches at zero.
    fn network() -> Rwkv7 {
        let shape = Shape::new(2, 64, 30).expect("fits");
        let stirred = |(name, tensor): (&str, &Tensor)| {
            let n = Tensor::arange(tensor.numel() as i64, (Kind::Float, Device::Cpu)).reshape(tensor.size());
            (name.to_owned(), tensor + (n * 0.7 + name.len() as f64).sin() * 0.1)
        };
        let parameters = init(shape, 3).iter().map(stirred).collect();
        Rwkv7::new(parameters, Arc::new(CpuWkv::new())).expect("a network")
    }

    fn ids(rows: i64, columns: i64) -> Tensor {
        (Tensor::arange(rows * columns, (Kind::Int64, Device::Cpu)) * 7).remainder(30).reshape([rows, columns])
    }

    fn close(x: &Tensor, y: &Tensor) {
        assert_eq!(x.size(), y.size());
        let worst = (x - y).abs().max().double_value(&[]);
        assert!(worst < 2e-5, "{worst:e}");
    }

    #[test]
    fn splitting_anywhere_gives_the_logits_of_the_whole() {
        let model = network();
        let ids = ids(3, 21);
        let whole = no_grad(|| model.forward(&ids, None)).expect("runs");
        for split in 1..21 {
            let (first, state) = model.prefill_all(&ids.narrow(1, 0, split), None).expect("runs");
            let (second, _) = model.prefill_all(&ids.narrow(1, split, 21 - split), Some(&state)).expect("runs");
            close(&Tensor::cat(&[first, second], 1), &whole);
        }
        let mut state = State::zeros(model.shape(), 3);
        for t in 0..21 {
            let tokens: Vec<i64> = Vec::try_from(ids.select(1, t)).expect("a vector");
            let (logits, next) = model.step(&tokens, &state).expect("runs");
            close(&logits, &whole.select(1, t));
            state = next;
        }
    }

    #[test]
    fn prompts_of_any_length_become_one_batch_whose_rows_can_be_dropped() {
        let model = network();
        let prompts = [ids(1, 5), ids(1, 9), ids(1, 2)];
        let states: Vec<State> = prompts.iter().map(|ids| model.prefill(ids, None).expect("runs").1).collect();
        let together = State::concat(&states).expect("fits");
        let (logits, after) = model.step(&[4, 5, 6], &together).expect("runs");
        for (row, state) in states.iter().enumerate() {
            let (alone, _) = model.step(&[4 + row as i64], state).expect("runs");
            close(&logits.get(row as i64), &alone.get(0));
        }
        let kept = after.select(&[2, 0]).expect("there are three");
        let (all, _) = model.step(&[1, 2, 3], &after).expect("runs");
        let (some, _) = model.step(&[3, 1], &kept).expect("runs");
        close(&some.get(0), &all.get(2));
        close(&some.get(1), &all.get(0));
        assert_eq!(kept.batch(), 2);
        assert!(after.select(&[3]).is_err());
    }

    #[test]
    fn generation_records_no_graph() {
        let mut model = network();
        model.set_trainable(true);
        let (logits, state) = model.prefill(&ids(1, 4), None).expect("runs");
        assert!(!logits.requires_grad() && !state.layers[0].wkv.requires_grad());
        assert!(model.forward(&ids(1, 4), None).expect("runs").requires_grad());
    }

    #[test]
    fn wrong_ids_and_states_are_errors() {
        let model = network();
        let error = model.forward(&Tensor::from_slice(&[30i64]).reshape([1, 1]), None).expect_err("no such id");
        assert_eq!(error.exit(), Exit::BadData);
        assert!(model.step(&[1, 2], &State::zeros(model.shape(), 3)).is_err());
        let short = [Tensor::zeros([1, 64, 64], (Kind::Float, Device::Cpu))];
        let error = model.forward(&ids(1, 2), Some(&short)).expect_err("one layer of two");
        assert_eq!(error.exit(), Exit::Mismatch);
    }
}
