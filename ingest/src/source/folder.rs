//! A folder as a source: every MIDI file below it, sorted by path.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::{Content, Files, MAX_FILE_BYTES, RawFile, Source, Unit, divide, is_midi_name};
use crate::job::exit::{Error, Result};
use crate::store::local_path_of;
use crate::store::pattern::Pattern;

/// Every `.mid` and `.midi` file below a folder, or those that a pattern such as `/data/*/*.mid` takes. Links are followed; one
/// that leads back up is not.
#[derive(Debug)]
pub struct Folder {
    files: Vec<Member>,
    units: Vec<Unit>,
    max_file_bytes: u64,
    fingerprint: String,
}

/// A file as it was found.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    /// Relative to the folder, with `/`.
    path: String,
    at: PathBuf,
    bytes: u64,
}

impl Folder {
    /// Lists the MIDI files below the folder at `uri`, a path or a `file` URL, or those that the pattern there takes.
    ///
    /// # Errors
    /// There is no such folder, or no MIDI file in it (65); `uri` is not a local folder (78); a folder below cannot be
    /// listed (74).
    pub fn open(uri: &str, files_per_unit: usize, max_file_bytes: u64) -> Result<Self> {
        let as_written = local_path_of(uri);
        // A folder with a `*` in its name may be called so.
        let pattern = match &as_written {
            Some(path) if path.exists() => Pattern::plain(uri),
            _ => Pattern::of(uri)?,
        };
        let Some(root) = local_path_of(&pattern.base) else {
            return Err(Error::mismatch(format!("`{uri}` is not a local folder"))
                .hint("copy the folder here, or pack it and set `kind = \"archive\"` under `[ingest.source]`"));
        };
        if root.is_file() {
            return Err(Error::mismatch(format!("`{uri}` is a file, not a folder"))
                .hint("if it is a .tar, .tar.gz, .tar.zst or .zip, set `kind = \"archive\"` under `[ingest.source]`"));
        }
        if !root.is_dir() {
            return Err(Error::data(format!("cannot read `{uri}`: there is no such folder"))
                .hint("give another one with `--set ingest.source.uri=PATH`"));
        }
        let mut files = members(&root, pattern.depth)?;
        files.retain(|file| pattern.takes(&file.path));
        if files.is_empty() {
            return Err(Error::data(format!("`{uri}` holds no .mid or .midi file"))
                .hint("give another folder with `--set ingest.source.uri=PATH`"));
        }
        files.sort();
        let fingerprint = fingerprint(&files);
        Ok(Folder { units: divide(files.len(), files_per_unit), files, max_file_bytes, fingerprint })
    }

    fn take(&self, member: &Member) -> RawFile {
        let content = std::fs::metadata(&member.at).and_then(|metadata| {
            if metadata.len() > self.max_file_bytes {
                return Ok(Content::TooLarge { bytes: metadata.len(), limit: MAX_FILE_BYTES });
            }
            std::fs::read(&member.at).map(Content::Bytes)
        });
        let content = content.unwrap_or_else(|e| Content::Unreadable { reason: e.to_string() });
        RawFile { path: member.path.clone(), content }
    }
}

impl Source for Folder {
    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn read(&self, unit: &Unit) -> Result<Files<'_>> {
        let members = self.files.get(unit.range()).ok_or_else(|| super::foreign(unit))?;
        Ok(Box::new(members.iter().map(|member| Ok(self.take(member)))))
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// The MIDI files below `root`, no deeper than `depth`: what a pattern would never take is not looked at.
fn members(root: &Path, depth: Option<usize>) -> Result<Vec<Member>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(root).follow_links(true).max_depth(depth.unwrap_or(usize::MAX)) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                let path = relative(root, entry.path());
                if is_midi_name(&path) {
                    // A size that cannot be had now shows as an unreadable file later.
                    let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
                    files.push(Member { path, at: entry.into_path(), bytes });
                }
            }
            Ok(_) => {}
            Err(e) if e.loop_ancestor().is_some() => {}
            Err(e) => {
                let at = e.path().unwrap_or(root).to_owned();
                let path = relative(root, &at);
                let dangling = e.io_error().is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound);
                if dangling && is_midi_name(&path) {
                    files.push(Member { path, at, bytes: 0 });
                } else if !dangling {
                    return Err(Error::storage(format!("cannot list `{}`", at.display()), e));
                }
            }
        }
    }
    Ok(files)
}

