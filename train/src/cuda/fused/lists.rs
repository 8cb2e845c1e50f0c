//! Work on hundreds of small arrays in a few launches (`lists.cu`): AdamW, the norm of all gradients, and the copies of
//! weights in bf16 that a pass computes with.

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::super::{Arguments, Launcher, Source, Spread};
use super::{count, empty_of, taken_as};
use crate::autograd::{self, MOST_TENSORS, Operator, Outputs};

/// The kernels of this file.
pub static LISTS: Source = Source { name: "lists.cu", text: include_str!("../lists.cu") };

/// Parameters of one launch of AdamW: as many as fit into a kernel's arguments, which are 4 KB at most.
const UPDATES: usize = 64;
/// Arrays of one launch of the other kernels.
const LISTED: usize = 128;
/// Numbers that a block takes.
const OF_BLOCK: usize = 4096;

/// The numbers that all parameters of an update by AdamW share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamTerms {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// The gradient is multiplied by it.
    pub factor: f64,
    /// Correction of the second moment.
    pub correction: f64,
}

/// One parameter, its gradient and its moments; all are f32, contiguous and of one size.
#[derive(Debug)]
pub struct Update {
    /// The parameter, which is changed in place.
    pub parameter: Tensor,
    /// Its gradient; it need not be contiguous.
    pub gradient: Tensor,
    /// Its first and second moment, which are changed in place.
    pub moments: [Tensor; 2],
    /// The parameter is multiplied by it.
    pub keep: f64,
    /// Learning rate over the correction of the first moment.
    pub rate: f64,
}

/// Updates parameters and moments in place.
///
/// # Errors
/// Tensors are not as [`Update`] says, or a failure of the device.
pub fn adamw(launcher: &Arc<dyn Launcher>, updates: &[Update], terms: AdamTerms) -> Result<()> {
    for updates in updates.chunks(UPDATES) {
        let AdamTerms { beta1, beta2, epsilon, factor, correction } = terms;
        let numbers = [beta1, beta2, epsilon, factor, correction];
        let first = Arguments::new().int(updates.len() as i32);
        let mut arguments = numbers.into_iter().fold(first, |arguments, number| arguments.float(number as f32));
        let mut blocks = 0;
        for Update { parameter, gradient, moments: [first, second], keep, rate } in updates {
            let gradient = &gradient.contiguous();
            let all = [parameter, first, second, gradient];
            let fits = |x: &&Tensor| {
                x.kind() == Kind::Float
                    && x.device() == launcher.device()
                    && x.is_contiguous()
                    && x.numel() == parameter.numel()
            };
            if !all.iter().all(fits) {
                return Err(Error::bug(format!("AdamW on {:?} was given something else", launcher.device())));
            }
            arguments = all.into_iter().fold(arguments, Arguments::tensor).int(count(parameter)?).int(blocks);
            arguments = arguments.float(*keep as f32).float(*rate as f32);
            blocks += blocks_of(parameter);
        }
        // The kernel's list is of a fixed length; it looks at no more than it is told.
        for _ in updates.len()..UPDATES {
            let nothing = (0..4).fold(arguments, |arguments, _| arguments.tensor_or_null(None));
            arguments = nothing.int(0).int(blocks).float(1.0).float(0.0);
        }
        // SAFETY: the tensors were checked above.
        unsafe { launcher.launch(&LISTS, "adamw", spread(blocks), &arguments)? };
    }
    Ok(())
}

fn blocks_of(tensor: &Tensor) -> i32 {
    tensor.numel().div_ceil(OF_BLOCK) as i32
}

fn spread(blocks: i32) -> Spread {
    Spread { blocks: [blocks.max(1) as u32, 1], threads: 256, shared: 0 }
}

