//! SIGTERM and SIGINT of the launcher, handed on to the stage that runs: the stage decides how to stop, and its exit
//! code says how it did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use midi_ingest::job::exit::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The signals that arrived and were not taken yet. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    arrived: Vec<(i32, Arc<AtomicBool>)>,
}

impl Signals {
    /// Signals that only [`Signals::raise`] brings: for tests and for embedding.
    pub fn manual() -> Self {
        Signals { arrived: vec![(SIGTERM, Arc::new(AtomicBool::new(false)))] }
    }

    /// The signals of this process from now on: none of them ends it any more.
    ///
    /// A closed terminal (SIGHUP) counts as well, unless `nohup` said that it should not.
    ///
    /// # Errors
    /// The operating system refused a handler.
    pub fn of_this_process() -> Result<Self> {
        let mut signals = Signals::default();
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            if signal == SIGHUP && is_ignored(SIGHUP) {
                continue;
            }
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .map_err(|e| Error::bug("cannot watch for signals").because(e))?;
            signals.arrived.push((signal, flag));
        }
        Ok(signals)
    }

    /// Brings every signal of the set, as if the operating system had.
    pub fn raise(&self) {
        self.arrived.iter().for_each(|(_, flag)| flag.store(true, Ordering::SeqCst));
    }

    /// Takes one signal that arrived. SIGHUP is handed on as SIGTERM, which every stage knows.
    pub fn take(&self) -> Option<i32> {
        let (signal, _) = self.arrived.iter().find(|(_, flag)| flag.swap(false, Ordering::SeqCst))?;
        Some(if *signal == SIGHUP { SIGTERM } else { *signal })
    }
}

/// Whether this process was started with `signal` ignored. Where `/proc` does not say, it was not.
fn is_ignored(signal: i32) -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Sends `signal` to the child process `id`.
pub fn send(id: u32, signal: i32) {
    let Ok(id) = libc::pid_t::try_from(id) else { return };
    #[expect(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
    // SAFETY: `kill` takes two integers and touches no memory. The caller holds the child and has not waited for it
    // yet, so `id` cannot have been given to another process; a child that ended already ignores the signal.
    let _ = unsafe { libc::kill(id, signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_taken_once() {
        let signals = Signals::manual();
        assert_eq!(signals.take(), None);
        signals.clone().raise();
        assert_eq!(signals.take(), Some(SIGTERM));
        assert_eq!(signals.take(), None);
    }
}
