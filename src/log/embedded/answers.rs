//! Forgetting of answers to idempotent writes, once they expire.
//!
//! An answer expires a day after the wall clock's time at its write, and is
//! forgotten when [`ClockReading::expiry`](super::clock::ClockReading::expiry) is past that. It is never forgotten
//! early: a repeat would then write twice. An answer that was written under a
//! clock that was ahead is kept longer, by as much as the clock was ahead.

use std::time::Duration;

use super::clock::START_WAIT;
use super::commit_batch::CommitBatch;
use crate::event::Timestamp;
use crate::store::{self, Store};

/// Answers forgotten in a commit beside twice those it adds.
pub(in crate::log) const FORGOTTEN_ANSWERS: usize = 1024;

/// How far the expiries of answers have been dealt with.
#[derive(Default)]
pub(in crate::log) struct Expiries {
    /// Those before this have been.
    done: Timestamp,
    /// The monotonic time before which no answer is forgotten; none until the
    /// store has been looked at.
    waits_until: Option<Duration>,
}

impl Expiries {
    /// Forgets at most `count` answers that have expired. Where the clock at
    /// the start has expired all of them, it may be wrong, and they are kept
    /// for [`START_WAIT`].
    ///
    /// # Errors
    /// [`store::Error`] when the store cannot be read.
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
            // The clock was corrected: what is written now expires before this.
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
