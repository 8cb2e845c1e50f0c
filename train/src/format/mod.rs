//! Files of named tensors.

pub mod safetensors;
