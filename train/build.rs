//! Builds the C++ shim against libtorch and sets the run path of this package's programs and tests.
//!
//! Without the feature `torch` there is nothing to do: the launcher builds this crate that way.

use std::path::{Path, PathBuf};

/// Where the shim's sources stand.
const SHIM: &str = "src/shim";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    match libtorch() {
        Ok(lib) => build(&lib),
        Err(what) => println!("cargo::error={what}; run `make setup`, or set LIBTORCH to a libtorch 2.11.0 folder"),
    }
}

/// The folder of libtorch's libraries, as torch-sys found it.
fn libtorch() -> Result<PathBuf, String> {
    let lib = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).ok_or("torch-sys names no libtorch")?;
    println!("cargo::rerun-if-changed={}", lib.join("libtorch_cpu.so").display());
    for needed in [lib.join("libtorch_cpu.so"), headers(&lib).join("torch/csrc/autograd/custom_function.h")] {
        if !needed.is_file() {
            return Err(format!("libtorch is incomplete: `{}` is not there", needed.display()));
        }
    }
    Ok(lib)
}

fn headers(lib: &Path) -> PathBuf {
    lib.parent().unwrap_or(lib).join("include")
}

fn build(lib: &Path) {
    println!("cargo::rerun-if-changed={SHIM}");
    let openmp = openmp(lib);
    let mut build = cc::Build::new();
    if openmp.is_some() {
        build.flag("-fopenmp");
    }
    build
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .define("USE_C10D_GLOO", None)
        .include(format!("{SHIM}/gloo_stub"))
        .include(headers(lib))
        .include(headers(lib).join("torch/csrc/api/include"))
        .file(format!("{SHIM}/autograd.cpp"))
        .file(format!("{SHIM}/cuda.cpp"))
        .file(format!("{SHIM}/dist.cpp"))
        .file(format!("{SHIM}/parallel.cpp"))
        .compile("midi_train_shim");
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    if let Some(openmp) = openmp {
        println!("cargo::rustc-link-lib=dylib:+verbatim={openmp}");
    }
    // A DT_RPATH, not a DT_RUNPATH: libraries that libtorch opens by name later are found through it too.
    println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{}", lib.display());
}

/// The OpenMP library that libtorch brings, by file name: loops of ours share its threads. Without one (a torch that is
/// built with other threads) they run on the thread that calls.
fn openmp(lib: &Path) -> Option<String> {
    let names = std::fs::read_dir(lib).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("libgomp")).min()
}
