//! What each stage of a file costs, on composed songs: `cargo bench -p midi-ingest --profile dev`. The fastest of some
//! rounds counts; there is no statistics, `bench/bench.py` compares with MidiTok on real files.
#![expect(clippy::print_stdout, reason = "it prints its measurements")]

use std::hint::black_box;
use std::time::Instant;

use midi_ingest::config::SampleConfig;
use midi_ingest::job::draws::Keyed;
use midi_ingest::sample;
use midi_ingest::score::{Score, preprocess, smf};
use midi_ingest::source::compose;
use midi_ingest::token::{Grid, Learner, TrackTokens};

const SONGS: u64 = 64;
const ROUNDS: usize = 7;

/// Prints the least microseconds a song of some rounds.
fn report<T>(what: &str, mut round: impl FnMut() -> Vec<T>) {
    let times = (0..ROUNDS).map(|_| {
        let before = Instant::now();
        black_box(round());
        before.elapsed()
    });
    let least = times.min().unwrap_or_default();
    println!("{what:<24} {:>9.1} us a song", least.as_secs_f64() * 1e6 / SONGS as f64);
}

fn main() {
    let files: Vec<Vec<u8>> = (0..SONGS).map(|index| smf::write(&compose(3, index))).collect();
    let scores: Vec<Score> = files.iter().map(|bytes| smf::read(bytes).expect("parses")).collect();
    let grids: Vec<Grid> = scores.iter().map(|score| Grid::of(score).expect("a grid")).collect();
    let tracks: Vec<TrackTokens> = grids.iter().flat_map(|grid| grid.encode().expect("encodes")).collect();
    let mut learner = Learner::default();
    tracks.iter().for_each(|track| learner.add(track));
    let learned = || learner.learn(4000).expect("learns");
    let tokenizer = learned();

    report("parse", || files.iter().map(|bytes| smf::read(bytes).expect("parses")).collect::<Vec<_>>());
    report("preprocess", || scores.iter().map(preprocess).collect());
    report("encode", || grids.iter().map(|grid| grid.encode().expect("encodes")).collect());
    report("byte pairs, remembered", || tracks.iter().map(|track| tokenizer.encode(track)).collect());
    let fresh = learned();
    let before = Instant::now();
    black_box(tracks.iter().map(|track| fresh.encode(track)).collect::<Vec<_>>());
    println!("{:<24} {:>9.1} us a song", "byte pairs, first time", before.elapsed().as_secs_f64() * 1e6 / SONGS as f64);
    let config = SampleConfig::default();
    report("sample", || {
        let drawn = scores.iter().enumerate().map(|(index, score)| {
            sample::draw(score, &tokenizer, &config, &mut Keyed::new(1, "bench", index as u64)).ok()
        });
        drawn.collect()
    });
}
