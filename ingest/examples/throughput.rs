//! How fast files become scores, tokens and samples, for `bench/bench.py`: file names on standard input, one line of
//! JSON on standard output. CPU time is measured from outside.
#![expect(clippy::print_stdout, reason = "it prints its measurement")]

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use midi_ingest::config::{Recipe, SampleConfig};
use midi_ingest::job::draws::Keyed;
use midi_ingest::limits::Limits;
use midi_ingest::sample;
use midi_ingest::score::smf;
use midi_ingest::token::{Grid, Tokenizer};

/// Tokens of one file, or `None` where it is rejected.
fn take(mode: &str, path: &str, tokenizer: &Tokenizer) -> Option<usize> {
    let score = smf::read_within(&fs_err::read(path).ok()?, &Limits::default()).ok()?;
    match mode {
        "parse" => Some(score.note_count()),
        "encode" => {
            let tracks = Grid::of(&score).and_then(|grid| grid.encode()).ok()?;
            Some(tracks.iter().map(|track| tokenizer.encode(track).len()).sum())
        }
        _ => {
            let mut draws = Keyed::new(1, path, 0);
            let drawn = sample::draw(&score, tokenizer, &sampling(mode), &mut draws).ok()?;
            Some(drawn.input_ids.len())
        }
    }
}

/// Samples of all kinds, by our rules or those of the published code.
fn sampling(mode: &str) -> SampleConfig {
    match mode {
        "sample-published" => SampleConfig { recipe: Recipe::MidiRwkv, ..SampleConfig::default() },
        _ => SampleConfig { track_infill: 0.25, controls: 0.5, ..SampleConfig::default() },
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, mode, tokenizer, workers] = arguments.as_slice() else {
        println!("usage: throughput parse|encode|sample|sample-published TOKENIZER.json WORKERS < FILES");
        return;
    };
    let tokenizer = Tokenizer::load(Path::new(tokenizer)).expect("a tokenizer");
    let mut names = String::new();
    std::io::stdin().read_to_string(&mut names).expect("names");
    let names: Vec<&str> = names.lines().collect();
    let workers: usize = workers.parse().expect("a number of workers");
    let before = Instant::now();
    let (mut tokens, mut failed) = (0, 0);
    let results: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let work = |worker: usize| {
            let (names, tokenizer, mode) = (&names, &tokenizer, mode.as_str());
            scope.spawn(move || {
                let own = names.iter().skip(worker).step_by(workers);
                let taken = own.map(|path| take(mode, path, tokenizer));
                taken.fold((0, 0), |(tokens, failed), one| {
                    one.map_or((tokens, failed + 1), |more| (tokens + more, failed))
                })
            })
        };
        let threads: Vec<_> = (0..workers).map(work).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker")).collect()
    });
    for (more, bad) in results {
        tokens += more;
        failed += bad;
    }
    let (files, wall) = (names.len(), before.elapsed().as_secs_f64());
    println!("{{\"files\": {files}, \"failed\": {failed}, \"tokens\": {tokens}, \"wall\": {wall:.3}}}");
}
