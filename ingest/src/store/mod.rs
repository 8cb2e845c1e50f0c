//! One object store behind one URL, with the two ways of publishing that the pipeline uses: parts are
//! put whole, and a commit record is created only if nothing stands in its place.

mod fetch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::job::exit::{Error, Exit, Result, at_path};

pub use fetch::fetch;

/// A folder of an object store, or of the local file system. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    shown: String,
    local: Option<PathBuf>,
    runtime: Arc<Runtime>,
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
            return Ok(Store { inner: Arc::new(inner), prefix, shown, local: Some(path), runtime });
        }
        let url = url::Url::parse(uri).map_err(|e| {
            Error::mismatch(format!("`{uri}` is not a URL"))
                .because(e)
                .hint("give a folder, or a URL such as `s3://bucket/folder`")
        })?;
        let (inner, prefix) = object_store::parse_url_opts(&url, std::env::vars())
            .map_err(|e| Error::mismatch(format!("cannot open the store `{uri}`")).because(e))?;
        Ok(Store { inner: Arc::from(inner), prefix, shown, local: None, runtime })
    }

    /// The store behind `inner`, called `shown` in messages: for embedding, and for tests that make a store fail.
    ///
    /// # Errors
    /// The thread that talks to it cannot be started: exit code 1.
    pub fn over(inner: Arc<dyn ObjectStore>, shown: &str) -> Result<Self> {
        let prefix = ObjectPath::default();
        Ok(Store { inner, prefix, shown: shown.to_owned(), local: None, runtime: runtime()? })
    }

    /// The store as the user named it, for messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The local path of `name`, if the store is a local folder.
    pub fn local_path(&self, name: &str) -> Option<PathBuf> {
        self.local.as_ref().map(|root| root.join(name))
    }

    fn at(&self, name: &str) -> ObjectPath {
        name.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
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
        let path = self.at(name);
        match self.runtime.block_on(async { self.inner.get(&path).await?.bytes().await }) {
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
        let put = self.runtime.block_on(self.inner.put(&path, PutPayload::from(bytes)));
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
    /// # Errors
    /// Other bytes stand there already (78), or the store fails (74).
    pub fn commit(&self, name: &str, bytes: Vec<u8>) -> Result<Committed> {
        let path = self.at(name);
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        let payload = PutPayload::from(bytes.clone());
        match self.runtime.block_on(self.inner.put_opts(&path, payload, options)) {
            Ok(_) => Ok(Committed::Created),
            // A lost acknowledgement looks the same as a rival: the bytes decide.
            Err(object_store::Error::AlreadyExists { .. }) if self.read(name)? == bytes => Ok(Committed::Same),
            Err(object_store::Error::AlreadyExists { .. }) => {
                Err(Error::mismatch(format!("`{}/{name}` is already committed with other content", self.shown))
                    .hint("another configuration wrote there: choose another `name` or `out`, or remove the folder"))
            }
            Err(e) => Err(self.failed("commit", name)(e)),
        }
    }

    /// The names below `folder`, sorted.
    ///
    /// # Errors
    /// The store fails (74).
    pub fn list(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.at(folder);
        let found: Vec<_> =
            self.runtime.block_on(self.inner.list(Some(&path)).try_collect()).map_err(self.failed("list", folder))?;
        let skip = self.prefix.parts().count();
        let name = |meta: object_store::ObjectMeta| {
            let parts: Vec<String> = meta.location.parts().skip(skip).map(|p| p.as_ref().to_owned()).collect();
            parts.join("/")
        };
        let mut names: Vec<String> = found.into_iter().map(name).collect();
        names.sort();
        Ok(names)
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

/// The local path that `uri` names: a plain path or a `file` URL.
pub(crate) fn local_path_of(uri: &str) -> Option<PathBuf> {
    match uri.split_once("://") {
        None => Some(PathBuf::from(uri)),
        Some(("file", rest)) => Some(PathBuf::from(rest)),
        Some(_) => None,
    }
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
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(folder.path().to_str().expect("utf-8")).expect("opens");
        (folder, store)
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
