//! rwkv.cpp's model file ("ggmf", version 101) and its flat state vector, in f32 and f16.
//!
//! ```text
//! i32 magic, version, n_vocab, n_embed, n_layer, data_type (0 f32, 1 f16)               little-endian throughout
//! per tensor: i32 dim_count, key_length, data_type, dims (torch's order reversed), key, data row by row
//! ```
//! Four things differ from the state dictionary: the six mixes of a layer are one tensor `att.x_rwkvag` [6, 1, D];
//! the low-rank matrices are transposed; block 0's unused value residual is left out; and vectors stay f32.

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::fault;
use crate::model::{Parameters, Shape, State};

/// "ggmf" as a number.
const MAGIC: i32 = 0x6767_6d66;
/// The version that is read and written.
const VERSION: i32 = 101;
/// The six mixes, in the order in which they are stacked.
const MIXES: [&str; 6] = ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g"];
/// The stacked mixes' name.
const STACKED: &str = "att.x_rwkvag";
/// Names that stay f32 in an f16 file although they have two dimensions or more.
const WIDE: [&str; 9] = [".time_", ".k_k", ".k_a", ".r_k", ".x_rwkvag", ".x_k", ".w0", ".a0", ".v0"];

/// The bytes of a file with the weights of a whole network; matrices are f16 if `half`, rounded to even.
///
/// # Errors
/// The parameters are not those of an RWKV-7 network: exit code 78.
pub fn write(parameters: &Parameters, half: bool) -> Result<Vec<u8>> {
    let wide: Parameters =
        parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor.detach().to_kind(Kind::Float))).collect();
    let shape = wide.shape()?;
    let mut bytes = Vec::new();
    let data_type = i32::from(half);
    for number in [MAGIC, VERSION, int(shape.vocabulary)?, int(shape.width)?, int(shape.layers)?, data_type] {
        bytes.extend(number.to_le_bytes());
    }
    for (name, _) in shape.parameters() {
        if ["v0", "v1", "v2"].iter().any(|left_out| name == format!("blocks.0.att.{left_out}")) {
            continue;
        }
        let tensor = wide.get(&name)?;
        match name.rsplit_once("att.") {
            Some((block, "x_r")) => {
                let mixes = MIXES.map(|mix| wide.get(&format!("{block}att.{mix}")));
                let mixes = mixes.into_iter().collect::<Result<Vec<_>>>()?;
                let stacked = Tensor::f_cat(&mixes, 0).map_err(fault::torch)?;
                put(&mut bytes, &format!("{block}{STACKED}"), &stacked, half)?;
            }
            Some((_, rest)) if MIXES.contains(&rest) => {}
            _ if is_transposed(&name) => put(&mut bytes, &name, &tensor.tr(), half)?,
            _ => put(&mut bytes, &name, tensor, half)?,
        }
    }
    Ok(bytes)
}

