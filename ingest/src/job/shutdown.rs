//! SIGTERM and SIGINT as a flag that work polls: a stage ends at its next safe point instead of anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit::{Error, Exit, Result};

/// Whether the process was asked to stop. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    asked: Arc<AtomicBool>,
}

impl Shutdown {
    /// A flag that only [`Shutdown::ask`] raises: for tests and for embedding.
    pub fn manual() -> Self {
        Self::default()
    }

    /// A flag that the first SIGTERM or SIGINT raises; a second one ends the process at once with exit code 10.
    ///
    /// # Errors
    /// The operating system refused the handlers.
    pub fn on_signals() -> Result<Self> {
        let shutdown = Self::default();
        let failed = |e| Error::bug("cannot watch for SIGTERM").because(e);
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            // Order matters: the second signal finds the flag raised and ends the process.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                i32::from(Exit::PeerLost.code()),
                Arc::clone(&shutdown.asked),
            )
            .map_err(failed)?;
            signal_hook::flag::register(signal, Arc::clone(&shutdown.asked)).map_err(failed)?;
        }
        Ok(shutdown)
    }

    /// Raises the flag.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether the flag is raised.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// An error with exit code 75 if the flag is raised; `saved` says what is safe.
    ///
    /// # Errors
    /// The flag is raised.
    pub fn check(&self, saved: &str) -> Result<()> {
        if self.is_asked() {
            return Err(Error::new(Exit::RunAgain, format!("stopped on request; {saved}"))
                .hint("run the same command again to go on from there"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_flag_ends_with_run_again() {
        let shutdown = Shutdown::manual();
        assert!(shutdown.check("nothing was begun").is_ok());
        shutdown.clone().ask();
        let error = shutdown.check("4 of 9 units are committed").expect_err("raised");
        assert_eq!(error.exit(), Exit::RunAgain);
    }
}
