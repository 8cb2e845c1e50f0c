//! What a file of this system holds, as text for people: `midi-ingest inspect` and `verify`.

mod roll;
mod svg;
mod verify;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::job::exit::{Error, Result, at_path};
use crate::score::smf;
use crate::shard::{Counts, MANIFEST, Manifest, ShardReader, Song, Split, UnitRecord, read_songs};
use crate::token::Tokenizer;
use crate::token::vocabulary::{BAR, FILL_START, TRACK_START, Token};

pub use roll::{Window, roll};
pub use svg::svg;
pub use verify::{Verified, verify};

/// Rows of a table that are listed.
const ROWS: usize = 20;

/// Which part of a file is looked at.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// A row of a shard or a songs table, from 0.
    pub row: Option<usize>,
    /// The tokenizer of a shard, if it is not the one of its data set.
    pub tokenizer: Option<PathBuf>,
    /// The bars of a piano roll.
    pub window: Window,
}

/// The file or folder at `path` as text.
///
/// # Errors
/// It is of no kind that this system knows, or damaged (65); it has no such row (78); it cannot be read (74).
pub fn inspect(path: &Path, look: &Look) -> Result<String> {
    let manifest = if path.is_dir() { folder_of(path).join(MANIFEST) } else { path.to_owned() };
    match kind(&manifest).as_deref() {
        Some("arrow") => shard(path, look),
        Some("json") => record(&manifest),
        Some("parquet") => table(path, look),
        Some("mid" | "midi") => {
            let bytes = fs_err::read(path).map_err(at_path("read", path))?;
            music(&path.display().to_string(), &bytes, look.window)
        }
        _ => Err(Error::data(format!("`{}` is nothing that can be shown", path.display()))
            .hint("give a .arrow shard, a songs .parquet, a manifest or unit .json, a .mid, or an ingest folder")),
    }
}

/// The MIDI file at `path`, or that of row `row` of a songs table.
///
/// # Errors
/// There is none, or it cannot be parsed (65); it cannot be read (74).
pub fn midi_of(path: &Path, row: Option<usize>) -> Result<Vec<u8>> {
    if kind(path).as_deref() != Some("parquet") {
        return fs_err::read(path).map_err(at_path("read", path));
    }
    let song = pick(songs(path)?, row.unwrap_or(0), path)?;
    song.midi.ok_or_else(|| {
        Error::data(format!("the song `{}` is in the table without its MIDI bytes", song.path))
            .hint("accepted songs of the splits valid and test have them")
    })
}

/// The ending of a file's name, in lower case.
fn kind(path: &Path) -> Option<String> {
    path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase)
}

/// The ingest folder of a run, or the folder itself.
fn folder_of(path: &Path) -> PathBuf {
    let inside = path.join("ingest");
    if !path.join(MANIFEST).exists() && inside.is_dir() { inside } else { path.to_owned() }
}

fn pick<T>(rows: Vec<T>, row: usize, path: &Path) -> Result<T> {
    let count = rows.len();
    rows.into_iter().nth(row).ok_or_else(|| {
        Error::mismatch(format!("`{}` has no row {row}", path.display())).hint(format!("it has {count}, from 0"))
    })
}

fn record(path: &Path) -> Result<String> {
    let bytes = fs_err::read(path).map_err(at_path("read", path))?;
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
        return Ok(manifest_text(&manifest));
    }
    let unit: UnitRecord = serde_json::from_slice(&bytes).map_err(|e| {
        Error::data(format!("`{}` is neither a manifest nor a unit's record", path.display())).because(e)
    })?;
    let mut text =
        format!("unit {}, key {}\n{} files in {}\n", unit.unit, short(&unit.key), unit.songs.rows, unit.songs.path);
    for (split, shard) in &unit.shards {
        let _ = writeln!(text, "{}: {} samples, {} tokens in {}", split.name(), shard.rows, shard.tokens, shard.path);
    }
    text.push_str(&counts_text(&unit.counts));
    Ok(text)
}

fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

fn manifest_text(manifest: &Manifest) -> String {
    let vocabulary = &manifest.vocabulary;
    let mut text = format!(
        "data set, format {}, key {}\nvocabulary: {} tokens in {}, fingerprint {}\nsamples of at most {} tokens\n",
        manifest.format,
        short(&manifest.key),
        vocabulary.size,
        vocabulary.file,
        short(&vocabulary.fingerprint),
        manifest.context_tokens
    );
    for split in Split::ALL {
        let record = manifest.split(split);
        let songs = manifest.counts.songs.get(&split).copied().unwrap_or(0);
        let (shards, samples, tokens) = (record.shards.len(), record.samples, record.tokens);
        let _ =
            writeln!(text, "{}: {songs} songs, {samples} samples, {tokens} tokens in {shards} shards", split.name());
    }
    text.push_str(&counts_text(&manifest.counts));
    text
}

