//! Ranks on GPUs, over NCCL. Its calls do not block: each is waited for here, so that a rank that never comes becomes
//! an error with its name at the deadline, and the communicator is given up.
#![expect(unsafe_code, reason = "calls into NCCL and the driver, which take pointers to tensors")]

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{result as driver, sys as driver_sys};
use cudarc::nccl::{result, sys};
use midi_ingest::job::exit::{Error, Result};
use tch::{Device, Kind, Tensor};

use super::collective::{Collective, Operation, padded, shard};
use super::watch::Watch;
use crate::cuda::{Gpu, Launcher, nccl_is_here};

/// Time between two looks at an operation: short at first, since most take no longer than a step of the GPU.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(2));
/// How long a communicator may take to end.
const END: Duration = Duration::from_secs(10);
/// What NCCL's configuration begins with, for the version that its struct is of.
const CONFIG: (u32, u32) = (0xcafe_beef, 22809);
/// Under which name the communicator's id is in the store.
const ID: &str = "nccl";

/// Ranks that talk over NCCL, a GPU each.
#[derive(Debug)]
pub struct Nccl {
    communicator: sys::ncclComm_t,
    watch: Watch,
    gpu: Arc<Gpu>,
    failed: bool,
}

/// That NCCL can be used.
///
/// # Errors
/// It cannot: exit code 78, saying what to do.
fn expect_library() -> Result<()> {
    if nccl_is_here() {
        return Ok(());
    }
    Err(Error::mismatch("training on several GPUs needs NCCL (libnccl.so)").hint(
        "put it into libtorch's `lib` folder (PyPI: nvidia-nccl-cu13 2.28.9, whose file is libnccl.so.2: \
         `ln -s libnccl.so.2 libnccl.so` beside it), or train in one process",
    ))
}

impl Nccl {
    /// Joins the ranks of `watch`, this one on `gpu`. Rank 0 makes the communicator's id, and the store carries it.
    ///
    /// # Errors
    /// There is no NCCL (78), or a rank does not come in time (10).
    pub fn join(mut watch: Watch, gpu: Arc<Gpu>, time: Duration) -> Result<Self> {
        expect_library()?;
        let operation = Operation { name: "connecting", step: 0, deadline: time };
        watch.enter(&operation);
        let deadline = Instant::now() + watch.transport_time(&operation);
        let made = identity(&mut watch, deadline).and_then(|id| {
            let mut config = config();
            let mut communicator = std::ptr::null_mut();
            let (world, rank) = (watch.world() as c_int, watch.rank() as c_int);
            // SAFETY: places for the communicator and its configuration, which NCCL copies.
            let begun =
                unsafe { result::comm_init_rank_config(&raw mut communicator, world, id, rank, &raw mut config) };
            begun.map_err(text)?;
            settle(communicator, deadline).inspect_err(|_| {
                // SAFETY: the communicator was begun and is used no more.
                let _ = unsafe { result::comm_abort(communicator) };
            })?;
            Ok(communicator)
        });
        match made {
            Ok(communicator) => Ok(Nccl { communicator, watch, gpu, failed: false }),
            Err(text) => Err(watch.lost(&operation, &text)),
        }
    }

    /// Runs `call`, which is given the communicator and torch's stream, as `operation`, until the GPU has done it.
    fn run(
        &mut self,
        operation: &Operation,
        call: impl FnOnce(sys::ncclComm_t, sys::cudaStream_t) -> Result<result::NcclStatus, result::NcclError>,
    ) -> Result<()> {
        if self.failed {
            return Err(Error::bug(format!("{operation}: an operation after one that failed")));
        }
        self.watch.enter(operation);
        let deadline = Instant::now() + self.watch.transport_time(operation);
        let stream = self.gpu.stream()?;
        let done = call(self.communicator, stream.cast())
            .map_err(text)
            .and_then(|_| settle(self.communicator, deadline))
            .and_then(|()| reached(self.communicator, stream, deadline));
        done.map_err(|text| {
            self.abort();
            self.watch.lost(operation, &text)
        })
    }

    /// Gives the communicator up: what it is waiting for ends.
    fn abort(&mut self) {
        if !std::mem::replace(&mut self.failed, true) {
            // SAFETY: the communicator is used no more, since the flag is set.
            let _ = unsafe { result::comm_abort(self.communicator) };
        }
    }

    /// `tensor` where NCCL can reach it.
    fn here(&self, tensor: &Tensor) -> Tensor {
        tensor.to_device(self.gpu.device()).contiguous()
    }
}

