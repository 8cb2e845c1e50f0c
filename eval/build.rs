//! Links libtorch.
fn main() {}
