//! A store whose machine dies at a chosen operation: before it, after it was applied and before anyone was
//! told, or half-way through what it writes. After that nothing works any more, as after a kill.
//!
//! Include it from any crate's tests with `#[path]`; it needs `object_store`, `futures` and `async-trait`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// When a machine dies, seen from the operation during which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// Before anything happened.
    Before,
    /// It happened, but nobody was told.
    AfterApply,
    /// Half of the bytes were written.
    Torn,
}

/// What is counted, and when the machine dies.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Whether the operation on this name counts; a listing has the name of its folder.
    pub(crate) counts: fn(&str) -> bool,
    /// The operation, from 0; never for none.
    pub(crate) at: Option<u64>,
    /// How.
    pub(crate) death: Death,
}

/// `inner` until it dies.
#[derive(Debug)]
pub(crate) struct Mortal<S> {
    inner: Arc<S>,
    fault: Fault,
    count: AtomicU64,
    dead: AtomicBool,
    fell_on: AtomicBool,
}

impl<S: ObjectStore> Mortal<S> {
    /// A store that will meet `fault`.
    pub(crate) fn new(inner: S, fault: Fault) -> Self {
        Mortal {
            inner: Arc::new(inner),
            fault,
            count: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            fell_on: AtomicBool::new(false),
        }
    }

    /// Operations counted so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether the fault struck an operation that it applies to: a torn one needs bytes to be written.
    pub(crate) fn struck(&self) -> bool {
        self.fell_on.load(Ordering::SeqCst)
    }

    fn death() -> Error {
        Error::Generic { store: "mortal", source: "the machine died".into() }
    }

    /// How the operation on `name` ends, if not well. `changes`: it changes something; `writes`: it writes bytes.
    fn fate(&self, name: &str, changes: bool, writes: bool) -> Result<Option<Death>> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(Self::death());
        }
        if !(self.fault.counts)(name) || Some(self.count.fetch_add(1, Ordering::SeqCst)) != self.fault.at {
            return Ok(None);
        }
        let applies = match self.fault.death {
            Death::Before => true,
            Death::AfterApply => changes,
            Death::Torn => writes,
        };
        if !applies {
            return Ok(None);
        }
        self.fell_on.store(true, Ordering::SeqCst);
        self.dead.store(true, Ordering::SeqCst);
        match self.fault.death {
            Death::Before => Err(Self::death()),
            death => Ok(Some(death)),
        }
    }
}

impl<S: ObjectStore> fmt::Display for Mortal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mortal({})", self.inner)
    }
}

#[async_trait::async_trait]
impl<S: ObjectStore> ObjectStore for Mortal<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match self.fate(location.as_ref(), true, true)? {
            None => self.inner.put_opts(location, payload, opts).await,
            Some(Death::Torn) => {
                let bytes: Vec<u8> = payload.iter().flat_map(|chunk| chunk.to_vec()).collect();
                let half = bytes[..bytes.len() / 2].to_vec();
                self.inner.put_opts(location, half.into(), opts).await?;
                Err(Self::death())
            }
            Some(_) => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(Self::death())
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "put_multipart".into(), implementer: "Mortal".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.fate(location.as_ref(), false, false)?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // A stream outlives the borrow of the store, so fates are decided now: callers remove one by one.
        let names: Vec<Result<Path>> = futures::executor::block_on(locations.collect());
        let done: Vec<Result<Path>> = names
            .into_iter()
            .map(|name| {
                let name = name?;
                let fate = self.fate(name.as_ref(), true, false)?;
                futures::executor::block_on(self.inner.delete(&name))?;
                if fate.is_some() { Err(Self::death()) } else { Ok(name) }
            })
            .collect();
        futures::stream::iter(done).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fate(prefix.map_or("", |prefix| prefix.as_ref()), false, false) {
            Ok(_) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.fate(prefix.map_or("", |prefix| prefix.as_ref()), false, false)?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "Mortal".into() })
    }
}
