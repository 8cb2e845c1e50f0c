//! Kernels from their source to what a GPU runs, by NVRTC: no compiler and no header of CUDA has to be installed.
#![expect(unsafe_code, reason = "calls into NVRTC")]

use std::ffi::CString;
use std::path::PathBuf;

use cudarc::nvrtc::{result, sys};
use fs_err as fs;
use midi_ingest::job::exit::{Error, Result};
use sha2::{Digest, Sha256};

use super::library;

/// What every kernel's source begins with.
const PRELUDE: &str = include_str!("device.cuh");

/// A file of kernels.
#[derive(Debug)]
pub struct Source {
    /// Its name, for messages.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl Source {
    /// The text with what every kernel begins with: what is compiled.
    pub fn whole(&self) -> String {
        format!("{PRELUDE}\n#line 1 \"{}\"\n{}", self.name, self.text)
    }
}

/// The options for the architecture `arch`, for example `sm_90`.
fn options(arch: &str) -> Vec<String> {
    vec![format!("--gpu-architecture={arch}"), "--std=c++17".into()]
}

/// The machine code (a CUBIN) of `source` for the architecture `arch`.
///
/// # Errors
/// NVRTC is missing or does not know the architecture (78), or the source is wrong (1).
pub fn compile(source: &Source, arch: &str) -> Result<Vec<u8>> {
    if !library::nvrtc_is_here(None) {
        return Err(Error::mismatch("NVIDIA's compiler for kernels (libnvrtc.so.13) is missing").hint(
            "put it into libtorch's `lib` folder (PyPI: nvidia-cuda-nvrtc 13.0.88), or its folder into LD_LIBRARY_PATH",
        ));
    }
    let text = |text: &str| CString::new(text).map_err(|e| Error::bug("a kernel's source holds a zero").because(e));
    let (code, name) = (text(&source.whole())?, text(source.name)?);
    let failed =
        |what: &str, e: result::NvrtcError| Error::bug(format!("{what} `{}` for {arch}", source.name)).because(e);
    let program = Program(result::create_program(&code, Some(&name)).map_err(|e| failed("cannot read", e))?);
    // SAFETY: the program was created above and is destroyed when it is dropped.
    let compiled = unsafe { result::compile_program(program.0, &options(arch)) };
    if let Err(error) = compiled {
        if error.0 == sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION {
            return Err(Error::mismatch(format!("NVRTC does not know the GPU architecture {arch}"))
                .hint("use an NVRTC of a CUDA that is as new as the GPU, or `device = \"cpu\"`"));
        }
        // SAFETY: as above.
        let log = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
        let log: Vec<u8> = log.into_iter().map(|c| c as u8).take_while(|&byte| byte != 0).collect();
        return Err(failed("cannot compile", error).hint(String::from_utf8_lossy(&log).into_owned()));
    }
    let mut size = 0;
    // SAFETY: the program is compiled, and the size is written to a variable of ours.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut size) }.result().map_err(|e| failed("no code for", e))?;
    let mut cubin = vec![0u8; size];
    // SAFETY: the buffer has the size that NVRTC asked for.
    unsafe { sys::nvrtcGetCUBIN(program.0, cubin.as_mut_ptr().cast()) }
        .result()
        .map_err(|e| failed("no code for", e))?;
    Ok(cubin)
}

/// A program of NVRTC's.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by `create_program`, destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// Compiled kernels in a folder, so that a process does not compile what another has. Files are named after
/// everything that the code depends on, and come into being whole.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// In `folder`, which may not be there yet; nothing is kept without one.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Cache { folder }
    }

    /// As [`compile`], unless the code is there already. A folder that cannot be used is no reason to stop.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn compile(&self, source: &Source, arch: &str) -> Result<Vec<u8>> {
        let path = self.folder.as_ref().map(|folder| folder.join(format!("{}.cubin", key(source, arch))));
        if let Some(code) = path.as_ref().and_then(|path| fs::read(path).ok()).filter(|code| is_whole(code)) {
            return Ok(code);
        }
        let code = compile(source, arch)?;
        if let Some(path) = path {
            let beside = path.with_extension(format!("{}.part", std::process::id()));
            let kept = path.parent().map_or(Ok(()), fs::create_dir_all);
            let _ = kept.and_then(|()| fs::write(&beside, &code)).and_then(|()| fs::rename(&beside, &path));
        }
        Ok(code)
    }
}

/// The fingerprint of all that the code depends on.
fn key(source: &Source, arch: &str) -> String {
    let mut hash = Sha256::new();
    for part in [source.whole(), options(arch).join(" ")] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether this is an ELF file, as all machine code for GPUs is.
fn is_whole(code: &[u8]) -> bool {
    code.starts_with(b"\x7fELF")
}

#[cfg(test)]
mod tests {
    use super::*;

    static ONE: Source = Source { name: "one.cu", text: "KERNEL(1, one, int) {}" };
    static TWO: Source = Source { name: "two.cu", text: "KERNEL(1, two, int) {}" };

    #[test]
    fn keys_follow_source_and_architecture() {
        let keys = [key(&ONE, "sm_80"), key(&ONE, "sm_90"), key(&TWO, "sm_80")];
        assert_eq!(keys[0], key(&ONE, "sm_80"));
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
    }

    #[test]
    fn kept_code_is_taken_and_broken_code_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(Some(folder.path().to_owned()));
        let path = folder.path().join(format!("{}.cubin", key(&ONE, "sm_80")));
        std::fs::write(&path, b"\x7fELF and more").expect("writes");
        assert_eq!(cache.compile(&ONE, "sm_80").expect("is there"), b"\x7fELF and more");
        std::fs::write(&path, b"half").expect("writes");
        match cache.compile(&ONE, "sm_80") {
            Ok(code) => assert!(is_whole(&code)),
            Err(error) => assert!(error.to_string().contains("libnvrtc"), "{error}"),
        }
    }
}
