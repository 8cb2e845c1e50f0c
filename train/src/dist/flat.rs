//! Gradients and parameters as flat vectors, in the order of the state dictionary: what ranks exchange.

use midi_ingest::job::exit::Result;
use tch::{Kind, Tensor, no_grad};

use super::collective::shard;
use super::group::Group;
use crate::model::Parameters;

/// Most elements in one all-reduce: 16 MiB of f32.
const BUCKET: usize = 1 << 22;

/// Replaces every gradient by its sum over all ranks, in buckets.
///
/// # Errors
/// A rank was lost (10).
pub fn all_reduce_gradients(group: &mut Group, parameters: &Parameters) -> Result<()> {
    let gradients: Vec<Tensor> = parameters.iter().map(|(_, tensor)| tensor.grad()).filter(Tensor::defined).collect();
    let mut from = 0;
    while from < gradients.len() {
        let mut to = from + 1;
        let mut elements = gradients[from].numel();
        while to < gradients.len() && elements + gradients[to].numel() <= BUCKET {
            elements += gradients[to].numel();
            to += 1;
        }
        no_grad(|| {
            let mut flat = joined(&gradients[from..to]);
            group.all_reduce("all-reduce of gradients", &mut flat)?;
            give_back(&flat, &gradients[from..to]);
            Ok(())
        })?;
        from = to;
    }
    Ok(())
}

/// Replaces this rank's shard of the gradients by its sum over all ranks and returns the sum of its squares, an f64 where
/// the gradients are. The other gradients are left as they are and mean nothing any more.
///
/// # Errors
/// A rank was lost (10).
pub fn reduce_scatter_gradients(group: &mut Group, parameters: &Parameters) -> Result<Tensor> {
    no_grad(|| {
        let gradients: Vec<Tensor> = parameters
            .iter()
            .map(|(_, tensor)| Some(tensor.grad()).filter(Tensor::defined).unwrap_or_else(|| tensor.zeros_like()))
            .collect();
        let flat = joined(&gradients);
        let part = group.reduce_scatter("reduce-scatter of gradients", &flat)?;
        let mine = shard(flat.numel(), group.world(), group.rank());
        flat.narrow(0, mine.start as i64, mine.len() as i64).copy_(&part);
        give_back(&flat, &gradients);
        Ok(part.to_kind(Kind::Double).square().sum(Kind::Double))
    })
}

/// Replaces every parameter by what the rank that updated it holds.
///
/// # Errors
/// A rank was lost (10).
pub fn all_gather_parameters(group: &mut Group, parameters: &Parameters) -> Result<()> {
    no_grad(|| {
        let tensors: Vec<Tensor> = parameters.iter().map(|(_, tensor)| tensor.detach()).collect();
        let flat = joined(&tensors);
        let mine = shard(flat.numel(), group.world(), group.rank());
        let part = flat.narrow(0, mine.start as i64, mine.len() as i64);
        let whole = group.all_gather("all-gather of parameters", &part.contiguous(), flat.numel())?;
        give_back(&whole, &tensors);
        Ok(())
    })
}

fn joined(tensors: &[Tensor]) -> Tensor {
    Tensor::cat(&tensors.iter().map(|tensor| tensor.reshape([-1])).collect::<Vec<_>>(), 0)
}

fn give_back(flat: &Tensor, tensors: &[Tensor]) {
    let mut at = 0;
    for tensor in tensors {
        let count = tensor.numel() as i64;
        tensor.shallow_clone().copy_(&flat.narrow(0, at, count).view_as(tensor));
        at += count;
    }
}
