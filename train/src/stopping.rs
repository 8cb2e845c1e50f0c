//! Early stopping: a rule on the losses over the validation split whose whole state is in each checkpoint,
//! so that a resumed run decides as the uninterrupted one.

use serde::{Deserialize, Serialize};

use crate::config::EarlyStopConfig;

/// The best loss so far, and how long it has stood.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Best {
    /// The lowest loss over the validation split, in nats a target.
    pub loss: f64,
    /// Passes since then.
    pub passes_since: u64,
}

/// The lowest loss over the validation split of all passes, and where it was. Unlike [`Best`] it knows no margin: the
/// checkpoint of this step is the trained model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lowest {
    /// In nats a target.
    pub loss: f64,
    /// Optimiser steps done by then.
    pub step: u64,
}

impl Lowest {
    /// Whether a pass that gave `loss` was better than all before it; equal is not better.
    pub fn is_beaten(lowest: Option<Lowest>, loss: f64) -> bool {
        loss.is_finite() && lowest.is_none_or(|lowest| loss < lowest.loss)
    }
}

impl EarlyStopConfig {
    /// The state after a pass that gave `loss`, which is a number.
    pub fn after(&self, best: Option<Best>, loss: f64) -> Best {
        match best {
            Some(best) if loss < best.loss - self.min_delta => Best { loss, passes_since: 0 },
            Some(best) => Best { passes_since: best.passes_since + 1, ..best },
            None => Best { loss, passes_since: 0 },
        }
    }

    /// Whether training is over.
    pub fn is_over(&self, best: Option<Best>) -> bool {
        best.is_some_and(|best| best.passes_since >= self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_is_over_after_as_many_passes_as_patience_lasts() {
        let rule = EarlyStopConfig { patience: 2, min_delta: 0.1 };
        let mut best = None;
        let mut over = Vec::new();
        // 2.95 is lower than 3 by too little; 2.8 is a new best, and no later loss beats it.
        for loss in [3.0, 2.95, 2.8, 2.75, 2.9] {
            best = Some(rule.after(best, loss));
            over.push(rule.is_over(best));
        }
        assert_eq!(over, [false, false, false, false, true]);
        assert_eq!(best, Some(Best { loss: 2.8, passes_since: 2 }));
        assert!(!rule.is_over(None));
    }

    #[test]
    fn the_lowest_loss_needs_no_margin_but_must_be_a_number() {
        let lowest = Some(Lowest { loss: 2.8, step: 30 });
        let beaten = [2.9, 2.8, 2.799, f64::NAN, f64::NEG_INFINITY].map(|loss| Lowest::is_beaten(lowest, loss));
        assert_eq!(beaten, [false, false, true, false, false]);
        assert!(Lowest::is_beaten(None, 9.0) && !Lowest::is_beaten(None, f64::NAN));
    }
}
