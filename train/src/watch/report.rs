//! How a training goes, for people: `report.html`, curves and a small table.

use midi_ingest::job::page::{cell, page, row, table};
use midi_ingest::job::progress::short_duration;

use super::Clock;
use super::curves::{self, Curve, Floor, curves};
use crate::metrics::Line;

/// The report's name below the model's folder.
pub const REPORT: &str = "report.html";

/// The page of the model called `model` after the lines of its log.
pub fn html(model: &str, lines: &[Line]) -> String {
    let mut body = numbers(lines);
    let curve = |name, of: fn(&Line) -> f64| Curve { name, points: lines.iter().map(|l| (l.step, of(l))).collect() };
    let valid = Curve {
        name: "validation",
        points: lines.iter().filter_map(|line| Some((line.step, line.valid_loss?))).collect(),
    };
    for (title, drawn, floor) in [
        ("Loss, nats a target", vec![curve("training", |line| line.loss), valid], Floor::Lowest),
        ("Learning rate", vec![curve("rate", |line| line.lr)], Floor::Zero),
        ("Gradient norm before clipping", vec![curve("norm", |line| line.grad_norm)], Floor::Zero),
        ("Tokens a second", vec![curve("tokens/s", |line| line.tokens_per_second)], Floor::Zero),
    ] {
        let plot = curves(title, &drawn, floor).unwrap_or_else(|| "<p>There is no value yet.</p>".to_owned());
        body += &format!("<h3>{title}</h3>\n{plot}\n");
    }
    page(&format!("Training of {model}"), curves::STYLE, &body)
}

/// The lowest validation loss and its step; the earliest of several.
fn lowest(lines: &[Line]) -> Option<(f64, u64)> {
    let losses = lines.iter().filter_map(|line| Some((line.valid_loss?, line.step)));
    losses.min_by(|a, b| a.0.total_cmp(&b.0))
}

/// How far the run is.
fn numbers(lines: &[Line]) -> String {
    let mut clock = Clock::default();
    let seconds = lines.iter().map(|line| clock.at(line)).last().unwrap_or(0.0);
    let last = lines.last();
    let best = lowest(lines).map_or_else(|| "–".to_owned(), |(loss, step)| format!("{loss:.4} at step {step}"));
    let rows = [
        ("steps", last.map_or(0, |line| line.step).to_string()),
        ("tokens", last.map_or(0, |line| line.tokens).to_string()),
        ("training loss", last.map_or_else(|| "–".to_owned(), |line| format!("{:.4}", line.loss))),
        ("best validation loss", best),
        ("time in training", short_duration(seconds)),
    ];
    table(&rows.map(|(name, value)| row([cell("td", "", name), cell("td", "", &value)])).concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64, valid_loss: Option<f64>) -> Line {
        let x = step as f64;
        let loss = 5.0 / (1.0 + x / 10.0);
        Line {
            step,
            loss,
            lr: 1e-3,
            grad_norm: 1.0,
            tokens: 100 * step,
            tokens_per_second: 50.0,
            filled: 1.0,
            loader_wait: 0.0,
            valid_loss,
        }
    }

    #[test]
    fn the_table_says_where_the_run_is_and_the_curves_are_there() {
        let lines = [line(10, None), line(20, Some(2.5)), line(30, Some(2.25)), line(60, Some(2.25)), line(70, None)];
        let page = html("a<b", &lines);
        for text in [
            "<h1>Training of a&lt;b</h1>",
            "<td>steps</td><td>70</td>",
            "<td>tokens</td><td>7000</td>",
            "<td>training loss</td><td>0.6250</td>",
            "<td>best validation loss</td><td>2.2500 at step 30</td>",
            // 7000 tokens at 50 a second.
            "<td>time in training</td><td>2m20s</td>",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert_eq!(page.matches("<polyline").count(), 5);
        assert_eq!(page.matches("<circle").count(), 3, "a dot a pass over the validation split");
        for outside in ["http", "src=", "<link", "<script", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_run_without_lines_has_a_page() {
        let page = html("m", &[]);
        assert!(page.contains("<td>steps</td><td>0</td>") && page.matches("There is no value yet").count() == 4);
    }
}