fn relative(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = inside.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

fn fingerprint(files: &[Member]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update((file.path.len() as u64).to_le_bytes());
        hash.update(file.path.as_bytes());
        hash.update(file.bytes.to_le_bytes());
    }
    format!("folder:{}", hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::exit::Exit;
    use crate::source::tests::conformance;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().expect("a parent")).expect("makes the folder");
            fs_err::write(path, bytes).expect("writes");
        }
        folder
    }

    fn uri(folder: &tempfile::TempDir) -> String {
        folder.path().to_str().expect("utf-8").to_owned()
    }

    #[test]
    fn a_folder_is_a_source() {
        let folder = folder(&[
            ("b.mid", b"1"),
            ("a/z.MID", b"22"),
            ("a/b/c.midi", b"333"),
            ("a.Midi", b""),
            ("notes.txt", b"no"),
            ("a/._z.mid", b"no"),
        ]);
        let open = |per_unit| Box::new(Folder::open(&uri(&folder), per_unit, 100).expect("opens")) as Box<dyn Source>;
        conformance(&open, &["a.Midi", "a/b/c.midi", "a/z.MID", "b.mid"]);
        let by_url = Folder::open(&format!("file://{}", uri(&folder)), 2, 100).expect("opens");
        assert_eq!(by_url.fingerprint(), open(2).fingerprint());
    }

    #[test]
    fn another_size_or_name_is_another_fingerprint() {
        let print = |files: &[(&str, &[u8])]| {
            let folder = folder(files);
            Folder::open(&uri(&folder), 2, 100).expect("opens").fingerprint()
        };
        let first = print(&[("a.mid", b"1")]);
        assert_eq!(first, print(&[("a.mid", b"1"), ("other.txt", b"1")]));
        assert_ne!(first, print(&[("a.mid", b"12")]));
        assert_ne!(first, print(&[("b.mid", b"1")]));
        assert_ne!(first, print(&[("a.mid", b"1"), ("b.mid", b"1")]));
    }

    #[test]
    fn a_pattern_takes_a_part_of_a_folder() {
        let folder = folder(&[("a/1.mid", b"1"), ("a/x/2.mid", b"2"), ("b/3.mid", b"3"), ("b/[4].mid", b"4")]);
        for (pattern, paths) in [
            ("*/*.mid", vec!["a/1.mid", "b/3.mid", "b/[4].mid"]),
            ("a/**/*.mid", vec!["1.mid", "x/2.mid"]),
            ("[!a]/?.mid", vec!["b/3.mid"]),
            ("**/[12].mid", vec!["a/1.mid", "a/x/2.mid"]),
        ] {
            let uri = format!("{}/{pattern}", uri(&folder));
            conformance(&|per_unit| Box::new(Folder::open(&uri, per_unit, 100).expect("opens")), &paths);
        }
        let error = Folder::open(&format!("{}/c*/*.mid", uri(&folder)), 1, 1).expect_err("takes nothing");
        assert!(error.exit() == Exit::BadData && error.to_string().contains("holds no .mid"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_a_pattern_never_takes_is_not_looked_at() {
        let folder = folder(&[("a.mid", b"1"), ("x/b.mid", b"2"), ("x/y/c.mid", b"3")]);
        let found = |depth| {
            let mut files = members(folder.path(), depth).expect("lists");
            files.sort();
            files.into_iter().map(|file| file.path).collect::<Vec<_>>()
        };
        assert_eq!(found(Some(1)), ["a.mid"]);
        assert_eq!(found(Some(2)), ["a.mid", "x/b.mid"]);
        assert_eq!(found(None), ["a.mid", "x/b.mid", "x/y/c.mid"]);
        // A link to itself cannot be followed, by root either.
        std::os::unix::fs::symlink("loop", folder.path().join("x/loop")).expect("links");
        assert_eq!(Folder::open(&uri(&folder), 1, 100).expect_err("cannot be listed").exit(), Exit::Storage);
        let source = Folder::open(&format!("{}/*.mid", uri(&folder)), 1, 100).expect("opens");
        assert_eq!(source.units().len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_loops_end() {
        let folder = folder(&[("a/one.mid", b"1"), ("b/two.txt", b"2")]);
        let link = |from: &str, to: &str| std::os::unix::fs::symlink(from, folder.path().join(to)).expect("links");
        link("..", "a/up");
        link("../a/one.mid", "b/linked.mid");
        link("nowhere.mid", "b/gone.mid");
        link("nowhere", "b/gone");
        let source = Folder::open(&uri(&folder), 10, 100).expect("opens");
        let files: Vec<RawFile> =
            source.read(&source.units()[0]).expect("reads").map(|file| file.expect("a file")).collect();
        let paths: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["a/one.mid", "b/gone.mid", "b/linked.mid"]);
        assert!(matches!(files[1].content, Content::Unreadable { .. }), "{:?}", files[1]);
        assert_eq!(files[2].content, Content::Bytes(b"1".to_vec()));
    }

    #[test]
    fn a_large_or_vanished_file_is_told() {
        let folder = folder(&[("a.mid", b"12345"), ("b.mid", b"1234"), ("c.mid", b"1")]);
        let source = Folder::open(&uri(&folder), 10, 4).expect("opens");
        fs_err::remove_file(folder.path().join("c.mid")).expect("removes");
        let contents: Vec<Content> =
            source.read(&source.units()[0]).expect("reads").map(|file| file.expect("a file").content).collect();
        assert_eq!(contents[0], Content::TooLarge { bytes: 5, limit: MAX_FILE_BYTES });
        assert_eq!(contents[1], Content::Bytes(b"1234".to_vec()));
        assert!(matches!(contents[2], Content::Unreadable { .. }));
    }

    #[test]
    fn what_is_no_folder_of_midi_files_says_so() {
        let empty = folder(&[("readme.txt", b"x")]);
        let file = folder(&[("x.tar", b"x")]);
        let cases = [
            ("/no/such/folder".to_owned(), Exit::BadData, "there is no such folder"),
            (uri(&empty), Exit::BadData, "holds no .mid or .midi file"),
            (format!("{}/x.tar", uri(&file)), Exit::Mismatch, "is a file"),
            ("s3://bucket/songs".to_owned(), Exit::Mismatch, "is not a local folder"),
        ];
        for (uri, exit, says) in cases {
            let error = Folder::open(&uri, 1, 1).expect_err("refused");
            assert_eq!(error.exit(), exit, "{error}");
            assert!(error.to_string().contains(says) && error.to_string().contains(&uri), "{error}");
            assert!(error.hint_text().is_some());
        }
    }
}