/// The communicator's id: of rank 0's making, through the store.
fn identity(watch: &mut Watch, deadline: Instant) -> std::result::Result<sys::ncclUniqueId, String> {
    let lost = |e: std::io::Error| format!("the store is lost ({e})");
    if watch.rank() == 0 {
        let id = result::get_uniqueid().map_err(text)?;
        watch.publish(ID, &to_bytes(&id)).map_err(lost)?;
        return Ok(id);
    }
    loop {
        if let Some(bytes) = watch.published(ID).map_err(lost)? {
            return of_bytes(&bytes).ok_or_else(|| "the store holds no id of NCCL's".into());
        }
        if Instant::now() >= deadline {
            return Err("rank 0 gave no id".into());
        }
        std::thread::sleep(LOOK_EVERY.1);
    }
}

fn to_bytes(id: &sys::ncclUniqueId) -> Vec<u8> {
    id.internal.iter().map(|&byte| byte as u8).collect()
}

fn of_bytes(bytes: &[u8]) -> Option<sys::ncclUniqueId> {
    let bytes: [u8; 128] = bytes.try_into().ok()?;
    Some(sys::ncclUniqueId { internal: bytes.map(|byte| byte as _) })
}

/// NCCL's configuration: as it likes, but without blocking.
fn config() -> sys::ncclConfig_t {
    let open = c_int::MIN;
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: CONFIG.0,
        version: CONFIG.1,
        blocking: 0,
        cgaClusterSize: open,
        minCTAs: open,
        maxCTAs: open,
        netName: std::ptr::null(),
        splitShare: open,
        trafficClass: open,
        commName: std::ptr::null(),
        collnetEnable: open,
        CTAPolicy: open,
        shrinkShare: open,
        nvlsCTAs: open,
        nChannelsPerNetPeer: open,
        nvlinkCentricSched: open,
    }
}

/// NCCL's words for an error.
fn text(error: result::NcclError) -> String {
    // SAFETY: a C string that NCCL keeps.
    let words = unsafe { CStr::from_ptr(sys::ncclGetErrorString(error.0)) };
    words.to_string_lossy().into_owned()
}

/// Sleeps until the next look, which comes later and later.
fn pause(looks: &mut u32, deadline: Instant) -> std::result::Result<(), String> {
    if Instant::now() >= deadline {
        return Err("no answer in time".into());
    }
    std::thread::sleep((LOOK_EVERY.0 * (1 + *looks / 16)).min(LOOK_EVERY.1));
    *looks += 1;
    Ok(())
}

/// The state of a communicator.
fn state(communicator: sys::ncclComm_t) -> std::result::Result<bool, String> {
    let mut state = sys::ncclResult_t::ncclSuccess;
    // SAFETY: a live communicator, and a place for its state.
    unsafe { sys::ncclCommGetAsyncError(communicator, &raw mut state) }.result().map_err(text)?;
    match state {
        sys::ncclResult_t::ncclSuccess => Ok(true),
        sys::ncclResult_t::ncclInProgress => Ok(false),
        other => Err(text(result::NcclError(other))),
    }
}

/// Waits until NCCL has taken the last call up.
fn settle(communicator: sys::ncclComm_t, deadline: Instant) -> std::result::Result<(), String> {
    let mut looks = 0;
    while !state(communicator)? {
        pause(&mut looks, deadline)?;
    }
    Ok(())
}

/// Waits until the GPU has come to this place of the stream, while NCCL sees no error.
fn reached(communicator: sys::ncclComm_t, stream: *mut c_void, deadline: Instant) -> std::result::Result<(), String> {
    let failed = |e: driver::DriverError| e.to_string();
    let event = driver::event::create(driver_sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed)?;
    // SAFETY: a fresh event and torch's stream.
    let mut arrived = unsafe { driver::event::record(event, stream.cast()) }.map_err(failed);
    let mut looks = 0;
    while arrived.is_ok() {
        // SAFETY: the event is recorded and alive.
        match unsafe { driver::event::query(event) } {
            Ok(()) => break,
            Err(driver::DriverError(driver_sys::CUresult::CUDA_ERROR_NOT_READY)) => {
                arrived = state(communicator).and_then(|_| pause(&mut looks, deadline));
            }
            Err(error) => arrived = Err(failed(error)),
        }
    }
    // SAFETY: the event is used no more.
    let _ = unsafe { driver::event::destroy(event) };
    arrived
}

/// NCCL's name for a kind of number.
fn number(kind: Kind) -> Result<sys::ncclDataType_t> {
    match kind {
        Kind::Float => Ok(sys::ncclDataType_t::ncclFloat32),
        Kind::Double => Ok(sys::ncclDataType_t::ncclFloat64),
        Kind::BFloat16 => Ok(sys::ncclDataType_t::ncclBfloat16),
        Kind::Int64 => Ok(sys::ncclDataType_t::ncclInt64),
        other => Err(Error::bug(format!("NCCL sums no {other:?} here"))),
    }
}

