//! The program `midi-rwkv`.

use std::process::ExitCode;

use clap::Parser;
use midi_rwkv::cli::Cli;
use midi_rwkv::machine::Machine;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let code = midi_rwkv::run(&cli, &Machine::here(), &mut std::io::stdout(), &mut std::io::stderr());
    ExitCode::from(code)
}
