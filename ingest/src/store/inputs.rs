//! The files that one address names, on a disk, in an object store, on a web server or on the hub: listed once, and
//! read in ranges.

use std::ops::Range;

use bytes::Bytes;

use super::hub::{Address, Hub, HubFile};
use super::pattern::Pattern;
use super::{Access, Entry, Store, local_path_of, web};
use crate::job::exit::{Error, Result};

/// Files to read from, sorted by name.
#[derive(Debug)]
pub(crate) struct Inputs {
    place: Place,
    files: Vec<Input>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// Its path below what the address names.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
    at: At,
}

#[derive(Debug)]
enum Place {
    Store(Store),
    Hub(Hub),
}

#[derive(Clone, Debug)]
enum At {
    Store(Entry),
    Hub(HubFile),
}

impl Inputs {
    /// Finds the files whose names end in `suffix` at `uri`: one file, a folder with all below it, or a pattern.
    ///
    /// # Errors
    /// Nothing is there, or no such file (65); the address is not understood (78); the place fails (74).
    pub(crate) fn find(uri: &str, suffix: &str, access: &Access) -> Result<Self> {
        let (place, mut files) = match Address::of(uri)? {
            Some(address) => on_hub(&address, suffix, access)?,
            None => in_store(uri, suffix)?,
        };
        if files.is_empty() {
            return Err(Error::data(format!("`{uri}` holds no {suffix} file"))
                .hint("give another place with `--set ingest.source.uri=PLACE`"));
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Inputs { place, files })
    }

    /// The files, sorted by name.
    pub(crate) fn files(&self) -> &[Input] {
        &self.files
    }

    /// Some of a file's bytes.
    ///
    /// # Errors
    /// The file is gone, changed, or ends before the range does (65), or the place fails (74).
    pub(crate) fn range(&self, file: &Input, range: Range<u64>) -> Result<Bytes> {
        match (&self.place, &file.at) {
            (Place::Store(store), At::Store(entry)) => store.range(entry, range),
            (Place::Hub(hub), At::Hub(found)) => hub.range(found, range),
            _ => Err(Error::bug(format!("`{}` is of another place", file.name))),
        }
    }
}

fn on_hub(address: &Address, suffix: &str, access: &Access) -> Result<(Place, Vec<Input>)> {
    let pattern = Pattern::of(&address.path)?;
    let hub = Hub::open(address, access)?;
    let one = pattern.matcher.is_none() && address.path.ends_with(suffix);
    let folder = match &pattern.matcher {
        // A pattern from the top has no folder before it.
        Some(_) if pattern.base == "." => "",
        _ if one => address.path.rsplit_once('/').map_or("", |(folder, _)| folder),
        _ => pattern.base.as_str(),
    };
    let below = |path: &str| path.strip_prefix(folder).unwrap_or(path).trim_start_matches('/').to_owned();
    let files = hub.files(folder)?.into_iter().filter_map(|file| {
        let name = below(&file.path);
        let taken = if one { file.path == address.path } else { pattern.takes(&name) };
        let found = Input { name, bytes: file.bytes, at: At::Hub(file) };
        (taken && found.name.ends_with(suffix)).then_some(found)
    });
    let files = files.collect();
    Ok((Place::Hub(hub), files))
}

fn in_store(uri: &str, suffix: &str) -> Result<(Place, Vec<Input>)> {
    let missing = || {
        Error::data(format!("cannot read `{uri}`: there is no such file or folder"))
            .hint("give another place with `--set ingest.source.uri=PLACE`")
    };
    let local = local_path_of(uri);
    // A name with a `*` in it may be what it is called.
    let pattern = match &local {
        Some(path) if path.exists() => Pattern::plain(uri),
        _ => Pattern::of(uri)?,
    };
    let address = url::Url::parse(uri).ok().filter(|_| web::is_address(uri));
    if let Some(url) = address.filter(|url| url.query().is_some() && url.path().ends_with(suffix)) {
        return Err(Error::mismatch(format!(
            "`{}` has a query, without which its file would be read",
            web::shown(&url)
        ))
        .hint("download the file and give its path, or an address without a query"));
    }
    let input = |entry: Entry| Input { name: entry.name.clone(), bytes: entry.bytes, at: At::Store(entry) };
    let folder = local.as_ref().is_some_and(|path| path.is_dir());
    if pattern.matcher.is_none() && !folder && uri.ends_with(suffix) {
        let (folder, name) = uri.rsplit_once('/').unwrap_or((".", uri));
        if local.is_some_and(|path| !path.is_file()) {
            return Err(missing());
        }
        let store = Store::open(if folder.is_empty() { "/" } else { folder })?;
        let entry = store.entry(name)?.ok_or_else(missing)?;
        return Ok((Place::Store(store), vec![input(entry)]));
    }
    if web::is_address(uri) {
        return Err(Error::mismatch(format!("`{uri}` is a web address, which lists no files"))
            .hint(format!("name one {suffix} file, or give a folder, an object store or `hf://datasets/OWNER/NAME`")));
    }
    let store = Store::open_existing(&pattern.base)?.ok_or_else(missing)?;
    let entries = store.entries("")?;
    let files = entries.into_iter().filter(|entry| pattern.takes(&entry.name) && entry.name.ends_with(suffix));
    let files = files.map(input).collect();
    Ok((Place::Store(store), files))
}
