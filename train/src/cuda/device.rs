//! On which device a process trains.

use midi_ingest::job::exit::{Error, Result};
use tch::{Cuda, Device};

use super::library;
use crate::config::DeviceChoice;

/// What to do where no GPU can be used but one is asked for.
const ELSE: &str = "or train on the processor: `device = \"cpu\"`";

/// The device of the process that is number `local_rank` of those on its machine.
///
/// # Errors
/// A GPU is asked for, and cannot be used: exit code 78, saying why.
pub fn choose(choice: DeviceChoice, local_rank: usize) -> Result<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto => Ok(gpu(local_rank).unwrap_or(Device::Cpu)),
        DeviceChoice::Cuda => gpu(local_rank),
    }
}

fn gpu(local_rank: usize) -> Result<Device> {
    let none = |text: String| Error::mismatch(format!("`device` is \"cuda\", but {text}"));
    if !library::driver_is_here() {
        return Err(none("there is no NVIDIA driver (libcuda.so.1)".into()).hint(format!(
            "run on a machine with a GPU, give the container its GPU (`--gpus all`, `nvidia.com/gpu`), {ELSE}"
        )));
    }
    // Before torch is asked anything about CUDA: it remembers the answer.
    library::open("libtorch_cuda.so").map_err(|text| {
        none(format!("libtorch has no CUDA half ({text})"))
            .hint(format!("set LIBTORCH to a libtorch 2.11.0 for CUDA 13.0 and build again, {ELSE}"))
    })?;
    let count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if !Cuda::is_available() || count == 0 {
        return Err(
            none("torch sees no GPU".into()).hint(format!("look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES, {ELSE}"))
        );
    }
    // Where each process is shown one GPU of its own, that is number 0.
    match local_rank {
        _ if count == 1 => Ok(Device::Cuda(0)),
        rank if rank < count => Ok(Device::Cuda(rank)),
        rank => Err(none(format!("there are {count} GPUs for the process with local rank {rank}"))
            .hint(format!("start as many processes on a machine as it has GPUs, {ELSE}"))),
    }
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::exit::Exit;

    use super::*;

    #[test]
    #[allow(clippy::print_stdout, reason = "says what was not tested")]
    fn a_machine_without_a_gpu_trains_on_its_processor_and_says_so_when_asked_for_more() {
        assert_eq!(choose(DeviceChoice::Cpu, 0).expect("always there"), Device::Cpu);
        let Err(error) = choose(DeviceChoice::Cuda, 0) else {
            println!("skipped: this machine has a GPU");
            return;
        };
        assert_eq!(choose(DeviceChoice::Auto, 0).expect("always there"), Device::Cpu);
        assert_eq!(error.exit(), Exit::Mismatch);
        let text = error.to_string();
        assert!(text.starts_with("`device` is \"cuda\", but ") && text.contains("hint: "), "{text}");
    }
}
