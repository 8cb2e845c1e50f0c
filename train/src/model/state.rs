//! What is carried from token to token: per layer two token-shift rows and the WKV state, for a batch.

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor};

use super::shape::{HEAD, Shape};

/// One layer's state for B sequences.
#[derive(Debug)]
pub struct LayerState {
    /// The last row that went into time mixing (after ln1), [B, D].
    pub att_shift: Tensor,
    /// The last row that went into channel mixing (after ln2), [B, D].
    pub ffn_shift: Tensor,
    /// The WKV state, [B, H, 64 value lanes, 64 key lanes].
    pub wkv: Tensor,
}

/// The state of a network for B sequences; a value that no step changes in place.
#[derive(Debug)]
pub struct State {
    /// One a layer.
    pub layers: Vec<LayerState>,
}

impl LayerState {
    fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        LayerState { att_shift: f(&self.att_shift), ffn_shift: f(&self.ffn_shift), wkv: f(&self.wkv) }
    }
}

impl State {
    /// The state before the first token: zeros, for `batch` sequences.
    pub fn zeros(shape: Shape, batch: usize) -> Self {
        let (batch, width, heads, head) = (batch as i64, shape.width as i64, shape.heads() as i64, HEAD as i64);
        let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
        let layer = |_| LayerState {
            att_shift: zeros(&[batch, width]),
            ffn_shift: zeros(&[batch, width]),
            wkv: zeros(&[batch, heads, head, head]),
        };
        State { layers: (0..shape.layers).map(layer).collect() }
    }

    /// The state before the first token of `batch` sequences for tuned initial WKV states, one
    /// [H, 64, 64] a layer; the token-shift rows stay zero.
    ///
    /// # Errors
    /// The number of layers or a shape does not fit.
    pub fn of_time_state(shape: Shape, time_state: &[Tensor], batch: usize) -> Result<Self> {
        let mut state = State::zeros(shape, batch);
        if time_state.len() != shape.layers {
            return Err(Error::mismatch(format!(
                "the tuned state has {} layers, the network {}",
                time_state.len(),
                shape.layers
            )));
        }
        for (layer, tuned) in state.layers.iter_mut().zip(time_state) {
            if tuned.size() != layer.wkv.size()[1..] {
                return Err(Error::mismatch(format!(
                    "a tuned state is {:?} instead of {:?}",
                    tuned.size(),
                    &layer.wkv.size()[1..]
                )));
            }
            layer.wkv = tuned.unsqueeze(0).repeat([batch as i64, 1, 1, 1]);
        }
        Ok(state)
    }

    /// The number of sequences.
    pub fn batch(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.att_shift.size()[0] as usize)
    }

    /// The state of the sequences `rows`, in that order; rows may repeat or be left out.
    ///
    /// # Errors
    /// A row is not below [`State::batch`].
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.batch()) {
            return Err(Error::bug(format!("row {row} of a state of {} sequences", self.batch())));
        }
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let rows = Tensor::from_slice(&rows);
        let layers = self.layers.iter().map(|layer| layer.map(|tensor| tensor.index_select(0, &rows)));
        Ok(State { layers: layers.collect() })
    }

    /// The states of several batches as one batch.
    ///
    /// # Errors
    /// There is none, or they are of different networks.
    pub fn concat(states: &[State]) -> Result<Self> {
        let first = states.first().ok_or_else(|| Error::bug("no states to put together"))?;
        let part = |layer: usize, pick: fn(&LayerState) -> &Tensor| {
            let parts: Option<Vec<&Tensor>> = states.iter().map(|state| state.layers.get(layer).map(pick)).collect();
            let parts = parts.ok_or_else(|| Error::bug("states of networks of different depth"))?;
            Tensor::f_cat(&parts, 0).map_err(crate::fault::torch)
        };
        let layer = |layer| {
            Ok(LayerState {
                att_shift: part(layer, |l| &l.att_shift)?,
                ffn_shift: part(layer, |l| &l.ffn_shift)?,
                wkv: part(layer, |l| &l.wkv)?,
            })
        };
        Ok(State { layers: (0..first.layers.len()).map(layer).collect::<Result<_>>()? })
    }
}
