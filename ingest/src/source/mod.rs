//! Where MIDI files come from: a source is a fixed list of files, cut into units that any worker may read alone.

mod archive;
mod folder;
mod parquet;
mod synth;

use std::fmt::Debug;
use std::ops::Range;

use crate::config::SourceConfig;
use crate::job::exit::{Error, Result};
use crate::limits::Limits;
use crate::store::Access;

pub use archive::Archive;
pub use folder::Folder;
pub use parquet::{Columns, Parquet};
pub use synth::{Synth, compose};

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFile {
    /// Its path inside the source, with `/` between folders: the same at every reading.
    pub path: String,
    /// Its bytes, or why there are none.
    pub content: Content,
}

/// What was read of a file. One that cannot be taken is told as such, and does not end the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The whole file.
    Bytes(Vec<u8>),
    /// It is larger than a limit and was not read.
    TooLarge {
        /// Its size, or that of the row group that it is in.
        bytes: u64,
        /// The key of the limit under `[ingest.limits]`.
        limit: &'static str,
    },
    /// It could not be read.
    Unreadable {
        /// What the system said.
        reason: String,
    },
}

/// The key of the limit on a file's size.
const MAX_FILE_BYTES: &str = "max-file-bytes";

/// A run of neighbouring files: the unit of work, and of resuming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// A stable name that is safe as a file name, such as `00003`.
    pub name: String,
    /// Position of the unit in [`Source::units`].
    pub index: usize,
    /// Position of its first file in the source.
    pub first: usize,
    /// How many files it has, at least 1.
    pub files: usize,
}

impl Unit {
    /// The positions of its files in the source.
    pub fn range(&self) -> Range<usize> {
        self.first..self.first + self.files
    }
}

/// The files of a unit, one in memory at a time.
pub type Files<'a> = Box<dyn Iterator<Item = Result<RawFile>> + Send + 'a>;

/// A fixed, ordered list of files in units.
pub trait Source: Send + Sync + Debug {
    /// Every unit, in order; together they hold every file once.
    fn units(&self) -> &[Unit];

    /// The files of one of the source's units, in order.
    ///
    /// # Errors
    /// The source itself fails (74); a file that cannot be taken is no error, see [`Content`].
    fn read(&self, unit: &Unit) -> Result<Files<'_>>;

    /// Identifies the input: another list of files, or other content where that is cheap to know, gives another text.
    fn fingerprint(&self) -> String;
}

/// Opens the source that `config` names, with `files_per_unit` files in a unit.
///
/// Files past the limits are not read; `seed` matters to the built-in composer only. In Parquet files a row group
/// is a unit, whatever its size.
///
/// # Errors
/// The source is missing, holds no MIDI file or is corrupt (65), is not what the configuration
/// says it is (78), or cannot be read (74).
pub fn open(
    config: &SourceConfig,
    files_per_unit: usize,
    limits: &Limits,
    seed: u64,
    access: &Access,
) -> Result<Box<dyn Source>> {
    if files_per_unit == 0 {
        return Err(Error::mismatch("`ingest.files-per-unit` is 0").hint("give at least 1; the default is 128"));
    }
    Ok(match config {
        SourceConfig::Synth { songs } => Box::new(Synth::new(*songs, files_per_unit, seed)?),
        SourceConfig::Folder { uri } => Box::new(Folder::open(uri, files_per_unit, limits.max_file_bytes)?),
        SourceConfig::Archive { uri } => Box::new(Archive::open(uri, files_per_unit, limits)?),
        SourceConfig::Parquet { uri, layout, column, id_column } => {
            let columns = Columns::of(*layout, column.as_deref(), id_column.as_deref())?;
            Box::new(Parquet::open(uri, &columns, limits, access)?)
        }
    })
}

/// Cuts `files` files into runs of `per_unit`, the last one being what is left.
fn divide(files: usize, per_unit: usize) -> Vec<Unit> {
    let cut = |(index, first): (usize, usize)| Unit {
        name: format!("{index:05}"),
        index,
        first,
        files: per_unit.min(files - first),
    };
    (0..files).step_by(per_unit.max(1)).enumerate().map(cut).collect()
}

