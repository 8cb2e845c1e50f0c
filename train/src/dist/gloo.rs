//! Ranks on CPUs, over libtorch's gloo (`shim/dist.cpp`).
#![expect(unsafe_code, reason = "calls into the C++ shim")]

use std::ffi::{CString, c_char, c_int};
use std::time::Duration;

use midi_ingest::job::exit::{Error, Result};
use tch::Tensor;
use torch_sys::C_tensor;

use super::collective::{Collective, Operation, padded, shard};
use super::watch::Watch;
use crate::cuda::taken;

/// The shim's group.
#[repr(C)]
struct Raw {
    _opaque: [u8; 0],
}

// SAFETY: the declarations match `shim/dist.cpp`, which the build script compiles.
unsafe extern "C" {
    fn midi_gloo_new(
        host: *const c_char,
        port: u16,
        prefix: *const c_char,
        bind: *const c_char,
        rank: c_int,
        world: c_int,
        timeout_ms: i64,
        out: *mut *mut Raw,
    ) -> *mut c_char;
    fn midi_gloo_all_reduce(group: *mut Raw, tensor: *mut C_tensor, timeout_ms: i64) -> *mut c_char;
    fn midi_gloo_all_gather(group: *mut Raw, out: *mut C_tensor, part: *mut C_tensor, timeout_ms: i64) -> *mut c_char;
    fn midi_gloo_broadcast(group: *mut Raw, tensor: *mut C_tensor, root: c_int, timeout_ms: i64) -> *mut c_char;
    fn midi_gloo_free(group: *mut Raw);
}

/// Ranks that talk over gloo.
#[derive(Debug)]
pub struct Gloo {
    raw: *mut Raw,
    watch: Watch,
    /// Whether an operation failed or the group was closed.
    failed: bool,
}

impl Gloo {
    /// Joins the ranks of `watch`, whose store is at `host` and `port`; `bind` is this machine's address.
    ///
    /// # Errors
    /// A rank does not come in time: exit code 10.
    pub fn join(mut watch: Watch, host: &str, port: u16, bind: &str, time: Duration) -> Result<Self> {
        let text = |text: &str| CString::new(text).map_err(|e| Error::bug("a name holds a zero").because(e));
        let (host, bind) = (text(host)?, text(bind)?);
        let prefix = text(&format!("{}/gloo", watch.prefix()))?;
        let operation = Operation { name: "connecting", step: 0, deadline: time };
        watch.enter(&operation);
        let mut raw = std::ptr::null_mut();
        // SAFETY: C strings that live through the call, and a place for the result.
        let made = unsafe {
            taken(midi_gloo_new(
                host.as_ptr(),
                port,
                prefix.as_ptr(),
                bind.as_ptr(),
                watch.rank() as c_int,
                watch.world() as c_int,
                milliseconds(watch.transport_time(&operation)),
                &raw mut raw,
            ))
        };
        match made {
            Ok(()) => Ok(Gloo { raw, watch, failed: false }),
            Err(text) => Err(watch.lost(&operation, &text)),
        }
    }

    /// Ends the connections. After a failure a peer may never answer, and the process is about to end: then the
    /// group is left as it is.
    fn close(&mut self) {
        if !std::mem::replace(&mut self.failed, true) {
            // SAFETY: made by `midi_gloo_new`; freed once, and not used again since the flag is set.
            unsafe { midi_gloo_free(self.raw) };
        }
    }

    /// Runs `call` as `operation`.
    fn run(&mut self, operation: &Operation, call: impl FnOnce(*mut Raw, i64) -> *mut c_char) -> Result<()> {
        if self.failed {
            return Err(Error::bug(format!("{operation}: an operation after one that failed")));
        }
        self.watch.enter(operation);
        let message = call(self.raw, milliseconds(self.watch.transport_time(operation)));
        // SAFETY: `call` returns what a function of the shim returned.
        unsafe { taken(message) }.map_err(|text| {
            self.failed = true;
            self.watch.lost(operation, &text)
        })
    }
}

fn milliseconds(time: Duration) -> i64 {
    time.as_millis().clamp(1, i64::MAX as u128) as i64
}

impl Collective for Gloo {
    fn name(&self) -> &'static str {
        "gloo"
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
        let tensor = values.as_mut_ptr();
        // SAFETY: the group is alive, and the tensor lives through the call, which waits for its end.
        self.run(operation, |raw, time| unsafe { midi_gloo_all_reduce(raw, tensor, time) })
    }

    /// As a sum everywhere, of which each rank keeps its part: gloo has no cheaper way that is as exact.
    fn reduce_scatter(&mut self, operation: &Operation, values: &Tensor) -> Result<Tensor> {
        let mut sum = values.copy();
        self.all_reduce(operation, &mut sum)?;
        let mine = shard(values.numel(), self.world(), self.rank());
        Ok(sum.narrow(0, mine.start as i64, mine.len() as i64).copy())
    }

    fn all_gather(&mut self, operation: &Operation, part: &Tensor, whole: usize) -> Result<Tensor> {
        let world = self.world();
        let length = shard(whole, world, 0).len();
        if length == 0 {
            return Ok(part.copy());
        }
        let mut part = padded(part, length);
        let mut out = Tensor::empty([(length * world) as i64], (part.kind(), part.device()));
        let (to, from) = (out.as_mut_ptr(), part.as_mut_ptr());
        // SAFETY: as in `all_reduce`; `out` is as long as all parts.
        self.run(operation, |raw, time| unsafe { midi_gloo_all_gather(raw, to, from, time) })?;
        Ok(out.narrow(0, 0, whole as i64))
    }

    fn broadcast(&mut self, operation: &Operation, values: &mut Tensor, root: usize) -> Result<()> {
        if values.numel() == 0 {
            return Ok(());
        }
        let tensor = values.as_mut_ptr();
        // SAFETY: as in `all_reduce`.
        self.run(operation, |raw, time| unsafe { midi_gloo_broadcast(raw, tensor, root as c_int, time) })
    }

    fn leave(&mut self, error: &Error) {
        // The connections go first, so that the others stop waiting and look for the reason while it can be read.
        self.close();
        self.watch.leave(error);
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::{RankEnv, conformance, rendezvous, store::Server};

    #[test]
    fn worlds_of_one_two_and_four_conform() {
        for world in [1, 2, 4] {
            let server = Server::local().expect("serves");
            let port = server.port();
            std::thread::scope(|scope| {
                for rank in 0..world {
                    scope.spawn(move || {
                        let host = "127.0.0.1".to_owned();
                        let env = RankEnv { rank, world, host, port, served: true, ..RankEnv::alone() };
                        let mut ranks = rendezvous::join(&env, Duration::from_secs(60)).expect("meets");
                        conformance::check(ranks.as_mut()).expect("conforms");
                    });
                }
            });
        }
    }

    #[test]
    fn an_absent_rank_is_named() {
        let server = Server::local().expect("serves");
        let host = "127.0.0.1".to_owned();
        let env = RankEnv { rank: 0, world: 3, host, port: server.port(), served: true, ..RankEnv::alone() };
        let error = rendezvous::join(&env, Duration::from_millis(300)).expect_err("nobody else");
        assert_eq!(error.exit(), midi_ingest::job::Exit::PeerLost);
        assert!(error.to_string().starts_with("ranks 1, 2 of 3 did not come"), "{error}");
    }
}
