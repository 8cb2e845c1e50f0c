//! The program `midi-train`: `run`, `plan` and `inspect`.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use midi_ingest::job::Exit;

fn main() -> ExitCode {
    let exit = match cli::run(&cli::Cli::parse()) {
        Ok(text) => {
            // A reader that closed the pipe has seen what it wanted.
            if !text.is_empty() {
                let _ = writeln!(std::io::stdout().lock(), "{text}");
            }
            Exit::Done
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error}");
            error.exit()
        }
    };
    ExitCode::from(exit.code())
}
