//! A dot plot as inline SVG: one line a model, a dot for the mean, a bar for its interval.

use std::fmt::Write;

use super::html::escape;
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
    let height = ROW * summaries.len() as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{} of each model, mean and 95 % interval\">",
        height + AXIS,
        escape(title)
    );
    for tick in scale.ticks() {
        let x = scale.place(tick);
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
            let (low, high) = (scale.place(interval.low), scale.place(interval.high));
            let _ = write!(svg, "<line class=\"interval\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y}\" y2=\"{y}\"/>");
        }
        if let Some(mean) = summary.mean {
            let _ = write!(svg, "<circle class=\"mean\" cx=\"{:.1}\" cy=\"{y}\" r=\"5\"/>", scale.place(mean));
        }
    }
    svg += "</svg>";
    Some(svg)
}

/// The axis: from where to where, and how far apart its ticks are.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// An axis with two to six ticks on round numbers around all values; `None` without values.
    fn over(values: impl Iterator<Item = f64>) -> Option<Scale> {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return None;
        }
        // Equal values still need a width.
        let range = if high > low { high - low } else { high.abs().max(1.0) / 10.0 };
        let power = 10f64.powf((range / 4.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| range / step <= 4.0)?;
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        Some(Scale { low, high: if high > low { high } else { low + step }, step })
    }

    fn place(&self, value: f64) -> f64 {
        LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let Scale { low, high, step } = *self;
        (0..=((high - low) / step).round() as usize).map(move |k| low + k as f64 * step)
    }

    /// Decimals that tell the ticks apart.
    fn digits(&self) -> usize {
        (-self.step.log10().floor()).max(0.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(values: &[f64]) -> Vec<String> {
        let scale = Scale::over(values.iter().copied()).expect("values");
        scale.ticks().map(|tick| format!("{tick:.*}", scale.digits())).collect()
    }

    #[test]
    fn axes_have_round_numbers_around_the_values() {
        assert_eq!(ticks(&[0.313, 0.488]), ["0.30", "0.35", "0.40", "0.45", "0.50"]);
        assert_eq!(ticks(&[-3.0, 14.0]), ["-5", "0", "5", "10", "15"]);
        assert_eq!(ticks(&[0.75]), ["0.75", "0.80"]);
        assert_eq!(ticks(&[0.0, 0.0]), ["0.00", "0.05"]);
        assert_eq!(Scale::over(std::iter::empty()), None);
    }

    #[test]
    fn everything_is_inside() {
        let values = [0.01, 0.977, 0.5];
        let scale = Scale::over(values.into_iter()).expect("values");
        assert!(values.into_iter().all(|v| (LEFT..=WIDTH - RIGHT).contains(&scale.place(v))));
    }
}
