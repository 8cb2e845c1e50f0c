//! Where an experiment runs: here, as child processes, or on Kubernetes, as manifests.

pub mod kubernetes;
pub mod local;
mod ranks;
