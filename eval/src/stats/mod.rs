//! Is one model better than another? Paired tests, effect sizes, corrections and intervals.
//!
//! Everything works on a slice of paired differences, one a prompt. Special functions come from `libm`;
//! the tests compare with scipy's values.

pub mod bootstrap;
pub mod corrections;
pub mod describe;
pub mod wilcoxon;
