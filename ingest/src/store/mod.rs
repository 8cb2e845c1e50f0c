//! One object store behind one URL, with the two ways of publishing that the pipeline uses: parts are
//! put whole, and a commit record is created only if nothing stands in its place.

mod access;
mod connect;
mod fetch;
mod hub;
pub(crate) mod inputs;
pub(crate) mod pattern;
mod probe;
mod web;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::{Path as ObjectPath, PathPart};
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use self::connect::Patience;
use crate::job::exit::{Error, Exit, Result, at_path};

pub use access::{Access, Secret};
pub use fetch::fetch;

/// Bytes that every connection carries in a short request, one that is of any use.
const SMALL: u64 = 1 << 20;

/// A folder of an object store, or of the local file system. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// The same, with more time for a request: for what is large, or may be.
    large: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    shown: String,
    local: Option<PathBuf>,
    runtime: Arc<Runtime>,
    /// The first pause before a commit is tried again.
    pause: Duration,
}

/// An object as it was found: another version of it is another object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name below the store's folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    at: ObjectPath,
    version: Option<String>,
}

/// How a [`Store::commit`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// This call created the record.
    Created,
    /// The same bytes stood there already.
    Same,
}

impl Store {
    /// Opens a local folder (made if missing) or a `file`, `s3`, `gs`, `az`, `http` or `https` URL.
    ///
    /// # Errors
    /// A URL that is not understood (78), or a folder that cannot be made (74).
    pub fn open(uri: &str) -> Result<Self> {
        let runtime = runtime()?;
        let shown = uri.trim_end_matches('/').to_owned();
        if let Some(path) = local_path_of(uri) {
            fs_err::create_dir_all(&path).map_err(at_path("make the folder", &path))?;
            let path = fs_err::canonicalize(&path).map_err(at_path("open the folder", &path))?;
            // With the last object of a folder the folder goes, as in a store that knows no folders.
            let inner = object_store::local::LocalFileSystem::new_with_prefix(&path)
                .map_err(|e| Error::storage(format!("cannot open `{}`", path.display()), e))?
                .with_automatic_cleanup(true);
            let prefix = ObjectPath::default();
            let pause = connect::FIRST_PAUSE;
            let inner: Arc<dyn ObjectStore> = Arc::new(inner);
            return Ok(Store { large: Arc::clone(&inner), inner, prefix, shown, local: Some(path), runtime, pause });
        }
        let url = url::Url::parse(uri).map_err(|e| {
            Error::mismatch(format!("`{uri}` is not a URL"))
                .because(e)
                .hint("give a folder, or a URL such as `s3://bucket/folder`")
        })?;
        let connect_for = |longest| {
            connect::connect(&url, connect::environment(), longest)
                .map_err(|e| Error::mismatch(format!("cannot open the store `{uri}`")).because(e))
        };
        let (inner, prefix) = connect_for(connect::SHORT_REQUEST)?;
        let (large, _) = connect_for(connect::LONG_REQUEST)?;
        Ok(Store { inner, large, prefix, shown, local: None, runtime, pause: connect::FIRST_PAUSE })
    }

