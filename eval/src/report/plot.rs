//! A dot plot as inline SVG: one line a model, a dot for the mean, a bar for its interval.

use std::fmt::Write;

use midi_ingest::job::page::escape;
use midi_ingest::job::plot::Scale;

use crate::results::Summary;

/// All lengths are in units of the view box.
const WIDTH: f64 = 640.0;
/// Room for the names of the models.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 20.0;
const ROW: f64 = 26.0;
const AXIS: f64 = 30.0;

/// The plot of a metric; `None` if no model has a value.
pub(super) fn dots<'a>(title: &str, summaries: impl Iterator<Item = &'a Summary>) -> Option<String> {
    let summaries: Vec<&Summary> = summaries.collect();
    let scale = Scale::over(summaries.iter().flat_map(|summary| {
        let bounds = summary.interval.map(|interval| [interval.low, interval.high]);
        summary.mean.into_iter().chain(bounds.into_iter().flatten())
    }))?;
    let place = |value: f64| scale.place(value, LEFT, WIDTH - RIGHT);
    let height = ROW * summaries.len() as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{} of each model, mean and 95 % interval\">",
        height + AXIS,
        escape(title)
    );
    for tick in scale.ticks() {
        let x = place(tick);
        let digits = scale.digits();
        // Formatting into a string cannot fail.
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick:.digits$}</text>",
            height + 18.0
        );
    }
    for (row, summary) in summaries.iter().enumerate() {
        let y = ROW * (row as f64 + 0.5);
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 12.0,
            y + 4.0,
            escape(&summary.model)
        );
        if let Some(interval) = summary.interval {
            let (low, high) = (place(interval.low), place(interval.high));
            let _ = write!(svg, "<line class=\"interval\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y}\" y2=\"{y}\"/>");
        }
        if let Some(mean) = summary.mean {
            let _ = write!(svg, "<circle class=\"mean\" cx=\"{:.1}\" cy=\"{y}\" r=\"5\"/>", place(mean));
        }
    }
    svg += "</svg>";
    Some(svg)
}