/// Starts `kernel` on pairs of arrays, [`LISTED`] at most: from the one, to the other.
///
/// # Safety
/// The tensors are what the kernel reads and writes: contiguous, on the launcher's device, and a pair's of one size.
unsafe fn launch_on(
    launcher: &Arc<dyn Launcher>,
    kernel: &str,
    pairs: &[(&Tensor, Option<&Tensor>)],
    sums: Option<&Tensor>,
) -> Result<()> {
    let mut arguments = Arguments::new().int(pairs.len() as i32).int(0).tensor_or_null(sums);
    let mut blocks = 0;
    for (from, to) in pairs {
        arguments = arguments.tensor(from).tensor_or_null(*to).int(count(from)?).int(blocks);
        blocks += blocks_of(from);
    }
    for _ in pairs.len()..LISTED {
        arguments = arguments.tensor_or_null(None).tensor_or_null(None).int(0).int(blocks);
    }
    // SAFETY: the caller's promise.
    unsafe { launcher.launch(&LISTS, kernel, spread(blocks), &arguments) }
}

/// The root of the sum of the squares of all numbers in `tensors`, which are f32; an f64 on the launcher's device.
///
/// # Errors
/// Another kind or device, or a failure of the device.
pub fn norm(launcher: &Arc<dyn Launcher>, tensors: &[Tensor]) -> Result<Tensor> {
    let tensors = taken_as(launcher, Kind::Float, &tensors.iter().collect::<Vec<_>>())?;
    let blocks: i32 = tensors.iter().map(blocks_of).sum();
    let sums = empty_of(launcher, &[i64::from(blocks)], Kind::Float)?;
    let mut begin = 0;
    for tensors in tensors.chunks(LISTED) {
        let count: i32 = tensors.iter().map(blocks_of).sum();
        let part = sums.narrow(0, begin, i64::from(count));
        let pairs: Vec<(&Tensor, Option<&Tensor>)> = tensors.iter().map(|tensor| (tensor, None)).collect();
        // SAFETY: taken as the kernel takes them; it writes a sum a block.
        unsafe { launch_on(launcher, "squares", &pairs, Some(&part))? };
        begin += i64::from(count);
    }
    Ok(sums.sum(Kind::Double).sqrt())
}

/// Copies of f32 tensors in bf16, which hand gradients on to these.
///
/// # Errors
/// Another kind or device, or a failure of the device.
pub fn rounded(launcher: &Arc<dyn Launcher>, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
    let mut all = Vec::with_capacity(tensors.len());
    // All results of an operator have gradients if one of its inputs has: what is frozen goes by itself.
    for alike in tensors.chunk_by(|x, y| x.requires_grad() == y.requires_grad()) {
        for tensors in alike.chunks(MOST_TENSORS.min(LISTED)) {
            all.extend(autograd::apply(Round { launcher: Arc::clone(launcher) }, tensors)?);
        }
    }
    Ok(all)
}

struct Round {
    launcher: Arc<dyn Launcher>,
}

impl Round {
    /// Copies of `tensors`, which are contiguous and on the device, in `kind`.
    fn copies(&self, kernel: &str, tensors: &[Tensor], kind: Kind) -> Result<Vec<Tensor>> {
        let made = tensors.iter().map(|x| empty_of(&self.launcher, &x.size(), kind)).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<(&Tensor, Option<&Tensor>)> = tensors.iter().zip(made.iter().map(Some)).collect();
        // SAFETY: taken as the kernel takes them, and made in their sizes.
        unsafe { launch_on(&self.launcher, kernel, &pairs, None)? };
        Ok(made)
    }
}

impl Operator for Round {
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
        let inputs = taken_as(&self.launcher, Kind::Float, &inputs.iter().collect::<Vec<_>>())?;
        Ok(Outputs { results: self.copies("copy_to_bf16", &inputs, Kind::BFloat16)?, kept: Vec::new() })
    }

    fn backward(&self, _kept: &[Tensor], grads: &[Option<Tensor>], _wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let given: Vec<&Tensor> = grads.iter().flatten().collect();
        let given = taken_as(&self.launcher, Kind::BFloat16, &given)?;
        let mut made = self.copies("copy_to_f32", &given, Kind::Float)?.into_iter();
        Ok(grads.iter().map(|grad| grad.as_ref().and_then(|_| made.next())).collect())
    }
}
