//! The learning rate over the run: a linear warm-up on top of a cosine.

use crate::config::ScheduleConfig;

/// Part of the rate that the warm-up starts at.
const WARMUP_FROM: f64 = 0.01;

/// The learning rate as a function of the step alone, so that a resumed run continues it.
///
/// The seed's recipe restarts the warm-up on every resume and lets the cosine run to a number of tokens that
/// is never reached; here the cosine ends at the run's last step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate after the warm-up.
    pub lr: f64,
    /// The rate at `last` and after it.
    pub lr_final: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// The step at which the cosine ends; a fraction is allowed.
    pub last: f64,
}

impl Schedule {
    /// The schedule of a run of `steps` steps of `tokens_per_step` tokens, padding included. Step `steps − 1` has
    /// the final rate, if the configuration does not name tokens at which the cosine ends.
    pub fn new(config: &ScheduleConfig, steps: u64, tokens_per_step: u64) -> Self {
        let last = match config.exit_tokens {
            Some(tokens) => tokens as f64 / tokens_per_step.max(1) as f64,
            None => steps.saturating_sub(1) as f64,
        };
        Schedule { lr: config.lr, lr_final: config.lr_final, warmup: config.warmup_steps, last }
    }

    /// The rate at `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        self.at_since(step, step)
    }

    /// As [`Schedule::at`], with a warm-up that began `since` steps ago.
    pub fn at_since(&self, step: u64, since: u64) -> f64 {
        let (step, since, warmup) = (step as f64, since as f64, self.warmup as f64);
        let span = (self.last - warmup).max(f64::MIN_POSITIVE);
        let progress = ((step - warmup) / span).clamp(0.0, 1.0);
        let floor = self.lr_final / self.lr;
        let cosine = (std::f64::consts::PI * progress).cos();
        let rate = self.lr * ((0.5 + floor / 2.0) + (0.5 - floor / 2.0) * cosine);
        if since < warmup { rate * (WARMUP_FROM + (1.0 - WARMUP_FROM) * since / warmup) } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(x: f64, y: f64) {
        assert!((x - y).abs() <= 1e-12 * y.abs().max(1e-12), "{x} {y}");
    }

    #[test]
    fn the_rate_rises_then_falls_to_its_end() {
        let config = ScheduleConfig { lr: 1e-3, lr_final: 1e-4, warmup_steps: 10, ..ScheduleConfig::default() };
        let schedule = Schedule::new(&config, 111, 512);
        near(schedule.at(0), 1e-5);
        near(schedule.at(5), 1e-3 * 0.505);
        near(schedule.at(10), 1e-3);
        near(schedule.at(60), 5.5e-4);
        near(schedule.at(110), 1e-4);
        near(schedule.at(500), 1e-4);
        assert!((10..110).all(|step| schedule.at(step + 1) < schedule.at(step)));
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_is_no_division_by_zero() {
        let config = ScheduleConfig { lr: 1e-3, lr_final: 1e-4, warmup_steps: 10, ..ScheduleConfig::default() };
        for steps in 0..12 {
            let schedule = Schedule::new(&config, steps, 512);
            assert!((0..12).all(|step| schedule.at(step).is_finite() && schedule.at(step) > 0.0));
        }
        let flat = ScheduleConfig { warmup_steps: 0, ..config };
        near(Schedule::new(&flat, 1, 512).at(0), 1e-3);
    }

    #[test]
    fn the_seeds_ways_are_there_by_name() {
        let config = ScheduleConfig { exit_tokens: Some(512 * 60), ..ScheduleConfig::default() };
        let schedule = Schedule::new(&config, 1000, 512);
        near(schedule.at(60), 1e-4);
        assert!(schedule.at(59) > 1e-4);
        // A process that starts at step 40 warms up again, from 1 % of the rate there.
        near(schedule.at_since(40, 0), 0.01 * schedule.at(40));
        near(schedule.at_since(50, 10), schedule.at(50));
    }
}