fn counts_text(counts: &Counts) -> String {
    let Counts { files, accepted, skipped, rejected, reasons, .. } = counts;
    let mut text = format!("{files} files: {accepted} accepted, {skipped} skipped, {rejected} rejected\n");
    for (reason, count) in reasons {
        let _ = writeln!(text, "  {reason}: {count}");
    }
    text
}

fn shard(path: &Path, look: &Look) -> Result<String> {
    let shard = ShardReader::open(path)?;
    let number = |column: &str, row: usize| shard.number(column, row).unwrap_or(0);
    let line = |row: usize| {
        let (pass, track, bar, bars) =
            (number("pass", row), number("track", row), number("bar", row), number("bars", row));
        let ids = shard.input_ids(row).len();
        format!(
            "{row:>6}  song {}  pass {pass}  track {track}  bars {bar}..{}  {ids} tokens\n",
            short(shard.song(row)),
            bar + bars
        )
    };
    let Some(row) = look.row else {
        let tokens: usize = (0..shard.len()).map(|row| shard.input_ids(row).len()).sum();
        let mut text = format!("shard of {} samples, {tokens} tokens\n", shard.len());
        (0..shard.len().min(ROWS)).for_each(|row| text.push_str(&line(row)));
        if shard.len() > ROWS {
            let _ = writeln!(text, "and {} more; `--row I` shows one as tokens", shard.len() - ROWS);
        }
        return Ok(text);
    };
    pick(vec![(); shard.len()], row, path)?;
    // A shard stands at shards/SPLIT/ in the folder that holds the tokenizer.
    let beside = path.ancestors().nth(3).map(|root| root.join("tokenizer.json"));
    let tokenizer =
        look.tokenizer.clone().or(beside).ok_or_else(|| Error::mismatch("there is no tokenizer beside it"))?;
    let base = Tokenizer::load(&tokenizer)?.bpe().decode(shard.input_ids(row));
    Ok(line(row) + &tokens_text(&base))
}

/// Base ids as tokens, a line a bar.
fn tokens_text(base: &[u16]) -> String {
    let mut text = String::new();
    for id in base {
        let token = Token::of(*id);
        let breaks = [BAR, TRACK_START, FILL_START].contains(id);
        if !text.is_empty() {
            text.push(if breaks { '\n' } else { ' ' });
        }
        match token {
            Some(token) => text.push_str(&token.to_string()),
            None => {
                let _ = write!(text, "?{id}");
            }
        }
    }
    text.push('\n');
    text
}

fn songs(path: &Path) -> Result<Vec<Song>> {
    let bytes = fs_err::read(path).map_err(at_path("read", path))?;
    read_songs(bytes.into(), &path.display().to_string())
}

fn table(path: &Path, look: &Look) -> Result<String> {
    let songs = songs(path)?;
    let line = |row: usize, song: &Song| {
        let Song { path, tracks, bars, notes, status, split, .. } = song;
        let reason = song.reason.as_deref().map(|reason| format!("  {reason}")).unwrap_or_default();
        format!(
            "{row:>6}  {path}  {}  {}  {tracks} tracks, {bars} bars, {notes} notes{reason}\n",
            split.name(),
            status.name()
        )
    };
    let Some(row) = look.row else {
        let mut text = format!("songs table of {} files\n", songs.len());
        songs.iter().take(ROWS).enumerate().for_each(|(row, song)| text.push_str(&line(row, song)));
        if songs.len() > ROWS {
            let _ = writeln!(text, "and {} more; `--row I` shows one", songs.len() - ROWS);
        }
        return Ok(text);
    };
    let song = pick(songs, row, path)?;
    let mut text = line(row, &song);
    let _ = writeln!(text, "id {}, sha256 {}, programs {:?}", song.id, song.sha256, song.programs);
    if let Some(midi) = &song.midi {
        text.push_str(&music(&song.path, midi, look.window)?);
    }
    Ok(text)
}

fn music(name: &str, bytes: &[u8], window: Window) -> Result<String> {
    let score = smf::read(bytes).map_err(|e| Error::data(format!("cannot show `{name}`")).because(e))?;
    roll(&score, window).map_err(|e| Error::data(format!("cannot show `{name}`")).because(e))
}

#[cfg(test)]
mod tests;
