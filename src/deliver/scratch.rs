//! A buffer to read into that belongs to the thread, so that no connection
//! holds one while it waits.

use std::cell::RefCell;

/// Bytes read from a socket at a time.
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
