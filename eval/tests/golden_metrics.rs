//! Our metrics against the reference's values, corrected (`fixed`) and as they were published (`ref`), and
//! the bar grids and regions they stand on: every line of every `metrics/*.jsonl`, with the MIDI files
//! beside it.

#[path = "../../ingest/tests/support/golden.rs"]
mod golden;

use std::collections::BTreeMap;
use std::path::Path;

use midi_eval::metric::{
    Measures, Metric, Passage, Section, Undefined, content_preservation, controls, groove, measure, onset_f1, passages,
    reference,
};
use midi_ingest::score::bars::{Until, bar_ticks};
use midi_ingest::score::{Score, Tick, smf};
use serde_json::{Value, json};

/// Absolute.
const TOLERANCE: f64 = 1e-12;

/// What was compared, by name: how often, and where it differed.
#[derive(Default)]
struct Tally(BTreeMap<String, (usize, Vec<String>)>);

impl Tally {
    /// Compares a value of a line; NaN and errors of the reference are what is undefined with us.
    fn check(&mut self, name: &str, line: &str, ours: &Value, theirs: &Value) {
        let (all, different) = self.0.entry(name.to_owned()).or_default();
        *all += 1;
        if !same(ours, theirs) {
            different.push(format!("{line}: {ours}, expected {theirs}"));
        }
    }

    fn report(self, what: &str) {
        assert!(!self.0.is_empty(), "there is no line to test");
        for (name, (all, different)) in self.0 {
            golden::report(&format!("metrics/{what} {name}"), all, &different);
        }
    }
}

fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| same(a, b))
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.len() == theirs.len() && ours.iter().all(|(key, a)| theirs.get(key).is_some_and(|b| same(a, b)))
        }
        (Value::Number(ours), Value::Number(theirs)) => {
            let (ours, theirs) = (ours.as_f64().expect("a float"), theirs.as_f64().expect("a float"));
            (ours - theirs).abs() <= TOLERANCE
        }
        (Value::Null, Value::String(nan)) => nan == "nan",
        _ => ours == theirs,
    }
}

