//! A launcher that runs kernels on the processor: the kernels' sources, compiled by the C++ compiler that built the
//! shim together with `emulator.h`.
#![allow(unsafe_code, reason = "compiled kernels are opened and called")]

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use midi_ingest::job::exit::{Error, Result};
use midi_train::cuda::{Arguments, Launcher, Source, Spread};
use tch::Device;

type Kernel = unsafe extern "C" fn(*const c_void);
type Emulate = unsafe extern "C" fn(Kernel, *const c_void, u32, u32, u32, u32);

/// Kernels on the processor.
#[derive(Debug)]
pub struct Emulator {
    folder: tempfile::TempDir,
    /// By source; held while a kernel runs, since an emulated GPU does one thing at a time.
    opened: Mutex<HashMap<&'static str, usize>>,
}

impl Emulator {
    /// None where there is no C++ compiler.
    pub fn new() -> Option<Self> {
        let compiler = Command::new("c++").arg("--version").output();
        if !compiler.is_ok_and(|output| output.status.success()) {
            return None;
        }
        Some(Emulator { folder: tempfile::tempdir().expect("a folder"), opened: Mutex::default() })
    }

    fn build(&self, source: &Source) -> PathBuf {
        let (text, library) =
            (self.folder.path().join("kernel.cpp"), self.folder.path().join(format!("{}.so", source.name)));
        std::fs::write(&text, source.whole()).expect("writes");
        let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/emulator.h");
        let output = Command::new("c++")
            .args(["-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-include"])
            .arg(header)
            .arg(text)
            .arg("-o")
            .arg(&library)
            .output()
            .expect("the compiler starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        library
    }
}

/// The function called `name` of an open library.
fn function(library: usize, name: &str) -> Result<*mut c_void> {
    let text = CString::new(name).expect("no zeros");
    // SAFETY: a library that is never closed.
    let found = unsafe { libc::dlsym(library as *mut c_void, text.as_ptr()) };
    if found.is_null() { Err(Error::bug(format!("there is no kernel `{name}`"))) } else { Ok(found) }
}

impl Launcher for Emulator {
    fn device(&self) -> Device {
        Device::Cpu
    }

    unsafe fn launch(&self, source: &'static Source, name: &str, spread: Spread, arguments: &Arguments) -> Result<()> {
        let mut opened = self.opened.lock().expect("no thread panicked");
        let library = *opened.entry(source.name).or_insert_with(|| {
            let path = CString::new(self.build(source).display().to_string()).expect("no zeros");
            // SAFETY: a library that was just built.
            let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
            assert!(!library.is_null(), "{path:?} does not open");
            library as usize
        });
        let Spread { blocks: [x, y], threads, shared } = spread;
        let bytes = arguments.bytes();
        // SAFETY: functions of these types are what the header defines; arguments are the caller's promise.
        unsafe {
            let kernel = std::mem::transmute::<*mut c_void, Kernel>(function(library, name)?);
            let emulate = std::mem::transmute::<*mut c_void, Emulate>(function(library, "midi_emulate")?);
            emulate(kernel, bytes.as_ptr().cast(), x, y, threads, shared);
        }
        Ok(())
    }
}
