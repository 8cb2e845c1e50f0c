//! Which of CUDA's libraries this machine has. They are opened by name, as the loader finds them, and then in the
//! folders where they usually stand.
#![expect(unsafe_code, reason = "shared libraries are opened, and the C++ shim's texts taken over")]

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};

/// Where CUDA's toolkit puts its libraries.
const USUAL: [&str; 2] = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"];

// SAFETY: the declaration matches `shim/autograd.cpp`, which the build script compiles.
unsafe extern "C" {
    fn midi_op_free(message: *mut c_char);
}

/// Takes the shim's error text, if there is one.
///
/// SAFETY: `message` is what a function of the shim returned, and is not used again.
pub(crate) unsafe fn taken(message: *mut c_char) -> Result<(), String> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a C string of the shim's, which takes it back once.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        midi_op_free(message);
        text
    };
    Err(text.lines().next().unwrap_or_default().to_owned())
}

/// Opens the library called `name` for the rest of the process, so that it is found by that name from now on.
pub(super) fn open(name: &str) -> Result<(), String> {
    let name = CString::new(name).map_err(|_| "a name holds a zero".to_owned())?;
    // SAFETY: a C string; what the library does when it is opened is what every program that uses it asks for.
    let opened = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !opened.is_null() {
        return Ok(());
    }
    // SAFETY: after a failure of `dlopen`, a C string that stays until the next call in this thread.
    let text = unsafe {
        let text = libc::dlerror();
        if text.is_null() { "no reason given".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    Err(text)
}

/// Where PyTorch's wheels put CUDA's libraries, if libtorch is in one: beside the folder of torch.
fn beside_torch() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let torch = maps.lines().find_map(|line| line.split_ascii_whitespace().last()?.strip_suffix("/libtorch_cpu.so"))?;
    Some(Path::new(torch).ancestors().nth(2)?.join("nvidia/cu13/lib"))
}

/// Whether NVIDIA's compiler can be used. `folder` is looked into first.
pub fn nvrtc_is_here(folder: Option<&Path>) -> bool {
    let folders = folder.map(Path::to_path_buf).into_iter().chain(beside_torch()).chain(USUAL.map(PathBuf::from));
    for folder in folders {
        // The compiler opens its second half by name, so that one comes first.
        let library = |name: &str| open(&folder.join(name).display().to_string()).is_ok();
        if folder.join("libnvrtc.so.13").is_file() && library("libnvrtc-builtins.so.13.0") && library("libnvrtc.so.13")
        {
            break;
        }
    }
    // SAFETY: opens a library by its usual names and closes it.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

/// Whether the driver of an NVIDIA GPU is installed.
pub(super) fn driver_is_here() -> bool {
    // SAFETY: opens a library by its usual names and closes it.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// Whether NCCL can be used.
pub fn nccl_is_here() -> bool {
    // SAFETY: opens a library by its usual names and closes it.
    unsafe { cudarc::nccl::sys::is_culib_present() }
}