    /// As [`Store::open`], for a place that is only read: `None` for a local folder that is not there, which is not made.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(uri: &str) -> Result<Option<Self>> {
        match local_path_of(uri) {
            Some(path) if !path.is_dir() => Ok(None),
            _ => Self::open(uri).map(Some),
        }
    }

    /// The store behind `inner`, called `shown` in messages: for embedding, and for tests that make a store fail.
    ///
    /// # Errors
    /// The thread that talks to it cannot be started: exit code 1.
    pub fn over(inner: Arc<dyn ObjectStore>, shown: &str) -> Result<Self> {
        let prefix = ObjectPath::default();
        Ok(Store {
            large: Arc::clone(&inner),
            inner,
            prefix,
            shown: shown.to_owned(),
            local: None,
            runtime: runtime()?,
            pause: connect::FIRST_PAUSE,
        })
    }

    /// The store as the user named it, for messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The local path of `name`, if the store is a local folder.
    pub fn local_path(&self, name: &str) -> Option<PathBuf> {
        self.local.as_ref().map(|root| root.join(name))
    }

    /// The place of `name`, whose parts are taken as they are written; what cannot be a part, such as `..`, is encoded.
    fn at(&self, name: &str) -> ObjectPath {
        let part = |part| PathPart::parse(part).unwrap_or_else(|_| PathPart::from(part));
        name.split('/').filter(|text| !text.is_empty()).fold(self.prefix.clone(), |path, text| path.join(part(text)))
    }

    /// The client for so many bytes.
    fn client(&self, bytes: u64) -> &Arc<dyn ObjectStore> {
        if bytes > SMALL { &self.large } else { &self.inner }
    }

    fn failed(&self, doing: &str, name: &str) -> impl FnOnce(object_store::Error) -> Error {
        let message = format!("cannot {doing} `{}/{name}`", self.shown);
        move |e| match e {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Error::storage(message, e).hint("check the credentials in the environment and the rights on the bucket")
            }
            other => Error::storage(message, other),
        }
    }

    /// The bytes of `name`, or `None` if there is no such object.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn get(&self, name: &str) -> Result<Option<Bytes>> {
        self.get_by(&self.large, name)
    }

    fn get_by(&self, client: &Arc<dyn ObjectStore>, name: &str) -> Result<Option<Bytes>> {
        let path = self.at(name);
        match self.runtime.block_on(async { client.get(&path).await?.bytes().await }) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed("read", name)(e)),
        }
    }

    /// The bytes of `name`, which must be there.
    ///
    /// # Errors
    /// It is missing (65) or the store fails (74).
    pub fn read(&self, name: &str) -> Result<Bytes> {
        self.get(name)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        Error::new(Exit::BadData, format!("cannot read `{}/{name}`: it is not there", self.shown))
    }

    /// Puts a whole object, over one that may stand there. A reader sees the old bytes or the new ones.
    ///
    /// # Errors
    /// The store fails or the disk is full (74).
    pub fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let path = self.at(name);
        let put = self.runtime.block_on(self.client(bytes.len() as u64).put(&path, PutPayload::from(bytes)));
        put.map(|_| ()).map_err(self.failed("write", name))
    }

    /// Removes `name`; that it is not there is no error.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn delete(&self, name: &str) -> Result<()> {
        match self.runtime.block_on(self.inner.delete(&self.at(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("remove", name)(e)),
        }
    }

    /// Waits until `name` would survive a loss of power. An object store acknowledges nothing sooner; in a
    /// local folder the file and the folders that lead to it are flushed to the disk.
    ///
    /// # Errors
    /// The disk fails (74).
    pub fn sync(&self, name: &str) -> Result<()> {
        let (Some(root), Some(path)) = (&self.local, self.local_path(name)) else { return Ok(()) };
        for at in path.ancestors().take_while(|at| at.starts_with(root)) {
            fs_err::File::open(at).and_then(|file| file.sync_all()).map_err(at_path("flush", at))?;
        }
        Ok(())
    }

    /// Publishes a commit record: creates `name` if nothing is there, and otherwise accepts only the same bytes.
    ///
    /// What stands there in the end decides, and not the store's answer: an acknowledgement may be lost, and a store
    /// may answer with a conflict while a rival's record is not there yet, or never comes. After a conflict over nothing,
    /// or no answer at all, the record is created again.
    ///
    /// # Errors
    /// Other bytes stand there already, or the store has no conditional writes (78), or the store fails, is silent or
    /// answers with conflicts until patience ends (74).
    pub fn commit(&self, name: &str, bytes: Vec<u8>) -> Result<Committed> {
        let path = self.at(name);
        let payload = PutPayload::from(bytes.clone());
        let mut patience = Patience::new(self.pause);
        loop {
            let options = PutOptions { mode: PutMode::Create, ..Default::default() };
            let failure = match self.runtime.block_on(self.inner.put_opts(&path, payload.clone(), options)) {
                Ok(_) => return Ok(Committed::Created),
                Err(e @ (object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. })) => {
                    return Err(Error::mismatch(format!("`{}` has no conditional writes", self.shown))
                        .because(e)
                        .hint("use a store that has them, such as S3, GCS, Azure or a local disk"));
                }
                Err(e) => e,
            };
            let conflict = matches!(failure, object_store::Error::AlreadyExists { .. });
            let undecided = conflict || is_unanswered(&failure);
            match self.get_by(&self.inner, name) {
                Ok(Some(found)) if found == bytes => return Ok(Committed::Same),
                Ok(Some(_)) if undecided => {
                    let what = format!("`{}/{name}` is already committed with other content", self.shown);
                    return Err(Error::mismatch(what).hint(
                        "another configuration wrote there: choose another `name` or `out`, or remove the folder",
                    ));
                }
                // A conflict over nothing: a rival's attempt that is not through, or was given up. A store's client sends
                // no create again that had no answer, since it cannot know whose record it would find.
                Ok(None) if undecided => match patience.pause(None) {
                    Some(pause) => std::thread::sleep(pause),
                    None => return Err(self.failed("commit", name)(failure)),
                },
                Ok(_) => return Err(self.failed("commit", name)(failure)),
                Err(error) if conflict => return Err(error),
                Err(_) => return Err(self.failed("commit", name)(failure)),
            }
        }
    }

    /// The names below `folder`, sorted.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn list(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.entries(folder)?.into_iter().map(|entry| entry.name).collect())
    }

    /// The objects below `folder`, sorted by name.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn entries(&self, folder: &str) -> Result<Vec<Entry>> {
        let path = self.at(folder);
        let found: Vec<ObjectMeta> =
            self.runtime.block_on(self.inner.list(Some(&path)).try_collect()).map_err(self.failed("list", folder))?;
        let mut entries: Vec<Entry> = found.into_iter().map(|meta| self.entry_of(meta)).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The object `name` without its bytes, or `None` if there is no such object.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn entry(&self, name: &str) -> Result<Option<Entry>> {
        let path = self.at(name);
        match self.runtime.block_on(self.inner.head(&path)) {
            Ok(meta) => Ok(Some(self.entry_of(meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed("read", name)(e)),
        }
    }

    fn entry_of(&self, meta: ObjectMeta) -> Entry {
        let skip = self.prefix.parts().count();
        let parts: Vec<String> = meta.location.parts().skip(skip).map(|part| part.as_ref().to_owned()).collect();
        Entry { name: parts.join("/"), bytes: meta.size, at: meta.location, version: meta.e_tag }
    }

    /// Some of an object's bytes, of the very version that `entry` is.
    ///
    /// # Errors
    /// It is gone, is another one by now, or ends before the range does (65), or the store fails (74).
    pub fn range(&self, entry: &Entry, range: Range<u64>) -> Result<Bytes> {
        let changed = |what: &str| Error::data(format!("`{}/{}` {what}", self.shown, entry.name));
        let wanted = range.end.saturating_sub(range.start);
        if range.end > entry.bytes {
            return Err(changed(&format!("ends at {} bytes, before {}", entry.bytes, range.end)));
        }
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let options = GetOptions { if_match: entry.version.clone(), range: Some(range.into()), ..Default::default() };
        match self.runtime.block_on(async { self.client(wanted).get_opts(&entry.at, options).await?.bytes().await }) {
            Ok(bytes) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(_) => Err(changed("is shorter than it was")),
            Err(object_store::Error::NotFound { .. }) => Err(changed("is gone")),
            Err(object_store::Error::Precondition { .. }) => Err(changed("changed while it was read")
                .hint("start again on input that stays; what is committed of the old one must be removed")),
            Err(e) => Err(self.failed("read", &entry.name)(e)),
        }
    }

    /// A file with the object's bytes: the object itself where the store is local, else a temporary copy
    /// that lives as long as the returned value.
    ///
    /// # Errors
    /// As [`Store::read`], and when the temporary file cannot be written (74).
    pub fn file(&self, name: &str) -> Result<LocalFile> {
        if let Some(path) = self.local_path(name) {
            return if path.is_file() { Ok(LocalFile { path, _guard: None }) } else { Err(self.missing(name)) };
        }
        let bytes = self.read(name)?;
        let file = tempfile::NamedTempFile::new().map_err(|e| Error::storage("cannot make a temporary file", e))?;
        fs_err::write(file.path(), &bytes).map_err(at_path("write", file.path()))?;
        Ok(LocalFile { path: file.path().to_owned(), _guard: Some(file) })
    }
}

/// A file that may be a temporary copy.
#[derive(Debug)]
pub struct LocalFile {
    path: PathBuf,
    _guard: Option<tempfile::NamedTempFile>,
}

impl LocalFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The local path that `uri` names: a plain path or a `file` URL; `None` for the URL of a store.
pub fn local_path_of(uri: &str) -> Option<PathBuf> {
    match uri.split_once("://") {
        None => Some(PathBuf::from(uri)),
        Some(("file", rest)) => Some(PathBuf::from(rest)),
        Some(_) => None,
    }
}

/// Whether a request failed without an answer of the store: the transport's error is among the causes.
fn is_unanswered(error: &object_store::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .any(|error| error.is::<object_store::client::HttpError>())
}

fn runtime() -> Result<Arc<Runtime>> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("store")
        .enable_all()
        .build()
        .map(Arc::new)
        .map_err(|e| Error::bug("cannot start the store's thread").because(e))
}

