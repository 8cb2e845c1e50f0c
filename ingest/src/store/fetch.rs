//! One input file from a path or a URL onto the local disk.

use std::io::Write;

use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

use super::connect::connect;
use super::{LocalFile, local_path_of, runtime};
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
    let (store, name) =
        connect(&url, std::env::vars()).map_err(|e| Error::mismatch(format!("cannot open `{uri}`")).because(e))?;
    download(store.as_ref(), &name, uri)
}

fn download(store: &dyn ObjectStore, name: &ObjectPath, uri: &str) -> Result<LocalFile> {
    let failed = |e: object_store::Error| {
        Error::storage(format!("cannot download `{uri}`"), e)
            .hint("check the address and the network, or give a downloaded copy with `--set ingest.source.uri=PATH`")
    };
    let mut file = tempfile::NamedTempFile::new().map_err(|e| Error::storage("cannot make a temporary file", e))?;
    let path = file.path().to_owned();
    runtime()?.block_on(async {
        let mut stream = store.get(name).await.map_err(failed)?.into_stream();
        while let Some(bytes) = stream.try_next().await.map_err(failed)? {
            file.write_all(&bytes).map_err(at_path("write", &path))?;
        }
        Ok::<(), Error>(())
    })?;
    file.flush().map_err(at_path("write", &path))?;
    Ok(LocalFile { path, _guard: Some(file) })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::job::exit::Exit;

    #[test]
    fn a_missing_file_says_how_to_name_another() {
        let error = fetch("/no/such/archive.tar.gz").expect_err("missing");
        assert_eq!(error.exit(), Exit::BadData);
        assert!(error.hint_text().is_some_and(|h| h.contains("--set")));
    }

    #[test]
    fn a_file_over_http_arrives_whole() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("address").port();
        let body = vec![7u8; 100_000];
        let served = body.clone();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("accepts");
            let mut request = [0u8; 4096];
            let read = socket.read(&mut request).expect("reads");
            assert!(request[..read].starts_with(b"GET /x.tar"));
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\netag: \"1\"\r\n\
                 last-modified: Tue, 01 Jul 2025 00:00:00 GMT\r\nconnection: close\r\n\r\n",
                served.len()
            );
            socket.write_all(head.as_bytes()).expect("writes");
            socket.write_all(&served).expect("writes");
        });
        // Plain http must be allowed by an option; users set it in the environment.
        let uri = format!("http://127.0.0.1:{port}/x.tar");
        let url = url::Url::parse(&uri).expect("url");
        let (store, name) = connect(&url, [("allow_http".to_owned(), "true".to_owned())]).expect("opens");
        let got = download(store.as_ref(), &name, &uri).expect("downloads");
        server.join().expect("server ends");
        assert_eq!(fs_err::read(got.path()).expect("reads"), body);
    }
}
