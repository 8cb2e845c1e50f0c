//! Operators written in Rust as nodes of torch's graph. tch has no way to do that, so a small C++ shim
//! (`shim/autograd.cpp`) calls back into [`Operator`]. Errors and panics in a callback come back as errors.
#![expect(unsafe_code, reason = "callbacks that C++ calls, and tensors that cross the border as pointers")]

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use midi_ingest::job::exit::{Error, Result};
use tch::Tensor;
use torch_sys::C_tensor;

/// Most inputs, outputs or kept tensors of one operator; the shim has the same number.
pub const MOST_TENSORS: usize = 64;

/// What the forward pass gives.
#[derive(Debug)]
pub struct Outputs {
    /// The results.
    pub results: Vec<Tensor>,
    /// What the backward pass will be given: inputs, results or anything else.
    pub kept: Vec<Tensor>,
}

/// A differentiable operator. Both passes run without recording a graph; on a GPU the backward pass
/// runs on a thread of torch's own.
pub trait Operator: Send + Sync + 'static {
    /// The results, and what to keep for the backward pass.
    ///
    /// # Errors
    /// Whatever goes wrong; it comes back from [`apply`].
    fn forward(&self, inputs: &[Tensor]) -> Result<Outputs>;

    /// One gradient an input, from one an output; an output that nothing depends on has none. Where
    /// `wanted` is false the gradient may be left out.
    ///
    /// # Errors
    /// Whatever goes wrong; it comes back from the call that ran the backward pass.
    fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], wanted: &[bool]) -> Result<Vec<Option<Tensor>>>;
}

/// Applies `operator` to `inputs` and returns its results, joined to the graph.
///
/// # Errors
/// The operator's own error, or a panic inside it, as a bug.
pub fn apply(operator: impl Operator, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let operator: Box<Box<dyn Operator>> = Box::new(Box::new(operator));
    let inputs: Vec<*const C_tensor> = inputs.iter().map(|tensor| tensor.as_ptr()).collect();
    let mut results = [std::ptr::null_mut(); MOST_TENSORS];
    let mut count = 0;
    let calls = Calls { forward, backward, drop: drop_operator };
    // SAFETY: the pointers are to live tensors and to arrays of the lengths given. The shim owns the
    // operator from here on and gives it back to `drop_operator` exactly once.
    let message = unsafe {
        midi_op_apply(
            Box::into_raw(operator).cast(),
            calls,
            inputs.as_ptr(),
            inputs.len(),
            results.as_mut_ptr(),
            MOST_TENSORS,
            &raw mut count,
        )
    };
    if !message.is_null() {
        // SAFETY: the shim returned a C string that `midi_op_free` takes back, once.
        let text = unsafe {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            midi_op_free(message);
            text
        };
        return Err(crate::fault::torch(tch::TchError::Torch(text)));
    }
    // SAFETY: the first `count` results are tensors that now belong to us.
    Ok(results[..count].iter().map(|&result| unsafe { Tensor::from_ptr(result) }).collect())
}

/// Leaves `tensor` without a gradient, so that the next backward pass hands its own over instead of adding to zeros.
pub fn forget_gradient(tensor: &mut Tensor) {
    // SAFETY: a live tensor, which nobody else uses meanwhile.
    unsafe { midi_forget_gradient(tensor.as_mut_ptr()) };
}

/// The callbacks, laid out as the shim's `midi_op_calls`.
#[repr(C)]
struct Calls {
    forward: unsafe extern "C" fn(
        *const c_void,
        *const *mut C_tensor,
        usize,
        *mut *mut C_tensor,
        *mut usize,
        *mut *mut C_tensor,
        *mut usize,
        usize,
        *mut c_char,
        usize,
    ) -> c_int,
    backward: unsafe extern "C" fn(
        *const c_void,
        *const *mut C_tensor,
        usize,
        *const *mut C_tensor,
        usize,
        *const u8,
        *mut *mut C_tensor,
        usize,
        *mut c_char,
        usize,
    ) -> c_int,
    drop: unsafe extern "C" fn(*mut c_void),
}

// SAFETY: the declarations match `shim/autograd.cpp`, which this package's build script compiles.
unsafe extern "C" {
    fn midi_op_apply(
        operator: *mut c_void,
        calls: Calls,
        inputs: *const *const C_tensor,
        n_inputs: usize,
        outputs: *mut *mut C_tensor,
        capacity: usize,
        n_outputs: *mut usize,
    ) -> *mut c_char;
    fn midi_op_free(message: *mut c_char);
    fn midi_forget_gradient(tensor: *mut C_tensor);
}

