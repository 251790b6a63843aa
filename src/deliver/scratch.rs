//! A read buffer for each thread, so that no connection holds a buffer while it
//! waits.

use std::cell::RefCell;

/// The most bytes of one read from a transport.
const BYTES: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BYTES].into());
}

/// Lends this thread's buffer to `with`. `with` must not call `with_scratch`.
///
/// # Panics
/// If `with` calls `with_scratch`.
pub fn with_scratch<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| with(scratch))
}
