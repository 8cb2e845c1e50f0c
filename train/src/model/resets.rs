//! Where a row begins anew, so that several short sequences share one: no state crosses such a place.
//!
//! The WKV operator needs to know nothing of it. Its state is forgotten by a decay of zero and a removal
//! that asks it for nothing: S_t = S_{t−1}·diag(0) + (S_{t−1}·0) bᵀ + v kᵀ = v kᵀ, exactly what the first
//! step of a sequence gives. Gradients stop at the same places.

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::fault;

/// Decay before its exponentials that is none: exp(−exp 5) is zero in f32 and bf16, and its derivative is a
/// number, which that of an infinite one would not be.
const FORGET: f64 = 5.0;

/// The places of a batch at which a sequence begins that is not the first of its row.
#[derive(Debug)]
pub struct Resets {
    /// [B, T, 1], true at these places.
    mask: Tensor,
    /// The same, row by row.
    begins: Vec<bool>,
}

impl Resets {
    /// Of a batch of B rows and T columns, from the places row · T + column.
    ///
    /// # Errors
    /// A place is outside of the batch.
    pub fn new(rows: usize, columns: usize, places: &[i64]) -> Result<Self> {
        let count = (rows * columns) as i64;
        if let Some(place) = places.iter().find(|&&place| !(0..count).contains(&place)) {
            return Err(Error::bug(format!("a sequence begins at place {place} of {count}")));
        }
        let mut mask = Tensor::zeros([count], (Kind::Bool, Device::Cpu));
        let _ = mask.f_index_fill_(0, &Tensor::from_slice(places), 1).map_err(fault::torch)?;
        let mut begins = vec![false; rows * columns];
        for &place in places {
            begins[place as usize] = true;
        }
        Ok(Resets { mask: mask.reshape([rows as i64, columns as i64, 1]), begins })
    }

    /// Whether a sequence begins, for each place.
    pub(super) fn begins(&self) -> &[bool] {
        &self.begins
    }

    /// The same places, for tensors on `device`.
    #[must_use]
    pub fn to_device(self, device: Device) -> Self {
        Resets { mask: self.mask.to_device(device), ..self }
    }

    /// [B, T, 1], true at these places.
    pub(super) fn mask(&self) -> &Tensor {
        &self.mask
    }

    /// `x` [B, T, D] with zeros at these places.
    pub(super) fn zero(&self, x: &Tensor) -> Tensor {
        x.masked_fill(&self.mask, 0.0)
    }

    /// Decay `w` and removal `a`, both [B, T, H, 64], so that the state is forgotten at these places.
    pub(super) fn forget(&self, w: &Tensor, a: &Tensor) -> (Tensor, Tensor) {
        let mask = self.mask.unsqueeze(-1);
        (w.masked_fill(&mask, FORGET), a.masked_fill(&mask, 0.0))
    }
}
