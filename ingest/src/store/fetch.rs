//! One input file from a path or a URL onto the local disk.

use std::io::Write;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use super::connect::{LONG_REQUEST, connect, environment};
use super::{LocalFile, local_path_of, runtime, web};
use crate::job::exit::{Error, Result, at_path};

/// The file at `uri`: the file itself for a path or a `file` URL, else a temporary download.
///
/// # Errors
/// Nothing is there (65), or the transfer fails after all retries (74).
pub fn fetch(uri: &str) -> Result<LocalFile> {
    if let Some(path) = local_path_of(uri) {
        if !path.is_file() {
            return Err(Error::data(format!("cannot read `{uri}`: there is no such file"))
                .hint("give another one with `--set ingest.source.uri=PATH`"));
        }
        return Ok(LocalFile { path, _guard: None });
    }
    let url = url::Url::parse(uri).map_err(|e| Error::mismatch(format!("`{uri}` is not a URL")).because(e))?;
    let mut file = tempfile::NamedTempFile::new().map_err(|e| Error::storage("cannot make a temporary file", e))?;
    let downloaded = match web::is_address(uri) {
        true => web::download(&url, file.as_file_mut()),
        false => download(&url, uri, &mut file),
    };
    downloaded.map_err(|e| {
        e.hint("check the address and the network, or give a downloaded copy with `--set ingest.source.uri=PATH`")
    })?;
    Ok(LocalFile { path: file.path().to_owned(), _guard: Some(file) })
}

/// Downloads the object at `url` into `file`.
fn download(url: &url::Url, uri: &str, file: &mut tempfile::NamedTempFile) -> Result<()> {
    let failed = |e: object_store::Error| match e {
        object_store::Error::NotFound { .. } => Error::data(format!("cannot download `{uri}`: nothing is there")),
        other => Error::storage(format!("cannot download `{uri}`"), other),
    };
    let path = file.path().to_owned();
    let (store, name) = connect(url, environment(), LONG_REQUEST)
        .map_err(|e| Error::mismatch(format!("cannot open `{uri}`")).because(e))?;
    runtime()?.block_on(async {
        let mut stream = store.get(&name).await.map_err(failed)?.into_stream();
        while let Some(bytes) = stream.try_next().await.map_err(failed)? {
            file.write_all(&bytes).map_err(at_path("write", &path))?;
        }
        file.flush().map_err(at_path("write", &path))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::job::exit::Exit;
    use crate::support::http::{Response, Server};

    #[test]
    fn a_missing_file_says_how_to_name_another() {
        let error = fetch("/no/such/archive.tar.gz").expect_err("missing");
        assert_eq!(error.exit(), Exit::BadData);
        assert!(error.hint_text().is_some_and(|h| h.contains("--set")));
    }

    #[test]
    fn a_file_over_http_arrives_whole_with_or_without_its_length() {
        let body: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let served = body.clone();
        let server = Server::start(move |request| match (request.path(), request.query("sig")) {
            ("/x.tar", Some("a/b")) => Response::new(200, &served[..]),
            ("/chunked.tar", None) => Response::new(200, &served[..]).with("transfer-encoding", "chunked"),
            ("/moved.tar", None) => Response::new(302, "").with("location", "/chunked.tar"),
            _ => Response::new(500, ""),
        });
        for name in ["x.tar?sig=a/b", "chunked.tar", "moved.tar"] {
            let got = fetch(&format!("{}/{name}", server.url())).expect("downloads");
            assert!(fs_err::read(got.path()).expect("reads") == body, "{name}");
        }
    }

    #[test]
    fn a_transfer_that_breaks_is_begun_again() {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Response::new(503, "busy"),
            1 => Response::new(200, "no").with("content-length", "100"),
            _ => Response::new(200, "all of it"),
        });
        let got = fetch(&format!("{}/x.tar", server.url())).expect("downloads");
        assert_eq!(fs_err::read(got.path()).expect("reads"), b"all of it");
        assert_eq!(server.seen().len(), 3);
    }

    #[test]
    fn what_is_not_there_or_not_open_is_told_without_the_page_and_the_signature() {
        let server = Server::start(|request| {
            let status = request.path().trim_start_matches('/').parse().expect("a status");
            Response::new(status, "<html>a whole page</html>")
        });
        for (status, exit) in [(404, Exit::BadData), (410, Exit::BadData), (403, Exit::Storage), (400, Exit::Storage)] {
            let error = fetch(&format!("{}/{status}?sig=secret", server.url())).expect_err("refused");
            assert_eq!(error.exit(), exit, "{error}");
            let text = error.to_string();
            assert!(text.contains(&status.to_string()) && text.contains("hint: "), "{text}");
            assert!(!text.contains("html") && !text.contains("secret"), "{text}");
        }
        assert_eq!(server.seen().len(), 4, "none is asked for twice");
    }
}
