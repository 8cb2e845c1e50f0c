//! Batches made by a thread of their own, while the steps before them are trained on.

use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use midi_ingest::job::exit::{Error, Result};

use super::Batch;

/// Steps whose batches wait to be taken, besides those of the step that the thread is at.
const DEPTH: usize = 1;

/// The batches of steps, in order.
#[derive(Debug)]
pub struct Ahead {
    /// Gone when this is dropped, by which the thread learns that nobody waits.
    batches: Option<Receiver<Result<Vec<Batch>>>>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

impl Ahead {
    /// Calls `make` for each of `steps`, until one fails.
    ///
    /// # Errors
    /// The thread cannot be started (1).
    pub fn new(steps: Range<u64>, make: impl Fn(u64) -> Result<Vec<Batch>> + Send + 'static) -> Result<Self> {
        let (give, batches) = sync_channel(DEPTH);
        let run = move || {
            for step in steps {
                let made = make(step);
                let failed = made.is_err();
                if give.send(made).is_err() || failed {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(run);
        let thread = thread.map_err(|e| Error::bug("cannot start the loader's thread").because(e))?;
        Ok(Ahead { batches: Some(batches), thread: Some(thread), waited: Duration::ZERO })
    }

    /// The batches of the next step.
    ///
    /// # Errors
    /// That of `make`, or there is no further step (1).
    pub fn take(&mut self) -> Result<Vec<Batch>> {
        let began = Instant::now();
        let made = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        self.waited += began.elapsed();
        made.unwrap_or_else(|| Err(Error::bug("the loader has ended")))
    }

    /// How long [`Ahead::take`] has waited since this was last asked.
    pub fn waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.batches = None;
        // It ends at the next batch at the latest; a panic of its own was told by a missing batch.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn numbered(step: u64) -> Vec<Batch> {
        vec![Batch::full(1, vec![step as i64])]
    }

    #[test]
    fn steps_come_in_order_and_then_no_more() {
        let mut ahead = Ahead::new(3..7, |step| Ok(numbered(step))).expect("starts");
        for step in 3..7 {
            assert_eq!(ahead.take().expect("is made"), numbered(step));
        }
        assert_eq!(ahead.take().expect_err("no step is left").to_string(), "the loader has ended");
        assert_eq!((ahead.waited() > Duration::ZERO, ahead.waited()), (true, Duration::ZERO));
    }

    #[test]
    fn the_first_error_comes_at_its_step() {
        let make = |step| if step == 1 { Err(Error::data("a bad sample")) } else { Ok(numbered(step)) };
        let mut ahead = Ahead::new(0..9, make).expect("starts");
        assert!(ahead.take().is_ok());
        assert_eq!(ahead.take().expect_err("fails").to_string(), "a bad sample");
        assert!(ahead.take().is_err());
    }

    #[test]
    fn it_stays_a_few_steps_ahead_and_ends_when_it_is_dropped() {
        let made = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&made);
        let mut ahead = Ahead::new(0..1_000_000, move |step| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(numbered(step))
        })
        .expect("starts");
        assert!(ahead.take().is_ok());
        drop(ahead);
        assert!((1..=4).contains(&made.load(Ordering::SeqCst)), "{made:?}");
    }
}
