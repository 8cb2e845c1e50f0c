//! Names that Kubernetes takes, made of names that people chose.

use midi_ingest::store::sha256_hex;

/// The longest name: a pod's host name is the job's name, a hyphen and the index, and must stay within 63.
const LONGEST: usize = 52;

/// `name` in lower-case letters, digits and inner hyphens, beginning with a letter, at most 52 characters.
///
/// A name that had to be changed gets eight digits of its hash, so that two names never become one.
pub(super) fn fit(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let mut fitted: String = name.chars().map(plain).collect();
    if !fitted.starts_with(|c: char| c.is_ascii_lowercase()) {
        fitted.insert_str(0, "run-");
    }
    if fitted == name && fitted.len() <= LONGEST && !fitted.ends_with('-') {
        return fitted;
    }
    let hash = sha256_hex(name.as_bytes());
    fitted.truncate(LONGEST - 9);
    format!("{}-{}", fitted.trim_end_matches('-'), &hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_stays_and_others_become_distinct() {
        assert_eq!(fit("demo-train"), "demo-train");
        assert_ne!(fit("Demo_train"), fit("demo_train"));
        for name in ["Demo_A", "2025-run", "-x-", "x-", &"long".repeat(30)] {
            let fitted = fit(name);
            assert!(fitted.len() <= LONGEST, "{fitted}");
            assert!(fitted.starts_with(|c: char| c.is_ascii_lowercase()), "{fitted}");
            assert!(fitted.ends_with(|c: char| c.is_ascii_alphanumeric()), "{fitted}");
            assert!(fitted.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{fitted}");
            assert_eq!(fit(&fitted), fitted, "a fitted name fits");
        }
    }
}