/// The weights of a file, f32, in the order of the state dictionary; `name` is only for messages. Block 0's value
/// residual, which the file does not have and nothing uses, is zero.
///
/// # Errors
/// It is not such a file, it is cut, or its numbers are quantised (65); its tensors are not those of an RWKV-7
/// network (78).
pub fn read(bytes: &[u8], name: &str) -> Result<Parameters> {
    let mut source = Source { bytes, name };
    let [magic, version, vocabulary, width, layers, _] = source.ints()?;
    if magic != MAGIC || version != VERSION {
        return Err(source.bad(format!("magic {magic:#x}, version {version}")));
    }
    let positive = |n: i32| usize::try_from(n).ok().filter(|&n| n < 1 << 24);
    let (Some(vocabulary), Some(width), Some(layers)) = (positive(vocabulary), positive(width), positive(layers))
    else {
        return Err(source.bad(format!("V {vocabulary}, D {width}, L {layers}")));
    };
    let shape = Shape::new(layers, width, vocabulary).map_err(|e| source.bad(e.to_string()))?;
    let mut found = Parameters::new();
    while !source.bytes.is_empty() {
        let (key, tensor) = source.tensor()?;
        match key.strip_suffix(STACKED) {
            Some(block) if tensor.size() == [6, 1, width as i64] => {
                for (at, mix) in MIXES.iter().enumerate() {
                    found.insert(format!("{block}att.{mix}"), tensor.narrow(0, at as i64, 1).contiguous());
                }
            }
            _ if is_transposed(&key) && tensor.dim() == 2 => found.insert(key, tensor.tr().contiguous()),
            _ => found.insert(key, tensor),
        }
    }
    let zeros = |size: &[usize]| {
        let size: Vec<i64> = size.iter().map(|&n| n as i64).collect();
        Tensor::zeros(size, (Kind::Float, Device::Cpu))
    };
    let unused = |key: &str| ["blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"].contains(&key);
    let mut parameters = Parameters::new();
    for (key, size) in shape.parameters() {
        match found.find(&key) {
            None if unused(&key) => parameters.insert(key, zeros(&size)),
            _ => {
                let tensor = found.get(&key).map_err(|e| Error::mismatch(format!("in `{name}`")).because(e))?;
                parameters.insert(key.clone(), tensor.shallow_clone());
            }
        }
    }
    if let Some((key, _)) = found.iter().find(|(key, _)| parameters.find(key).is_none()) {
        return Err(Error::mismatch(format!("`{name}`: `{key}` is left over")));
    }
    parameters.shape()?;
    Ok(parameters)
}

/// rwkv.cpp's state vector of one sequence: per layer the row carried by channel mixing, that carried by time
/// mixing, and the WKV state [H, 64 value, 64 key]; L·D·66 numbers, f32.
///
/// # Errors
/// The state is not that of exactly one sequence: a bug.
pub fn state_vector(state: &State) -> Result<Tensor> {
    if state.batch() != 1 {
        return Err(Error::bug(format!("a state vector is of one sequence, not of {}", state.batch())));
    }
    let parts = state.layers.iter().flat_map(|layer| [&layer.ffn_shift, &layer.att_shift, &layer.wkv]);
    let parts: Vec<Tensor> = parts.map(|part| part.flatten(0, -1)).collect();
    Tensor::f_cat(&parts, 0).map_err(fault::torch)
}

/// The state of one sequence from rwkv.cpp's vector for a network of `shape`.
///
/// # Errors
/// The vector is of another length: exit code 78.
pub fn state_of_vector(vector: &Tensor, shape: Shape) -> Result<State> {
    let mut state = State::zeros(shape, 1);
    let length = (shape.layers * shape.width * 66) as i64;
    if vector.size() != [length] {
        return Err(Error::mismatch(format!("a state vector is {:?} instead of [{length}]", vector.size())));
    }
    let mut at = 0;
    for layer in &mut state.layers {
        for part in [&mut layer.ffn_shift, &mut layer.att_shift, &mut layer.wkv] {
            let count = part.numel() as i64;
            *part = vector.narrow(0, at, count).reshape(part.size()).to_kind(Kind::Float);
            at += count;
        }
    }
    Ok(state)
}

fn is_transposed(name: &str) -> bool {
    let low_rank = ["w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"];
    name.rsplit_once(".att.").is_some_and(|(_, rest)| low_rank.contains(&rest))
}

fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|e| Error::mismatch(format!("{n} does not fit the format")).because(e))
}

fn put(bytes: &mut Vec<u8>, name: &str, tensor: &Tensor, half: bool) -> Result<()> {
    let half = half && tensor.dim() >= 2 && !WIDE.iter().any(|part| name.contains(part));
    let size = tensor.size();
    for number in [size.len() as i32, int(name.len())?, i32::from(half)] {
        bytes.extend(number.to_le_bytes());
    }
    for &n in size.iter().rev() {
        bytes.extend(int(n as usize)?.to_le_bytes());
    }
    bytes.extend(name.as_bytes());
    let tensor = tensor.to_kind(if half { Kind::Half } else { Kind::Float }).contiguous();
    let begin = bytes.len();
    bytes.resize(begin + tensor.numel() * tensor.kind().elt_size_in_bytes(), 0);
    tensor.f_copy_data_u8(&mut bytes[begin..], tensor.numel()).map_err(fault::torch)
}

