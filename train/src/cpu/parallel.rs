//! Work for several cores, on the threads that torch's own operators run on. Threads of our own beside them would
//! take turns with those on the same cores, since each kind waits for its next work by spinning.
#![expect(unsafe_code, reason = "a callback that C++ calls")]

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Runs `work` on every task and its number. At most as many run at once as `tch::set_num_threads` says; on one
/// thread they run in order. A thread that is done takes the next task, since cores are not always equally fast.
pub(crate) fn each<T: Send>(tasks: Vec<T>, work: impl Fn(usize, T) + Sync) {
    if tasks.len() < 2 {
        tasks.into_iter().for_each(|task| work(0, task));
        return;
    }
    let count = tasks.len();
    let tasks: Vec<Mutex<Option<T>>> = tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
    let take = |index: usize| tasks[index].lock().unwrap_or_else(PoisonError::into_inner).take();
    let run = |index| take(index).into_iter().for_each(|task| work(index, task));
    let job = Job { run: &run, count, next: AtomicUsize::new(0), panic: Mutex::new(None) };
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).clamp(1, count);
    // SAFETY: the callback reads `job` as what it is, and the call returns after all of its calls have.
    unsafe { midi_parallel(threads, call, (&raw const job).cast()) };
    if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

/// What the callback is given.
struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    count: usize,
    /// The first task that nobody took.
    next: AtomicUsize,
    /// The first panic of a task; no panic may cross C++.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the declaration matches `shim/parallel.cpp`, which this package's build script compiles.
unsafe extern "C" {
    fn midi_parallel(threads: usize, call: unsafe extern "C" fn(*const c_void, usize), job: *const c_void);
}

/// SAFETY: to be called by the shim only, with the pointer that `each` made.
unsafe extern "C" fn call(job: *const c_void, _thread: usize) {
    // SAFETY: by this function's own contract; a job is shared between threads, all parts of it are `Sync`.
    let job = unsafe { &*job.cast::<Job<'_>>() };
    loop {
        let index = job.next.fetch_add(1, Ordering::Relaxed);
        if index >= job.count {
            break;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.run)(index))) {
            job.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_with_its_number() {
        let mut places = vec![0usize; 1000];
        each(places.iter_mut().collect(), |index, place| *place += index + 1);
        assert!(places.iter().enumerate().all(|(index, &place)| place == index + 1));
    }

    #[test]
    fn a_panic_comes_back_after_the_other_tasks() {
        let ran = AtomicUsize::new(0);
        let work = |index: usize, ()| {
            ran.fetch_add(1, Ordering::SeqCst);
            assert_ne!(index, 3, "as asked");
        };
        let panic = catch_unwind(AssertUnwindSafe(|| each(vec![(); 8], work))).expect_err("panics");
        assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains("as asked")));
        assert_eq!(ran.load(Ordering::SeqCst), 8);
    }
}
