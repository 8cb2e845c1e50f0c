//! The texts that people read: help pages, plans, errors. A change shows up here first.

mod support;

use clap::CommandFactory;
use midi_rwkv::cli::Cli;
use support::{Sandbox, whole};

#[test]
fn help_pages() {
    let mut program = Cli::command();
    program.build();
    let mut pages = vec![program.render_long_help().to_string()];
    for command in program.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        pages.push(command.render_long_help().to_string());
    }
    insta::assert_snapshot!(pages.join("\n----------------------------------------\n\n"));
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_plan_of_the_demo() {
    insta::assert_snapshot!(whole(&Sandbox::bare().run(&["plan", "demo.toml"])));
}

#[test]
fn the_plan_says_what_is_committed() {
    let sandbox = Sandbox::bare();
    for name in ["train/demo/step-000000100/COMMIT.json", "eval/prompts/a.parquet", "eval/metrics/a.parquet"] {
        let path = sandbox.path("runs/demo").join(name);
        fs_err::create_dir_all(path.parent().expect("has a folder")).expect("makes the folder");
        fs_err::write(path, "{}").expect("writes");
    }
    let plan = sandbox.run(&["plan", "demo.toml"]);
    let text = String::from_utf8(plan.stdout).expect("utf-8");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("committed")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    committed   nothing yet
    committed   checkpoint of step 100; it will go on from there
    committed   2 result files; it will go on from there
    ");
}

#[test]
fn errors_name_the_key_and_the_nearest_known_one() {
    let sandbox = Sandbox::bare();
    let cases: [&[&str]; 8] = [
        &["plan", "nowhere.toml"],
        &["plan", "demo.toml", "--set", "trian.demo.steps=1"],
        &["plan", "demo.toml", "--set", "eval.sampler.topk=3"],
        &["plan", "demo.toml", "--set", "train.demo.steps=many"],
        &["plan", "demo.toml", "--set", "steps"],
        &["plan", "demo.toml", "--set", "eval.comparisons=[[\"untrained\", \"trained2\"]]"],
        &["run", "demo.toml"],
        &["render", "demo.toml", "--target", "kubernetes", "-o", "k", "--set", "out=/demo"],
    ];
    let said: Vec<String> =
        cases.iter().map(|words| format!("$ midi-rwkv {}\n{}", words.join(" "), whole(&sandbox.run(words)))).collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for words in [&["run"][..], &["run", "demo.toml", "--only", "ingset"], &["dance"], &["doctor", "--set", "a=1"]] {
        let ran = Sandbox::bare().run(words);
        assert_eq!(ran.status.code(), Some(2), "{}", whole(&ran));
    }
}

#[test]
fn a_stage_that_the_experiment_lacks_is_named() {
    let sandbox = Sandbox::with_stages();
    fs_err::write(sandbox.path("t.toml"), "[train.a]\nmodel = { layers = 1, width = 64 }\nsteps = 1\n")
        .expect("writes");
    let ran = sandbox.run(&["run", "t.toml", "--only", "train,eval"]);
    insta::assert_snapshot!(whole(&ran), @r"
    exit code 78
    --- out
    --- err
    error: `--only eval`: the experiment has no `[eval]`
    hint: leave `--only` out to run the stages that it has
    ");
    assert!(sandbox.calls().is_empty());
}

#[test]
fn doctor_ends_with_78_where_a_program_is_missing_and_with_0_where_none_is() {
    let sandbox = Sandbox::bare();
    let bare = sandbox.run(&["doctor", "demo.toml"]);
    assert_eq!(bare.status.code(), Some(78), "{}", whole(&bare));
    let text = String::from_utf8(bare.stdout).expect("utf-8");
    assert!(text.contains("MISSING  midi-train"), "{text}");
    assert!(text.contains("to do: run `make build`"), "{text}");
    assert!(!sandbox.path("runs").exists(), "the probe of a store that is not there yet leaves nothing behind");

    for program in ["midi-ingest", "midi-train", "midi-eval"] {
        sandbox.stage(program, &format!("echo {program} {}", midi_rwkv::VERSION));
    }
    let complete = sandbox.run(&["doctor", "demo.toml", "--store", "elsewhere"]);
    assert_eq!(complete.status.code(), Some(0), "{}", whole(&complete));
}

#[test]
fn doctor_knows_of_a_token_and_shows_it_nowhere() {
    let sandbox = Sandbox::bare();
    fs_err::write(sandbox.path("token"), "hf_very_secret\n").expect("writes");
    let said = |variables: &[(&str, &str)]| {
        let ran = sandbox.command(&["doctor"]).envs(variables.iter().copied()).output().expect("starts");
        let text = whole(&ran);
        assert!(!text.contains("hf_very_secret"), "{text}");
        let line = text.lines().find(|line| line.contains("HF_TOKEN")).expect("a line");
        line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(said(&[]), "not set");
    assert_eq!(said(&[("HF_TOKEN", "hf_very_secret")]), "set, or left by a login");
    assert_eq!(said(&[("HF_HOME", ".")]), "set, or left by a login");
}

#[test]
fn the_environment_may_hold_anything_and_only_a_stores_own_variables_count() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::bare();
    let strange = std::ffi::OsStr::from_bytes(b"\xff");
    let text = |name: &str| {
        let mut command = sandbox.command(&["doctor", "--store", "s3://bucket/x"]);
        command.env("STRANGE", strange).env("AWS_TIMEOUT", "no time").env("ALLOW_HTTP", "no truth");
        String::from_utf8(command.env(name, "no value").output().expect("starts").stdout).expect("utf-8")
    };
    let said = text("TIMEOUT");
    assert!(said.contains("cannot open the store `s3://bucket/x`") && said.contains("no time"), "{said}");
    assert!(!said.contains("no truth") && !said.contains("no value"), "{said}");
}

#[test]
fn the_resolved_experiment_feeds_back_unchanged() {
    let sandbox = Sandbox::bare();
    let first = sandbox.run(&["config", "demo.toml", "--set", "train.demo.steps=7"]);
    assert_eq!(first.status.code(), Some(0), "{}", whole(&first));
    fs_err::write(sandbox.path("resolved.toml"), &first.stdout).expect("writes");
    let second = sandbox.run(&["config", "resolved.toml"]);
    assert_eq!(second.stdout, first.stdout);
    assert!(String::from_utf8_lossy(&first.stdout).contains("steps = 7"));
}
