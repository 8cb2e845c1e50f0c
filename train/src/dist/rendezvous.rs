//! Ranks find each other: rank 0 or an agent serves the store, everybody connects, and all wait for all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use midi_ingest::job::Shutdown;
use midi_ingest::job::exit::{Error, Exit, Result};

use super::collective::{Collective, Operation};
use super::env::RankEnv;
use super::gloo::Gloo;
use super::nccl::Nccl;
use super::solo::Solo;
use super::store::{Client, Server};
use super::watch::Watch;
use crate::cuda::Gpu;

/// No answer of the store takes longer while all is well.
const PATIENCE: Duration = Duration::from_secs(2);
/// The least time that ranks which have found each other have to connect.
const LEAST: Duration = Duration::from_secs(5);
/// Time between two looks for the others.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The ranks of `env`, all of them present, on processors.
///
/// # Errors
/// They are not there within `time`: exit code 10, naming the absent ones.
pub fn join(env: &RankEnv, time: Duration) -> Result<Box<dyn Collective>> {
    join_on(env, None, time, &Shutdown::manual())
}

/// As [`join`]; where this rank has a GPU, all must, and they talk over NCCL.
///
/// # Errors
/// As [`join`], there is no NCCL (78), or the process was asked to stop meanwhile (10).
pub fn join_on(
    env: &RankEnv,
    gpu: Option<Arc<Gpu>>,
    time: Duration,
    shutdown: &Shutdown,
) -> Result<Box<dyn Collective>> {
    if env.world == 1 {
        return Ok(Box::new(Solo));
    }
    meet(env, gpu, time, shutdown)
}

/// As [`join_on`], also for a world of one rank.
///
/// # Errors
/// As [`join_on`].
pub fn meet(env: &RankEnv, gpu: Option<Arc<Gpu>>, time: Duration, shutdown: &Shutdown) -> Result<Box<dyn Collective>> {
    let deadline = Instant::now() + time;
    let at = format!("{}:{}", env.host, env.port);
    let serve = || {
        Server::start(env.port).map_err(|e| {
            Error::new(Exit::PeerLost, format!("rank 0 cannot serve the store on port {}", env.port))
                .because(e)
                .hint("choose another MASTER_PORT; if an agent serves the store, set TORCHELASTIC_USE_AGENT_STORE=True")
        })
    };
    let server = if env.rank == 0 && !env.served { Some(serve()?) } else { None };
    let connect = || {
        Client::connect(&env.host, env.port, deadline, PATIENCE, &|| shutdown.is_asked()).map_err(|e| {
            if shutdown.is_asked() {
                return stopped();
            }
            let who = if env.served { "the agent" } else { "rank 0" };
            Error::new(Exit::PeerLost, format!("rank {} cannot reach the store at {at}: {who} is absent", env.rank))
                .because(e)
        })
    };
    let (mut client, counter) = (connect()?, connect()?);
    let prefix = format!("midi-train/{}", env.restart);
    let lost = |e: std::io::Error| {
        Error::new(Exit::PeerLost, format!("the store at {at} is lost while the ranks meet")).because(e)
    };
    let mine = client.add(&format!("{prefix}/joined/{}", env.rank), 1).map_err(lost)?;
    if mine != 1 {
        return Err(Error::new(Exit::PeerLost, format!("the store at {at} has a rank {} already", env.rank))
            .hint("two processes have the same RANK, or the others are of an earlier start: start all of them again"));
    }
    loop {
        let mut absent = Vec::new();
        for rank in 0..env.world {
            if client.get(&format!("{prefix}/joined/{rank}")).map_err(lost)?.is_none() {
                absent.push(rank.to_string());
            }
        }
        if absent.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            let are = if absent.len() == 1 { "rank" } else { "ranks" };
            let text = format!("{are} {} of {} did not come to {at} in time", absent.join(", "), env.world);
            return Err(Error::new(Exit::PeerLost, text)
                .hint("look at why they did not start; `first-timeout-seconds` is the time that they have"));
        }
        if shutdown.is_asked() {
            return Err(stopped());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let bind = client.local_host().map_err(lost)?;
    let watch = Watch::start(client, counter, server, prefix, env)?;
    // One deadline for all of it, but for what it takes to say who is missing.
    let left = || deadline.saturating_duration_since(Instant::now()).max(LEAST);
    let mut ranks: Box<dyn Collective> = match gpu {
        Some(gpu) => Box::new(Nccl::join(watch, gpu, left())?),
        None => Box::new(Gloo::join(watch, &env.host, env.port, &bind, left())?),
    };
    // Nobody goes on, and perhaps ends, while another still connects.
    ranks.barrier(&Operation { name: "meeting", step: 0, deadline: left() })?;
    Ok(ranks)
}

/// The error of a process that was asked to stop before it had anything to save.
fn stopped() -> Error {
    Error::new(Exit::PeerLost, "stopped on request, while the ranks were meeting")
}
