//! Data sets on the Hugging Face hub, read where they lie: files are listed and read in ranges over the hub's HTTP
//! interface, of the one commit that the revision named when the data set was opened.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, HeaderMap, LINK, LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use url::Url;

use super::access::{Access, HUB, Secret};
use super::connect::{FIRST_PAUSE, Patience};
use super::runtime;
use super::web::{self, Failure, MAX_REDIRECTS};
use crate::job::exit::{Error, Exit, Result};

/// Most bytes of one answer that is not a range of a file.
const MAX_ANSWER: u64 = 64 << 20;
/// Most pages of one listing.
const MAX_PAGES: usize = 10_000;

/// Where a data set lies: `hf://datasets/OWNER/NAME@REVISION/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// `OWNER/NAME`
    pub(super) name: String,
    /// A branch, tag or commit.
    pub(super) revision: String,
    /// What stands after it; may be empty.
    pub(super) path: String,
}

/// One commit of a data set.
#[derive(Debug)]
pub(super) struct Hub {
    client: Client,
    runtime: Arc<Runtime>,
    hub: Url,
    token: Option<Secret>,
    name: String,
    commit: String,
    /// The first pause before a request is sent again.
    pause: Duration,
}

/// A file of the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubFile {
    /// Its path in the data set.
    pub(super) path: String,
    /// Its size.
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
}

impl Address {
    /// Takes an address apart; `None` if it is not of the hub.
    ///
    /// # Errors
    /// It does not name a data set (78).
    pub(super) fn of(uri: &str) -> Result<Option<Self>> {
        let Some(rest) = uri.strip_prefix("hf://") else { return Ok(None) };
        let wrong = || {
            Error::mismatch(format!("`{uri}` does not name a data set of the hub"))
                .hint("write `hf://datasets/OWNER/NAME/path/*.parquet`, or `NAME@REVISION` for another revision")
        };
        let mut parts = rest.split('/').filter(|part| !part.is_empty());
        if parts.next() != Some("datasets") {
            return Err(wrong());
        }
        let (owner, named) = (parts.next().ok_or_else(wrong)?, parts.next().ok_or_else(wrong)?);
        let (name, revision) = named.split_once('@').unwrap_or((named, "main"));
        let mut revision = revision.replace("%2F", "/").replace("%2f", "/");
        let mut path: Vec<&str> = parts.collect();
        // The hub's own branches have names of three parts.
        if revision == "refs" && path.len() >= 2 && matches!(path[0], "convert" | "pr") {
            revision = format!("refs/{}/{}", path[0], path[1]);
            path.drain(..2);
        }
        if name.is_empty() || revision.is_empty() || path.iter().any(|part| matches!(*part, "." | "..")) {
            return Err(wrong());
        }
        Ok(Some(Address { name: format!("{owner}/{name}"), revision, path: path.join("/") }))
    }
}

impl Hub {
    /// Finds the commit that the address's revision names now.
    ///
    /// # Errors
    /// The data set is missing (65), is not open to the user or the hub fails after all retries (74).
    pub(super) fn open(address: &Address, access: &Access) -> Result<Self> {
        Self::open_patiently(address, access, FIRST_PAUSE)
    }

