//! One GPU: kernels compiled for it, and launched on the stream on which torch works.
#![expect(unsafe_code, reason = "calls into the driver, and kernels that are given pointers")]

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute};
use midi_ingest::job::exit::{Error, Result};
use tch::Device;

use super::{Arguments, Cache, Launcher, Source, Spread, taken};

// SAFETY: the declarations match `shim/cuda.cpp`, which the build script compiles.
unsafe extern "C" {
    fn midi_cuda_stream(device: c_int, out: *mut *mut c_void) -> *mut c_char;
    fn midi_cuda_set_device(device: c_int) -> *mut c_char;
}

/// A GPU that torch works on.
#[derive(Debug)]
pub struct Gpu {
    index: usize,
    /// For example `sm_90`.
    arch: String,
    name: String,
    context: Context,
    cache: Cache,
    loaded: Mutex<Loaded>,
}

/// The device's primary context, which torch uses too. It stays until the process ends.
#[derive(Clone, Copy, Debug)]
struct Context(sys::CUcontext);

// SAFETY: the driver's contexts may be used from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// Modules by source, and kernels by source and name, with the shared memory that they may ask for.
#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    kernels: HashMap<(&'static str, String), (sys::CUfunction, u32)>,
}

// SAFETY: handles of the driver's, which may be used from any thread in their context.
unsafe impl Send for Loaded {}

impl Gpu {
    /// The GPU that torch calls `device`, after [`choose`](super::choose) gave it; it becomes this thread's device.
    ///
    /// # Errors
    /// It is no GPU, or the driver refuses.
    pub fn open(device: Device, cache: Cache) -> Result<Arc<Self>> {
        let Device::Cuda(index) = device else { return Err(Error::bug(format!("{device:?} is no GPU"))) };
        // SAFETY: the shim takes any number and says if there is no such device.
        unsafe { taken(midi_cuda_set_device(index as c_int)) }.map_err(|text| Error::bug(format!("torch: {text}")))?;
        let open = || -> std::result::Result<_, DriverError> {
            result::init()?;
            let device = result::device::get(index as c_int)?;
            let attribute = |which| {
                // SAFETY: the device is one that the driver named.
                unsafe { result::device::get_attribute(device, which) }
            };
            let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            // SAFETY: as above; the context is never released.
            let context = unsafe { result::primary_ctx::retain(device)? };
            Ok((format!("sm_{major}{minor}"), result::device::get_name(device)?, Context(context)))
        };
        let (arch, name, context) = open().map_err(|e| driver("cannot open the GPU", e))?;
        Ok(Arc::new(Gpu { index, arch, name, context, cache, loaded: Mutex::default() }))
    }

    /// Name and architecture: `NVIDIA H100 80GB HBM3 (sm_90)`.
    pub fn title(&self) -> String {
        format!("{} ({})", self.name, self.arch)
    }

    /// The stream on which torch works, as the driver's handle; the GPU becomes the one that this thread's calls to the
    /// driver mean.
    ///
    /// # Errors
    /// Torch has no such device, or the driver refuses.
    pub fn stream(&self) -> Result<*mut c_void> {
        // SAFETY: the context is never released. Torch's threads may have another device's current.
        unsafe { result::ctx::set_current(self.context.0) }.map_err(|e| driver("cannot use the GPU", e))?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: the shim writes one pointer.
        unsafe { taken(midi_cuda_stream(self.index as c_int, &raw mut stream)) }
            .map_err(|text| Error::bug(format!("torch: {text}")))?;
        Ok(stream)
    }

    /// The kernel, compiled and loaded if it was not yet, and allowed to use `shared` bytes.
    fn kernel(&self, source: &'static Source, name: &str, shared: u32) -> Result<sys::CUfunction> {
        let mut loaded = self.loaded.lock().map_err(|_| Error::bug("a thread panicked while it loaded a kernel"))?;
        let key = (source.name, name.to_owned());
        if let Some((kernel, allowed)) = loaded.kernels.get(&key)
            && *allowed >= shared
        {
            return Ok(*kernel);
        }
        let module = match loaded.modules.get(source.name) {
            Some(module) => *module,
            None => {
                let code = self.cache.compile(source, &self.arch)?;
                // SAFETY: a whole CUBIN, which the driver copies; the context is current.
                let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
                let module = module.map_err(|e| driver(&format!("cannot load `{}`", source.name), e))?;
                loaded.modules.insert(source.name, module);
                module
            }
        };
        let text = CString::new(name).map_err(|e| Error::bug("a kernel's name holds a zero").because(e))?;
        // SAFETY: the module stays loaded until the process ends.
        let kernel = unsafe { result::module::get_function(module, text) }
            .map_err(|e| driver(&format!("there is no kernel `{name}` in `{}`", source.name), e))?;
        if shared > 0 {
            // All that the cache can give up: what one block needs is not what two need.
            let room = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            for (which, value) in [(room, 100), (most, shared as c_int)] {
                // SAFETY: a kernel of a loaded module.
                unsafe { result::function::set_function_attribute(kernel, which, value) }
                    .map_err(|e| driver(&format!("`{name}` cannot have {shared} bytes of shared memory"), e))?;
            }
        }
        loaded.kernels.insert(key, (kernel, shared));
        Ok(kernel)
    }
}

impl Launcher for Gpu {
    fn device(&self) -> Device {
        Device::Cuda(self.index)
    }

    unsafe fn launch(&self, source: &'static Source, name: &str, spread: Spread, arguments: &Arguments) -> Result<()> {
        let stream = self.stream()?.cast();
        let kernel = self.kernel(source, name, spread.shared)?;
        let mut bytes = arguments.bytes();
        let Spread { blocks: [x, y], threads, shared } = spread;
        // SAFETY: the driver reads the arguments before it returns; that they fit is the caller's promise.
        unsafe {
            let mut parameters = [bytes.as_mut_ptr().cast::<c_void>()];
            result::launch_kernel(kernel, (x, y, 1), (threads, 1, 1), shared, stream, &mut parameters)
        }
        .map_err(|e| driver(&format!("cannot start the kernel `{name}`"), e))
    }
}

fn driver(what: &str, error: DriverError) -> Error {
    Error::bug(what.to_owned()).because(error)
}
