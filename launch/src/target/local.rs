//! The stages as child processes of this one, one after the other. A stage shows its own progress on the standard
//! error that it inherits; the launcher adds a heading before it and one line after it if it did not end well.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use midi_ingest::job::Exit;
use midi_ingest::job::exit::{Error, Result};
use midi_ingest::store::local_path_of;

use crate::advice;
use crate::machine::Machine;
use crate::plan::{Plan, StagePlan};
use crate::signals::Signals;
use crate::target::ranks::Ranks;

/// How often a stage is started again that ends with "run again" though nobody asked it to stop.
const RUNS_AGAIN: u32 = 3;

/// Runs every stage of `plan` and returns the exit code of the first that fails, or 0.
///
/// Headings and failures go to `err`; the paths of what was written go to `out` at the end.
///
/// # Errors
/// A stage's program is not there, or cannot be started (78).
pub fn run(plan: &Plan, machine: &Machine, signals: &Signals, out: &mut dyn Write, err: &mut dyn Write) -> Result<u8> {
    // All programs are looked for first: training is no time to learn that eval was not built.
    let programs: Vec<PathBuf> = plan.stages.iter().map(|planned| program(planned, machine)).collect::<Result<_>>()?;
    for (i, (planned, program)) in plan.stages.iter().zip(&programs).enumerate() {
        let title = planned.stage.title();
        // A closed standard error must not end the work.
        let _ = writeln!(err, "==> {title} ({} of {})", i + 1, plan.stages.len());
        let ended = run_stage(planned, program, signals, err)?;
        if ended.code != Exit::Done.code() {
            let _ = writeln!(err, "error: `{title}` ended with exit code {}: {}", ended.code, ended.meaning);
            if let Some(hint) = ended.hint {
                let _ = writeln!(err, "hint: {hint}");
            }
            return Ok(ended.code);
        }
        if ended.asked && i + 1 < plan.stages.len() {
            let next = plan.stages[i + 1].stage.title();
            return Err(Error::new(
                Exit::RunAgain,
                format!("stopped on request; `{title}` is done, `{next}` was not begun"),
            )
            .hint("run the same command again to go on from there"));
        }
    }
    let _ = writeln!(out, "\nwritten:");
    for name in plan.stages.iter().flat_map(|planned| &planned.writes) {
        let path = format!("{}/{name}", plan.out.trim_end_matches('/'));
        if local_path_of(&path).is_none_or(|local| local.exists()) {
            let _ = writeln!(out, "  {path}");
        }
    }
    Ok(Exit::Done.code())
}

fn program(planned: &StagePlan, machine: &Machine) -> Result<PathBuf> {
    let name = planned.stage.program();
    machine.find(name).ok_or_else(|| {
        Error::mismatch(format!("cannot find the program `{name}`, neither beside `midi-rwkv` nor on PATH"))
            .hint("build all programs with `make build`; `midi-rwkv doctor` shows what is there")
    })
}

/// How a stage ended.
struct Ended {
    code: u8,
    meaning: String,
    hint: Option<&'static str>,
    /// Whether a signal was handed on to it.
    asked: bool,
}

fn run_stage(planned: &StagePlan, program: &Path, signals: &Signals, err: &mut dyn Write) -> Result<Ended> {
    let mut again = 0;
    loop {
        let mut ranks = Ranks::start(program, &planned.arguments, planned.processes, again)?;
        let (status, asked) = ranks.wait(signals)?;
        let ended = ended(status, asked);
        if ended.code != Exit::RunAgain.code() || asked || again == RUNS_AGAIN {
            return Ok(ended);
        }
        again += 1;
        let title = planned.stage.title();
        let _ = writeln!(err, "==> {title}: stopped with everything saved, goes on (again {again} of {RUNS_AGAIN})");
    }
}

fn ended(status: ExitStatus, asked: bool) -> Ended {
    if let Some(code) = status.code() {
        let (meaning, hint) = advice::of_code(code);
        return Ended { code: u8::try_from(code).unwrap_or(Exit::Bug.code()), meaning, hint, asked };
    }
    let (meaning, hint) = advice::of_signal(status.signal().unwrap_or_default());
    Ended { code: Exit::PeerLost.code(), meaning, hint, asked }
}
