//! From a URL to a client of its object store, with one patience for all of them: what fails for longer than that has
//! failed, and the process ends with exit 74 instead of waiting on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::{Position, Url};

/// How long after its first attempt an operation is begun again before it counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);
/// The first of the growing pauses between two attempts.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest of them.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How many there are: with the first and longest as above, they add up to [`PATIENCE`].
const PAUSES: u32 = 12;
/// How often a store's client sends a request again: so often that patience ends first, however short its pauses are.
const ATTEMPTS: usize = 1000;
/// How long one request to a store may take that carries little: one that is lost can be sent again in good time.
pub(super) const SHORT_REQUEST: Duration = Duration::from_secs(30);
/// How long one may take that carries a file, up or down: a checkpoint travels in one. A connection whose other end is
/// gone is given up long before.
pub(super) const LONG_REQUEST: Duration = Duration::from_secs(900);
/// How long a connection to a store may take to stand.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);

/// The pauses between attempts of one operation: they double up to a limit, and end with [`PATIENCE`], however long the
/// attempts themselves take.
#[derive(Debug)]
pub(super) struct Patience {
    first: Duration,
    taken: u32,
    end: Instant,
}

impl Patience {
    /// For an operation that begins now.
    pub(super) fn new(first: Duration) -> Self {
        Patience { first, taken: 0, end: Instant::now() + PATIENCE }
    }

    /// The next pause, at least as long as the other side `asked` for; `None` where patience ends before it does.
    pub(super) fn pause(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let own = self.first.saturating_mul(1 << self.taken).min(LONGEST_PAUSE);
        let pause = own.max(asked.unwrap_or_default());
        if self.taken == PAUSES || Instant::now() + pause > self.end {
            return None;
        }
        self.taken += 1;
        Some(pause)
    }

    /// Takes `time` out of what counts.
    pub(super) fn prolong(&mut self, time: Duration) {
        self.end += time;
    }
}

/// The variables of this process's environment that are text, for [`connect`].
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Whether `name`, in lower case, is a variable of the tools of a store of this kind. Web servers have none.
fn configures(scheme: &ObjectStoreScheme, name: &str) -> bool {
    match scheme {
        ObjectStoreScheme::AmazonS3 => name.starts_with("aws_"),
        ObjectStoreScheme::GoogleCloudStorage => name.starts_with("google_") || name == "service_account",
        ObjectStoreScheme::MicrosoftAzure => {
            name.starts_with("azure_") || matches!(name, "identity_endpoint" | "msi_endpoint")
        }
        _ => false,
    }
}

/// What holds for the connections of every store; `options` of [`connect`] go before it.
fn client_options(url: &Url, longest: Duration) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(longest)
        .with_connect_timeout(LONGEST_CONNECT)
        .with_allow_http(url.scheme() == "http")
}

/// When a store's client sends a request again.
fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: ATTEMPTS,
        retry_timeout: PATIENCE,
    }
}

