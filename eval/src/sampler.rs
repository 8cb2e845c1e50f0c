//! One token from the logits of a step, in the reference's order: temperature, repetition penalty, epsilon
//! cutoff, top-k, top-p, one draw (inference of the published model; see its generation loop).

use midi_ingest::job::draws::Draws;

use crate::config::SamplerConfig;

/// Draws an id. `seen` says which ids stood in the prompt or were drawn before; `banned` which never come.
/// Returns `None` if nothing is allowed. `config` is one that was checked.
pub fn draw(
    logits: &[f32],
    seen: &[bool],
    banned: &[bool],
    config: &SamplerConfig,
    draws: &mut dyn Draws,
) -> Option<usize> {
    let scaled = logits.iter().enumerate().filter(|(id, _)| !banned[*id]).map(|(id, logit)| {
        let logit = f64::from(*logit) / config.temperature;
        // Divided whatever its sign, as the published model was sampled.
        (id, if seen[id] { logit / config.repetition_penalty } else { logit })
    });
    let mut candidates: Vec<(usize, f64)> = scaled.collect();
    normalise(&mut candidates)?;
    // Most probable first; equal ones by id, so that the order is defined.
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let likely = candidates.partition_point(|(_, p)| *p >= config.epsilon).max(1);
    candidates.truncate(likely.min(config.top_k.unwrap_or(usize::MAX).max(1)));
    let total: f64 = candidates.iter().map(|(_, p)| p).sum();
    let mut sum = 0.0;
    let within = candidates.iter().take_while(|(_, p)| {
        let before = sum;
        sum += p / total;
        before <= config.top_p
    });
    let kept = within.count().max(1);
    candidates.truncate(kept);
    let total: f64 = candidates.iter().map(|(_, p)| p).sum();
    let mut place = draws.uniform(0.0, total);
    for (id, p) in &candidates {
        place -= p;
        if place < 0.0 {
            return Some(*id);
        }
    }
    candidates.last().map(|(id, _)| *id)
}

/// Logits to probabilities.
fn normalise(candidates: &mut [(usize, f64)]) -> Option<()> {
    let top = candidates.iter().map(|(_, logit)| *logit).max_by(f64::total_cmp)?;
    candidates.iter_mut().for_each(|(_, value)| *value = (*value - top).exp());
    let total: f64 = candidates.iter().map(|(_, p)| p).sum();
    candidates.iter_mut().for_each(|(_, p)| *p /= total);
    Some(())
}

#[cfg(test)]
mod tests {
    use midi_ingest::job::draws::{Keyed, Scripted};

    use super::*;

    fn config() -> SamplerConfig {
        SamplerConfig {
            temperature: 1.0,
            repetition_penalty: 1.0,
            epsilon: 0.0,
            top_k: None,
            top_p: 1.0,
            max_tokens: 8,
        }
    }

    fn pick(logits: &[f32], seen: &[bool], banned: &[bool], config: &SamplerConfig, fraction: f64) -> Option<usize> {
        draw(logits, seen, banned, config, &mut Scripted::new(vec![fraction], vec![]))
    }

    #[test]
    fn shares_of_draws_are_the_probabilities() {
        let logits = [0.0, (3.0f32).ln(), 0.0];
        let mut draws = Keyed::new(1, "sampler", 0);
        let hits = (0..4000).filter(|_| draw(&logits, &[false; 3], &[false; 3], &config(), &mut draws) == Some(1));
        assert!((2250..2550).contains(&hits.count()), "about 3 in 5");
    }

    #[test]
    fn each_cut_leaves_what_it_should() {
        let logits = [4.0, 3.0, 2.0, 1.0];
        let free = [false; 4];
        assert_eq!(pick(&logits, &free, &free, &config(), 0.9999), Some(3));
        assert_eq!(pick(&logits, &free, &free, &SamplerConfig { top_k: Some(2), ..config() }, 0.9999), Some(1));
        // The first id whose cumulative share exceeds top-p stays.
        assert_eq!(pick(&logits, &free, &free, &SamplerConfig { top_p: 0.6, ..config() }, 0.9999), Some(0));
        assert_eq!(pick(&logits, &free, &free, &SamplerConfig { top_p: 0.7, ..config() }, 0.9999), Some(1));
        assert_eq!(pick(&logits, &free, &free, &SamplerConfig { epsilon: 0.05, ..config() }, 0.9999), Some(2));
        assert_eq!(pick(&logits, &free, &[true, false, false, false], &config(), 0.0), Some(1));
        assert_eq!(pick(&logits, &free, &[true; 4], &config(), 0.0), None);
    }

    #[test]
    fn the_penalty_divides_whatever_the_sign() {
        let seen = [true, false];
        let config = SamplerConfig { repetition_penalty: 4.0, top_k: Some(1), ..config() };
        assert_eq!(pick(&[4.0, 2.0], &seen, &[false; 2], &config, 0.0), Some(1));
        assert_eq!(pick(&[-4.0, -2.0], &seen, &[false; 2], &config, 0.0), Some(0));
    }
}
