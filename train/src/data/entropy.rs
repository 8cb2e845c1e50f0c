//! What a model that knows token frequencies and nothing else would reach: the mark to beat.

use midi_ingest::job::exit::Result;

use super::loader::Dataset;

/// The entropy, in nats a token, of the frequencies of all targets of `dataset`; 0 if it has no target.
///
/// # Errors
/// As [`Dataset::sample`].
pub fn unigram_loss(dataset: &Dataset) -> Result<f64> {
    let mut counts = vec![0u64; dataset.vocabulary()];
    for index in 0..dataset.len() {
        for &id in dataset.sample(index)?.iter().skip(1).filter(|id| dataset.is_target(**id)) {
            counts[usize::from(id)] += 1;
        }
    }
    let all = counts.iter().sum::<u64>() as f64;
    let term = |count: &u64| {
        let p = *count as f64 / all;
        -p * p.ln()
    };
    Ok(counts.iter().filter(|count| **count > 0).map(term).sum())
}
