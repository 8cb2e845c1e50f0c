//! The safetensors format: named tensors and text metadata, nothing that could be executed.

use std::collections::{BTreeMap, HashMap};

use midi_ingest::job::exit::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Kind, Tensor};

use crate::fault;
use crate::model::Parameters;

/// The tensors of a file in the order of their names, and its metadata; `name` is only for messages.
///
/// # Errors
/// It is not a safetensors file or holds a kind of number that is not read here: exit code 65.
pub fn read(bytes: &[u8], name: &str) -> Result<(Parameters, HashMap<String, String>)> {
    let bad = |e: &dyn std::fmt::Display| Error::data(format!("`{name}` is not a readable safetensors file: {e}"));
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| bad(&e))?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| bad(&e))?;
    let mut names: Vec<&str> = file.names();
    names.sort_unstable();
    let mut parameters = Parameters::new();
    for tensor in names {
        let view = file.tensor(tensor).map_err(|e| bad(&e))?;
        let kind = kind_of(view.dtype()).ok_or_else(|| bad(&format!("`{tensor}` is {:?}", view.dtype())))?;
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        parameters.insert(tensor, Tensor::f_from_data_size(view.data(), &shape, kind).map_err(fault::torch)?);
    }
    Ok((parameters, metadata.metadata().clone().unwrap_or_default()))
}

/// The bytes of a file with `tensors` and `metadata`; the same input gives the same bytes.
///
/// # Errors
/// A kind of number that is not written here: exit code 78.
pub fn write(tensors: &Parameters, metadata: &[(&str, String)]) -> Result<Vec<u8>> {
    let mut parts = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors.iter() {
        let dtype = dtype_of(tensor.kind())
            .ok_or_else(|| Error::mismatch(format!("`{name}` is {:?}, which is not written here", tensor.kind())))?;
        let shape: Vec<usize> = tensor.size().into_iter().map(|n| n as usize).collect();
        let mut data = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.detach().f_copy_data_u8(&mut data, tensor.numel()).map_err(fault::torch)?;
        parts.push((name, dtype, shape, data));
    }
    let mut views = Vec::with_capacity(parts.len());
    for (name, dtype, shape, data) in &parts {
        let view = TensorView::new(*dtype, shape.clone(), data);
        views.push((*name, view.map_err(|e| Error::bug(format!("`{name}` cannot be written: {e}")))?));
    }
    // A hash map of several entries would be written in a random order, so they go into one text.
    let metadata = match metadata {
        [] => None,
        all => {
            let sorted: BTreeMap<_, _> = all.iter().map(|(key, value)| (*key, value)).collect();
            let text =
                serde_json::to_string(&sorted).map_err(|e| Error::bug("metadata does not serialise").because(e))?;
            Some(HashMap::from([("midi-rwkv".to_owned(), text)]))
        }
    };
    safetensors::tensor::serialize(views, metadata).map_err(|e| Error::bug("tensors do not serialise").because(e))
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F64 => Some(Kind::Double),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::I64 => Some(Kind::Int64),
        Dtype::I32 => Some(Kind::Int),
        Dtype::U8 => Some(Kind::Uint8),
        _ => None,
    }
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    match kind {
        Kind::Float => Some(Dtype::F32),
        Kind::Double => Some(Dtype::F64),
        Kind::Half => Some(Dtype::F16),
        Kind::BFloat16 => Some(Dtype::BF16),
        Kind::Int64 => Some(Dtype::I64),
        Kind::Int => Some(Dtype::I32),
        Kind::Uint8 => Some(Dtype::U8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::exit::Exit;

    use super::*;

    #[test]
    fn what_was_written_is_read_and_bytes_repeat() {
        let tensors: Parameters = [
            ("b".to_owned(), Tensor::from_slice(&[1.5f32, -0.0, f32::MIN_POSITIVE]).set_requires_grad(true)),
            ("a".to_owned(), Tensor::from_slice(&[3i64, -7]).reshape([2, 1])),
            ("scalar".to_owned(), Tensor::from(2.5f64)),
        ]
        .into_iter()
        .collect();
        let metadata = [("step", "7".to_owned()), ("other", "x".to_owned())];
        let bytes = write(&tensors, &metadata).expect("writes");
        assert_eq!(bytes, write(&tensors, &metadata).expect("writes"));
        let (read, metadata) = read(&bytes, "x").expect("reads");
        assert_eq!(metadata["midi-rwkv"], r#"{"other":"x","step":"7"}"#);
        for (name, tensor) in tensors.iter() {
            let found = read.get(name).expect("is there");
            assert_eq!((found.kind(), found.size()), (tensor.kind(), tensor.size()));
            assert!(found.equal(tensor), "{name}");
        }
    }

    #[test]
    fn garbage_and_cut_files_are_errors_with_their_name() {
        let tensors: Parameters = [("a".to_owned(), Tensor::from_slice(&[1.0f32; 100]))].into_iter().collect();
        let bytes = write(&tensors, &[]).expect("writes");
        for cut in [0, 4, 20, bytes.len() - 1] {
            let error = read(&bytes[..cut], "x.safetensors").expect_err("cut");
            assert_eq!(error.exit(), Exit::BadData);
            assert!(error.to_string().contains("x.safetensors"), "{error}");
        }
    }
}
