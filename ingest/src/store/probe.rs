//! Whether a store refuses to create an object twice. Every commit relies on it, so a store that replaces the first
//! object in silence is refused before any work is done there.

use super::{Committed, Store};
use crate::job::exit::{Error, Exit, Result};

/// The object that a probe leaves behind.
const PROBE: &str = "midi-rwkv-probe.json";

impl Store {
    /// Whether the store creates an object only if there is none.
    ///
    /// The probe object has a fixed name and content, so any number of probes leave one small object behind; on a
    /// local disk it is removed.
    ///
    /// # Errors
    /// The store cannot be written (74).
    pub fn refuses_a_second_create(&self) -> Result<bool> {
        self.commit(PROBE, b"{\"probe\":\"first\"}\n".to_vec())?;
        let second = self.commit(PROBE, b"{\"probe\":\"second\"}\n".to_vec());
        if let Some(path) = self.local_path(PROBE) {
            let _ = fs_err::remove_file(path);
        }
        match second {
            Ok(Committed::Created | Committed::Same) => Ok(false),
            Err(error) if error.exit() == Exit::Mismatch => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Refuses a store that cannot be committed to. A local disk can, and is not probed.
    ///
    /// # Errors
    /// A second create replaced the first object, or the store has no conditional writes at all (78); the store cannot
    /// be written (74).
    pub fn must_refuse_a_second_create(&self) -> Result<()> {
        if self.local.is_some() || self.refuses_a_second_create()? {
            return Ok(());
        }
        Err(Error::mismatch(format!("`{}` let a second create replace the first object", self.shown()))
            .hint("use a store with conditional writes, such as S3, GCS, Azure or a local disk"))
    }
}