/// The store that `url` names, and the path inside it. `options` are names and values as in the environment of the
/// store's own tools (`AWS_ENDPOINT`, `GOOGLE_SERVICE_ACCOUNT`, …); all others are passed over. One request takes
/// `longest`, unless they say otherwise.
///
/// # Errors
/// The scheme is unknown, or the options do not make a client.
pub(super) fn connect(
    url: &Url,
    options: impl IntoIterator<Item = (String, String)>,
    longest: Duration,
) -> Result<(Arc<dyn ObjectStore>, ObjectPath), object_store::Error> {
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    let address = url.as_str();
    let options = options.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let options = options.filter(|(name, _)| configures(&scheme, name));
    // Each builder knows its own keys, so this is one macro and not one function.
    macro_rules! build {
        ($builder:expr) => {{
            let builder = $builder.with_client_options(client_options(url, longest));
            let builder = options.fold(builder, |builder, (name, value)| match name.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
            Arc::new(builder.with_retry(retry()).build()?) as Arc<dyn ObjectStore>
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
    use object_store::ClientConfigKey;

    use super::*;

    #[test]
    fn the_pauses_add_up_to_the_patience() {
        let mut patience = Patience::new(FIRST_PAUSE);
        let all: Vec<Duration> = std::iter::from_fn(|| patience.pause(None)).collect();
        assert!(all.is_sorted() && all[0] == FIRST_PAUSE, "{all:?}");
        let sum: Duration = all.iter().sum();
        assert!(sum.abs_diff(PATIENCE) < Duration::from_secs(5), "{sum:?}");
    }

    #[test]
    fn patience_ends_with_the_time_that_attempts_and_long_waits_take() {
        let after = |spent: Duration| {
            let mut patience = Patience::new(FIRST_PAUSE);
            patience.end -= spent;
            patience
        };
        let (minute, nearly) = (Some(Duration::from_secs(60)), PATIENCE - Duration::from_secs(30));
        assert_eq!(after(Duration::ZERO).pause(minute), minute);
        assert_eq!(after(nearly).pause(minute), None, "it would end too late");
        assert_eq!(after(nearly).pause(None), Some(FIRST_PAUSE));
        assert_eq!(after(PATIENCE).pause(None), None);
        let mut patience = after(PATIENCE);
        patience.prolong(PATIENCE);
        assert_eq!(patience.pause(None), Some(FIRST_PAUSE));
    }

    #[test]
    fn a_stores_client_is_as_patient_and_leaves_a_large_object_its_time() {
        let retry = retry();
        assert!(retry.backoff.init_backoff * retry.max_retries as u32 > PATIENCE, "retries end before patience does");
        let options = client_options(&Url::parse("s3://bucket").expect("url"), LONG_REQUEST);
        assert_eq!(options.get_config_value(&ClientConfigKey::Timeout).as_deref(), Some("15m"));
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
            ("http://example.com/a/b.tar", "HttpStore", "a/b.tar"),
        ] {
            let (store, at) = connect(&Url::parse(url).expect("url"), options(), SHORT_REQUEST).expect("connects");
            assert!(store.to_string().starts_with(kind), "{store}");
            assert_eq!(at.as_ref(), path);
        }
        connect(&Url::parse("gopher://x/y").expect("url"), options(), SHORT_REQUEST).expect_err("unknown");
    }

    #[test]
    fn only_a_stores_own_variables_configure_it() {
        for (url, own, others) in [
            ("s3://b", vec!["AWS_TIMEOUT", "aws_token"], vec!["TIMEOUT", "TOKEN", "ENDPOINT", "GOOGLE_BUCKET"]),
            ("gs://b", vec!["GOOGLE_BUCKET", "SERVICE_ACCOUNT"], vec!["BUCKET", "SERVICE_ACCOUNT_KEY", "AWS_REGION"]),
            ("az://b", vec!["AZURE_CLIENT_ID", "MSI_ENDPOINT", "IDENTITY_ENDPOINT"], vec!["TOKEN", "CLIENT_ID"]),
            ("https://a/b", vec![], vec!["ALLOW_HTTP", "USER_AGENT", "AWS_TIMEOUT"]),
        ] {
            let (scheme, _) = ObjectStoreScheme::parse(&Url::parse(url).expect("url")).expect("a scheme");
            let configures = |name: &&str| configures(&scheme, &name.to_ascii_lowercase());
            assert!(own.iter().all(configures) && !others.iter().any(configures), "{url}");
        }
        // A bad value is refused where it counts.
        let connects = |name: &str| {
            let options = [("AWS_REGION", "x"), (name, "30")].map(|(name, value)| (name.to_owned(), value.to_owned()));
            connect(&Url::parse("s3://bucket").expect("url"), options, SHORT_REQUEST).is_ok()
        };
        assert!(connects("TIMEOUT") && !connects("AWS_TIMEOUT"));
    }
}
