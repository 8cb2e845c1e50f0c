//! Which process on which machine: enough to tell, from the same machine, whether it still runs.

use serde::{Deserialize, Serialize};

/// A process, named so that no later one has the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Process {
    /// The machine's name, or the container's.
    pub(super) host: String,
    /// The process.
    pub(super) pid: u32,
    /// When it started, in the kernel's ticks since the machine did: process numbers come back.
    pub(super) started: u64,
    /// The machine's start and the container's process numbers: where `pid` means something.
    pub(super) scope: String,
}

impl Process {
    /// The running one.
    pub(super) fn this() -> Self {
        let text = |path: &str| fs_err::read_to_string(path).map_or_else(|_| String::new(), |t| t.trim().to_owned());
        let host = match text("/proc/sys/kernel/hostname") {
            name if name.is_empty() => "this machine".to_owned(),
            name => name,
        };
        let space = fs_err::read_link("/proc/self/ns/pid").map_or_else(|_| String::new(), |p| p.display().to_string());
        let scope = format!("{} {space}", text("/proc/sys/kernel/random/boot_id")).trim().to_owned();
        let pid = std::process::id();
        Process { host, pid, started: started(pid).unwrap_or(0), scope }
    }

    /// Whether it still runs; none if that cannot be seen from here.
    pub(super) fn lives(&self) -> Option<bool> {
        let this = Process::this();
        let same = self.host == this.host && self.scope == this.scope && !this.scope.is_empty() && this.started > 0;
        same.then(|| started(self.pid) == Some(self.started))
    }
}

/// When a process that is not a zombie started.
fn started(pid: u32) -> Option<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold anything; the state is the third, the start the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_one_that_ended_does_not() {
        let this = Process::this();
        if this.started == 0 {
            return;
        }
        assert_eq!(this.lives(), Some(true));
        assert_eq!(Process { started: this.started + 1, ..this.clone() }.lives(), Some(false), "a number come back");
        assert_eq!(Process { host: "elsewhere".into(), ..this.clone() }.lives(), None);
        let mut child = std::process::Command::new("true").spawn().expect("starts");
        let pid = child.id();
        child.wait().expect("ends");
        assert_eq!(Process { pid, ..this }.lives(), Some(false));
    }
}
