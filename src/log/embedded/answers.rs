//! Removal of expired responses to idempotent writes.
//!
//! A response is stored so that a repeat of the write gets the same response. The
//! expiry of a response is one day after the wall-clock time of the write. The
//! response is removed when
//! [`ClockReading::expiry`](super::clock::ClockReading::expiry) is later than its
//! expiry. A response is never removed early, because a repeat would then write a
//! second event. If the wall clock was ahead at the write, the response is kept
//! longer by the same difference.

use std::time::Duration;

use super::clock::START_WAIT;
use super::commit_batch::CommitBatch;
use crate::event::Timestamp;
use crate::store::{self, Store};

/// One commit removes at most this number of expired responses, plus twice the
/// number of responses that it adds.
pub(in crate::log) const FORGOTTEN_ANSWERS: usize = 1024;

/// The progress of the removal of expired responses.
#[derive(Default)]
pub(in crate::log) struct Expiries {
    /// Every response whose expiry is before this time has been removed.
    done: Timestamp,
    /// Before this monotonic time, no response is removed. `None` until the first
    /// call of [`Expiries::expire`], which reads the newest expiry from the store.
    waits_until: Option<Duration>,
}

impl Expiries {
    /// Removes at most `count` expired responses. If all responses are expired when
    /// the engine starts, the clock may be wrong. Then no response is removed for
    /// [`START_WAIT`].
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be read.
    pub(in crate::log) fn expire(
        &mut self,
        store: &Store,
        commit: &mut CommitBatch,
        count: usize,
    ) -> Result<(), store::Error> {
        let now = commit.now();
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
            commit.remove_answer(hash, *expiry);
        }
        Ok(())
    }
}
