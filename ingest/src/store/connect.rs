//! From a URL to a client of its object store, with one patience for all of them: what fails for longer than that has
//! failed, and the process ends with exit 74 instead of waiting on.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use url::{Position, Url};

/// How long one operation is tried again before it counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);
/// The first of the growing pauses between two attempts.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How many there are: with the first and longest as above, they add up to [`PATIENCE`].
const PAUSES: u32 = 12;

/// The pauses between attempts of one operation: they double from `first` up to a limit, and end.
pub(super) fn pauses(first: Duration) -> impl Iterator<Item = Duration> {
    (0..PAUSES).map(move |attempt| first.saturating_mul(1 << attempt).min(LONGEST_PAUSE))
}

/// The store that `url` names, and the path inside it. `options` are names and values as in the environment of the
/// store's own tools (`AWS_ENDPOINT`, `GOOGLE_SERVICE_ACCOUNT`, …); those of other stores are passed over.
///
/// # Errors
/// The scheme is unknown, or the options do not make a client.
pub(super) fn connect(
    url: &Url,
    options: impl IntoIterator<Item = (String, String)>,
) -> Result<(Arc<dyn ObjectStore>, ObjectPath), object_store::Error> {
    let retry = RetryConfig { retry_timeout: PATIENCE, ..RetryConfig::default() };
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    let address = url.as_str();
    // Each builder knows its own keys, so this is one macro and not one function.
    macro_rules! build {
        ($builder:expr) => {{
            let builder =
                options.into_iter().fold($builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                });
            Arc::new(builder.with_retry(retry).build()?) as Arc<dyn ObjectStore>
        }};
    }
    let store = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder::new().with_url(address)),
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder::new().with_url(address)),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder::new().with_url(address)),
        ObjectStoreScheme::Http => build!(HttpBuilder::new().with_url(&url[..Position::BeforePath])),
        _ => {
            return Err(object_store::Error::NotSupported { source: format!("no store has `{url}`").into() });
        }
    };
    Ok((store, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_add_up_to_the_patience() {
        let all: Vec<Duration> = pauses(FIRST_PAUSE).collect();
        assert!(all.is_sorted() && all[0] == FIRST_PAUSE, "{all:?}");
        let sum: Duration = all.iter().sum();
        assert!(sum.abs_diff(PATIENCE) < Duration::from_secs(5), "{sum:?}");
    }

    #[test]
    fn every_scheme_finds_its_store_and_its_path() {
        let options = || {
            let pairs = [("AWS_REGION", "x"), ("AZURE_STORAGE_ACCOUNT_NAME", "account"), ("UNRELATED", "y")];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        for (url, kind, path) in [
            ("s3://bucket/a/b", "AmazonS3", "a/b"),
            ("az://container/a", "MicrosoftAzure", "a"),
            ("https://example.com/a/b.tar", "HttpStore", "a/b.tar"),
        ] {
            let (store, at) = connect(&Url::parse(url).expect("url"), options()).expect("connects");
            assert!(store.to_string().starts_with(kind), "{store}");
            assert_eq!(at.as_ref(), path);
        }
        connect(&Url::parse("gopher://x/y").expect("url"), options()).expect_err("unknown");
    }
}
