//! `midi-rwkv run` with stand-ins for the stages: order, commands, exit codes, signals.

mod support;

use std::time::{Duration, Instant};

use support::{Sandbox, whole};

#[test]
fn the_stages_run_in_order_with_the_commands_that_plan_prints() {
    let sandbox = Sandbox::with_stages();
    let arguments = ["demo.toml", "--set", "train.demo.steps=5", "--set", "name=other run"];
    let refused = sandbox.run(&[&["run"], &arguments[..]].concat());
    assert_eq!(refused.status.code(), Some(78), "a name with a space is refused before anything starts");
    assert!(sandbox.calls().is_empty());

    let arguments = ["demo.toml", "--set", "train.demo.steps=5"];
    let plan = sandbox.run(&[&["plan"], &arguments[..]].concat());
    assert_eq!(plan.status.code(), Some(0));
    let plan = String::from_utf8(plan.stdout).expect("utf-8");
    let planned: Vec<&str> =
        plan.lines().filter_map(|line| line.trim().strip_prefix("command")).map(str::trim).collect();
    assert!(sandbox.calls().is_empty(), "a plan starts nothing");
    assert!(!sandbox.path("runs").exists(), "a plan writes nothing");

    let run = sandbox.run(&[&["run"], &arguments[..]].concat());
    assert_eq!(run.status.code(), Some(0), "{}", whole(&run));
    assert_eq!(sandbox.calls(), planned);
    insta::assert_snapshot!(sandbox.calls().join("\n"), @r"
    midi-ingest run demo.toml --set train.demo.steps=5
    midi-train run demo.toml --model demo --set train.demo.steps=5
    midi-eval run demo.toml --set train.demo.steps=5
    ");
}

#[test]
fn what_was_written_is_listed_after_the_stages_own_output() {
    let sandbox = Sandbox::with_stages();
    sandbox.stage("midi-ingest", "mkdir -p runs/demo/ingest/songs; echo '{}' > runs/demo/ingest/manifest.json");
    sandbox.stage("midi-eval", "echo 'model  metric'; echo x > runs/demo/report.html");
    insta::assert_snapshot!(whole(&sandbox.run(&["run", "demo.toml"])), @r"
    exit code 0
    --- out
    model  metric

    written:
      runs/demo/ingest/songs
      runs/demo/ingest/manifest.json
      runs/demo/report.html
    --- err
    ==> ingest (1 of 3)
    ==> train/demo (2 of 3)
    ==> eval (3 of 3)
    ");
}

#[test]
fn a_failure_ends_the_run_with_the_stages_own_exit_code() {
    let sandbox = Sandbox::with_stages();
    sandbox.stage("midi-train", "echo 'error: loss is NaN at step 7' >&2; exit 70");
    insta::assert_snapshot!(whole(&sandbox.run(&["run", "demo.toml"])), @r"
    exit code 70
    --- out
    --- err
    ==> ingest (1 of 3)
    ==> train/demo (2 of 3)
    error: loss is NaN at step 7
    error: `train/demo` ended with exit code 70: training diverged: the loss or the gradients are not finite
    hint: lower `schedule.lr` of that model in a run of another `name`; the checkpoints are kept
    ");
    assert_eq!(sandbox.calls().len(), 2, "eval was not started");
}

#[test]
fn every_exit_code_is_passed_on() {
    let sandbox = Sandbox::with_stages();
    for code in [1, 2, 10, 65, 70, 74, 78, 101, 33] {
        sandbox.stage("midi-ingest", &format!("exit {code}"));
        let run = sandbox.run(&["run", "demo.toml", "--only", "ingest"]);
        assert_eq!(run.status.code(), Some(code), "{}", whole(&run));
    }
}

#[test]
fn a_killed_stage_says_that_memory_may_be_the_reason() {
    let sandbox = Sandbox::with_stages();
    sandbox.stage("midi-ingest", "kill -9 $$");
    insta::assert_snapshot!(whole(&sandbox.run(&["run", "demo.toml"])), @r"
    exit code 10
    --- out
    --- err
    ==> ingest (1 of 3)
    error: `ingest` ended with exit code 10: it was killed by signal 9; often the machine ran out of memory
    hint: give it more memory, or lower `micro-batch`, `context-tokens` or `batch`; then run again
    ");
}

#[test]
fn a_stage_that_asks_to_be_run_again_is_run_again_a_few_times() {
    let sandbox = Sandbox::with_stages();
    sandbox.stage("midi-train", "test $(grep -c midi-train calls.log) -ge 3 || exit 75");
    let run = sandbox.run(&["run", "demo.toml", "--only", "train"]);
    assert_eq!(run.status.code(), Some(0), "{}", whole(&run));
    assert_eq!(sandbox.calls().len(), 3);

    sandbox.stage("midi-train", "exit 75");
    let run = sandbox.run(&["run", "demo.toml", "--only", "train"]);
    assert_eq!(run.status.code(), Some(75), "{}", whole(&run));
    assert_eq!(sandbox.calls().len(), 3 + 4, "once and three times again");
}

#[test]
#[expect(clippy::print_stdout, reason = "a skipped check must say so")]
fn signals_are_handed_on_once_and_the_stages_exit_code_is_passed_on() {
    for signal in ["TERM", "INT", "HUP"] {
        if signal == "HUP" && hangup_is_ignored() {
            println!("skipped HUP: these tests run under `nohup`, which the launcher respects");
            continue;
        }
        let sandbox = Sandbox::with_stages();
        let handed_on = if signal == "HUP" { "TERM" } else { signal };
        sandbox.stage(
            "midi-train",
            &format!("trap 'echo got {handed_on} >> calls.log; exit 75' {handed_on}\ntouch ready\nwhile :; do sleep 0.05; done"),
        );
        let mut child = sandbox
            .command(&["run", "demo.toml"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        let began = Instant::now();
        wait_until("the stage did not start", || sandbox.path("ready").exists());
        let sent = std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill starts").success());
        let status = loop {
            if let Some(status) = child.try_wait().expect("waits") {
                break status;
            }
            if began.elapsed() > Duration::from_secs(60) {
                child.kill().expect("ends");
                panic!("SIG{signal} did not end the run");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(75), "{signal}");
        let calls = sandbox.calls();
        assert_eq!(calls.last().map(String::as_str), Some(format!("got {handed_on}").as_str()), "{calls:?}");
        assert_eq!(calls.len(), 3, "neither run again nor followed by eval: {calls:?}");
    }
}

#[test]
fn a_stage_is_asked_to_end_when_the_launcher_is_killed() {
    let sandbox = Sandbox::with_stages();
    let script = "trap 'echo got TERM >> calls.log; exit 75' TERM\ntouch ready\nwhile :; do sleep 0.05; done";
    sandbox.stage("midi-train", script);
    let quiet = || std::process::Stdio::null();
    let mut child = sandbox.command(&["run", "demo.toml"]).stdout(quiet()).stderr(quiet()).spawn().expect("starts");
    wait_until("the stage did not start", || sandbox.path("ready").exists());
    child.kill().expect("is killed");
    child.wait().expect("ends");
    wait_until("the stage goes on alone", || sandbox.calls().last().is_some_and(|call| call == "got TERM"));
}

fn wait_until(otherwise: &str, there: impl Fn() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < Duration::from_secs(30), "{otherwise}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether this process, and so what it starts, ignores SIGHUP (signal 1).
fn hangup_is_ignored() -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1)
}

#[test]
fn a_training_of_several_processes_is_started_as_torchrun_would() {
    let sandbox = Sandbox::with_stages();
    let told = "echo \"$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR $TORCHELASTIC_USE_AGENT_STORE\" >> told.log";
    sandbox.stage("midi-train", told);
    let arguments = ["run", "demo.toml", "--only", "train", "--set", "train.demo.dist.nproc=4"];
    let run = sandbox.run(&arguments);
    assert_eq!(run.status.code(), Some(0), "{}", whole(&run));
    let text = fs_err::read_to_string(sandbox.path("told.log")).expect("told");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..4).map(|rank| format!("{rank}/4 {rank}/4 127.0.0.1 True")).collect::<Vec<_>>());
    // The others say that a peer is lost; the cause is passed on.
    sandbox.stage("midi-train", "test $RANK = 1 && exit 65; exit 10");
    assert_eq!(sandbox.run(&arguments).status.code(), Some(65));
}

#[test]
fn a_signal_between_two_stages_begins_no_further_one() {
    let sandbox = Sandbox::with_stages();
    // The stage ends well although its parent was asked to stop.
    sandbox.stage("midi-ingest", "trap '' TERM; kill -TERM $PPID; sleep 0.3");
    insta::assert_snapshot!(whole(&sandbox.run(&["run", "demo.toml"])), @r"
    exit code 75
    --- out
    --- err
    ==> ingest (1 of 3)
    error: stopped on request; `ingest` is done, `train/demo` was not begun
    hint: run the same command again to go on from there
    ");
}
