//! One file into its row of the songs table and its training samples: a pure function of the bytes, the
//! configuration and the seed.

use regex::Regex;
use sha2::{Digest, Sha256};

use crate::config::{FilterConfig, IdentityConfig, IngestConfig, Recipe, SampleConfig, SplitConfig};
use crate::job::draws::Keyed;
use crate::job::exit::{Error, Result};
use crate::reject::{Reject, Stage};
use crate::sample;
use crate::score::bars::{Until, bar_ticks};
use crate::score::{Score, Tick, preprocess, smf};
use crate::shard::{Sample, Song, Split, Status};
use crate::source::{Content, RawFile};
use crate::store::sha256_hex;
use crate::token::{Tokenizer, most_tokens};

/// The rules by which files become songs, put together once.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    config: &'a IngestConfig,
    seed: u64,
    path: Option<Regex>,
}

impl<'a> Rules<'a> {
    /// # Errors
    /// A pattern that is no regular expression with a group, or shares and limits that make no sense (78).
    pub(crate) fn new(config: &'a IngestConfig, seed: u64) -> Result<Self> {
        let SplitConfig { valid, test, identity } = &config.split;
        let share = |value: f64| (0.0..=1.0).contains(&value);
        if !share(*valid) || !share(*test) || !share(valid + test) {
            return Err(Error::mismatch(format!("`ingest.split` gives valid {valid} and test {test}"))
                .hint("both are shares from 0 to 1, and together at most 1"));
        }
        check_sample(&config.sample)?;
        let path = match identity {
            IdentityConfig::Content => None,
            IdentityConfig::Path { pattern } => {
                let wrong = |what: String| {
                    Error::mismatch(format!("`ingest.split.identity.pattern` is `{pattern}`: {what}"))
                        .hint(r"give a regular expression with one group, for example 'POP909/(\d+)/'")
                };
                let regex = Regex::new(pattern).map_err(|e| wrong(e.to_string()))?;
                if regex.captures_len() < 2 {
                    return Err(wrong("it has no group".to_owned()));
                }
                Some(regex)
            }
        };
        Ok(Rules { config, seed, path })
    }

    /// What makes files the same song: the text that the pattern finds in the path, else the notes. A file without
    /// notes is what its bytes are, and one whose bytes were not read what its path is.
    fn identity(&self, path: &str, score: Option<&Score>, sha256: &str) -> String {
        let named = self.path.as_ref().map(|regex| {
            let found = regex.captures(path).and_then(|groups| groups.get(1)).map(|group| group.as_str());
            found.unwrap_or(path).to_owned()
        });
        let file = if sha256.is_empty() { path } else { sha256 };
        named.unwrap_or_else(|| score.map_or_else(|| file.to_owned(), content_hash))
    }

    /// The split of a song: a hash of its identity as a number from 0 to 1.
    fn split(&self, id: &str) -> Split {
        let hash = Sha256::new().chain_update(b"split").chain_update(id.as_bytes()).finalize();
        let mut head = [0; 8];
        head.copy_from_slice(&hash[..8]);
        let place = u64::from_be_bytes(head) as f64 / 2f64.powi(64);
        match place {
            _ if place < self.config.split.test => Split::Test,
            _ if place < self.config.split.test + self.config.split.valid => Split::Valid,
            _ => Split::Train,
        }
    }

    /// Reads a file as a song: its row, and the parsed score if it was accepted.
    pub(crate) fn read(&self, file: RawFile) -> (Song, Option<Score>) {
        let RawFile { path, content } = file;
        let rejected = |reason: &'static str, detail: String| Reject::new(Stage::Read, reason, detail);
        let unread = |reject: Reject| (Vec::new(), String::new(), Err(reject));
        let (bytes, sha256, read) = match content {
            Content::Bytes(bytes) => {
                let score = smf::read_within(&bytes, &self.config.limits).map(|score| self.config.meter.apply(score));
                let sha256 = sha256_hex(&bytes);
                (bytes, sha256, score)
            }
            Content::TooLarge { bytes, limit } => unread(rejected(limit, format!("{bytes} bytes"))),
            Content::Unreadable { reason } => unread(rejected("unreadable", reason)),
        };
        let id = self.identity(&path, read.as_ref().ok(), &sha256);
        let split = self.split(&id);
        let mut song = Song {
            id,
            path,
            sha256,
            split,
            tracks: 0,
            bars: 0,
            notes: 0,
            programs: Vec::new(),
            status: Status::Rejected,
            reason: None,
            midi: None,
        };
        let kept = read.and_then(|score| {
            song.notes = score.note_count() as u32;
            let kept = filter(&self.config.filter, &score);
            let grid = preprocess(&score);
            song.bars = bar_ticks(&grid, Until::End)?.len() as u32;
            song.tracks = grid.tracks.len() as u32;
            song.programs = grid.tracks.iter().map(|track| track.program_or_drums()).collect();
            let (tokens, most) = (most_tokens(&grid, song.bars as usize), self.config.limits.max_tokens_per_piece);
            if tokens > most {
                let what = format!("up to {tokens}, more than {most}");
                return Err(Reject::tokenize("max-tokens-per-piece", what));
            }
            kept.map(|()| score)
        });
        match kept {
            Ok(score) => {
                song.status = Status::Accepted;
                song.midi = (split != Split::Train).then_some(bytes);
                (song, Some(score))
            }
            Err(reject) => {
                song.status = if reject.stage == Stage::Filter { Status::Skipped } else { Status::Rejected };
                song.reason = Some(reject.to_string());
                (song, None)
            }
        }
    }

