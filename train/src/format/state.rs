//! A tuned initial state as the flat vector that rwkv.cpp takes before the first token (`state_in` of `rwkv_eval`).
//!
//! ```text
//! L times: channel mixing's shift row [D], time mixing's [D], WKV [H][64 value lanes][64 key lanes]      f32, little-endian
//! ```
//! The file has no header, so a reader must be told L; D follows from the length. Tuning leaves the shift rows zero.

use midi_ingest::job::exit::{Error, Result};
use tch::{Kind, Tensor};

use super::ggml::{state_of_vector, state_vector};
use crate::fault;
use crate::model::shape::HEAD;
use crate::model::{Parameters, Shape, State, time_state_name};

/// Bytes of a number.
const NUMBER: usize = 4;

/// The file of the tuned states in `tensors`, one [H, 64, 64] a layer; other tensors are left out.
///
/// # Errors
/// There is no tuned state, or one does not fit the others: exit code 78.
pub fn write(tensors: &Parameters) -> Result<Vec<u8>> {
    let tuned: Vec<Tensor> =
        (0..).map_while(|layer| tensors.find(&time_state_name(layer))).map(Tensor::detach).collect();
    let first = tuned.first().ok_or_else(|| {
        Error::mismatch("there is no tuned state to write").hint("a `.state` file is of a model of the mode `state`")
    })?;
    let shape = Shape::new(tuned.len(), first.size().first().map_or(0, |&heads| heads as usize) * HEAD, 1)?;
    let vector = state_vector(&State::of_time_state(shape, &tuned, 1)?)?.to_kind(Kind::Float).contiguous();
    let mut bytes = vec![0; vector.numel() * NUMBER];
    vector.f_copy_data_u8(&mut bytes, vector.numel()).map_err(fault::torch)?;
    Ok(bytes)
}

/// The tuned states of a file for a network of `layers` blocks; `name` is only for messages.
///
/// # Errors
/// `layers` is missing, or the state is that after some tokens, which no tuned state can be (78); the length is not
/// that of such a network (65).
pub fn read(bytes: &[u8], name: &str, layers: Option<usize>) -> Result<Parameters> {
    let Some(layers) = layers.filter(|&layers| layers > 0) else {
        return Err(Error::mismatch(format!("`{name}` does not say how many layers the network has"))
            .hint("say it: `--layers L`"));
    };
    // L layers of D + D + 64·D numbers.
    let of_width = layers.saturating_mul((2 + HEAD) * NUMBER);
    let width = bytes.len() / of_width;
    if bytes.is_empty() || !bytes.len().is_multiple_of(of_width) || !width.is_multiple_of(HEAD) {
        return Err(Error::data(format!(
            "`{name}` has {} bytes, which is no state of a network of {layers} layers",
            bytes.len()
        ))
        .hint("look at the number of layers, and whether the file is whole"));
    }
    let vector =
        Tensor::f_from_data_size(bytes, &[(bytes.len() / NUMBER) as i64], Kind::Float).map_err(fault::torch)?;
    let state = state_of_vector(&vector, Shape::new(layers, width, 1)?)?;
    let is_zero = |row: &Tensor| row.count_nonzero(None::<i64>).int64_value(&[]) == 0;
    if !state.layers.iter().all(|layer| is_zero(&layer.att_shift) && is_zero(&layer.ffn_shift)) {
        return Err(Error::mismatch(format!("`{name}` is the state after some tokens: its shift rows are not zero"))
            .hint("a tuned state is the one before the first token"));
    }
    let tuned = state.layers.iter().enumerate();
    Ok(tuned.map(|(layer, state)| (time_state_name(layer), state.wkv.squeeze_dim(0).copy())).collect())
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::exit::Exit;
    use tch::Device;

    use super::*;

    /// Two layers of two heads whose every number is another one.
    fn tuned() -> Parameters {
        let numbers = |layer: i64| {
            Tensor::arange_start(layer * 8192 + 1, layer * 8192 + 8193, (Kind::Float, Device::Cpu)).reshape([2, 64, 64])
        };
        (0..2).map(|layer| (time_state_name(layer), numbers(layer as i64))).collect()
    }

    #[test]
    fn a_state_is_what_it_was_after_the_round_trip_and_lies_where_the_format_says() {
        let bytes = write(&tuned()).expect("writes");
        assert_eq!(bytes.len(), 2 * 128 * 66 * 4);
        let at = |index: usize| f32::from_le_bytes(std::array::from_fn(|i| bytes[index * 4 + i]));
        // Two shift rows, then head 0 by value and key lane; the second head, and the second layer.
        assert_eq!([at(0), at(255), at(256), at(257), at(256 + 64)], [0.0, 0.0, 1.0, 2.0, 65.0]);
        assert_eq!([at(256 + 4096), at(8448), at(8448 + 256)], [4097.0, 0.0, 8193.0]);
        let back = read(&bytes, "x.state", Some(2)).expect("reads");
        assert_eq!(back.len(), 2);
        assert!(tuned().iter().all(|(name, tensor)| back.get(name).expect("is there").equal(tensor)));
        assert_eq!(write(&back).expect("writes"), bytes);
    }

    #[test]
    fn what_is_no_tuned_state_is_refused() {
        let bytes = write(&tuned()).expect("writes");
        let exit = |bytes: &[u8], layers| read(bytes, "x.state", layers).expect_err("is refused").exit();
        assert_eq!(exit(&bytes, None), Exit::Mismatch);
        assert_eq!(exit(&bytes, Some(3)), Exit::BadData);
        assert_eq!(exit(&bytes, Some(1 << 62)), Exit::BadData);
        assert_eq!(exit(&bytes[..bytes.len() - 4], Some(2)), Exit::BadData);
        assert_eq!(exit(&[], Some(2)), Exit::BadData);
        let mut after_tokens = bytes;
        after_tokens[..4].copy_from_slice(&0.5f32.to_le_bytes());
        assert_eq!(exit(&after_tokens, Some(2)), Exit::Mismatch);
        assert_eq!(write(&Parameters::new()).expect_err("holds none").exit(), Exit::Mismatch);
    }
}
