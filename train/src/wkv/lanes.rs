//! Tensors on the CPU as slices of f32, and fresh tensors that are filled through a slice.
#![expect(unsafe_code, reason = "a slice over a tensor's memory is made from its pointer")]

use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor};

use crate::fault;

/// A contiguous f32 tensor on the CPU that can be read as a slice.
#[derive(Debug)]
pub(super) struct Lanes {
    tensor: Tensor,
    count: usize,
}

impl Lanes {
    /// `tensor` itself if it is contiguous and f32, else a copy.
    ///
    /// # Errors
    /// It is neither f32 nor bf16, or not on the CPU.
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        let (kind, device) = (tensor.kind(), tensor.device());
        if !matches!(kind, Kind::Float | Kind::BFloat16) || device != Device::Cpu {
            let text = format!("the cpu WKV backend takes f32 or bf16 on the CPU, not {kind:?} on {device:?}");
            return Err(Error::bug(text));
        }
        let tensor = tensor.f_detach().and_then(|t| t.f_to_kind(Kind::Float)).and_then(|t| t.f_contiguous());
        let tensor = tensor.map_err(fault::torch)?;
        let count = tensor.numel();
        Ok(Lanes { tensor, count })
    }

    /// The values.
    pub(super) fn values(&self) -> &[f32] {
        if self.count == 0 {
            return &[];
        }
        // SAFETY: the tensor is contiguous, f32, on the CPU and holds `count` values; it lives as long as
        // the slice, and no operator that writes in place runs while a backend is in its pass.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast::<f32>(), self.count) }
    }
}

/// A new f32 tensor on the CPU, zero, that nothing else refers to yet.
#[derive(Debug)]
pub(super) struct Fresh {
    tensor: Tensor,
    count: usize,
}

impl Fresh {
    /// Zeros of the shape.
    ///
    /// # Errors
    /// There is not enough memory.
    pub(super) fn zeros(shape: &[i64]) -> Result<Self> {
        let tensor = Tensor::f_zeros(shape, (Kind::Float, Device::Cpu)).map_err(fault::torch)?;
        let count = tensor.numel();
        Ok(Fresh { tensor, count })
    }

    /// The values, to be written.
    pub(super) fn values(&mut self) -> &mut [f32] {
        if self.count == 0 {
            return &mut [];
        }
        // SAFETY: the tensor is contiguous, f32, on the CPU and holds `count` values. Its handle was never
        // given away, so this exclusive borrow is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast::<f32>(), self.count) }
    }

    /// The tensor.
    pub(super) fn done(self) -> Tensor {
        self.tensor
    }
}
