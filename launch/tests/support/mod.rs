//! A folder with the real `midi-rwkv` and stand-ins for the stages' programs beside it.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the repository").to_owned()
}

/// What stands at the end of every stand-in that ends well.
pub(crate) const WELL: &str = "exit 0";

/// A temporary folder in which commands run.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    /// A folder with `midi-rwkv` alone.
    pub(crate) fn bare() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        // A copy, so that the programs that the build put beside the real one are not found.
        fs_err::create_dir(folder.path().join("bin")).expect("makes the folder");
        install(Path::new(env!("CARGO_BIN_EXE_midi-rwkv")), &folder.path().join("bin/midi-rwkv"));
        let sandbox = Sandbox { folder };
        fs_err::copy(root().join("configs/demo.toml"), sandbox.path("demo.toml")).expect("copies");
        sandbox
    }

    /// A folder with stand-ins for all stages that note how they were called and end well.
    pub(crate) fn with_stages() -> Self {
        let sandbox = Self::bare();
        for program in ["midi-ingest", "midi-train", "midi-eval"] {
            sandbox.stage(program, WELL);
        }
        sandbox
    }

    /// Puts a stand-in for `program` in place: it notes how it was called, then runs the shell lines of `script`.
    pub(crate) fn stage(&self, program: &str, script: &str) {
        let log = self.path("calls.log");
        let text = format!("#!/bin/sh\necho \"{program} $*\" >> '{}'\n{script}\n", log.display());
        let source = self.path(&format!("{program}.sh"));
        fs_err::write(&source, text).expect("writes");
        install(&source, &self.path(&format!("bin/{program}")));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `midi-rwkv`, to be run in the folder with nothing of this test's own environment but the shell's folders.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/midi-rwkv"));
        command.current_dir(self.folder.path()).args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("midi-rwkv starts")
    }

    /// How the stand-ins were called, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs_err::read_to_string(self.path("calls.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Makes `program` a copy of `source` that can be started.
///
/// Another process writes it: if this one did, a test that starts a program at the same moment would hand the open file
/// on for an instant, and the system refuses to start a file that is open for writing.
fn install(source: &Path, program: &Path) {
    let installed = Command::new("install").args(["-m", "755"]).arg(source).arg(program).status();
    assert!(installed.expect("install starts").success(), "{}", program.display());
}

/// Exit code, standard output and standard error in one text, for snapshots.
pub(crate) fn whole(output: &Output) -> String {
    let code = output.status.code().map_or("a signal".to_owned(), |code| code.to_string());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("exit code {code}\n--- out\n{}--- err\n{}", text(&output.stdout), text(&output.stderr))
}