    fn open_patiently(address: &Address, access: &Access, pause: Duration) -> Result<Self> {
        let hub = Url::parse(&access.hub)
            .ok()
            .filter(|url| !url.cannot_be_a_base())
            .ok_or_else(|| Error::mismatch(format!("`{}` is not the address of a hub", access.hub)))
            .map_err(|e| e.hint("HF_ENDPOINT must be a URL such as https://huggingface.co, or not be set"))?;
        // Redirects are followed by hand, so that the token stays with the hub.
        let client = web::client(Policy::none(), |builder| builder)?;
        let (name, token) = (address.name.clone(), access.token.clone());
        let mut opened = Hub { client, runtime: runtime()?, hub, token, name, commit: String::new(), pause };
        let url = opened.url(&["api", "datasets"], &["revision", &address.revision], "");
        let (revision, _) = opened.json::<Revision>(&url)?;
        if revision.sha.is_empty() || !revision.sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::data(format!("`{url}` names no commit")));
        }
        opened.commit = revision.sha;
        Ok(opened)
    }

    /// The files below `folder`, or the file of that name, in the hub's order.
    ///
    /// # Errors
    /// There is no such folder (65), or the hub fails (74).
    pub(super) fn files(&self, folder: &str) -> Result<Vec<HubFile>> {
        let mut url = self.url(&["api", "datasets"], &["tree", &self.commit], folder);
        url.set_query(Some("recursive=true&expand=false"));
        let mut files = Vec::new();
        for _ in 0..MAX_PAGES {
            let (page, headers) = self.json::<Vec<TreeEntry>>(&url)?;
            let found = page.into_iter().filter(|entry| entry.kind == "file");
            files.extend(found.map(|entry| HubFile { path: entry.path, bytes: entry.size }));
            match next_page(&headers) {
                Some(next) => {
                    url = url
                        .join(&next)
                        .map_err(|e| Error::data(format!("`{url}` names a next page that is no address")).because(e))?;
                }
                None => return Ok(files),
            }
        }
        Err(Error::data(format!("the listing of `{}` does not end", self.name)))
    }

    /// Some of a file's bytes.
    ///
    /// # Errors
    /// The file is gone (65), or the hub fails or sends something else (74).
    pub(super) fn range(&self, file: &HubFile, range: Range<u64>) -> Result<Bytes> {
        if range.end > file.bytes {
            return Err(Error::data(format!("`{}` ends at {} bytes, before {}", file.path, file.bytes, range.end)));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let url = self.url(&["datasets"], &["resolve", &self.commit], &file.path);
        Ok(self.ask(&url, Some(range))?.0)
    }

    /// `{hub}/{head}/OWNER/NAME/{tail}/{path}`, each part encoded as one.
    fn url(&self, head: &[&str], tail: &[&str], path: &str) -> Url {
        let mut url = self.hub.clone();
        // Only an address that cannot be a base has no parts, and `open` refuses such.
        if let Ok(mut parts) = url.path_segments_mut() {
            let whole = self.name.split('/');
            parts.pop_if_empty().extend(head).extend(whole).extend(tail);
            parts.extend(path.split('/').filter(|part| !part.is_empty()));
        }
        url
    }

    fn json<T: DeserializeOwned>(&self, url: &Url) -> Result<(T, HeaderMap)> {
        let (bytes, headers) = self.ask(url, None)?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::data(format!("`{url}` did not answer as the hub does")).because(e))?;
        Ok((value, headers))
    }

    /// The answer at `url`, or a range of it. What may pass is tried again until patience ends.
    fn ask(&self, url: &Url, range: Option<Range<u64>>) -> Result<(Bytes, HeaderMap)> {
        let mut patience = Patience::new(self.pause);
        loop {
            let failure = match self.runtime.block_on(self.attempt(url, range.as_ref())) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match patience.pause(failure.after).filter(|_| failure.again) {
                Some(pause) => std::thread::sleep(pause),
                None => return Err(failure.error),
            }
        }
    }

    async fn attempt(&self, url: &Url, range: Option<&Range<u64>>) -> Result<(Bytes, HeaderMap), Failure> {
        let broken = |e: reqwest::Error| {
            // The address may carry a signature.
            Failure::passing(Error::storage(format!("cannot read `{url}`"), e.without_url()))
        };
        let mut response = self.follow(url, range).await?;
        let limit = match range {
            None => MAX_ANSWER,
            Some(range) => {
                let starts = format!("bytes {}-{}/", range.start, range.end - 1);
                let told = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                if response.status() != StatusCode::PARTIAL_CONTENT || !told.is_some_and(|t| t.starts_with(&starts)) {
                    let what = format!("`{url}` does not serve ranges of its files");
                    return Err(Failure::last(Error::new(Exit::Storage, what)));
                }
                range.end - range.start
            }
        };
        let headers = response.headers().clone();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                let what = format!("`{url}` answers with more than {limit} bytes");
                return Err(Failure::last(Error::new(Exit::Storage, what)));
            }
            bytes.extend_from_slice(&chunk);
        }
        if range.is_some() && bytes.len() as u64 != limit {
            let what = format!("`{url}` answered with {} of {limit} bytes", bytes.len());
            return Err(Failure::passing(Error::new(Exit::Storage, what)));
        }
        Ok((bytes.into(), headers))
    }

    /// Sends a request and follows its redirects; the token goes to the hub alone.
    async fn follow(&self, url: &Url, range: Option<&Range<u64>>) -> Result<Response, Failure> {
        let mut at = url.clone();
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.client.get(at.clone());
            if let Some(token) = self.token.as_ref().filter(|_| at.origin() == self.hub.origin()) {
                request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
            }
            if let Some(range) = range {
                request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
            }
            let response = request.send().await.map_err(|e| {
                let error = Error::storage(format!("cannot reach `{url}`"), e.without_url());
                Failure::passing(error.hint("check the network, and HF_ENDPOINT if it is set"))
            })?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let next = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match next.filter(|_| status.is_redirection()).and_then(|next| at.join(next).ok()) {
                Some(next) if at.scheme() == "https" && next.scheme() != "https" => {
                    let what = format!("`{url}` leads away from https");
                    return Err(Failure::last(Error::new(Exit::Storage, what)));
                }
                Some(next) => at = next,
                None => return Err(self.refused(url, &response)),
            }
        }
        Err(Failure::last(Error::new(Exit::Storage, format!("`{url}` redirects without end"))))
    }

    /// What an answer means that is neither the file nor a redirect.
    fn refused(&self, url: &Url, response: &Response) -> Failure {
        let status = response.status();
        let page = format!("{HUB}/datasets/{}", self.name);
        let (exit, what, hint) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
                Exit::Storage,
                "it is not open to you",
                format!("accept the terms at {page} with your account there, and set HF_TOKEN to a token of it"),
            ),
            StatusCode::NOT_FOUND => (
                Exit::BadData,
                "it is not there, or not shown to you",
                format!(
                    "check the name, the revision and the path; if it is private, set HF_TOKEN; if it is gated, \
                         accept the terms at {page} as well"
                ),
            ),
            _ => (Exit::Storage, "the hub fails", "try again later".to_owned()),
        };
        let error = Error::new(exit, format!("cannot read `{url}`: {what} ({status})")).hint(hint);
        Failure::of(response, error)
    }
}

/// The address of the next page of a listing.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(|value| value.split(',')).find_map(|link| {
        let (address, relation) = link.split_once(';')?;
        let next = relation.split(';').any(|part| matches!(part.trim(), "rel=\"next\"" | "rel=next"));
        let address = address.trim().strip_prefix('<')?.strip_suffix('>')?;
        next.then(|| address.to_owned())
    })
}

#[cfg(test)]
mod tests;
