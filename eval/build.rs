//! Sets the run path of this package's programs and tests to libtorch.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_TORCH").is_none() {
        return;
    }
    match std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) {
        // A DT_RPATH, not a DT_RUNPATH: libraries that libtorch opens by name later are found through it too.
        Some(lib) => println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{}", lib.display()),
        None => println!("cargo::error=torch-sys names no libtorch; run `make setup`, or set LIBTORCH"),
    }
}
