//! The one place where the launcher looks around: its own path, the environment, cores, memory, disk, GPUs.
//!
//! Everything else in this crate is a function of its arguments, a [`Machine`] among them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use midi_ingest::store::Access;

/// What the launcher knows of the machine it runs on.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The folder of the running program, where its sisters are looked for first.
    pub folder: Option<PathBuf>,
    /// The folders of `PATH`, in order.
    pub search: Vec<PathBuf>,
    /// The environment variables that [`Machine::NAMES`] lists, as far as they are set and not empty.
    pub variables: BTreeMap<String, String>,
    /// Whether there is a token for the hub of data sets: its variable, or what a login left. The token is not kept.
    pub token: bool,
}

impl Machine {
    /// The environment variables that the launcher looks at.
    pub const NAMES: [&'static str; 1] = ["LIBTORCH"];

    /// The machine that this program runs on.
    pub fn here() -> Self {
        let folder = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let search = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
        let variables = Self::NAMES
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok().filter(|value| !value.is_empty())?)))
            .collect();
        let token = Access::of(|name| std::env::var(name).ok()).token.is_some();
        Machine { folder, search, variables, token }
    }

    /// The program `name`, beside the running one or else on `PATH`.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.folder.iter().chain(&self.search).map(|folder| folder.join(name)).find(|path| is_program(path))
    }

    /// The value of an environment variable of [`Machine::NAMES`].
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The folders where libtorch may stand, in the order in which the build and the programs look.
    pub fn libtorch_folders(&self) -> Vec<PathBuf> {
        if let Some(folder) = self.variable("LIBTORCH") {
            return vec![PathBuf::from(folder)];
        }
        // `target/<profile>/midi-rwkv` stands two folders below the checkout.
        let checkout = self.folder.as_deref().and_then(Path::parent).and_then(Path::parent);
        let folders = [Some(Path::new("")), checkout];
        folders.into_iter().flatten().map(|folder| folder.join("third_party/libtorch")).collect()
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs_err::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Memory that this process may use, in bytes: the machine's, or the container's limit where that is lower.
pub fn memory() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let machine = line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)?;
    let limit = fs_err::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|t| t.trim().parse::<u64>().ok());
    Some(limit.map_or(machine, |limit| limit.min(machine)))
}

/// Free bytes for ordinary users on the file system of `path`, or of its nearest parent that exists.
pub fn free_disk(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let there = absolute.ancestors().find(|folder| folder.exists())?;
    let said = output(Command::new("df").arg("-Pk").arg(there))?;
    let available = said.lines().nth(1)?.split_whitespace().nth(3)?;
    available.parse::<u64>().ok()?.checked_mul(1024)
}

/// The GPUs as their driver names them, one a line; `None` if there is no driver, an empty text if it is silent.
pub fn gpus() -> Option<String> {
    if let Some(list) = output(Command::new("nvidia-smi").arg("-L")) {
        let names: Vec<&str> = list.lines().map(|line| line.split(" (UUID").next().unwrap_or(line)).collect();
        return Some(names.join(", "));
    }
    Path::new("/dev/nvidia0").exists().then(String::new)
}

/// What `program --version` says; an error text if it does not start or fails.
///
/// # Errors
/// The program cannot be started, or ends with another exit code than 0: the reason as text.
pub fn version_of(program: &Path) -> Result<String, String> {
    let ran = Command::new(program).arg("--version").stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(format!("{}: {}", ran.status, said.lines().next().unwrap_or("it said nothing")))
}

/// Standard output of a command that ended well.
fn output(command: &mut Command) -> Option<String> {
    let ran = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_beside_the_running_one_comes_before_the_search_path() {
        use std::os::unix::fs::PermissionsExt;
        let (beside, search) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let machine = Machine {
            folder: Some(beside.path().to_owned()),
            search: vec![search.path().to_owned()],
            ..Machine::default()
        };
        assert_eq!(machine.find("midi-ingest"), None);
        let make = |folder: &Path, mode| {
            let path = folder.join("midi-ingest");
            fs_err::write(&path, "").expect("writes");
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("sets the mode");
            path
        };
        let found = make(search.path(), 0o755);
        make(beside.path(), 0o644);
        assert_eq!(machine.find("midi-ingest"), Some(found), "a file that is not executable is no program");
        let nearer = make(beside.path(), 0o755);
        assert_eq!(machine.find("midi-ingest"), Some(nearer));
    }

    #[test]
    fn this_machine_has_cores_memory_and_a_disk() {
        assert!(cores() > 0);
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
        assert!(free_disk(Path::new("no/such/folder/yet")).is_some());
    }
}