/// SAFETY: to be called by the shim only, with what its declaration says.
unsafe extern "C" fn forward(
    operator: *const c_void,
    inputs: *const *mut C_tensor,
    n_inputs: usize,
    outputs: *mut *mut C_tensor,
    n_outputs: *mut usize,
    kept: *mut *mut C_tensor,
    n_kept: *mut usize,
    capacity: usize,
    message: *mut c_char,
    message_bytes: usize,
) -> c_int {
    let run = || {
        // SAFETY: `operator` is the pointer that `apply` made; the inputs are live for this call.
        let (operator, inputs) = unsafe { (operator_at(operator), borrow(inputs, n_inputs)) };
        let inputs: Vec<Tensor> = inputs.into_iter().flatten().collect();
        let made = operator.forward(&inputs)?;
        if made.results.len() > capacity || made.kept.len() > capacity {
            return Err(Error::bug(format!("an operator made more than {capacity} tensors")));
        }
        Ok(made)
    };
    match settle(catch_unwind(AssertUnwindSafe(run))) {
        Ok(made) => {
            // SAFETY: both arrays hold `capacity` pointers, which was checked to be enough.
            unsafe {
                *n_outputs = give(made.results.into_iter().map(Some), outputs);
                *n_kept = give(made.kept.into_iter().map(Some), kept);
            }
            0
        }
        // SAFETY: the shim's buffer is of the size that it gave.
        Err(text) => unsafe { say(&text, message, message_bytes) },
    }
}

/// SAFETY: to be called by the shim only, with what its declaration says.
unsafe extern "C" fn backward(
    operator: *const c_void,
    kept: *const *mut C_tensor,
    n_kept: usize,
    grads: *const *mut C_tensor,
    n_grads: usize,
    wanted: *const u8,
    input_grads: *mut *mut C_tensor,
    n_inputs: usize,
    message: *mut c_char,
    message_bytes: usize,
) -> c_int {
    let run = || {
        // SAFETY: `operator` is the pointer that `apply` made; the tensors are live for this call.
        let (operator, kept, grads, wanted) =
            unsafe { (operator_at(operator), borrow(kept, n_kept), borrow(grads, n_grads), slice(wanted, n_inputs)) };
        let kept: Vec<Tensor> = kept.into_iter().flatten().collect();
        let wanted: Vec<bool> = wanted.iter().map(|&byte| byte != 0).collect();
        let made = operator.backward(&kept, &grads, &wanted)?;
        if made.len() != n_inputs {
            return Err(Error::bug(format!("an operator made {} gradients for {n_inputs} inputs", made.len())));
        }
        Ok(made)
    };
    match settle(catch_unwind(AssertUnwindSafe(run))) {
        Ok(made) => {
            // SAFETY: the array holds `n_inputs` pointers, which was checked to be the number made.
            unsafe { give(made.into_iter(), input_grads) };
            0
        }
        // SAFETY: the shim's buffer is of the size that it gave.
        Err(text) => unsafe { say(&text, message, message_bytes) },
    }
}

/// SAFETY: to be called by the shim only, once, with the pointer that `apply` made.
unsafe extern "C" fn drop_operator(operator: *mut c_void) {
    // SAFETY: the pointer came from `Box::into_raw` in `apply`. A panic in a destructor stays here.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(operator.cast::<Box<dyn Operator>>()) })));
}

/// SAFETY: `operator` must be the pointer that `apply` made, and live.
unsafe fn operator_at<'a>(operator: *const c_void) -> &'a dyn Operator {
    // SAFETY: by this function's own contract.
    unsafe { (*operator.cast::<Box<dyn Operator>>()).as_ref() }
}

/// SAFETY: `data` must point at `count` values, or `count` be 0 (an empty C++ vector has a null pointer).
unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: by this function's own contract.
    unsafe { std::slice::from_raw_parts(data, count) }
}

/// New handles to the tensors; a null pointer is an undefined one.
///
/// SAFETY: as `slice`, and every pointer must be null or a live tensor.
unsafe fn borrow(tensors: *const *mut C_tensor, count: usize) -> Vec<Option<Tensor>> {
    // SAFETY: by this function's own contract.
    unsafe { slice(tensors, count) }
        .iter()
        // SAFETY: the pointer is a live tensor; a clone of the handle shares its storage.
        .map(|&tensor| (!tensor.is_null()).then(|| unsafe { Tensor::clone_from_ptr(tensor) }))
        .collect()
}

