//! Removal of expired responses to idempotent writes.
//!
//! A response expires a day after the time of the wall clock at its write. It is
//! removed once [`ClockReading::expiry`](super::clock::ClockReading::expiry) is
//! later. A response is never removed early, because a repeat would then write
//! twice. If the clock was ahead at the write, the response is kept longer, by the
//! time that the clock was ahead.

use std::time::Duration;

use super::clock::START_WAIT;
use super::commit_batch::CommitBatch;
use crate::event::Timestamp;
use crate::store::{self, Store};

/// The number of responses that a commit removes, in addition to twice the number
/// that it adds.
pub(in crate::log) const FORGOTTEN_ANSWERS: usize = 1024;

/// The progress of the removal of expired responses.
#[derive(Default)]
pub(in crate::log) struct Expiries {
    /// Every response with an earlier expiry has been removed.
    done: Timestamp,
    /// The monotonic time before which no response is removed. `None` until the
    /// store has been read.
    waits_until: Option<Duration>,
}

impl Expiries {
    /// Removes at most `count` expired responses. If all responses have expired at
    /// the start, the clock may be wrong, and all responses are kept for
    /// [`START_WAIT`].
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn expire(
        &mut self,
        store: &Store,
        work: &mut CommitBatch,
        count: usize,
    ) -> Result<(), store::Error> {
        let now = work.now();
        if self.waits_until.is_none() {
            let newest = store.newest_expiry()?;
            let all = newest.is_some_and(|newest| newest < now.expiry);
            let wait = if all { START_WAIT } else { Duration::ZERO };
            self.waits_until = Some(now.elapsed + wait);
        }
        if self.waits_until.is_some_and(|until| now.elapsed < until) {
            return Ok(());
        }
        if now.expiry < self.done {
            // The clock was set back: new responses expire before `done`.
            self.done = Timestamp(0);
        }
        let expired = store.expired(self.done, now.expiry, count)?;
        let Some((last, _)) = expired.last() else { return Ok(()) };
        self.done = *last;
        for (expiry, hash) in &expired {
            work.remove_answer(hash, *expiry);
        }
        Ok(())
    }
}