    /// Checks that a tokenizer can write what samples hold.
    ///
    /// # Errors
    /// Samples are to carry controls, for which it has no ids (78).
    pub(crate) fn check_tokenizer(&self, tokenizer: &Tokenizer) -> Result<()> {
        let sample = &self.config.sample;
        if (sample.controls > 0.0 || sample.recipe == Recipe::MidiRwkv) && !tokenizer.has_controls() {
            return Err(Error::mismatch("the tokenizer has no ids for attribute controls")
                .hint("take one that has, such as the published `tokenizer_with_acs.json`, or set `ingest.sample.controls` to 0"));
        }
        Ok(())
    }

    /// The samples of an accepted song. A pass from which no sample comes out is left out.
    pub(crate) fn samples(&self, song: &Song, score: &Score, tokenizer: &Tokenizer) -> Vec<Sample> {
        let passes = match song.split {
            Split::Train => self.config.sample.passes,
            Split::Valid => self.config.sample.valid_passes,
            Split::Test => 0,
        };
        let draw = |pass: u32| {
            let mut draws = Keyed::new(self.seed, &format!("sample/{}", song.sha256), u64::from(pass));
            let drawn = sample::draw(score, tokenizer, &self.config.sample, &mut draws).ok()?;
            Some(Sample {
                song: song.id.clone(),
                pass,
                kind: drawn.kind.name(),
                track: drawn.track as u32,
                bar: drawn.bar as u32,
                bars: drawn.bars as u32,
                input_ids: drawn.input_ids,
            })
        };
        (0..passes).filter_map(draw).collect()
    }
}

/// The smallest context, in tokens: less holds no bar of music with what stands around it.
const LEAST_CONTEXT: usize = 64;

/// # Errors
/// Ranges and shares that make no sense, or that the published recipe does not have (78).
fn check_sample(sample: &SampleConfig) -> Result<()> {
    let share = |value: f64| (0.0..=1.0).contains(&value);
    let range = |[low, high]: [f64; 2]| share(low) && share(high) && low <= high;
    if sample.bars.is_empty() || sample.bars.contains(&0) || !range(sample.bar_share) || !range(sample.track_share) {
        return Err(Error::mismatch("`ingest.sample` has an empty range")
            .hint("`bars` lists numbers from 1 up; `bar-share` and `track-share` are [low, high] from 0 to 1"));
    }
    for (key, value) in [("controls", sample.controls), ("track-infill", sample.track_infill)] {
        if !share(value) {
            return Err(Error::mismatch(format!("`ingest.sample.{key}` is {value}")).hint("it is a share from 0 to 1"));
        }
    }
    let SampleConfig { passes, valid_passes, context_tokens, recipe, .. } = *sample;
    if passes == 0 || context_tokens < LEAST_CONTEXT {
        return Err(Error::mismatch("`ingest.sample` leaves no room for a sample")
            .hint(format!("`passes` is 1 or more, and `context-tokens` {LEAST_CONTEXT} or more")));
    }
    let published = SampleConfig { passes, valid_passes, context_tokens, recipe, ..SampleConfig::default() };
    if recipe == Recipe::MidiRwkv && *sample != published {
        return Err(Error::mismatch("`ingest.sample` sets numbers that the recipe \"midi-rwkv\" has its own of").hint(
            "leave out all but `passes`, `valid-passes` and `context-tokens`, or take the recipe \"corrected\"",
        ));
    }
    Ok(())
}

/// Hash of all notes with their tracks. Times count in parts of a quarter, so that the same notes are the same song in
/// files of any resolution.
fn content_hash(score: &Score) -> String {
    let quarter = i128::from(score.ticks_per_quarter.max(1));
    let at = |tick: Tick| ((i128::from(tick) << 20) / quarter) as i64;
    let mut hash = Sha256::new();
    for track in &score.tracks {
        hash.update(track.program_or_drums().to_le_bytes());
        for note in &track.notes {
            hash.update(at(note.tick).to_le_bytes());
            hash.update(at(note.duration).to_le_bytes());
            hash.update([note.pitch, note.velocity]);
        }
    }
    hex::encode(&hash.finalize()[..16])
}

/// The published prefilter: long enough, and with enough notes.
fn filter(config: &FilterConfig, score: &Score) -> Result<(), Reject> {
    let bars = bar_ticks(score, Until::End)?.len();
    if bars < config.min_bars {
        return Err(Reject::new(Stage::Filter, "too-few-bars", format!("{bars}, fewer than {}", config.min_bars)));
    }
    let notes = score.note_count();
    if notes <= config.min_notes {
        return Err(Reject::new(
            Stage::Filter,
            "too-few-notes",
            format!("{notes}, not more than {}", config.min_notes),
        ));
    }
    Ok(())
}
