//! Curves over the steps of a run, as inline SVG.

use std::fmt::Write;

use midi_ingest::job::page::escape;
use midi_ingest::job::plot::Scale;

/// All lengths are in units of the view box.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 200.0;
/// Room for the numbers of the upright axis.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
/// Room above the highest value, for the names of the curves.
const TOP: f64 = 22.0;
const AXIS: f64 = 30.0;
/// Points of a curve that can be told apart.
const POINTS: usize = 1000;

/// CSS of the curves; the second one of a plot is drawn with dots at its points, since it has few.
pub(super) const STYLE: &str = "\
svg .curve { fill: none; stroke: var(--mark); stroke-width: 1.5; }
svg .curve.second { stroke: var(--ink); }
svg .dot { fill: var(--ink); }
svg text.first { fill: var(--mark); }
svg text.second { fill: var(--ink); }
";

/// A curve: its name, and its values by step.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub(super) name: &'static str,
    pub(super) points: Vec<(u64, f64)>,
}

/// Where an upright axis begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Floor {
    /// At the lowest value.
    Lowest,
    /// At zero.
    Zero,
}

/// The plot of one curve, or of two that share their axes; `None` if there is no value.
pub(super) fn curves(title: &str, curves: &[Curve], floor: Floor) -> Option<String> {
    let curves: Vec<Curve> = curves.iter().map(drawn).collect();
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let steps = Scale::over(points().map(|(step, _)| *step as f64))?;
    let zero = (floor == Floor::Zero).then_some(0.0);
    let values = Scale::over(points().map(|(_, value)| *value).chain(zero))?;
    let (bottom, right) = (TOP + HEIGHT, WIDTH - RIGHT);
    let x_of = |step: f64| steps.place(step, LEFT, right);
    let y_of = |value: f64| values.place(value, bottom, TOP);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{} by step\">",
        bottom + AXIS,
        escape(title)
    );
    // Formatting into a string cannot fail.
    for tick in values.ticks() {
        let (y, digits) = (y_of(tick), values.digits());
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.digits$}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    for tick in steps.ticks() {
        let (x, digits) = (x_of(tick), steps.digits());
        let _ =
            write!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick:.digits$}</text>", bottom + 18.0);
    }
    for (curve, class) in curves.iter().zip(["first", "second"]) {
        let places: Vec<(f64, f64)> =
            curve.points.iter().map(|(step, value)| (x_of(*step as f64), y_of(*value))).collect();
        if places.is_empty() {
            continue;
        }
        let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, "<polyline class=\"curve {class}\" points=\"{}\"/>", line.join(" "));
        // A single point has no line.
        for (x, y) in places.iter().filter(|_| class == "second" || places.len() == 1) {
            let _ = write!(svg, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>");
        }
        let at = LEFT + if class == "first" { 0.0 } else { 90.0 };
        let _ = write!(svg, "<text class=\"{class}\" x=\"{at}\" y=\"12\">{}</text>", escape(curve.name));
    }
    svg += "</svg>";
    Some(svg)
}

/// The curve without what cannot be drawn. Of a long one the lowest and highest value of every stretch stay, so that no
/// outlier is lost.
fn drawn(curve: &Curve) -> Curve {
    let finite: Vec<(u64, f64)> = curve.points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let points = if finite.len() <= POINTS {
        finite
    } else {
        let stretch = finite.len().div_ceil(POINTS / 2);
        finite.chunks(stretch).flat_map(extremes).collect()
    };
    Curve { name: curve.name, points }
}

/// The lowest and the highest point, in the order of their steps; one if they are the same.
fn extremes(points: &[(u64, f64)]) -> impl Iterator<Item = (u64, f64)> + use<> {
    let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
    let low = points.iter().min_by(by_value).copied();
    let high = points.iter().max_by(by_value).copied();
    let (first, second) = if low.map(|p| p.0) <= high.map(|p| p.0) { (low, high) } else { (high, low) };
    first.into_iter().chain(second.filter(|_| first != second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: Vec<(u64, f64)>) -> Curve {
        Curve { name: "loss", points }
    }

    #[test]
    fn a_curve_goes_through_its_values() {
        let svg = curves("loss", &[curve(vec![(0, 2.0), (50, 1.0), (100, 0.0)])], Floor::Lowest).expect("values");
        // The corners and the middle of the field between the axes.
        assert!(svg.contains("points=\"70.0,22.0 345.0,122.0 620.0,222.0\""), "{svg}");
        let zero = curves("loss", &[curve(vec![(0, 2.0), (50, 2.0), (100, 2.0)])], Floor::Zero).expect("values");
        assert!(zero.contains("points=\"70.0,22.0 345.0,22.0 620.0,22.0\"") && zero.contains(">0.0</text>"), "{zero}");
        assert_eq!(curves("loss", &[curve(vec![(1, f64::NAN)])], Floor::Zero), None);
    }

    #[test]
    fn a_long_curve_keeps_its_outliers_and_its_order() {
        let mut points: Vec<(u64, f64)> = (0..5000).map(|step| (step, 1.0 + (step as f64 * 0.1).sin())).collect();
        points[1234].1 = 99.0;
        points[4321].1 = -99.0;
        points[10].1 = f64::INFINITY;
        let drawn = drawn(&curve(points)).points;
        assert!(drawn.len() <= POINTS && drawn.len() > POINTS / 2, "{}", drawn.len());
        assert!(drawn.contains(&(1234, 99.0)) && drawn.contains(&(4321, -99.0)));
        assert!(drawn.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