/// Hands tensors over to the shim and returns how many.
///
/// SAFETY: `place` must have room for all of them.
unsafe fn give(tensors: impl Iterator<Item = Option<Tensor>>, place: *mut *mut C_tensor) -> usize {
    let mut count = 0;
    for tensor in tensors {
        let pointer = tensor.map_or(std::ptr::null_mut(), |tensor| ManuallyDrop::new(tensor).as_mut_ptr());
        // SAFETY: by this function's own contract.
        unsafe { *place.add(count) = pointer };
        count += 1;
    }
    count
}

/// What a callback came to: its value, or a text for its error or panic.
fn settle<T>(outcome: Result<Result<T>, Box<dyn Any + Send>>) -> Result<T, String> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            Err(format!("panic in an operator: {text}"))
        }
    }
}

/// Writes `text`, cut to fit, and returns the number that means failure.
///
/// SAFETY: `message` must point at `bytes` writable bytes, at least one.
unsafe fn say(text: &str, message: *mut c_char, bytes: usize) -> c_int {
    let length = text.len().min(bytes - 1);
    // SAFETY: by this function's own contract; `length` leaves room for the zero byte.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), message.cast(), length);
        *message.add(length) = 0;
    }
    1
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::Kind;

    use super::*;

    /// (x, y) -> (x·y, x + y), with what should go wrong.
    struct ProductAndSum {
        fault: &'static str,
        dropped: Arc<AtomicUsize>,
    }

    impl Drop for ProductAndSum {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Operator for ProductAndSum {
        fn forward(&self, inputs: &[Tensor]) -> Result<Outputs> {
            assert_ne!(self.fault, "panic forward", "as asked");
            if self.fault == "error forward" {
                return Err(Error::bug("as asked"));
            }
            let [x, y] = inputs else { return Err(Error::bug("two inputs")) };
            Ok(Outputs { results: vec![x * y, x + y], kept: vec![x.shallow_clone(), y.shallow_clone()] })
        }

        fn backward(&self, kept: &[Tensor], grads: &[Option<Tensor>], wanted: &[bool]) -> Result<Vec<Option<Tensor>>> {
            assert_ne!(self.fault, "panic backward", "as asked");
            if self.fault == "error backward" {
                return Err(Error::bug("as asked"));
            }
            let zero = kept[0].zeros_like();
            let product = grads[0].as_ref().unwrap_or(&zero);
            let sum = grads[1].as_ref().unwrap_or(&zero);
            let all = [product * &kept[1] + sum, product * &kept[0] + sum];
            Ok(all.into_iter().zip(wanted).map(|(grad, wanted)| wanted.then_some(grad)).collect())
        }
    }

    fn leaf(values: &[f64]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double)).expect("a vector")
    }

    #[test]
    fn gradients_flow_through_used_outputs_only_and_the_operator_is_dropped_once() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let (x, y) = (leaf(&[2.0, 3.0]), leaf(&[5.0, 7.0]));
        let operator = ProductAndSum { fault: "", dropped: Arc::clone(&dropped) };
        let results = apply(operator, &[&x, &y]).expect("applies");
        results[0].sum(Kind::Double).backward();
        assert_eq!((values(&x.grad()), values(&y.grad())), (vec![5.0, 7.0], vec![2.0, 3.0]));
        drop(results);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn an_input_without_gradient_is_not_wanted() {
        let (x, y) = (leaf(&[2.0]), Tensor::from_slice(&[5.0]));
        let operator = ProductAndSum { fault: "", dropped: Arc::default() };
        let results = apply(operator, &[&x, &y]).expect("applies");
        (&results[0] + &results[1]).sum(Kind::Double).backward();
        assert_eq!(values(&x.grad()), [6.0]);
        assert!(!y.grad().defined());
    }

    #[test]
    fn errors_and_panics_come_back_as_errors() {
        for fault in ["error forward", "panic forward", "error backward", "panic backward"] {
            let (x, y) = (leaf(&[2.0]), leaf(&[5.0]));
            let dropped = Arc::new(AtomicUsize::new(0));
            let applied = apply(ProductAndSum { fault, dropped: Arc::clone(&dropped) }, &[&x, &y]);
            let error = match applied {
                Err(error) => error,
                Ok(results) => {
                    crate::fault::torch(results[0].sum(Kind::Double).f_backward().expect_err("backward fails"))
                }
            };
            assert!(error.to_string().contains("as asked"), "{fault}: {error}");
            assert_eq!(dropped.load(Ordering::SeqCst), 1, "{fault}");
        }
    }
}
