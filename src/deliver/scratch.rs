//! A read buffer for each thread. A connection has no read buffer of its own, so it
//! uses no memory for a buffer while it waits for bytes.

use std::cell::RefCell;

/// The size of the buffer: the largest number of bytes of one read from a socket or
/// HTTP/2 stream.
const BYTES: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BYTES].into());
}

/// Calls `with` with the read buffer of this thread, and returns the result of
/// `with`. `with` must not call `with_scratch`.
///
/// # Panics
/// Panics if `with` calls `with_scratch`.
pub fn with_scratch<T>(with: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| with(scratch))
}
