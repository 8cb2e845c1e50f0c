//! Lets the launcher's tests and program start from a build of the whole workspace.
//!
//! The launcher uses nothing of libtorch, and built alone it has none of it. In a build of all packages,
//! though, cargo builds midi-train with its feature `torch` for everybody, and the linker may then name
//! libtorch as needed. The run path makes sure that it is found where the build found it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Some(libtorch) = std::env::var_os("LIBTORCH") {
        let lib = std::path::Path::new(&libtorch).join("lib");
        println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{}", lib.display());
    }
}
