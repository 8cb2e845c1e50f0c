//! Requests to web servers, the hub of data sets among them, and files downloaded from them: at the address as it is
//! written, its query included, and however the server sends them. Many do not say beforehand how long a file is.

use std::fs::File;
use std::io::{Seek, Write};
use std::time::{Duration, Instant};

use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, StatusCode};
use url::Url;

use super::connect::Patience;
use super::runtime;
use crate::job::exit::{Error, Exit, Result};

/// A request without an answer, or an answer without another byte, ends after this long.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest wait that a server may ask for between two attempts, in seconds.
const LONGEST_WAIT: u64 = 60;
/// Most redirects in a row.
pub(super) const MAX_REDIRECTS: usize = 10;

/// Why a request failed, and whether it may be sent again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: bool,
    /// What the server asks to wait.
    pub(super) after: Option<Duration>,
}

impl Failure {
    /// One that another attempt would not change.
    pub(super) fn last(error: Error) -> Self {
        Failure { error, again: false, after: None }
    }

    /// One that may pass.
    pub(super) fn passing(error: Error) -> Self {
        Failure { error, again: true, after: None }
    }

    /// That of an answer which is neither the file nor a redirect: `error`, which passes if its status does.
    pub(super) fn of(response: &Response, error: Error) -> Self {
        let status = response.status();
        let again =
            status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Failure { error, again, after: seconds.map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST_WAIT))) }
    }
}

/// A client that gives up after [`SILENCE`] and goes where `redirects` lets it.
///
/// # Errors
/// It cannot be made: exit code 1.
pub(super) fn client(redirects: Policy, more: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Client> {
    let builder = Client::builder()
        .redirect(redirects)
        .connect_timeout(SILENCE)
        .read_timeout(SILENCE)
        .user_agent(concat!("midi-ingest/", env!("CARGO_PKG_VERSION")));
    more(builder).build().map_err(|e| Error::bug("cannot make an HTTP client").because(e))
}

/// Whether `uri` is the address of a file on a web server.
pub(super) fn is_address(uri: &str) -> bool {
    uri.starts_with("http://") || uri.starts_with("https://")
}

/// Downloads what stands at `url` into `file`. What may pass is tried again, from the beginning, until patience ends.
///
/// # Errors
/// Nothing is there (65). The server refuses or fails, or leads from https to http, or `file` cannot be written (74).
pub(super) fn download(url: &Url, file: &mut File) -> Result<()> {
    let secure = url.scheme() == "https";
    let client = client(Policy::limited(MAX_REDIRECTS), |builder| builder.https_only(secure))?;
    let runtime = runtime()?;
    let mut patience = Patience::new(super::connect::FIRST_PAUSE);
    loop {
        let began = Instant::now();
        let mut arrived = 0;
        let Err(failure) = runtime.block_on(attempt(&client, url, file, &mut arrived)) else { return Ok(()) };
        if arrived > 0 {
            // Time in which bytes arrive is not spent waiting.
            patience.prolong(began.elapsed());
        }
        match patience.pause(failure.after).filter(|_| failure.again) {
            Some(pause) => std::thread::sleep(pause),
            None => return Err(failure.error),
        }
    }
}

/// One attempt, which adds the bytes that it got to `arrived`.
async fn attempt(client: &Client, url: &Url, file: &mut File, arrived: &mut u64) -> Result<(), Failure> {
    // The address may carry a signature, so that neither it nor what the client says of it is shown whole.
    let broken = |e: reqwest::Error| {
        let again = !(e.is_builder() || e.is_redirect());
        Failure {
            error: Error::storage(format!("cannot download `{}`", shown(url)), e.without_url()),
            again,
            after: None,
        }
    };
    let written = |e: std::io::Error| Failure::last(Error::storage("cannot write a temporary file", e));
    file.set_len(0).and_then(|()| file.rewind()).map_err(written)?;
    let mut response = client.get(url.clone()).send().await.map_err(broken)?;
    if !response.status().is_success() {
        return Err(Failure::of(&response, refused(url, response.status())));
    }
    while let Some(bytes) = response.chunk().await.map_err(broken)? {
        *arrived += bytes.len() as u64;
        file.write_all(&bytes).map_err(written)?;
    }
    file.flush().map_err(written)
}

/// What an answer means that is not the file. The page that came with it is of no use here.
fn refused(url: &Url, status: StatusCode) -> Error {
    let (exit, what) = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => (Exit::BadData, "nothing is there"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (Exit::Storage, "it is not open to you"),
        _ => (Exit::Storage, "the server fails"),
    };
    Error::new(exit, format!("cannot download `{}`: {what} ({status})", shown(url)))
}

/// `url` without its query and its user, where secrets stand.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // Only an address without a host has no user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}