impl Collective for Nccl {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn rank(&self) -> usize {
        self.watch.rank()
    }

    fn world(&self) -> usize {
        self.watch.world()
    }

    fn all_reduce(&mut self, operation: &Operation, values: &mut Tensor) -> Result<()> {
        if values.numel() == 0 {
            return Ok(());
        }
        let (kind, place) = (number(values.kind())?, self.here(values));
        let (at, count) = (place.data_ptr(), place.numel());
        self.run(operation, |communicator, stream| {
            // SAFETY: the tensor has `count` elements of `kind` on the GPU and lives until the GPU is done.
            unsafe { result::all_reduce(at, at, count, kind, sys::ncclRedOp_t::ncclSum, communicator, stream) }
        })?;
        if values.device() == Device::Cpu {
            values.copy_(&place);
        }
        Ok(())
    }

    fn reduce_scatter(&mut self, operation: &Operation, values: &Tensor) -> Result<Tensor> {
        let (whole, world) = (values.numel(), self.world());
        let (mine, length) = (shard(whole, world, self.rank()), shard(whole, world, 0).len());
        if length == 0 {
            return Ok(values.copy());
        }
        let kind = number(values.kind())?;
        let from = self.here(&padded(values, length * world));
        let to = Tensor::empty([length as i64], (values.kind(), self.gpu.device()));
        let (source, target) = (from.data_ptr(), to.data_ptr());
        self.run(operation, |communicator, stream| {
            let sum = sys::ncclRedOp_t::ncclSum;
            // SAFETY: as in `all_reduce`; `from` is as long as all parts.
            unsafe { result::reduce_scatter(source, target, length, kind, sum, communicator, stream) }
        })?;
        Ok(to.narrow(0, 0, mine.len() as i64).to_device(values.device()))
    }

    fn all_gather(&mut self, operation: &Operation, part: &Tensor, whole: usize) -> Result<Tensor> {
        let world = self.world();
        let length = shard(whole, world, 0).len();
        if length == 0 {
            return Ok(part.copy());
        }
        let kind = number(part.kind())?;
        let from = self.here(&padded(part, length));
        let to = Tensor::empty([(length * world) as i64], (part.kind(), self.gpu.device()));
        let (source, target) = (from.data_ptr(), to.data_ptr());
        self.run(operation, |communicator, stream| {
            // SAFETY: as in `all_reduce`; `to` is as long as all parts.
            unsafe { result::all_gather(source, target, length, kind, communicator, stream) }
        })?;
        Ok(to.narrow(0, 0, whole as i64).to_device(part.device()))
    }

    fn broadcast(&mut self, operation: &Operation, values: &mut Tensor, root: usize) -> Result<()> {
        if values.numel() == 0 {
            return Ok(());
        }
        let (kind, place) = (number(values.kind())?, self.here(values));
        let (at, count) = (place.data_ptr(), place.numel());
        self.run(operation, |communicator, stream| {
            // SAFETY: as in `all_reduce`.
            unsafe { result::broadcast(at, at, count, kind, root as c_int, communicator, stream) }
        })?;
        if values.device() == Device::Cpu {
            values.copy_(&place);
        }
        Ok(())
    }

    fn leave(&mut self, error: &Error) {
        // First, so that the others stop waiting and look for the reason while it can be read.
        self.abort();
        self.watch.leave(error);
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if !std::mem::replace(&mut self.failed, true) {
            // SAFETY: the communicator is used no more, since the flag is set. What it began is waited for before it goes.
            let _ = unsafe { sys::ncclCommFinalize(self.communicator) };
            let _ = settle(self.communicator, Instant::now() + END);
            // SAFETY: as above.
            let _ = unsafe { result::comm_destroy(self.communicator) };
        }
    }
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::Exit;

    use super::*;

    #[test]
    fn an_id_crosses_the_store_as_it_is() {
        let bytes: Vec<u8> = (0..128).map(|n| (n * 37 % 256) as u8).collect();
        assert_eq!(to_bytes(&of_bytes(&bytes).expect("128 bytes")), bytes);
        assert!(of_bytes(&bytes[1..]).is_none());
    }

    #[test]
    #[allow(clippy::print_stdout, reason = "says what was not tested")]
    fn a_machine_without_nccl_says_what_to_do() {
        let Err(error) = expect_library() else {
            println!("skipped: this machine has NCCL");
            return;
        };
        assert_eq!(error.exit(), Exit::Mismatch);
        assert!(error.to_string().contains("libnccl.so") && error.hint_text().is_some(), "{error}");
    }
}
