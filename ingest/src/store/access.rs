//! The hub's secrets for reading inputs, gathered once where a program starts and passed down: nothing below reads the
//! environment for them, and none is ever printed. The keys of object stores are others: `connect` takes them from the
//! environment where a store is opened.

use std::fmt;
use std::path::PathBuf;

/// The hub of data sets, unless `HF_ENDPOINT` names a mirror.
pub(super) const HUB: &str = "https://huggingface.co";

/// With what rights inputs are read.
#[derive(Clone, Debug)]
pub struct Access {
    /// The hub's address, without a `/` at its end.
    pub hub: String,
    /// The token of the user's account there.
    pub token: Option<Secret>,
}

/// A text that shows itself to nobody.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text, for the one place that must send it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Default for Access {
    /// Nobody's: what is open to all can be read.
    fn default() -> Self {
        Access { hub: HUB.to_owned(), token: None }
    }
}

impl Access {
    /// What the environment grants, by the names that the hub's own tools use: `HF_ENDPOINT`; `HF_TOKEN`, or else the
    /// file that a login leaves: at `HF_TOKEN_PATH`, in `HF_HOME`, or in the user's cache folder.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let hub = set("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()).trim_end_matches('/').to_owned();
        let below = |name: &str, rest: &str| set(name).map(|folder| PathBuf::from(folder).join(rest));
        let file = set("HF_TOKEN_PATH")
            .map(PathBuf::from)
            .or_else(|| below("HF_HOME", "token"))
            .or_else(|| below("XDG_CACHE_HOME", "huggingface/token"))
            .or_else(|| below("HOME", ".cache/huggingface/token"));
        let written = || {
            let text = fs_err::read_to_string(file?).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        };
        Access { hub, token: set("HF_TOKEN").or_else(written).map(Secret) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(variables: &[(&str, &str)]) -> Access {
        Access::of(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_token_is_the_variable_or_else_the_file_and_is_shown_nowhere() {
        let folder = tempfile::tempdir().expect("folder");
        fs_err::write(folder.path().join("token"), "from-file\n").expect("writes");
        let home = folder.path().to_str().expect("utf-8");
        let token = |variables: &[(&str, &str)]| access(variables).token.map(|token| token.reveal().to_owned());
        assert_eq!(token(&[]), None);
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("from-file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " own ")]).as_deref(), Some("own"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", "")]).as_deref(), Some("from-file"));
        assert_eq!(token(&[("HF_TOKEN_PATH", "/no/such/file"), ("HF_HOME", home)]), None);
        let shown = format!("{:?}", access(&[("HF_TOKEN", "hidden")]));
        assert!(!shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn a_mirror_takes_the_place_of_the_hub() {
        assert_eq!(access(&[]).hub, HUB);
        assert_eq!(access(&[("HF_ENDPOINT", "http://mirror:8080/")]).hub, "http://mirror:8080");
    }
}
