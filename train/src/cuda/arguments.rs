//! The one argument of a kernel: a C struct of numbers and pointers to tensors, put together field by field.

use tch::Tensor;

/// A struct as C lays it out.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    bytes: Vec<u8>,
}

impl Arguments {
    /// A struct without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an `int`.
    #[must_use]
    pub fn int(mut self, value: i32) -> Self {
        self.put(&value.to_ne_bytes());
        self
    }

    /// Adds a `float`.
    #[must_use]
    pub fn float(mut self, value: f32) -> Self {
        self.put(&value.to_ne_bytes());
        self
    }

    /// Adds a pointer to the first element of `tensor`, which must be contiguous.
    #[must_use]
    pub fn tensor(self, tensor: &Tensor) -> Self {
        self.tensor_or_null(Some(tensor))
    }

    /// As [`Arguments::tensor`]; a null pointer for none.
    #[must_use]
    pub fn tensor_or_null(mut self, tensor: Option<&Tensor>) -> Self {
        self.put(&tensor.map_or(0, |tensor| tensor.data_ptr() as usize).to_ne_bytes());
        self
    }

    /// The struct's bytes, padded so that an array of them would be aligned.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// Adds a field that is aligned to its size.
    fn put(&mut self, field: &[u8]) {
        let at = self.bytes.len().next_multiple_of(field.len());
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_c_puts_them() {
        let tensor = Tensor::from_slice(&[1.0f32]);
        let bytes = Arguments::new().int(7).tensor(&tensor).float(1.5).tensor_or_null(None).int(9).bytes();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let pointer = |at: usize| usize::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!((word(0), word(16), word(32)), (7, 1.5f32.to_bits(), 9));
        assert_eq!((pointer(8), pointer(24)), (tensor.data_ptr() as usize, 0));
        assert_eq!(bytes.len(), 40);
    }
}
