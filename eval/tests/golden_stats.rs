//! Our statistics against scipy's: every array of `stats/*.jsonl` in every variant, and the corrections.

#[path = "../../ingest/tests/support/golden.rs"]
mod golden;

use std::path::Path;

use midi_eval::stats::corrections::{benjamini_hochberg, bonferroni, holm};
use midi_eval::stats::describe::{cohens_d, mean, standard_deviation};
use midi_eval::stats::wilcoxon::{Alternative, Method, Outcome, Wilcoxon, Zeros};
use serde_json::Value;

const TOLERANCE: f64 = 1e-9;

/// The largest relative error so far and where it was.
struct Worst(f64, String);

impl Worst {
    fn new() -> Self {
        Worst(0.0, "nowhere".to_owned())
    }

    /// Takes a value that may be undefined on both sides; on one side only it is an infinite error.
    fn compare(&mut self, place: &str, ours: Option<f64>, theirs: &Value) {
        let theirs = number(theirs);
        let error = match (ours, theirs) {
            (None, None) => 0.0,
            (Some(ours), Some(theirs)) if ours == theirs => 0.0,
            (Some(ours), Some(theirs)) => (ours - theirs).abs() / theirs.abs().max(f64::MIN_POSITIVE),
            _ => f64::INFINITY,
        };
        if error > self.0 {
            *self = Worst(error, format!("{place}: {ours:?}, expected {theirs:?}"));
        }
    }

    fn report(self, what: &str) {
        golden::within(what, "relative error", (self.0, self.1), TOLERANCE);
    }
}

/// A number; `None` for "nan" and null.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Null => None,
        Value::String(text) if text == "nan" => None,
        other => panic!("not a number: {other}"),
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|value| number(value).unwrap_or(f64::NAN)).collect()
}

/// `NaN` as a bare word, which JSON does not know, becomes null.
fn records(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("a readable file");
    let parse = |line: &str| serde_json::from_str(&line.replace(": NaN", ": null")).expect("a record");
    text.lines().filter(|line| !line.is_empty()).map(parse).collect()
}

/// Every array of every `*.jsonl` of the family, with the name of its file.
fn arrays() -> Vec<(String, Value)> {
    let Some(family) = golden::family("stats") else { return Vec::new() };
    let files = golden::entries(&family).into_iter().filter(|file| file.extension().is_some_and(|e| e == "jsonl"));
    let arrays: Vec<_> = files
        .flat_map(|file| {
            let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
            records(&file).into_iter().map(move |record| (name.clone(), record))
        })
        .collect();
    assert!(!arrays.is_empty(), "`{}` holds no array to test", family.display());
    arrays
}

fn place(file: &str, record: &Value, what: &str) -> String {
    format!("{file}/{} {what}", record["name"].as_str().expect("a name"))
}

/// The test of a key such as `wilcox|auto|correction=False`.
fn variant(key: &str) -> Wilcoxon {
    let parts: Vec<&str> = key.split('|').collect();
    let [zeros, method, correction] = parts[..] else { panic!("not a variant: {key}") };
    Wilcoxon {
        zeros: match zeros {
            "wilcox" => Zeros::Wilcox,
            "pratt" => Zeros::Pratt,
            "zsplit" => Zeros::Split,
            other => panic!("unknown zero method {other}"),
        },
        method: match method {
            "auto" => Method::Auto,
            "exact" => Method::Exact,
            "asymptotic" | "approx" => Method::Normal,
            other => panic!("unknown method {other}"),
        },
        continuity: correction == "correction=True",
        alternative: Alternative::TwoSided,
    }
}

#[test]
fn golden_stats_wilcoxon() {
    let arrays = arrays();
    let (mut statistic, mut p, mut z, mut tests) = (Worst::new(), Worst::new(), Worst::new(), 0);
    let mut check = |place: String, outcome: Outcome, theirs: &Value| {
        tests += 1;
        statistic.compare(&place, outcome.statistic, &theirs["statistic"]);
        p.compare(&place, outcome.p, &theirs["p"]);
        if let Some(theirs) = theirs.get("z") {
            z.compare(&place, outcome.z, theirs);
        }
    };
    for (file, record) in &arrays {
        let differences = numbers(&record["differences"]);
        for (key, theirs) in record["variants"].as_object().expect("variants") {
            check(place(file, record, key), variant(key).test(&differences), theirs);
        }
        check(place(file, record, "default"), Wilcoxon::default().test(&differences), &record["default"]);
        for (key, alternative) in [("one_sided_greater", Alternative::Greater), ("one_sided_less", Alternative::Less)] {
            let test = Wilcoxon { alternative, ..Wilcoxon::default() };
            check(place(file, record, key), test.test(&differences), &record[key]);
        }
    }
    if tests > 0 {
        statistic.report(&format!("stats/wilcoxon statistic of {tests} tests"));
        p.report(&format!("stats/wilcoxon p of {tests} tests"));
        z.report("stats/wilcoxon z");
    }
}

#[test]
fn golden_stats_effects() {
    let arrays = arrays();
    if arrays.is_empty() {
        return;
    }
    let (mut d, mut moments, mut ranks) = (Worst::new(), Worst::new(), Worst::new());
    for (file, record) in &arrays {
        let differences = numbers(&record["differences"]);
        let place = |what: &str| place(file, record, what);
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        // The reference writes 0 where there is no spread to measure by; ours has no value there.
        d.compare(&place("cohens_d"), Some(cohens_d(&differences).unwrap_or(0.0)), &record["cohens_d"]);
        moments.compare(&place("mean"), finite(mean(&differences)), &record["mean"]);
        for ddof in [0, 1] {
            let key = format!("std_ddof{ddof}");
            moments.compare(&place(&key), finite(standard_deviation(&differences, ddof)), &record[&key]);
        }
        let outcome = Wilcoxon::default().test(&differences);
        ranks.compare(&place("r_plus"), outcome.rank_plus, &record["r_plus"]);
        ranks.compare(&place("r_minus"), outcome.rank_minus, &record["r_minus"]);
        ranks.compare(&place("rank_biserial"), outcome.rank_biserial(), &record["rank_biserial"]);
    }
    d.report("stats/cohens_d");
    moments.report("stats/moments");
    ranks.report("stats/ranks");
}

#[test]
fn golden_stats_corrections() {
    let Some(family) = golden::family("stats") else { return };
    let file = family.join("corrections.json");
    let text = std::fs::read_to_string(&file).expect("corrections");
    let record: Value = serde_json::from_str(&text).expect("JSON");
    let p = numbers(&record["p"]);
    for (key, correct) in
        [("holm", holm as fn(&[f64]) -> Vec<f64>), ("bonferroni", bonferroni), ("bh", benjamini_hochberg)]
    {
        let mut worst = Worst::new();
        let theirs = record[key].as_array().expect("a list");
        assert_eq!(theirs.len(), p.len());
        for ((ours, theirs), name) in
            correct(&p).into_iter().zip(theirs).zip(record["names"].as_array().expect("names"))
        {
            worst.compare(&name.to_string(), Some(ours), theirs);
        }
        worst.report(&format!("stats/{key}"));
    }
    let rejected: Vec<Value> = holm(&p).into_iter().map(|p| Value::Bool(p <= 0.05)).collect();
    assert_eq!(record["reject_holm_0.05"], Value::Array(rejected), "what Holm rejects at 5 %");
}
