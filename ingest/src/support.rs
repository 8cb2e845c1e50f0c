//! Servers that the tests of several modules ask; the tests beside the crate share them.

#[path = "../tests/support/http.rs"]
pub(crate) mod http;
#[path = "../tests/support/hub.rs"]
pub(crate) mod hub;