/// The error for a unit that another source made.
fn foreign(unit: &Unit) -> Error {
    Error::bug(format!("unit `{}` has files that this source does not hold", unit.name))
}

/// Whether the last part of `path` is the name of a MIDI file. The `._` files that macOS leaves beside others are not.
fn is_midi_name(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let lower = name.to_ascii_lowercase();
    (lower.ends_with(".mid") || lower.ends_with(".midi")) && !name.starts_with("._")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file of a unit.
    fn all(source: &dyn Source, unit: &Unit) -> Vec<RawFile> {
        source.read(unit).expect("reads").collect::<Result<_>>().expect("every file")
    }

    /// What every source owes that is cut into units of so many files. `paths` are the files that it must hold, in
    /// order.
    pub(super) fn conformance(open: &dyn Fn(usize) -> Box<dyn Source>, paths: &[&str]) {
        for per_unit in [1, 2, 3, 1000] {
            let source = open(per_unit);
            assert_eq!(open(per_unit + 1).fingerprint(), source.fingerprint(), "units do not change the input");
            assert!(source.units().iter().all(|unit| unit.files <= per_unit));
            conformance_of_units(&|| open(per_unit), paths);
        }
    }

    /// What every source owes, however it is cut.
    pub(super) fn conformance_of_units(open: &dyn Fn() -> Box<dyn Source>, paths: &[&str]) {
        let source = open();
        let whole: Vec<RawFile> = source.units().iter().flat_map(|unit| all(source.as_ref(), unit)).collect();
        let names: Vec<&str> = whole.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, paths, "the units hold every file once, in order");

        let again = open();
        assert_eq!(again.fingerprint(), source.fingerprint(), "a second open is the same input");
        assert_eq!(again.units(), source.units(), "and is cut the same way");
        for unit in source.units().iter().rev() {
            assert_eq!(source.units()[unit.index], *unit);
            assert!(unit.files > 0);
            assert!(unit.name.bytes().all(|b| b.is_ascii_alphanumeric()), "{}", unit.name);
            assert_eq!(all(source.as_ref(), unit), whole[unit.range()], "a unit alone is its part of the whole");
            assert_eq!(all(again.as_ref(), unit), whole[unit.range()], "and so it is at a second reading");
        }
        std::thread::scope(|scope| {
            for unit in source.units() {
                let (source, whole) = (source.as_ref(), &whole);
                scope.spawn(move || assert_eq!(all(source, unit), whole[unit.range()], "and in parallel"));
            }
        });
    }

    #[test]
    fn units_divide_all_files() {
        let sizes = |files, per| divide(files, per).iter().map(|u| u.files).collect::<Vec<_>>();
        assert_eq!(sizes(7, 3), [3, 3, 1]);
        assert_eq!(sizes(6, 3), [3, 3]);
        assert_eq!(sizes(0, 3), [0usize; 0]);
        let third = &divide(7, 3)[2];
        assert_eq!((third.name.as_str(), third.index, third.range()), ("00002", 2, 6..7));
    }

    #[test]
    fn midi_names_are_known_in_any_case() {
        for yes in ["a.mid", "x/y.MIDI", "x.y.Mid", ".mid.mid"] {
            assert!(is_midi_name(yes), "{yes}");
        }
        for no in ["a.mp3", "mid", "x.mid/notes.txt", "x/._a.mid", "a.mid.gz", ""] {
            assert!(!is_midi_name(no), "{no}");
        }
    }

    #[test]
    fn no_files_in_a_unit_is_refused() {
        let error =
            open(&SourceConfig::Synth { songs: 3 }, 0, &Limits::default(), 0, &Access::default()).expect_err("refused");
        assert_eq!(error.exit(), crate::job::exit::Exit::Mismatch);
    }
}
