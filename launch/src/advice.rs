//! What a stage's exit code means to a person, and what to do about it: the design's table of exit codes in words.

use midi_ingest::job::Exit;

/// What `exit` says, as a lower-case fragment.
pub fn meaning(exit: Exit) -> &'static str {
    match exit {
        Exit::Done => "done",
        Exit::Bug => "an unexpected error, which is a bug of ours",
        Exit::Usage => "it did not understand its command line",
        Exit::PeerLost => "a peer was lost, or it was interrupted with nothing saved",
        Exit::BadData => "the data is corrupt, missing, or bad beyond the allowed share",
        Exit::Diverged => "training diverged: the loss or the gradients are not finite",
        Exit::Storage => "storage or credentials failed, or the disk is full",
        Exit::RunAgain => "it stopped with everything saved",
        Exit::Mismatch => "the configuration, the vocabulary or what was written before does not fit",
    }
}

/// What to do after `exit` of a stage; nothing for a stage that is done.
pub fn hint(exit: Exit) -> Option<&'static str> {
    match exit {
        Exit::Done => None,
        Exit::Bug => Some("the lines above say more; please report them with the output of `midi-rwkv doctor`"),
        Exit::Usage => {
            Some("the programs may be of different versions: `midi-rwkv doctor` shows them; build all again")
        }
        Exit::PeerLost => Some("run the same command again; it goes on from the last commit"),
        Exit::BadData => Some("the lines above name the data; repair or leave it out, then run the same command again"),
        Exit::Diverged => {
            Some("lower `schedule.lr` of that model in a run of another `name`; the checkpoints are kept")
        }
        Exit::Storage => Some("`midi-rwkv doctor` checks disk and store; then run the same command again"),
        Exit::RunAgain => Some("run the same command again to go on from there"),
        Exit::Mismatch => Some("the lines above name the key; change it, or choose another `name` or `out`"),
    }
}

/// As [`meaning`] and [`hint`], for the code of a process that may be none of ours.
pub fn of_code(code: i32) -> (String, Option<&'static str>) {
    match Exit::from_code(code) {
        Some(exit) => (meaning(exit).to_owned(), hint(exit)),
        None if code == 101 => ("it panicked, which is a bug of ours".to_owned(), hint(Exit::Bug)),
        None => ("an exit code that is none of ours".to_owned(), hint(Exit::Bug)),
    }
}

/// What to think of a stage that a signal ended.
pub fn of_signal(signal: i32) -> (String, Option<&'static str>) {
    const KILL: i32 = signal_hook::consts::SIGKILL;
    match signal {
        KILL => (
            "it was killed by signal 9; often the machine ran out of memory".to_owned(),
            Some("give it more memory, or lower `micro-batch`, `context-tokens` or `batch`; then run again"),
        ),
        _ => (format!("it was ended by signal {signal}"), hint(Exit::PeerLost)),
    }
}
