//! Content preservation (CP): how much of the original's harmony the infilled section keeps.
//!
//! Source: arXiv 2506.13001, section 4, after the chroma similarity of style transfer work. Unit: none,
//! `[0, 1]`, higher is better. Conventions: the section of N bars is divided evenly into 16 N frames; a
//! note sounds in every frame that it touches, also when it began before the section; frames are smoothed
//! over half a bar. A frame that is silent in either score counts 0, so a perfect copy scores the share
//! of its sounding frames. Metrics:
//!
//! - [`score`]: the paper's, a mean over all frames,
//! - [`sounding`]: a mean over the frames in which at least one score sounds.

use super::{Passage, Undefined};

/// Frames in a bar of average length.
const FRAMES_PER_BAR: usize = 16;

/// A vector of pitch-class weights.
type Chroma = [f64; 12];

/// The paper's CP: the mean similarity over all frames of the section.
pub fn score(original: &Passage, infilled: &Passage) -> f64 {
    let similarities = similarities(original, infilled);
    similarities.iter().sum::<f64>() / similarities.len() as f64
}

/// CP over the frames in which at least one of the scores sounds (after smoothing).
///
/// # Errors
/// Both sections are silent throughout.
pub fn sounding(original: &Passage, infilled: &Passage) -> Result<f64, Undefined> {
    let (original, infilled) = (smoothed_chroma(original), smoothed_chroma(infilled));
    let similarities: Vec<f64> = original
        .iter()
        .zip(&infilled)
        .filter(|(a, b)| dot(a, a) > 0.0 || dot(b, b) > 0.0)
        .map(|(a, b)| similarity(a, b))
        .collect();
    if similarities.is_empty() {
        return Err(Undefined::Silent);
    }
    Ok(similarities.iter().sum::<f64>() / similarities.len() as f64)
}

/// The similarity in `[0, 1]` of each of the 16 N frames.
pub fn similarities(original: &Passage, infilled: &Passage) -> Vec<f64> {
    let (original, infilled) = (smoothed_chroma(original), smoothed_chroma(infilled));
    original.iter().zip(&infilled).map(|(a, b)| similarity(a, b)).collect()
}

/// The cosine of two chroma vectors; 0 if one of them is silent.
fn similarity(a: &Chroma, b: &Chroma) -> f64 {
    let norm = (dot(a, a) * dot(b, b)).sqrt();
    if norm == 0.0 {
        return 0.0;
    }
    1.0 - (1.0 - dot(a, b) / norm).clamp(0.0, 2.0)
}

/// Normalised chroma, each frame then the mean of itself, the four before and the three after.
fn smoothed_chroma(passage: &Passage) -> Vec<Chroma> {
    let frames = chroma(passage);
    let smooth = |frame: usize| {
        let around = &frames[frame.saturating_sub(4)..frames.len().min(frame + 4)];
        let mut mean = [0.0; 12];
        for (class, value) in mean.iter_mut().enumerate() {
            *value = around.iter().map(|chroma| chroma[class]).sum::<f64>() / around.len() as f64;
        }
        mean
    };
    (0..frames.len()).map(smooth).collect()
}

/// How often each pitch class sounds in each frame, scaled to length one.
fn chroma(passage: &Passage) -> Vec<Chroma> {
    let count = FRAMES_PER_BAR * passage.bar_count();
    let (start, end) = (passage.start() as f64, passage.end() as f64);
    let width = (end - start) / count as f64;
    // The last edge is the end itself, not what rounding makes of it.
    let edge = |frame: usize| if frame == count { end } else { start + frame as f64 * width };
    let mut frames = vec![[0.0; 12]; count];
    for note in passage.track_notes() {
        let (on, off) = (note.tick as f64, note.tick.saturating_add(note.duration) as f64);
        if on >= start.max(end) || off <= start.min(end) {
            continue;
        }
        for (frame, chroma) in frames.iter_mut().enumerate() {
            if on < edge(frame + 1) && off > edge(frame) {
                chroma[usize::from(note.pitch % 12)] += 1.0;
            }
        }
    }
    for chroma in &mut frames {
        let length = dot(chroma, chroma).sqrt() + 1e-8;
        chroma.iter_mut().for_each(|value| *value /= length);
    }
    frames
}

fn dot(a: &Chroma, b: &Chroma) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::super::window::tests::pair;
    use super::*;

    #[test]
    fn a_copy_without_rests_is_perfect_and_an_octave_does_not_matter() {
        let (original, infilled) = pair(1, &[(0, 1920, 60)], &[(0, 1920, 72)]);
        assert!((score(&original, &infilled) - 1.0).abs() < 1e-12);
        assert_eq!(similarities(&original, &infilled).len(), 16);
    }

    #[test]
    fn a_copy_scores_its_sounding_share() {
        // A sixteenth at the start: smoothing lets it reach four frames further.
        let (original, infilled) = pair(1, &[(0, 120, 60)], &[(0, 120, 60)]);
        assert!((score(&original, &infilled) - 5.0 / 16.0).abs() < 1e-12);
        assert!((sounding(&original, &infilled).expect("sounds") - 1.0).abs() < 1e-12);
    }

    #[test]
    fn another_pitch_class_scores_nothing() {
        let (original, infilled) = pair(2, &[(0, 3840, 60)], &[(0, 3840, 61)]);
        assert_eq!(score(&original, &infilled), 0.0);
    }

    #[test]
    fn a_note_held_into_the_section_counts() {
        let (original, _) = pair(1, &[(-100, 200, 60)], &[]);
        assert!(dot(&chroma(&original)[0], &chroma(&original)[0]) > 0.9);
    }

    #[test]
    fn two_empty_sections_score_zero_and_have_no_sounding_score() {
        let (original, infilled) = pair(2, &[], &[]);
        assert_eq!(score(&original, &infilled), 0.0);
        assert_eq!(sounding(&original, &infilled), Err(Undefined::Silent));
    }

    #[test]
    fn notes_of_negative_length_do_not_sound() {
        let (original, infilled) = pair(1, &[(480, -960, 60)], &[(0, 1920, 60)]);
        assert!(score(&original, &infilled).is_finite());
    }
}
