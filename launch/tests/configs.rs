//! Every file in `configs/` is an experiment that all stages understand.

mod support;

use std::path::PathBuf;

use midi_rwkv::cli::ExperimentArgs;
use midi_rwkv::experiment::Experiment;
use midi_rwkv::plan::Plan;

fn files() -> Vec<PathBuf> {
    let folder = fs_err::read_dir(support::root().join("configs")).expect("there is configs/");
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.expect("reads").path()).collect();
    files.sort();
    files
}

#[test]
fn every_file_is_typed_planned_and_resolved() {
    let files = files();
    assert!(files.len() >= 2, "{files:?}");
    for config in files {
        assert_eq!(config.extension().and_then(|e| e.to_str()), Some("toml"), "{}", config.display());
        let experiment = Experiment::load(&config, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(experiment.ingest.is_some() && !experiment.train.is_empty() && experiment.eval.is_some());
        assert_eq!(Some(experiment.name.as_str()), config.file_stem().and_then(|stem| stem.to_str()));

        let args = ExperimentArgs { config: config.clone(), sets: Vec::new() };
        let plan = Plan::new(&experiment, &args, &[]).expect("plans");
        assert_eq!(plan.stages.len(), 2 + experiment.train.len());

        let resolved = experiment.resolved().expect("resolves");
        let file = midi_ingest::job::Experiment::parse("resolved.toml".as_ref(), &resolved, &[]).expect("parses");
        assert_eq!(Experiment::typed(&file).expect("types").resolved().expect("resolves"), resolved);
    }
}

#[test]
fn every_key_that_is_written_is_explained_in_one_of_the_files() {
    let texts: Vec<String> = files().iter().map(|path| fs_err::read_to_string(path).expect("reads")).collect();
    for text in &texts {
        for key in text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = ")) {
            let explained = texts.iter().any(|text| {
                let lines: Vec<&str> = text.lines().collect();
                lines.iter().enumerate().any(|(i, line)| {
                    // A comment stands above a key, or above the group of keys that it belongs to.
                    line.starts_with(&format!("{} = ", key.0))
                        && lines[..i]
                            .iter()
                            .rev()
                            .take_while(|l| !l.is_empty() && !l.starts_with('['))
                            .any(|l| l.starts_with('#'))
                })
            });
            let shape = ["layers", "width", "name", "train", "kind"];
            assert!(explained || shape.contains(&key.0), "`{}` is explained nowhere", key.0);
        }
    }
}