/// SHA-256 of `bytes` as 64 hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod faults;

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
        (folder, store)
    }

    #[test]
    fn a_place_that_is_only_read_is_not_made() {
        let (folder, _) = store();
        let absent = folder.path().join("mistyped");
        let open = |path: &Path| Store::open_existing(path.to_str().expect("utf-8")).expect("no error");
        assert!(open(&absent).is_none() && !absent.exists());
        assert!(open(folder.path()).is_some());
    }

    #[test]
    fn what_was_put_is_read_and_listed() {
        let (_folder, store) = store();
        assert_eq!(store.get("a/b.bin").expect("reads"), None);
        store.put("a/b.bin", vec![1, 2]).expect("puts");
        store.put("a/b.bin", vec![3]).expect("puts again");
        store.put("a/c/d.bin", vec![4]).expect("puts");
        assert_eq!(store.read("a/b.bin").expect("reads").as_ref(), [3]);
        assert_eq!(store.list("a").expect("lists"), ["a/b.bin", "a/c/d.bin"]);
        assert_eq!(fs_err::read(store.file("a/b.bin").expect("file").path()).expect("reads"), [3]);
    }

    #[test]
    fn what_was_removed_is_gone_with_its_folder() {
        let (folder, store) = store();
        store.put("a/b/c.bin", vec![1]).expect("puts");
        store.sync("a/b/c.bin").expect("flushes");
        store.delete("a/b/c.bin").expect("removes");
        store.delete("a/b/c.bin").expect("is gone already");
        assert_eq!(store.get("a/b/c.bin").expect("reads"), None);
        assert!(folder.path().is_dir() && !folder.path().join("a").exists());
        assert_eq!(store.sync("a/b/c.bin").expect_err("nothing to flush").exit(), Exit::Storage);
    }

    #[test]
    fn a_commit_is_created_once() {
        let (_folder, store) = store();
        assert_eq!(store.commit("m.json", b"x".to_vec()).expect("commits"), Committed::Created);
        assert_eq!(store.commit("m.json", b"x".to_vec()).expect("commits"), Committed::Same);
        let error = store.commit("m.json", b"y".to_vec()).expect_err("other content");
        assert_eq!(error.exit(), Exit::Mismatch);
        assert_eq!(store.read("m.json").expect("reads").as_ref(), b"x");
    }

    #[test]
    fn of_many_rivals_one_creates() {
        let (_folder, store) = store();
        let commit = || store.commit("race.json", b"same".to_vec()).expect("commits");
        let outcomes: Vec<Committed> = std::thread::scope(|scope| {
            let rivals: Vec<_> = (0..8).map(|_| scope.spawn(commit)).collect();
            rivals.into_iter().map(|rival| rival.join().expect("joins")).collect()
        });
        assert_eq!(outcomes.iter().filter(|c| **c == Committed::Created).count(), 1);
    }

    #[test]
    fn ranges_are_of_the_version_that_was_found() {
        let (folder, store) = store();
        assert_eq!(store.entry("a/b.bin").expect("looks"), None);
        store.put("a/b.bin", (0..100).collect()).expect("puts");
        let entry = store.entry("a/b.bin").expect("looks").expect("is there");
        assert_eq!(store.entries("a").expect("lists"), std::slice::from_ref(&entry));
        assert_eq!((entry.name.as_str(), entry.bytes), ("a/b.bin", 100));
        assert_eq!(store.range(&entry, 10..13).expect("reads").as_ref(), [10, 11, 12]);
        assert_eq!(store.range(&entry, 100..100).expect("reads").len(), 0);
        let error = store.range(&entry, 90..101).expect_err("past the end");
        assert_eq!(error.exit(), Exit::BadData);
        store.put("a/b.bin", vec![1; 200]).expect("puts another");
        let error = store.range(&entry, 0..1).expect_err("another version");
        assert!(error.exit() == Exit::BadData && error.to_string().contains("changed"), "{error}");
        fs_err::remove_file(folder.path().join("a/b.bin")).expect("removes");
        let error = store.range(&entry, 0..1).expect_err("gone");
        assert!(error.exit() == Exit::BadData && error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn any_name_of_a_file_is_that_of_its_object() {
        let (folder, store) = store();
        for name in ["ä.bin", "a~b#c%20.bin", "what?.bin", "[1]*.bin", "a b/{c}.bin"] {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().expect("a parent")).expect("makes");
            fs_err::write(&path, name).expect("writes");
            let entry = store.entry(name).expect("looks").unwrap_or_else(|| panic!("`{name}` is there"));
            assert_eq!(entry.name, name);
            assert_eq!(store.range(&entry, 0..entry.bytes).expect("reads"), name);
            assert!(store.entries("").expect("lists").contains(&entry), "{name}");
            fs_err::remove_file(&path).expect("removes");
            store.put(name, vec![7]).expect("puts");
            assert_eq!(fs_err::read(&path).expect("is there"), [7], "{name}");
        }
        let inside = store.local_path("").expect("is local");
        let inner = Store::open(&format!("{}/a b", inside.display())).expect("opens");
        assert_eq!(inner.get("../ä.bin").expect("looks"), None, "no name leads out of the folder");
    }

    #[test]
    fn what_is_large_or_may_be_goes_with_more_time() {
        let (_folder, mut store) = store();
        store.large = Arc::new(object_store::memory::InMemory::new());
        let large = vec![0; SMALL as usize + 1];
        store.put("large", large).expect("puts");
        store.put("small", vec![0]).expect("puts");
        for outcome in [Committed::Created, Committed::Same] {
            assert_eq!(store.commit("record", vec![0]).expect("commits"), outcome);
        }
        assert_eq!(store.list("").expect("lists"), ["record", "small"]);
        assert_eq!(store.read("large").expect("reads").len() as u64, SMALL + 1);
    }

    #[test]
    fn a_missing_object_is_named() {
        let (_folder, store) = store();
        let error = store.read("no/such.bin").expect_err("missing");
        assert!(error.to_string().contains("no/such.bin"), "{error}");
        assert_eq!(error.exit(), Exit::BadData);
    }

    #[test]
    fn an_unknown_scheme_is_refused() {
        let error = Store::open("gopher://x/y").expect_err("unknown scheme");
        assert_eq!(error.exit(), Exit::Mismatch);
    }
}