/// What is left of a file.
struct Source<'a> {
    bytes: &'a [u8],
    name: &'a str,
}

impl<'a> Source<'a> {
    fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::data(format!("`{}` is not a readable rwkv.cpp model: {what}", self.name))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or_else(|| self.bad("it ends too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn ints<const N: usize>(&mut self) -> Result<[i32; N]> {
        let bytes = self.take(N * 4)?;
        Ok(std::array::from_fn(|i| i32::from_le_bytes(std::array::from_fn(|b| bytes[i * 4 + b]))))
    }

    fn tensor(&mut self) -> Result<(String, Tensor)> {
        let [dims, length, data_type] = self.ints()?;
        if !(1..=3).contains(&dims) || !(1..=256).contains(&length) {
            return Err(self.bad(format!("a tensor of {dims} dimensions with a name of {length} bytes")));
        }
        let mut size = Vec::new();
        for _ in 0..dims {
            let [n] = self.ints()?;
            size.insert(0, usize::try_from(n).map_err(|_| self.bad(format!("a dimension of {n}")))?);
        }
        let key = self.take(length as usize)?;
        let key = std::str::from_utf8(key).map_err(|_| self.bad("a name that is not text"))?.to_owned();
        let kind = match data_type {
            0 => Kind::Float,
            1 => Kind::Half,
            other => return Err(self.bad(format!("`{key}` is of data type {other}; f32 and f16 are read"))),
        };
        let count = size.iter().try_fold(kind.elt_size_in_bytes(), |all, &n| all.checked_mul(n));
        let data = self.take(count.ok_or_else(|| self.bad(format!("`{key}` is {size:?}")))?)?;
        let size: Vec<i64> = size.into_iter().map(|n| n as i64).collect();
        let tensor = Tensor::f_from_data_size(data, &size, kind).map_err(fault::torch)?;
        Ok((key, tensor.to_kind(Kind::Float)))
    }
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::exit::Exit;

    use super::*;
    use crate::model::init::init;

    #[test]
    fn what_was_written_is_read_and_cut_files_are_errors() {
        let shape = Shape { layers: 2, width: 64, vocabulary: 20 };
        let parameters = init(shape, 1);
        let bytes = write(&parameters, false).expect("writes");
        let again = read(&bytes, "x.bin").expect("reads");
        for (name, tensor) in parameters.iter() {
            let same = again.get(name).expect("there").equal(tensor);
            assert!(same || name == "blocks.0.att.v0" || name == "blocks.0.att.v2", "{name}");
        }
        for cut in [0, 3, 24, 30, 200, bytes.len() - 1] {
            let error = read(&bytes[..cut], "x.bin").expect_err("cut");
            assert!([Exit::BadData, Exit::Mismatch].contains(&error.exit()), "{error}");
        }
        // A head that claims more layers than there is memory for, and nothing after it.
        let mut claims = bytes[..24].to_vec();
        claims[16..20].copy_from_slice(&((1u32 << 24) - 1).to_le_bytes());
        let error = read(&claims, "x.bin").expect_err("claims");
        assert!(error.exit() == Exit::BadData && error.to_string().contains("x.bin"), "{error}");
        let half = write(&parameters, true).expect("writes");
        assert_eq!(write(&read(&half, "x").expect("reads"), true).expect("writes"), half);
    }

    #[test]
    fn a_state_vector_is_what_it_was() {
        let shape = Shape { layers: 2, width: 64, vocabulary: 20 };
        let vector = Tensor::arange(2 * 64 * 66, (Kind::Float, Device::Cpu));
        let state = state_of_vector(&vector, shape).expect("fits");
        assert_eq!(state.layers[0].att_shift.double_value(&[0, 0]), 64.0);
        assert!(state_vector(&state).expect("one sequence").equal(&vector));
        assert!(state_of_vector(&vector.narrow(0, 0, 9), shape).is_err());
    }
}
