//! The program `midi-ingest`: `run`, `plan`, `vocab`, `tokenize`, `detokenize`, `inspect` and `verify`.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use midi_ingest::job::Exit;

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let exit = match cli::run(&cli::Cli::parse(), &mut out) {
        Ok(exit) => exit,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error}");
            error.exit()
        }
    };
    ExitCode::from(Exit::code(exit))
}