fn read(family: &Path, path: &Value) -> Score {
    let path = family.join(path.as_str().expect("a path"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", path.display()));
    smf::read(&bytes).unwrap_or_else(|e| panic!("cannot parse `{}`: {e}", path.display()))
}

fn section(line: &Value) -> Section {
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    Section {
        track: number(&line["track"]),
        bars: number(&line["bars"][0])..number(&line["bars"][1]),
        context: number(&line["context"]),
    }
}

/// Undefined is null.
fn value(result: Result<f64, Undefined>) -> Value {
    result.map_or(Value::Null, Value::from)
}

fn groove_json(groove: groove::Groove) -> Value {
    json!({
        "hamming": groove.hamming, "cells": groove.cells,
        "ref_norm": groove.paper_norm(), "pair_norm": value(groove.pair_norm()),
    })
}

fn controls_json(passage: &Passage) -> Value {
    let bar = |controls: &controls::Controls| {
        json!({
            "n": controls.notes, "density": controls.density(),
            "dur": controls.durations.map(u8::from),
            "poly_min": controls.voices.map(|voices| voices.0), "poly_max": controls.voices.map(|voices| voices.1),
        })
    };
    controls::controls(passage).iter().map(bar).collect()
}

/// The metrics that each side has by itself.
const EACH: [(&str, Metric); 8] = [
    ("upc", Metric::UsedPitchClasses),
    ("pr", Metric::PolyphonyRate),
    ("polyphony", Metric::Polyphony),
    ("pv", Metric::PitchVariety),
    ("rv", Metric::RhythmVariety),
    ("qr", Metric::QualifiedRhythm),
    ("gs", Metric::Groove),
    ("pche", Metric::PitchClassEntropy),
];

fn check_measures(tally: &mut Tally, id: &str, measures: &Measures, reference: &Value) {
    let get = |metric| measures.get(metric).expect("every metric");
    for (name, metric) in EACH {
        let (ours, theirs) = (get(metric), &reference[name]);
        if theirs.get("error").is_some() {
            // The reference drops a pair as soon as the named side fails; the other may still have a value.
            let side = if theirs["stage"] == "infilled" { ours.value } else { ours.original };
            tally.check(name, id, &json!([side, ours.reason.is_some()]), &json!([null, true]));
            continue;
        }
        let mut both = json!({"original": ours.original, "infilled": ours.value});
        if let Some(map) = both.as_object_mut().filter(|_| metric == Metric::PitchClassEntropy) {
            map.insert("abs_diff".into(), json!(metric.compared(ours.value, ours.original)));
        }
        tally.check(name, id, &both, theirs);
    }
    let f1 = get(Metric::OnsetF1);
    match reference["f1"].get("error") {
        Some(_) => tally.check("f1", id, &json!([f1.value, f1.reason.is_some()]), &json!([null, true])),
        None => tally.check("f1", id, &json!({"score": f1.value}), &reference["f1"]),
    }
    tally.check("cp", id, &json!(get(Metric::ContentPreservation).value), &reference["cp"]["score"]);
}

fn check_passages(tally: &mut Tally, id: &str, original: &Passage, infilled: &Passage, line: &Value) {
    let fixed = &line["fixed"];
    let similarities = content_preservation::similarities(original, infilled);
    tally.check("cp similarities", id, &json!(similarities), &fixed["cp"]["similarities"]);
    let matching = onset_f1::one_to_one(original, infilled);
    let matching = json!({
        "matches": matching.matches, "n_original": matching.original, "n_infilled": matching.infilled,
        "precision": value(matching.precision()), "recall": value(matching.recall()), "f1": value(matching.f1()),
    });
    tally.check("f1 one to one", id, &matching, &fixed["f1_one_to_one"]);
    for (side, passage) in [("original", original), ("infilled", infilled)] {
        tally.check("gs grid8", id, &groove_json(groove::exact(passage)), &fixed["gs_grid8"][side]);
        tally.check("acs", id, &controls_json(passage), &fixed[format!("acs_{side}")]);
        tally.check("notes", id, &json!(passage.notes().count()), &line[format!("n_notes_{side}")]);
    }
    let factor = original.ticks_per_quarter() / line["tpq_original"].as_i64().expect("a resolution");
    let region: Vec<Tick> = [original.start(), original.end()].into_iter().map(|tick| tick / factor).collect();
    tally.check("region", id, &json!(region), &line["fixed_region_original"]);
}

/// Every line of the family, with its name and both scores.
fn lines() -> Vec<(String, Value, Score, Score)> {
    let Some(family) = golden::family("metrics") else { return Vec::new() };
    let files = golden::entries(&family).into_iter().filter(|file| file.extension().is_some_and(|e| e == "jsonl"));
    let parse = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("a record");
        let id = format!("{}/{}", line["id"].as_str().expect("an id"), line["model"].as_str().expect("a model"));
        let (original, infilled) = (read(&family, &line["original"]), read(&family, &line["file"]));
        (id, line, original, infilled)
    };
    let lines: Vec<_> = files
        .flat_map(|file| {
            let text = std::fs::read_to_string(&file).expect("a readable file");
            text.lines().map(parse).collect::<Vec<_>>()
        })
        .collect();
    assert!(!lines.is_empty(), "`{}` holds no line to test", family.display());
    lines
}

#[test]
fn golden_metrics_fixed() {
    let lines = lines();
    if lines.is_empty() {
        return;
    }
    let mut tally = Tally::default();
    for (id, line, original, infilled) in &lines {
        for (side, score) in [("original", original), ("infilled", infilled)] {
            let bars = bar_ticks(score, Until::End).expect("a grid").len();
            let ours = json!([score.ticks_per_quarter, bars]);
            let theirs = json!([line[format!("tpq_{side}")], line[format!("n_bars_{side}")]]);
            tally.check("grid", id, &ours, &theirs);
        }
        let section = section(line);
        check_measures(&mut tally, id, &measure(original, infilled, &section), &line["fixed"]);
        let (original, infilled) = passages(original, infilled, &section).expect("a valid section");
        check_passages(&mut tally, id, &original, &infilled, line);
    }
    tally.report("fixed");
}

#[test]
fn golden_metrics_reference() {
    let lines = lines();
    if lines.is_empty() {
        return;
    }
    let mut tally = Tally::default();
    for (id, line, original, infilled) in &lines {
        check_measures(&mut tally, id, &reference::measure(original, infilled, &section(line)), &line["ref"]);
    }
    tally.report("ref");
}
