//! What becomes of memory that tensors give back.
#![cfg_attr(all(target_os = "linux", target_env = "gnu"), expect(unsafe_code, reason = "a setting of the C library"))]

/// Keeps memory that is given back for the next tensor of this process. The C library returns large pieces to the
/// operating system at once, and has every page of the next one cleared and mapped anew: a tenth of a training step on
/// two threads. Threads share what is kept, so call it before they begin. Other C libraries are left as they are.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: calls with two numbers each, which the C library guards by a lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}
