//! A prompt is the beginning of the training sample that its infilling would be.

use midi_ingest::sample::{Infilling, Parts, disassemble};
use midi_ingest::source::compose;
use midi_ingest::token::Learner;
use midi_ingest::token::vocabulary::{FILL_START, INFILL_BAR, INFILL_TRACK, Token};

use super::*;

fn piece() -> (Piece, Tokenizer) {
    let piece = Piece::read(&smf::write(&compose(1, 3))).expect("a piece");
    let mut learner = Learner::default();
    Grid::of(&piece.score).and_then(|grid| grid.encode()).expect("encodes").iter().for_each(|track| learner.add(track));
    (piece, learner.learn(760).expect("learns"))
}

fn request(piece: &Piece, kind: Kind, track: usize, bars: Range<usize>, controls: &[&str]) -> Request {
    let asked = controls.iter().map(|text| Asked::parse(text, kind == Kind::Bars).expect("a control")).collect();
    let controls = Asked::in_order(asked, piece.controls(kind, track), bars.len()).expect("in order");
    Request { kind, track, bars, context: 4, controls }
}

fn is_control(id: &u16) -> bool {
    matches!(Token::of(*id), Some(Token::Control(_)))
}

/// A training sample with the original's controls, made as sampling makes it, and the prompt that asks for the same.
#[test]
fn a_prompt_is_the_begin_of_a_sample() {
    let (piece, tokenizer) = piece();
    let names = ["polyphony", "density", "durations", "repetition"];
    let ticks = bar_ticks(&piece.score, Until::End).expect("bars");
    let grid = Grid::of(&piece.score).expect("a grid");
    for track in 0..piece.tracks.len() {
        for kind in Kind::ALL {
            let trained = piece.controls(kind, track);
            let is_asked = |name: &&&str| {
                Asked::parse(name, kind == Kind::Bars).is_ok_and(|asked| trained.contains(&asked.control))
            };
            let names: Vec<&str> = names.iter().filter(is_asked).copied().collect();
            assert_eq!(names.len(), trained.len());
            let bars = 2..4;
            let request = request(&piece, kind, track, bars.clone(), &names);
            let (written, window) = match kind {
                Kind::Bars => {
                    let controls = controls::of_bars(&grid, &ticks, track, &[2, 3], trained).expect("controls");
                    (BarTokens::of(&grid.encode_track(track, &controls).expect("encodes")), 0..8)
                }
                Kind::Track => {
                    let mut written = piece.tracks[track].clone();
                    let controls = controls::of_window(&grid, &ticks, track, bars.clone(), trained);
                    written.head.extend(controls.expect("controls"));
                    (written, bars.clone())
                }
            };
            let section = Section { kind, track, bars, window };
            let Infilling { prompt, answer, .. } = assemble(tokenizer.bpe(), &piece.tracks, &section, &written);
            let asked = piece.prompt(&tokenizer, &request).expect("a prompt");
            assert_eq!(asked.tokens, prompt, "{kind:?} of track {track}");
            match kind {
                Kind::Bars => assert!(answer.starts_with(&asked.openings[0]) && asked.openings.len() == 2),
                Kind::Track => assert!(asked.openings.is_empty()),
            }
            let Parts { written, .. } =
                disassemble(&tokenizer.bpe().decode(&[asked.tokens, answer].concat())).expect("well formed");
            let has_controls = written.head.iter().chain(written.bars.iter().flatten()).any(is_control);
            assert!(has_controls || !piece.tracks[track].has_notes(2..4));
        }
    }
}

#[test]
fn without_controls_nothing_is_given_of_the_answer() {
    let (piece, tokenizer) = piece();
    let prompt = piece.prompt(&tokenizer, &request(&piece, Kind::Bars, 1, 1..3, &[])).expect("a prompt");
    assert_eq!((prompt.tokens.last(), prompt.openings.len()), (Some(&FILL_START), 0));
    let base = tokenizer.bpe().decode(&prompt.tokens);
    assert_eq!(base.iter().filter(|id| **id == INFILL_BAR).count(), 2);
}

#[test]
fn more_context_than_there_is_is_all_of_it() {
    let (piece, tokenizer) = piece();
    let prompt = |context| {
        let request = Request { context, ..request(&piece, Kind::Bars, 1, 1..3, &[]) };
        piece.prompt(&tokenizer, &request).expect("a prompt")
    };
    assert_eq!(prompt(usize::MAX), prompt(piece.bars()));
}

#[test]
fn a_track_is_asked_for_by_its_program_after_the_bars_of_the_others() {
    let (piece, tokenizer) = piece();
    let prompt = piece.prompt(&tokenizer, &request(&piece, Kind::Track, 1, 1..3, &[])).expect("a prompt");
    let base = tokenizer.bpe().decode(&prompt.tokens);
    let at = base.iter().position(|id| *id == INFILL_TRACK).expect("it is announced");
    assert_eq!(base[at + 1..], piece.tracks[1].head);
    assert!(!base[..at].windows(2).any(|two| two == piece.tracks[1].head), "nothing of the track is shown");
}

#[test]
fn values_differ_by_bar() {
    let (piece, tokenizer) = piece();
    let asked = request(&piece, Kind::Bars, 0, 1..3, &["density=2,7"]);
    let openings = piece.prompt(&tokenizer, &asked).expect("a prompt").openings;
    let name = |ids: &Vec<u16>| {
        let base = tokenizer.bpe().decode(ids);
        base.last().and_then(|id| Token::of(*id)).map(|token| token.to_string())
    };
    let names: Vec<_> = openings.iter().filter_map(name).collect();
    assert_eq!(names, ["ACBarNoteDensity_2", "ACBarNoteDensity_7"]);
}
