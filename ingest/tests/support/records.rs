//! Golden tokenizer records as types, and the MIDI that they speak of.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::golden;

/// The lines of `tokens.jsonl.gz`.
#[derive(Deserialize)]
pub(crate) struct Tokens {
    pub(crate) file: String,
    #[serde(default)]
    pub(crate) midi_b64: Option<String>,
    #[serde(default)]
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) src_tpq: u32,
    #[serde(default)]
    pub(crate) src_tracks: Vec<(u8, bool, usize)>,
    #[serde(default)]
    pub(crate) tpq: u32,
    #[serde(default)]
    pub(crate) bar_ticks: Vec<i64>,
    #[serde(default)]
    pub(crate) bar_ticks_end: Vec<i64>,
    #[serde(default)]
    pub(crate) n_beats: Option<usize>,
    #[serde(default, alias = "beat_ticks")]
    pub(crate) beats: Option<Vec<i64>>,
    #[serde(default)]
    pub(crate) tracks: Vec<TrackTokens>,
    #[serde(default)]
    pub(crate) ac_tracks: Vec<TrackTokens>,
    #[serde(default)]
    pub(crate) ac_window: Vec<Window>,
}

/// One track of a record.
#[derive(Deserialize)]
pub(crate) struct TrackTokens {
    #[serde(default)]
    pub(crate) program: Option<i16>,
    #[serde(default)]
    pub(crate) is_drum: Option<bool>,
    pub(crate) base: Vec<u16>,
    #[serde(default)]
    pub(crate) tokens: Vec<String>,
    #[serde(default)]
    pub(crate) groups: Vec<usize>,
    pub(crate) bpe: Vec<u16>,
    #[serde(default)]
    pub(crate) bpe_tokenizer_json: Vec<u16>,
}

/// The controls of four bars of one track.
#[derive(Deserialize)]
pub(crate) struct Window {
    pub(crate) track: usize,
    pub(crate) bars: Vec<usize>,
    pub(crate) acs: Vec<u8>,
    pub(crate) events: Vec<(i64, String)>,
}

/// A score as the records write it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct GoldenScore {
    pub(crate) tpq: u32,
    pub(crate) tempos: Vec<(i64, u32)>,
    pub(crate) time_sigs: Vec<(i64, u8, u8)>,
    pub(crate) tracks: Vec<GoldenTrack>,
}

/// A track of a [`GoldenScore`]; notes are tick, duration, pitch, velocity.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct GoldenTrack {
    pub(crate) program: u8,
    pub(crate) is_drum: bool,
    pub(crate) notes: Vec<(i64, i64, u8, u8)>,
}

impl GoldenScore {
    /// The same of one of our scores.
    pub(crate) fn of(score: &midi_ingest::score::Score) -> Self {
        GoldenScore {
            tpq: score.ticks_per_quarter,
            tempos: score.tempos.iter().map(|t| (t.tick, t.micros_per_quarter)).collect(),
            time_sigs: score.time_signatures.iter().map(|s| (s.tick, s.numerator, s.denominator)).collect(),
            tracks: score
                .tracks
                .iter()
                .map(|track| GoldenTrack {
                    program: track.program,
                    is_drum: track.is_drum,
                    notes: track.notes.iter().map(|n| (n.tick, n.duration, n.pitch, n.velocity)).collect(),
                })
                .collect(),
        }
    }
}

/// The files of records that a set may have besides its tokens, those first that all sets of the repository have.
pub(crate) const KINDS: [&str; 5] = ["preprocessed", "decode", "augment", "samples", "prompts"];

/// The records of a kind, one at a time; none, after saying so, in a set that has none of them.
pub(crate) fn of_kind<T: DeserializeOwned + 'static>(set: &Path, kind: &str) -> Box<dyn Iterator<Item = T>> {
    assert!(KINDS.contains(&kind), "{kind}");
    let path = set.join(format!("{kind}.jsonl.gz"));
    if path.is_file() {
        return read(&path);
    }
    golden::say(&format!("skipped: no golden data for {} {kind}", set_name(set)));
    Box::new(std::iter::empty())
}

/// The token records of a set, which every set has.
pub(crate) fn tokens(set: &Path) -> Box<dyn Iterator<Item = Tokens>> {
    read(&set.join(TOKENS))
}

const TOKENS: &str = "tokens.jsonl.gz";

/// The records of a gzipped JSON-lines file, one at a time.
///
/// # Panics
/// If it is missing or holds none: a test of it would pass with nothing compared.
fn read<T: DeserializeOwned + 'static>(path: &Path) -> Box<dyn Iterator<Item = T>> {
    let shown = path.display().to_string();
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("cannot read `{shown}`: {e}"));
    let mut lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines().peekable();
    assert!(lines.peek().is_some(), "`{shown}` holds no record");
    Box::new(lines.enumerate().map(move |(number, line)| {
        let line = line.unwrap_or_else(|e| panic!("`{shown}`: {e}"));
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("`{shown}` line {}: {e}", number + 1))
    }))
}

/// Finds the MIDI of records: inside the set's token records, or below the MIDI root.
pub(crate) struct Midis {
    inside: HashMap<String, Vec<u8>>,
    root: Option<PathBuf>,
    /// Records whose MIDI cannot be found.
    pub(crate) missing: usize,
}

impl Midis {
    /// The MIDI files of a set.
    pub(crate) fn of(set: &Path) -> Self {
        let inside = read::<serde_json::Value>(&set.join(TOKENS))
            .filter_map(|record| {
                let bytes = base64::engine::general_purpose::STANDARD.decode(record["midi_b64"].as_str()?);
                Some((record["file"].as_str()?.to_owned(), bytes.expect("base64")))
            })
            .collect();
        Midis { inside, root: golden::midi_root(), missing: 0 }
    }

    /// The bytes of `file`; `None` (and counted) where they are not to be had.
    pub(crate) fn bytes(&mut self, file: &str) -> Option<Vec<u8>> {
        if let Some(bytes) = self.inside.get(file) {
            return Some(bytes.clone());
        }
        let found = self.root.as_ref().map(|root| {
            let path = root.join(file);
            std::fs::read(&path).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", path.display()))
        });
        self.missing += usize::from(found.is_none());
        found
    }

    /// As [`golden::report`] of what was compared with these files; says how many could not be.
    pub(crate) fn report(&self, what: &str, all: usize, different: &[String]) {
        if self.missing > 0 {
            golden::say(&format!("skipped: {} files for {what} need MIDI_RWKV_MIDI", self.missing));
        }
        if all > 0 || self.missing == 0 {
            golden::report(what, all, different);
        }
    }
}

/// The name of a set for reports, for example `tokenizer/edge`.
pub(crate) fn set_name(set: &Path) -> String {
    format!("tokenizer/{}", set.file_name().unwrap_or_default().to_string_lossy())
}
