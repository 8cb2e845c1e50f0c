//! AdamW on many parameters by a few launches of one kernel (in `fused.cu`).

use std::sync::Arc;

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::super::{Arguments, Launcher, Spread};
use super::{FUSED, count};

/// Parameters of one launch: as many as fit into a kernel's arguments, which are 4 KB at most.
const OF_LAUNCH: usize = 64;
/// Numbers that a block updates.
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
    /// Its gradient.
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
    for updates in updates.chunks(OF_LAUNCH) {
        let AdamTerms { beta1, beta2, epsilon, factor, correction } = terms;
        let numbers = [beta1, beta2, epsilon, factor, correction];
        let first = Arguments::new().int(updates.len() as i32);
        let mut arguments = numbers.into_iter().fold(first, |arguments, number| arguments.float(number as f32));
        let mut blocks = 0;
        for Update { parameter, gradient, moments: [first, second], keep, rate } in updates {
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
            blocks += parameter.numel().div_ceil(OF_BLOCK) as i32;
        }
        // The kernel's list is of a fixed length; it looks at no more than it is told.
        for _ in updates.len()..OF_LAUNCH {
            let nothing = (0..4).fold(arguments, |arguments, _| arguments.tensor_or_null(None));
            arguments = nothing.int(0).int(blocks).float(1.0).float(0.0);
        }
        let spread = Spread { blocks: [blocks.max(1) as u32, 1], threads: 256, shared: 0 };
        // SAFETY: the tensors were checked above.
        unsafe { launcher.launch(&FUSED, "adamw", spread, &arguments)? };
    }
    Ok(())
}
