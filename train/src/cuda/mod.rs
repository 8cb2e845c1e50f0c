//! GPUs: which one a process trains on, kernels compiled for it, and kernels launched where torch works.
//!
//! Nothing here is linked. The driver, NVIDIA's compiler (NVRTC), NCCL and the CUDA half of libtorch are looked for
//! when they are first wanted, so that one program runs on machines with and without a GPU; what is missing is
//! said together with what to do about it.
//!
//! [`Launcher`] is the border: [`Gpu`] stands behind it, and in the tests an emulator that runs the same kernels on a
//! processor.

mod arguments;
mod compile;
mod device;
pub mod fused;
mod gpu;
mod library;

use std::fmt::Debug;

use midi_ingest::job::exit::Result;
use tch::Device;

pub use arguments::Arguments;
pub use compile::{Cache, Source, compile};
pub use device::choose;
pub use gpu::Gpu;
pub(crate) use library::taken;
pub use library::{nccl_is_here, nvrtc_is_here};

/// How a kernel is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Blocks, in x and in y.
    pub blocks: [u32; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory that a block asks for, besides what the kernel declares.
    pub shared: u32,
}

/// Where kernels run.
pub trait Launcher: Debug + Send + Sync {
    /// The device whose tensors kernels take.
    fn device(&self) -> Device;

    /// Starts the kernel called `name` after all work that torch has begun on the device; torch's later work waits
    /// for it.
    ///
    /// # Errors
    /// The kernel does not compile, or the device refuses it.
    ///
    /// # Safety
    /// `arguments` are what the kernel expects: every tensor has the kind and the number of elements that it reads
    /// or writes, lies on [`Launcher::device`] and is used by nothing but torch's current stream.
    #[expect(unsafe_code, reason = "a kernel writes to whatever it is given")]
    unsafe fn launch(&self, source: &'static Source, name: &str, spread: Spread, arguments: &Arguments) -> Result<()>;
}
