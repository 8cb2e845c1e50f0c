//! A score as a drawing: all tracks in one piano roll, a colour a track.

use std::fmt::Write as _;

use crate::reject::Reject;
use crate::score::Score;
use crate::score::bars::{Until, bar_ticks};

/// Colours that go together, for tracks in turn; colour-blind people can tell them apart.
const COLOURS: [&str; 8] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#444444"];
/// Width of a quarter and height of a pitch, in pixels.
const QUARTER: f64 = 16.0;
const PITCH: f64 = 4.0;

/// The whole score as an SVG document; numbers of bars stand above.
///
/// # Errors
/// The score has too many bars.
pub fn svg(score: &Score) -> Result<String, Reject> {
    let pitches = || score.tracks.iter().flat_map(|track| &track.notes).map(|note| note.pitch);
    let (low, high) = (pitches().min().unwrap_or(60), pitches().max().unwrap_or(60));
    let x = |tick: i64| tick as f64 * QUARTER / f64::from(score.ticks_per_quarter.max(1));
    let (width, top) = (x(score.end()).max(QUARTER), 14.0);
    let height = top + f64::from(high - low + 1) * PITCH;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.1}\" height=\"{height:.1}\" \
         viewBox=\"0 0 {width:.1} {height:.1}\" font-family=\"sans-serif\" font-size=\"10\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, bar) in bar_ticks(score, Until::End)?.into_iter().enumerate() {
        let at = x(bar);
        let _ = writeln!(
            text,
            "<path d=\"M{at:.1} 0V{height:.1}\" stroke=\"#cccccc\"/><text x=\"{:.1}\" y=\"10\" fill=\"#777777\">{}</text>",
            at + 2.0,
            index + 1
        );
    }
    for (index, track) in score.tracks.iter().enumerate() {
        let name = if track.is_drum { "drums".to_owned() } else { format!("program {}", track.program) };
        let colour = COLOURS[index % COLOURS.len()];
        let _ = writeln!(text, "<g fill=\"{colour}\"><title>track {index}, {name}</title>");
        for note in &track.notes {
            let y = top + f64::from(high - note.pitch) * PITCH;
            let wide = x(note.duration).max(1.0);
            let at = x(note.tick);
            let _ = writeln!(text, "<rect x=\"{at:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{PITCH}\"/>");
        }
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    Ok(text)
}
