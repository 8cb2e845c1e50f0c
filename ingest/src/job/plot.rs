//! The axis of a plot: round numbers around all values, for every plot of every report.

/// From where to where an axis goes, and how far apart its ticks are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// An axis with two to six ticks on round numbers around all values; `None` without values.
    pub fn over(values: impl Iterator<Item = f64>) -> Option<Scale> {
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

    /// Where `value` is drawn on an axis whose lowest value is at `from` and whose highest is at `to`.
    pub fn place(&self, value: f64, from: f64, to: f64) -> f64 {
        from + (value - self.low) / (self.high - self.low) * (to - from)
    }

    /// The values at the ticks, ascending.
    pub fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let Scale { low, high, step } = *self;
        (0..=((high - low) / step).round() as usize).map(move |k| low + k as f64 * step)
    }

    /// Decimals that tell the ticks apart.
    pub fn digits(&self) -> usize {
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
    fn everything_is_inside_whichever_way_the_axis_goes() {
        let values = [0.01, 0.977, 0.5];
        let scale = Scale::over(values.into_iter()).expect("values");
        for (from, to) in [(150.0, 620.0), (200.0, 10.0)] {
            let inside = f64::min(from, to)..=f64::max(from, to);
            assert!(values.into_iter().all(|v| inside.contains(&scale.place(v, from, to))));
        }
    }
}
