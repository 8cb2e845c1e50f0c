//! Tensors on the CPU as slices of f32, and fresh tensors that are filled through a slice.
#![expect(unsafe_code, reason = "a slice over a tensor's memory is made from its pointer")]

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::fault;

/// A contiguous f32 tensor on the CPU that can be read as a slice.
#[derive(Debug)]
pub(crate) struct Lanes {
    tensor: Tensor,
    count: usize,
}

// SAFETY: a handle to a tensor may not be shared between threads in general, since operators may change what it
// refers to. No operator is given this one: all that threads do with it is to read its values.
unsafe impl Sync for Lanes {}

impl Lanes {
    /// `tensor` itself if it is contiguous and f32, else a copy.
    ///
    /// # Errors
    /// It is neither f32 nor bf16, or not on the CPU.
    pub(crate) fn of(tensor: &Tensor) -> Result<Self> {
        let (kind, device) = (tensor.kind(), tensor.device());
        if !matches!(kind, Kind::Float | Kind::BFloat16) || device != Device::Cpu {
            return Err(Error::bug(format!("a loop on the CPU takes f32 or bf16, not {kind:?} on {device:?}")));
        }
        let tensor = tensor.f_detach().and_then(|t| t.f_to_kind(Kind::Float)).and_then(|t| t.f_contiguous());
        let tensor = tensor.map_err(fault::torch)?;
        let count = tensor.numel();
        Ok(Lanes { tensor, count })
    }

    /// The values.
    pub(crate) fn values(&self) -> &[f32] {
        if self.count == 0 {
            return &[];
        }
        // SAFETY: the tensor is contiguous, f32, on the CPU and holds `count` values; it lives as long as
        // the slice, and no operator that writes in place runs while a backend is in its pass.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast::<f32>(), self.count) }
    }
}

/// A new f32 tensor on the CPU that nothing else refers to yet.
#[derive(Debug)]
pub(crate) struct Fresh {
    tensor: Tensor,
    count: usize,
}

impl Fresh {
    /// Zeros of the shape.
    ///
    /// # Errors
    /// There is not enough memory.
    pub(crate) fn zeros(shape: &[i64]) -> Result<Self> {
        Tensor::f_zeros(shape, (Kind::Float, Device::Cpu)).map(Self::of).map_err(fault::torch)
    }

    /// Whatever values the memory holds: for a tensor whose every value will be written.
    ///
    /// # Errors
    /// There is not enough memory.
    pub(crate) fn unset(shape: &[i64]) -> Result<Self> {
        Tensor::f_empty(shape, (Kind::Float, Device::Cpu)).map(Self::of).map_err(fault::torch)
    }

    fn of(tensor: Tensor) -> Self {
        let count = tensor.numel();
        Fresh { tensor, count }
    }

    /// The values, to be written.
    pub(crate) fn values(&mut self) -> &mut [f32] {
        if self.count == 0 {
            return &mut [];
        }
        // SAFETY: the tensor is contiguous, f32, on the CPU and holds `count` values. Its handle was never
        // given away, so this exclusive borrow is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast::<f32>(), self.count) }
    }

    /// The tensor.
    pub(crate) fn done(self) -> Tensor {
        self.tensor
    }
}

/// A contiguous f32 tensor on the CPU whose values are changed where they are.
#[derive(Debug)]
pub(crate) struct InPlace<'a> {
    tensor: &'a mut Tensor,
    count: usize,
}

impl<'a> InPlace<'a> {
    /// `tensor`, unless it is of another kind, on another device, or not contiguous.
    pub(crate) fn of(tensor: &'a mut Tensor) -> Option<Self> {
        let fits = tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && tensor.is_contiguous();
        let count = tensor.numel();
        fits.then_some(InPlace { tensor, count })
    }

    /// The values.
    pub(crate) fn values(&mut self) -> &mut [f32] {
        if self.count == 0 {
            return &mut [];
        }
        // SAFETY: the tensor is contiguous, f32, on the CPU and holds `count` values. Whoever changes a tensor in place
        // is the only one to use its memory then; this is so for torch's own operators that do the same.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast::<f32>(), self.count) }
    }
}
