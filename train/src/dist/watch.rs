//! Who is missing. Every rank writes into the store what it is about to do, and a thread of its own counts there
//! as long as the process runs. When an operation fails, the ranks whose count stands still are the ones lost: a
//! process that was killed counts no further, and neither does one that was stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use midi_ingest::job::exit::{Error, Exit, Result};

use super::collective::Operation;
use super::env::RankEnv;
use super::store::{Client, Server};

/// Time between two counts.
const COUNT_EVERY: Duration = Duration::from_millis(100);
/// The longest look at the counts.
const LONGEST_LOOK: Duration = Duration::from_secs(2);

/// The store from one rank's side.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    /// Of rank 0, where nothing else serves the store.
    server: Option<Server>,
    /// Whether rank 0 serves the store.
    of_first: bool,
    prefix: String,
    rank: usize,
    world: usize,
    /// Operations so far.
    entered: u64,
    ending: Arc<AtomicBool>,
    left: bool,
}

/// What a rank is seen doing.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sight {
    /// Its count.
    count: Option<Vec<u8>>,
    /// Operations that it entered.
    entered: u64,
    /// Why it ended, if it said so.
    gone: Option<String>,
}

/// Marks the text of a rank that ended because others were missing: it says no more than who they are.
const MISSING: &str = "missing:";

impl Watch {
    /// Begins to count as the rank of `env` with a connection of its own, `counter`.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(
        client: Client,
        counter: Client,
        server: Option<Server>,
        prefix: String,
        env: &RankEnv,
    ) -> Result<Self> {
        let RankEnv { rank, world, served, .. } = *env;
        let ending = Arc::new(AtomicBool::new(false));
        let (flag, key) = (Arc::clone(&ending), format!("{prefix}/count/{rank}"));
        let count = move |mut counter: Client| {
            let mut number = 0u64;
            while !flag.load(Ordering::Relaxed) && counter.set(&key, number.to_string().as_bytes()).is_ok() {
                number += 1;
                std::thread::sleep(COUNT_EVERY);
            }
        };
        std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || count(counter))
            .map_err(|e| Error::bug("cannot start a thread").because(e))?;
        Ok(Watch { client, server, of_first: !served, prefix, rank, world, entered: 0, ending, left: false })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn world(&self) -> usize {
        self.world
    }

    /// Puts `value` where every rank finds it under `name`.
    pub(super) fn publish(&mut self, name: &str, value: &[u8]) -> std::io::Result<()> {
        let key = format!("{}/{name}", self.prefix);
        self.client.set(&key, value)
    }

    /// What a rank published under `name`.
    pub(super) fn published(&mut self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        let key = format!("{}/{name}", self.prefix);
        self.client.get(&key)
    }

    /// Says what this rank is about to do. A store that is gone is no reason to stop: what counts is whether
    /// the operation succeeds.
    pub(super) fn enter(&mut self, operation: &Operation) {
        self.entered += 1;
        let text = format!("{} {operation}", self.entered);
        let _ = self.client.set(&format!("{}/at/{}", self.prefix, self.rank), text.as_bytes());
    }

    /// How long the transport may take, so that the look at who is missing ends before the deadline too.
    pub(super) fn transport_time(&self, operation: &Operation) -> Duration {
        operation.deadline - look(operation)
    }

    /// The error of an operation that failed with `text`; other ranks are told.
    pub(super) fn lost(&mut self, operation: &Operation, text: &str) -> Error {
        let (missing, why) = match self.look_around(operation) {
            Ok(found) => found,
            // There is nobody to tell any more.
            Err(error) => {
                self.left = true;
                let missing = if self.of_first && self.rank != 0 { vec![0] } else { Vec::new() };
                (missing, format!("the store is lost ({error})"))
            }
        };
        let error = if missing.is_empty() {
            Error::new(Exit::PeerLost, format!("{why} at {operation}: {text}"))
        } else {
            let names: Vec<String> = missing.iter().map(usize::to_string).collect();
            if !self.left {
                let _ = self.client.set(&self.gone(self.rank), format!("{MISSING}{}", names.join(",")).as_bytes());
            }
            let ranks = if names.len() == 1 { "rank" } else { "ranks" };
            let are = if names.len() == 1 { "is" } else { "are" };
            Error::new(Exit::PeerLost, format!("{ranks} {} {are} missing at {operation}", names.join(", ")))
        };
        self.leave(&error);
        error.hint("look at what that process last wrote; run again to go on from the newest checkpoint")
    }

    /// Tells the others that this rank ends. The one that serves the store stays until they have read it.
    pub(super) fn leave(&mut self, error: &Error) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        let key = self.gone(self.rank);
        if !matches!(self.client.get(&key), Ok(Some(_))) {
            let text = error.to_string();
            let _ = self.client.set(&key, text.lines().next().unwrap_or_default().as_bytes());
        }
        if self.server.is_some() {
            let until = Instant::now() + 2 * LONGEST_LOOK;
            while Instant::now() < until {
                let Ok(sights) = self.sights() else { break };
                let others = sights.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
                let stays = |(_, sight): (usize, &Sight)| sight.gone.is_none() && sight.count.is_some();
                if !others.into_iter().any(stays) {
                    break;
                }
                std::thread::sleep(COUNT_EVERY);
            }
        }
    }

    fn gone(&self, rank: usize) -> String {
        format!("{}/gone/{rank}", self.prefix)
    }

    /// The ranks whose count stands still; if there is none, what else is known.
    fn look_around(&mut self, operation: &Operation) -> std::io::Result<(Vec<usize>, String)> {
        let before = self.sights()?;
        std::thread::sleep(look(operation) * 3 / 4);
        let after = self.sights()?;
        for (rank, sight) in after.iter().enumerate() {
            if let Some(text) = sight.gone.as_deref().filter(|text| !text.starts_with(MISSING)) {
                return Ok((Vec::new(), format!("rank {rank} ended ({text})")));
            }
        }
        let silent = |rank: &usize| {
            *rank != self.rank && after[*rank].gone.is_none() && before[*rank].count == after[*rank].count
        };
        let silent: Vec<usize> = (0..self.world).filter(silent).collect();
        if !silent.is_empty() {
            return Ok((silent, String::new()));
        }
        let named = after.iter().find_map(|sight| sight.gone.as_deref()?.strip_prefix(MISSING));
        if let Some(names) = named {
            let missing = names.split(',').filter_map(|name| name.parse().ok());
            // Others may have missed this rank, which runs.
            let missing: Vec<usize> = missing.filter(|&rank| rank != self.rank).collect();
            let why = if missing.is_empty() { "another rank gave up waiting for this one" } else { "" };
            return Ok((missing, why.to_owned()));
        }
        let behind: Vec<usize> = (0..self.world).filter(|rank| after[*rank].entered < self.entered).collect();
        if behind.is_empty() {
            Ok((behind, "all ranks run, but one is not heard".into()))
        } else {
            Ok((behind, String::new()))
        }
    }

    fn sights(&mut self) -> std::io::Result<Vec<Sight>> {
        let text = |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (0..self.world)
            .map(|rank| {
                let count = self.client.get(&format!("{}/count/{rank}", self.prefix))?;
                let at = text(self.client.get(&format!("{}/at/{rank}", self.prefix))?).unwrap_or_default();
                let entered = at.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
                Ok(Sight { count, entered, gone: text(self.client.get(&self.gone(rank))?) })
            })
            .collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

/// How long the counts are looked at after `operation` failed.
fn look(operation: &Operation) -> Duration {
    (operation.deadline / 3).min(LONGEST_LOOK)
}
