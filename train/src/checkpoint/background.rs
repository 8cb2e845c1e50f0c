//! Saving while training goes on: a copy of the state is written by a thread of its own, one at a time.

use std::sync::Arc;
use std::thread::JoinHandle;

use midi_ingest::job::exit::{Error, Result};

use super::lease::Lease;
use super::{Checkpoints, Frozen};

/// Writes the checkpoints of a run and removes old ones.
#[derive(Debug)]
pub struct Saver {
    checkpoints: Checkpoints,
    keep: usize,
    lease: Option<Arc<Lease>>,
    running: Option<JoinHandle<Result<()>>>,
}

impl Saver {
    /// `keep` checkpoints and the best one stay. With a lease nothing is committed or removed once it is lost.
    pub fn new(checkpoints: Checkpoints, keep: usize, lease: Option<Arc<Lease>>) -> Self {
        Saver { checkpoints, keep, lease, running: None }
    }

    /// Begins to write a checkpoint; first waits for the one before, if it is still being written.
    ///
    /// # Errors
    /// Of the one before, as [`Saver::wait`], or no thread can be started (1).
    pub fn begin(&mut self, mut frozen: Frozen) -> Result<()> {
        self.wait()?;
        let (checkpoints, keep, lease) = (self.checkpoints.clone(), self.keep, self.lease.clone());
        if let Some(lease) = &lease {
            frozen.set_lease_epoch(lease.epoch());
        }
        let lowest_at = frozen.lowest_at();
        let write = move || {
            let is_ours = || lease.as_ref().map_or(Ok(()), |lease| lease.check());
            is_ours()?;
            let step = checkpoints.write(frozen, &is_ours)?.step;
            is_ours()?;
            checkpoints.retain(step, keep, lowest_at)
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(write);
        self.running = Some(thread.map_err(|e| Error::bug("cannot start a thread").because(e))?);
        Ok(())
    }

    /// The error of the checkpoint being written, if it has failed by now, or of a lease that was lost: asked at every step,
    /// and before anything else is written.
    ///
    /// # Errors
    /// As [`Saver::wait`].
    pub fn poll(&mut self) -> Result<()> {
        if let Some(lease) = self.lease.as_ref().filter(|lease| lease.is_lost()) {
            lease.check()?;
        }
        match &self.running {
            Some(thread) if thread.is_finished() => self.wait(),
            _ => Ok(()),
        }
    }

    /// Waits until nothing is being written.
    ///
    /// # Errors
    /// The store fails (74), or the lease was lost (10).
    pub fn wait(&mut self) -> Result<()> {
        if let Some(thread) = self.running.take() {
            thread.join().map_err(|_| Error::bug("the thread that writes checkpoints panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Saver {
    /// A run that ends with another error does not leave a thread behind that writes to its folder.
    fn drop(&mut self) {
        if let Some(thread) = self.running.take() {
            let _ = thread.join();
        }
    }
}
