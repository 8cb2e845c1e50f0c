//! A hub of data sets for tests: revisions, listings in pages of two, a token where one is asked for, and files that
//! are served by another host, as the real hub's are.

// Each test uses the part that it needs.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::http::{Request, Response, Server};

/// The data set that it has.
pub const NAME: &str = "owner/music";
/// The commit that its revision `main` names.
pub const COMMIT: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
/// Files in one page of a listing.
const PAGE: usize = 2;

#[derive(Debug)]
pub struct FakeHub {
    hub: Server,
    files: Server,
    faults: Arc<Mutex<Vec<u16>>>,
}

impl FakeHub {
    /// Serves `files`, to those with `token` if there is one.
    pub fn start<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>, token: Option<&str>) -> Self {
        let files: BTreeMap<String, Vec<u8>> =
            files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let files = Arc::new(files);
        let served = Arc::clone(&files);
        let elsewhere = Server::start(move |request| match served.get(request.path().trim_start_matches("/cdn/")) {
            Some(bytes) => Response::ranged(request, bytes),
            None => Response::new(404, ""),
        });
        let (token, cdn) = (token.map(|token| format!("Bearer {token}")), elsewhere.url());
        let faults = Arc::new(Mutex::new(Vec::new()));
        let planned: Arc<Mutex<Vec<u16>>> = Arc::clone(&faults);
        let hub = Server::start(move |request| {
            if let Some(status) = planned.lock().expect("faults").pop() {
                return Response::new(status, "");
            }
            if token.is_some() && request.header("authorization") != token.as_deref() {
                return Response::new(401, "{\"error\":\"gated\"}");
            }
            answer(request, &files, &cdn)
        });
        FakeHub { hub, files: elsewhere, faults }
    }

    pub fn url(&self) -> String {
        self.hub.url()
    }

    /// The statuses of the next answers, the last one first.
    pub fn fail(&self, statuses: &[u16]) {
        *self.faults.lock().expect("faults") = statuses.to_vec();
    }

    pub fn seen(&self) -> Vec<Request> {
        self.hub.seen()
    }

    pub fn seen_elsewhere(&self) -> Vec<Request> {
        self.files.seen()
    }
}

fn answer(request: &Request, files: &BTreeMap<String, Vec<u8>>, cdn: &str) -> Response {
    let path = request.path();
    if path == format!("/api/datasets/{NAME}/revision/main") {
        return Response::new(200, format!("{{\"id\":\"{NAME}\",\"sha\":\"{COMMIT}\"}}"));
    }
    if let Some(folder) = path.strip_prefix(&format!("/api/datasets/{NAME}/tree/{COMMIT}")) {
        let folder = folder.trim_matches('/');
        let inside = |name: &str| folder.is_empty() || name.starts_with(&format!("{folder}/"));
        let entries: Vec<String> = files
            .iter()
            .filter(|(name, _)| inside(name))
            .map(|(name, bytes)| {
                format!("{{\"type\":\"file\",\"oid\":\"0\",\"size\":{},\"path\":\"{name}\"}}", bytes.len())
            })
            .collect();
        if entries.is_empty() {
            return Response::new(404, "{\"error\":\"no such entry\"}");
        }
        let start: usize = request.query("cursor").map_or(0, |cursor| cursor.parse().expect("a cursor"));
        let end = entries.len().min(start + PAGE);
        let folders = if start == 0 { "{\"type\":\"directory\",\"oid\":\"1\",\"size\":0,\"path\":\"x\"}," } else { "" };
        let page = Response::new(200, format!("[{folders}{}]", entries[start..end].join(",")));
        let next = format!(
            "<http://{}{path}?recursive=true&cursor={end}>; rel=\"next\"",
            request.header("host").expect("host")
        );
        return if end < entries.len() { page.with("link", next) } else { page };
    }
    match path.strip_prefix(&format!("/datasets/{NAME}/resolve/{COMMIT}/")) {
        Some(name) if files.contains_key(name) => {
            Response::new(302, "").with("location", format!("{cdn}/cdn/{name}?signed=yes"))
        }
        _ => Response::new(404, ""),
    }
}
