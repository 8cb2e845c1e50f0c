//! The processes of one stage on this machine. A training of several is started as torchrun would: each process is
//! told its rank, and the store where ranks meet is served from here, so that it outlives any of them.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use midi_ingest::job::Exit;
use midi_ingest::job::exit::{Error, Result};
use midi_train::dist::store::Server;

use crate::signals::{self, Signals};

/// Time between two looks at the children and at the signals.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the others have to say what they miss after one process ended badly; then they are asked to end.
const GRACE: Duration = Duration::from_secs(15);
/// From that request to a second one, which ends a stage at once.
const TO_SECOND: Duration = Duration::from_secs(2);
/// From that request to the end without one.
const TO_KILL: Duration = Duration::from_secs(5);

const SIGTERM: i32 = signal_hook::consts::SIGTERM;
const SIGKILL: i32 = signal_hook::consts::SIGKILL;

/// Processes that run. Those that are left when it is dropped are ended.
pub(super) struct Ranks {
    children: Vec<Child>,
    /// See [`GRACE`].
    grace: Duration,
    _store: Option<Server>,
}

impl Ranks {
    /// Starts `count` processes of `program`, for the `start`-th time after the first.
    pub(super) fn start(program: &Path, arguments: &[String], count: usize, start: u32) -> Result<Self> {
        let store = match count {
            0 | 1 => None,
            _ => Some(Server::local().map_err(|e| Error::bug("cannot serve the store of the ranks").because(e))?),
        };
        let port = store.as_ref().map(Server::port);
        let mut ranks = Ranks { children: Vec::new(), grace: GRACE, _store: store };
        for rank in 0..count.max(1) {
            let mut command = Command::new(program);
            // A group of its own: Ctrl-C reaches the launcher alone and is handed on once, not twice.
            command.args(arguments).stdin(Stdio::null()).process_group(0);
            end_with_this_process(&mut command);
            if let Some(port) = port {
                let count = count.to_string();
                for name in ["RANK", "LOCAL_RANK"] {
                    command.env(name, rank.to_string());
                }
                for name in ["WORLD_SIZE", "LOCAL_WORLD_SIZE"] {
                    command.env(name, &count);
                }
                command.env("GROUP_RANK", "0").env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
                command.env("TORCHELASTIC_USE_AGENT_STORE", "True");
                command.env("TORCHELASTIC_RESTART_COUNT", start.to_string());
            }
            let child = command
                .spawn()
                .map_err(|e| Error::mismatch(format!("cannot start `{}`", program.display())).because(e))?;
            ranks.children.push(child);
        }
        Ok(ranks)
    }

    /// Waits for all of them and hands signals on; true if there was one. The status is that of the process that
    /// says most about the cause.
    pub(super) fn wait(&mut self, signals: &Signals) -> Result<(ExitStatus, bool)> {
        let mut asked = false;
        let mut failed: Option<Instant> = None;
        let mut sent = 0;
        loop {
            let mut ended = Vec::new();
            for child in &mut self.children {
                ended.push(child.try_wait().map_err(|e| Error::bug("cannot wait for a child process").because(e))?);
            }
            if let Some(all) = ended.iter().copied().collect::<Option<Vec<ExitStatus>>>() {
                let cause = all.into_iter().min_by_key(weight);
                let cause = cause.ok_or_else(|| Error::bug("a stage without processes"))?;
                return Ok((cause, asked || signals.take().is_some()));
            }
            while let Some(signal) = signals.take() {
                asked = true;
                self.send(&ended, signal);
            }
            if failed.is_none() && ended.iter().flatten().any(|status| !status.success()) {
                failed = Some(Instant::now());
            }
            let late = failed.map_or(Duration::ZERO, |failed| failed.elapsed());
            let grace = self.grace;
            let steps = [(grace, SIGTERM), (grace + TO_SECOND, SIGTERM), (grace + TO_KILL, SIGKILL)];
            if let Some((_, signal)) = steps.get(sent).filter(|(after, _)| late >= *after) {
                self.send(&ended, *signal);
                sent += 1;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn send(&self, ended: &[Option<ExitStatus>], signal: i32) {
        let running = self.children.iter().zip(ended).filter(|(_, status)| status.is_none());
        running.for_each(|(child, _)| signals::send(child.id(), signal));
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            if matches!(child.try_wait(), Ok(None)) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Asks the process that `command` starts to end (SIGTERM) when the thread that starts it does, however that ends: a
/// stage without its launcher would hold its folder against the next run. The main thread starts all stages.
fn end_with_this_process(command: &mut Command) {
    let parent = std::process::id();
    let ask = move || {
        #[expect(unsafe_code, reason = "the standard library does not know what Linux does when a parent ends")]
        // SAFETY: both calls take integers, touch no memory of this process, and are safe between `fork` and `exec`.
        let (asked, adopted) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM), libc::getppid()) };
        if asked != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // It ended before it could be watched.
        if u32::try_from(adopted) != Ok(parent) {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "a process says this of itself, before its program starts")]
    // SAFETY: what runs between `fork` and `exec` allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(ask);
    }
}

/// Least for what says most: a failure of its own, then one that a signal ended, then those that lost it, then "run
/// again", then success.
fn weight(status: &ExitStatus) -> u8 {
    let is = |exit: Exit| status.code() == Some(i32::from(exit.code()));
    match () {
        () if is(Exit::Done) => 4,
        () if is(Exit::RunAgain) => 3,
        () if is(Exit::PeerLost) => 2,
        () if status.signal().is_some() => 1,
        () => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_of_one_ends_the_others_even_if_they_will_not() {
        let script = "test $RANK = 1 && exit 65; trap '' TERM; while :; do sleep 0.05; done";
        let arguments = ["-c".to_owned(), script.to_owned()];
        let mut ranks = Ranks::start(Path::new("/bin/sh"), &arguments, 3, 0).expect("starts");
        ranks.grace = Duration::from_millis(100);
        let (status, asked) = ranks.wait(&Signals::manual()).expect("ends");
        assert_eq!((status.code(), asked), (Some(65), false));
        let statuses = ranks.children.iter_mut().map(|child| child.try_wait().expect("waits"));
        let killed = statuses.filter(|status| status.is_some_and(|status| status.signal() == Some(SIGKILL))).count();
        assert_eq!(killed, 2);
    }

    #[test]
    fn the_cause_goes_before_its_consequences() {
        let status = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = ExitStatus::from_raw(9);
        let cause = |mut all: Vec<ExitStatus>| {
            all.sort_by_key(weight);
            all[0]
        };
        assert_eq!(cause(vec![status(10), status(65), killed]), status(65));
        assert_eq!(cause(vec![status(10), killed, status(0)]), killed);
        assert_eq!(cause(vec![status(75), status(10)]), status(10));
        assert_eq!(cause(vec![status(0), status(75)]), status(75));
        assert_eq!(cause(vec![status(0), status(0)]), status(0));
    }
}
