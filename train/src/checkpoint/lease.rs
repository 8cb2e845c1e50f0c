//! One trainer a folder: a lease that is taken by creating a record that nobody else can create as well.
//!
//! ```text
//! <out>/train/<model>/lease/00000003.json   who trains, since when, and a counter that grows while it lives
//! ```
//!
//! Each holder creates the record of the next epoch, and creation is exclusive in every store, so of many
//! rivals one wins; replacing one `LEASE.json` would need a conditional update, which local folders lack.
//! The highest epoch counts. No decision rests on a clock that two machines would have to share: a holder
//! on this machine is asked of the operating system, and any other is dead when its counter stands still
//! for [`Terms::stale`] of our own time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use midi_ingest::job::Shutdown;
use midi_ingest::job::exit::{Error, Exit, Result};
use midi_ingest::store::Store;
use serde::{Deserialize, Serialize};

use super::process::Process;

/// How often a holder shows that it lives, and how long it may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Between two signs of life.
    pub beat: Duration,
    /// Silence after which a holder counts as dead.
    pub stale: Duration,
}

impl Default for Terms {
    /// A sign every 10 seconds; dead after 45.
    fn default() -> Self {
        Terms { beat: Duration::from_secs(10), stale: Duration::from_secs(45) }
    }
}

/// How long a request to stop may go unnoticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The record of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Record {
    epoch: u64,
    holder: Process,
    /// Tells the leases of one process apart.
    serial: u64,
    /// Seconds since 1970, for people.
    since: u64,
    /// Grows with every sign of life.
    beats: u64,
    /// The holder ended in order.
    released: bool,
}

/// The last serial number given, and those of the leases that this process holds.
static HELD: Mutex<(u64, Vec<u64>)> = Mutex::new((0, Vec::new()));

/// The right to write checkpoints to a folder. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    stop: Option<Sender<()>>,
    beating: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    folder: String,
    record: Mutex<Record>,
    lost: AtomicBool,
}

impl Lease {
    /// Takes the lease on `folder`, after waiting for a silent holder's time to run out; `note` is told.
    ///
    /// # Errors
    /// Another trainer holds it (78), the process was asked to stop meanwhile (10), or the store fails (74).
    pub fn take(store: &Store, folder: &str, terms: Terms, shutdown: &Shutdown, note: &dyn Fn(&str)) -> Result<Self> {
        let folder = format!("{}/lease", folder.trim_matches('/'));
        let newest = newest(store, &folder)?;
        if let Some((_, Some(record))) = &newest
            && !record.released
        {
            await_end(store, &folder, record, terms, shutdown, note)?;
        }
        let serial = {
            let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
            held.0 += 1;
            let serial = held.0;
            held.1.push(serial);
            serial
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let epoch = newest.map_or(0, |(epoch, _)| epoch) + 1;
        let record = Record { epoch, holder: Process::this(), serial, since, beats: 0, released: false };
        create(store, &folder, &record).inspect_err(|_| forget(serial))?;
        let shared =
            Arc::new(Shared { store: store.clone(), folder, record: Mutex::new(record), lost: AtomicBool::new(false) });
        let mut lease = Lease { shared: Arc::clone(&shared), stop: None, beating: None };
        // A rival that was slow may have created an epoch that was removed meanwhile.
        lease.check()?;
        shared.tidy(epoch)?;
        let (stop, stopped) = channel();
        let beat = move || {
            while stopped.recv_timeout(terms.beat) == Err(RecvTimeoutError::Timeout) {
                shared.beat();
            }
        };
        let thread = std::thread::Builder::new().name("lease".into()).spawn(beat);
        lease.beating = Some(thread.map_err(|e| Error::bug("cannot start a thread").because(e))?);
        lease.stop = Some(stop);
        Ok(lease)
    }

    /// Which lease on the folder this is, counted from 1.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch()
    }

