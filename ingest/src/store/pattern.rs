//! Which files an address means: one file, everything below a folder, or what a pattern with `*` matches.

use regex::Regex;

use crate::job::exit::{Error, Result};

/// An address, cut before the first of its parts that has a `*`, `?` or `[`.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// What stands before: a folder, or the whole address where it has no such part.
    pub(crate) base: String,
    /// Matches paths below the base; `None` where the address is plain.
    pub(crate) matcher: Option<Regex>,
    /// How many parts a path below the base has at most that is taken; `None` where there may be any number.
    pub(crate) depth: Option<usize>,
}

impl Pattern {
    /// An address that is what it says.
    pub(crate) fn plain(uri: &str) -> Self {
        Pattern { base: uri.to_owned(), matcher: None, depth: None }
    }

    /// Cuts `uri`. In a pattern `*` and `?` stay within one part of a path, and `**` spans any number of them.
    ///
    /// # Errors
    /// The pattern is not well formed (78).
    pub(crate) fn of(uri: &str) -> Result<Self> {
        let plain = Self::plain(uri);
        let start = uri.find("://").map_or(0, |at| at + 3);
        let Some(wild) = uri[start..].find(['*', '?', '[']).map(|at| at + start) else { return Ok(plain) };
        // A question mark in a web address begins its query.
        if uri.starts_with("http") && uri.as_bytes().get(wild) == Some(&b'?') {
            return Ok(plain);
        }
        let (base, glob) = match uri[start..wild].rfind('/') {
            Some(slash) if start + slash == 0 => ("/", &uri[1..]),
            Some(slash) => (&uri[..start + slash], &uri[start + slash + 1..]),
            None => (&uri[..start], &uri[start..]),
        };
        let base = if base.is_empty() { "." } else { base };
        let matcher =
            Regex::new(&regex_of(glob)).map_err(|e| Error::mismatch(format!("`{uri}` is not a pattern")).because(e))?;
        let depth = (!glob.contains("**")).then(|| glob.split('/').count());
        Ok(Pattern { base: base.to_owned(), matcher: Some(matcher), depth })
    }

    /// Whether the pattern takes `path`, which lies below the base; a plain address takes everything.
    pub(crate) fn takes(&self, path: &str) -> bool {
        self.matcher.as_ref().is_none_or(|matcher| matcher.is_match(path))
    }
}

/// The regular expression of a pattern.
fn regex_of(glob: &str) -> String {
    let mut regex = String::from("^");
    let mut rest = glob;
    while let Some(next) = rest.chars().next() {
        let (taken, text) = match next {
            '*' if rest.starts_with("**/") => (3, "(?:.*/)?".to_owned()),
            '*' if rest.starts_with("**") => (2, ".*".to_owned()),
            '*' => (1, "[^/]*".to_owned()),
            '?' => (1, "[^/]".to_owned()),
            // A set is written alike in both, but for its negation.
            '[' => match rest.find(']') {
                Some(end) => (end + 1, rest[..=end].replacen("[!", "[^", 1)),
                None => (1, "[".to_owned()),
            },
            other => (other.len_utf8(), regex::escape(&other.to_string())),
        };
        regex.push_str(&text);
        rest = &rest[taken..];
    }
    regex + "$"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_cut_before_the_first_pattern() {
        for (uri, base, depth, takes, leaves) in [
            ("/data/x/*.parquet", "/data/x", Some(1), "a.parquet", "b/a.parquet"),
            ("data/**/*.mid", "data", None, "a/b/c.mid", "a/b.midi"),
            ("*.mid", ".", Some(1), "a.mid", "a/a.mid"),
            ("/*.mid", "/", Some(1), "a.mid", "a/a.mid"),
            ("s3://bucket/*/x?.parquet", "s3://bucket", Some(2), "v/x1.parquet", "x1.parquet"),
            ("/data/[ab]/*.mid", "/data", Some(2), "a/x.mid", "c/x.mid"),
        ] {
            let pattern = Pattern::of(uri).expect("well formed");
            assert_eq!((pattern.base.as_str(), pattern.depth), (base, depth), "{uri}");
            assert!(pattern.takes(takes) && !pattern.takes(leaves), "{uri}");
        }
        for plain in ["/data/x", "https://example.com/a.parquet?x=1", "hf://datasets/a/b@main/c"] {
            let pattern = Pattern::of(plain).expect("well formed");
            assert!(pattern.base == plain && pattern.matcher.is_none(), "{plain}");
        }
        Pattern::of("/data/[ab/x").expect_err("not closed");
    }
}
