//! The `[ingest]` table of an experiment: what was written, with its defaults.

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::score::Meter;

/// `[ingest]`: which music, which vocabulary, which samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IngestConfig {
    /// Where the MIDI files come from.
    pub source: SourceConfig,
    /// Which vocabulary they are written in.
    pub tokenizer: TokenizerConfig,
    /// What is made of the files' time signatures: `as-written` or `regroup`.
    #[serde(default)]
    pub meter: Meter,
    /// How songs fall into train, valid and test.
    #[serde(default)]
    pub split: SplitConfig,
    /// Which songs are taken.
    #[serde(default)]
    pub filter: FilterConfig,
    /// How training samples are drawn.
    #[serde(default)]
    pub sample: SampleConfig,
    /// Files in one unit of work; a unit is one shard a split.
    #[serde(default = "defaults::files_per_unit")]
    pub files_per_unit: usize,
    /// The largest share of unreadable files that is accepted, 0 to 1.
    #[serde(default = "defaults::max_bad_fraction")]
    pub max_bad_fraction: f64,
    /// How much a file may ask for.
    #[serde(default)]
    pub limits: Limits,
}

/// `[ingest.source]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceConfig {
    /// The built-in composer: no data set needed.
    #[serde(rename_all = "kebab-case")]
    Synth {
        /// How many songs.
        songs: usize,
    },
    /// Every `.mid` and `.midi` file below a folder.
    #[serde(rename_all = "kebab-case")]
    Folder {
        /// The folder: a path or a `file://` URL, or a pattern such as `/data/*/*.mid`.
        uri: String,
    },
    /// Every MIDI file in a `.tar`, `.tar.gz`, `.tar.zst` or `.zip` archive.
    #[serde(rename_all = "kebab-case")]
    Archive {
        /// The archive: a path, or a `file://`, `http://` or `https://` URL.
        uri: String,
    },
    /// Every row of Parquet files that hold MIDI bytes in a column. A unit of work is a row group.
    #[serde(rename_all = "kebab-case")]
    Parquet {
        /// A `.parquet` file, a folder of them, or a pattern such as `train/*.parquet`: a path, the URL of an object
        /// store, or `hf://datasets/OWNER/NAME@REVISION/path`; of a web server, one file.
        uri: String,
        /// The columns by the name of a known data set; or else `column`.
        #[serde(skip_serializing_if = "Option::is_none")]
        layout: Option<Layout>,
        /// The column with the MIDI bytes.
        #[serde(skip_serializing_if = "Option::is_none")]
        column: Option<String>,
        /// The column that names a row; without one it goes by its number.
        #[serde(skip_serializing_if = "Option::is_none")]
        id_column: Option<String>,
    },
}

/// Data sets whose Parquet columns are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// GigaMIDI v1.0.0: one file a split.
    #[serde(rename = "gigamidi-v1.0.0")]
    GigaMidi100,
    /// GigaMIDI v1.1.0: a folder of files a split.
    #[serde(rename = "gigamidi-v1.1.0")]
    GigaMidi110,
    /// GigaMIDI v2.0.0: a folder of files a split.
    #[serde(rename = "gigamidi-v2.0.0")]
    GigaMidi200,
}

/// `[ingest.tokenizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// A tokenizer in MidiTok's file format.
    #[serde(rename_all = "kebab-case")]
    File {
        /// Its path.
        path: String,
    },
    /// Learn the byte-pair merges from the training songs of the source.
    #[serde(rename_all = "kebab-case")]
    Learn {
        /// Size of the vocabulary to learn, base tokens included.
        vocabulary: usize,
        /// At most this many songs are read to learn from.
        #[serde(default = "defaults::learn_songs")]
        songs: usize,
    },
}

/// `[ingest.split]`: shares of songs, decided by a hash of the song's identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Share of the songs held out for validation, 0 to 1.
    pub valid: f64,
    /// Share of the songs held out for evaluation, 0 to 1.
    pub test: f64,
    /// What makes two files the same song.
    pub identity: IdentityConfig,
}

impl Default for SplitConfig {
    fn default() -> Self {
        SplitConfig { valid: 0.05, test: 0.1, identity: IdentityConfig::Content }
    }
}

/// `[ingest.split.identity]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum IdentityConfig {
    /// Files with the same notes are the same song, whatever their bytes and their resolution.
    Content,
    /// Files whose path gives the same text for the pattern's first group are the same song;
    /// a path that does not match stands for itself.
    #[serde(rename_all = "kebab-case")]
    Path {
        /// A regular expression with one group, for example `POP909/(\d+)/`.
        pattern: String,
    },
}

/// `[ingest.filter]`: songs outside are skipped, with the reason in the songs table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Fewest bars of a song.
    pub min_bars: usize,
    /// A song must have more notes than this, all tracks together.
    pub min_notes: usize,
}

impl Default for FilterConfig {
    fn default() -> Self {
        FilterConfig { min_bars: 8, min_notes: 100 }
    }
}

/// `[ingest.sample]`: how a training sample is drawn from a song.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Samples drawn from each training song, at least 1.
    pub passes: u32,
    /// Samples drawn from each validation song.
    pub valid_passes: u32,
    /// The longest sample, in tokens of the final encoding; at least 64.
    pub context_tokens: usize,
    /// Smallest and largest share of the tracks that a sample keeps.
    pub track_share: [f64; 2],
    /// Pitch is shifted by up to this many semitones, both ways.
    pub max_pitch_shift: i8,
    /// Velocity is shifted by up to this much, both ways.
    pub max_velocity_shift: i8,
    /// Numbers of bars that may be infilled, drawn uniformly.
    pub bars: Vec<usize>,
    /// The infilled section has at least this share of the track's bars, drawn from the range.
    pub bar_share: [f64; 2],
    /// Share of the samples of several tracks in which a whole track is infilled, 0 to 1.
    pub track_infill: f64,
    /// Share of the samples that carry attribute controls of what is infilled, 0 to 1.
    pub controls: f64,
    /// Whose rules samples are made by.
    pub recipe: Recipe,
}

/// Whose rules training samples are made by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The rules as they were meant: whole sections, real track infilling, controls of the bars themselves.
    #[default]
    Corrected,
    /// The published code's, faults and all, with its own numbers: of the other keys only the passes and the context
    /// may be set.
    MidiRwkv,
}

impl Default for SampleConfig {
    fn default() -> Self {
        SampleConfig {
            passes: 4,
            valid_passes: 1,
            context_tokens: 2048,
            track_share: [0.4, 1.0],
            max_pitch_shift: 6,
            max_velocity_shift: 2,
            bars: vec![1, 2, 4, 8],
            bar_share: [0.1, 0.4],
            track_infill: 0.0,
            controls: 0.0,
            recipe: Recipe::Corrected,
        }
    }
}

mod defaults {
    pub(super) fn files_per_unit() -> usize {
        128
    }
    pub(super) fn max_bad_fraction() -> f64 {
        0.1
    }
    pub(super) fn learn_songs() -> usize {
        2000
    }
}