    /// Whether another trainer was seen to have taken it over.
    pub fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// That the lease is still held: asked before anything is committed or removed.
    ///
    /// # Errors
    /// Another trainer took it over (10), or the store fails (74).
    pub fn check(&self) -> Result<()> {
        let ours = self.shared.epoch();
        match newest(&self.shared.store, &self.shared.folder)? {
            Some((epoch, _)) if epoch == ours && !self.shared.lost.load(Ordering::SeqCst) => Ok(()),
            other => {
                self.shared.lost.store(true, Ordering::SeqCst);
                let by = other.and_then(|(_, record)| record).map_or_else(|| "nobody".to_owned(), |r| r.shown());
                Err(Error::new(
                    Exit::PeerLost,
                    format!("the lease on `{}` was lost; it is held by {by}", self.shared.shown()),
                )
                .hint("this process was silent for too long and another trainer took over; nothing more was saved"))
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.beating.take() {
            let _ = thread.join();
        }
        let serial = {
            let mut record = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner);
            record.released = true;
            // A record that cannot be written is found stale by the next trainer.
            if !self.shared.lost.load(Ordering::SeqCst) {
                let _ = self.shared.put(&record);
            }
            record.serial
        };
        forget(serial);
    }
}

impl Shared {
    fn epoch(&self) -> u64 {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).epoch
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.store.shown(), self.folder.trim_end_matches("/lease"))
    }

    fn put(&self, record: &Record) -> Result<()> {
        self.store.put(&name(&self.folder, record.epoch), bytes_of(record)?)
    }

    /// A sign of life. A store that fails for a while is no reason to stop: the next sign may arrive.
    fn beat(&self) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        match newest(&self.store, &self.folder) {
            Ok(Some((epoch, _))) if epoch > record.epoch => self.lost.store(true, Ordering::SeqCst),
            Ok(_) => {
                record.beats += 1;
                let _ = self.put(&record);
            }
            Err(_) => {}
        }
    }

    /// Removes the records of earlier epochs.
    fn tidy(&self, epoch: u64) -> Result<()> {
        for old in epochs(&self.store, &self.folder)?.into_iter().filter(|&old| old < epoch) {
            self.store.delete(&name(&self.folder, old))?;
        }
        Ok(())
    }
}

impl Record {
    fn shown(&self) -> String {
        let Process { host, pid, .. } = &self.holder;
        format!("process {pid} on {host}, since {}", utc(self.since))
    }

    /// Whether the holder lives, if that can be known from here.
    fn lives(&self) -> Option<bool> {
        let this = Process::this();
        if self.holder == this {
            let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
            return Some(held.1.contains(&self.serial));
        }
        self.holder.lives()
    }
}

/// Returns when the holder of `record` is dead or has ended.
fn await_end(
    store: &Store,
    folder: &str,
    record: &Record,
    terms: Terms,
    shutdown: &Shutdown,
    note: &dyn Fn(&str),
) -> Result<()> {
    let shown = format!("{}/{}", store.shown(), folder.trim_end_matches("/lease"));
    let held = || {
        Err(Error::mismatch(format!("`{shown}` is being trained by {}", record.shown())).hint(
            "stop that trainer first (SIGTERM saves its state), or train under another name; if it is dead, run this \
             again: its lease ends by itself",
        ))
    };
    match record.lives() {
        Some(true) => return held(),
        Some(false) => {
            note(&format!("taking over from {}, which is gone", record.shown()));
            return Ok(());
        }
        None => note(&format!(
            "{} may still train here; it counts as dead after {} s of silence",
            record.shown(),
            terms.stale.as_secs()
        )),
    }
    let began = Instant::now();
    while began.elapsed() < terms.stale {
        if shutdown.is_asked() {
            return Err(Error::new(Exit::PeerLost, "stopped on request, before anything was trained"));
        }
        std::thread::sleep((terms.beat.min(terms.stale) / 4).min(LONGEST_SLEEP));
        match newest(store, folder)? {
            Some((_, Some(now))) if now == *record => {}
            Some((epoch, Some(now))) if epoch == record.epoch && now.released => return Ok(()),
            _ => return held(),
        }
    }
    note(&format!("taking over from {}, which was silent", record.shown()));
    Ok(())
}

/// Creates the record of a new epoch, if nobody else does.
fn create(store: &Store, folder: &str, record: &Record) -> Result<()> {
    let at = name(folder, record.epoch);
    match store.commit(&at, bytes_of(record)?) {
        Ok(_) => store.sync(&at),
        Err(error) if error.exit() == Exit::Mismatch => {
            let shown = format!("{}/{}", store.shown(), folder.trim_end_matches("/lease"));
            Err(Error::mismatch(format!("another trainer took `{shown}` at the same moment"))
                .hint("one trainer a folder: train under another name, or stop the other one"))
        }
        Err(error) => Err(error),
    }
}

fn bytes_of(record: &Record) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(record).map_err(|e| Error::bug("a lease does not serialise").because(e))
}

fn name(folder: &str, epoch: u64) -> String {
    format!("{folder}/{epoch:08}.json")
}

fn epochs(store: &Store, folder: &str) -> Result<Vec<u64>> {
    let epoch = |name: String| name.strip_prefix(&format!("{folder}/"))?.strip_suffix(".json")?.parse().ok();
    Ok(store.list(folder)?.into_iter().filter_map(epoch).collect())
}

/// The highest epoch and its record; a record that cannot be read, being half written, counts as nobody's.
fn newest(store: &Store, folder: &str) -> Result<Option<(u64, Option<Record>)>> {
    let Some(epoch) = epochs(store, folder)?.into_iter().max() else { return Ok(None) };
    let record = store.get(&name(folder, epoch))?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(Some((epoch, record)))
}

fn forget(serial: u64) {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).1.retain(|held| *held != serial);
}

/// Seconds since 1970 as `2026-11-25 12:00:00 UTC`.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March, so that the leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02} UTC", era * 400 + year + carry)
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
