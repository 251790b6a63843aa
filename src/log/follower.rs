//! A cursor on a log: pages until it has caught up, then live batches.
//!
//! [`Follower`] is the decision alone, without I/O and without a lock. A
//! subscription of the hub embeds one and calls it under the lock of its
//! connection. [`Follow`] is the loop of a consumer that pulls: it has no ring
//! and waits for nobody.
//!
//! # No gap and no repeat
//!
//! The *fan-out* visits the follower with each batch that a log commits, in
//! order. Two offsets describe the fan-out: `tail`, the end of the batch whose
//! visits have begun, and `fanned_to`, the end of the batch whose visits are
//! done. The fan-out sets `tail` before the first visit and `fanned_to` after
//! the last. The follower is in the list of the fan-out before
//! [`Follower::new`] fixes its start. Calls on one follower exclude each other.
//!
//! The invariant: **the client gets each event up to `written_to` exactly
//! once. A live follower was also pushed each event in `written_to..max(
//! pushed_to, fanned_to)` exactly once, and no event beyond.** An event that
//! the follower's filter leaves out counts as pushed.
//!
//! 1. [`Follower::new`] and [`Follower::restart`]: nothing is pushed, and
//!    nothing up to the start was asked for. The invariant holds.
//! 2. [`Follower::read_after`]: a follower that is not live reads what follows
//!    `written_to`. [`Follower::accept`] refuses each batch meanwhile, because
//!    `pushed_to` is beyond every offset. So the log is its only source.
//! 3. [`Follower::advance`]: the consumer has written what it read, or what was
//!    pushed, up to an offset. The events come from one source and in order, so
//!    none is between the old `written_to` and the new one that was not written.
//! 4. [`Follower::join`]: the page ended at `written_to`. With `tail` at or
//!    below `written_to`, each batch beyond `written_to` is still to begin, and
//!    its visit will find the follower live: no gap. A visit of a batch that
//!    has begun finds `pushed_to` = `written_to` and drops what was read: no
//!    repeat. With `tail` beyond, visits may have passed the follower by, so the
//!    follower reads on; the batch is in the log, since a batch is committed
//!    before it is fanned out.
//! 5. [`Follower::accept`]: of a batch, the events after both `pushed_to` and
//!    `fanned_to` are new. Nothing lies between `pushed_to` and the first of
//!    them, because the batches come in order.
//! 6. [`Follower::push`]: the batch was put into the ring, or written to the
//!    socket. `pushed_to` becomes its end.
//! 7. [`Follower::fall_behind`]: the ring overflowed or the fan-out lost its
//!    place. The owner frees what was pushed and not written. The follower
//!    reads from `written_to` again (step 2), where all of it stands.
//!
//! `src/hub/schedules.rs` runs these steps with the code of the fan-out under
//! shuttle, in random orders.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{Error, Log};
use crate::event::Offset;
use crate::wire::Batch;

/// A cursor on a log that reads pages until it may take live batches.
#[derive(Clone, Debug)]
pub struct Follower {
    /// The client has everything up to here that it asked for.
    written_to: Offset,
    /// The end of the last batch that was pushed. [`READS`] while the follower
    /// reads the log: no batch is new then. One field for both keeps a
    /// subscription 8 bytes smaller.
    pushed_to: Offset,
}

/// Beyond every offset.
const READS: Offset = Offset(u64::MAX);

impl Follower {
    /// A follower that reads what follows `start`.
    pub fn new(start: Offset) -> Follower {
        Follower { written_to: start, pushed_to: READS }
    }

    /// Whether live batches are pushed. Otherwise the follower reads the log.
    pub fn is_live(&self) -> bool {
        self.pushed_to != READS
    }

    /// The offset up to which everything is written.
    pub fn written_to(&self) -> Offset {
        self.written_to
    }

    /// The offset after which the next page begins; none while live.
    pub fn read_after(&self) -> Option<Offset> {
        (!self.is_live()).then_some(self.written_to)
    }

    /// Moves `written_to` forward: events up to `to` are written, or none of
    /// them was asked for.
    pub fn advance(&mut self, to: Offset) {
        self.written_to = self.written_to.max(to);
    }

    /// Goes live if the fan-out has begun nothing beyond what is written.
    /// `tail` is the end of the last batch whose visits have begun. It must be
    /// read while calls on this follower are excluded. Returns whether the
    /// follower went live.
    pub fn join(&mut self, tail: Offset) -> bool {
        let joins = !self.is_live() && tail <= self.written_to;
        if joins {
            self.pushed_to = self.written_to;
        }
        joins
    }

    /// The offset after which the events of a batch are new; none if no event
    /// is. `end` is the batch's end, `fanned_to` the end of the batch before.
    pub fn accept(&self, end: Offset, fanned_to: Offset) -> Option<Offset> {
        let after = self.pushed_to.max(fanned_to);
        (after < end).then_some(after)
    }

    /// Records that the new events of the batch that ends at `end` were pushed.
    pub fn push(&mut self, end: Offset) {
        debug_assert!(self.is_live(), "a follower that reads accepts no batch");
        self.pushed_to = end;
    }

    /// Reads the log from `written_to` on. The owner drops what was pushed and
    /// is not written.
    pub fn fall_behind(&mut self) {
        self.pushed_to = READS;
    }

    /// Reads the log from another offset on: past a gap, or after a snapshot.
    pub fn restart(&mut self, start: Offset) {
        *self = Follower::new(start);
    }

    /// The offset up to which the client has everything. A live follower whose
    /// ring `is_drained` has everything that was fanned out.
    pub fn position(&self, is_drained: bool, fanned_to: Offset) -> Offset {
        if self.is_live() && is_drained {
            self.written_to.max(self.pushed_to).max(fanned_to)
        } else {
            self.written_to
        }
    }
}

/// A part of a log that a [`Follow`] has come to.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The events of `batch` after the offset `after`; none if the page is empty.
    Events {
        /// A page of the log, or a live batch.
        batch: Arc<Batch>,
        /// The events up to here came before.
        after: Offset,
    },
    /// The events after `from` up to `to` are no longer kept.
    Gap {
        /// Everything up to here came before.
        from: Offset,
        /// The events after this offset follow.
        to: Offset,
    },
}

/// Follows a log without a ring: the consumer asks for each part, and the log
/// keeps what a slow consumer has not asked for.
pub struct Follow {
    log: Arc<Log>,
    follower: Follower,
    moved: Arc<Notify>,
}

impl Follow {
    /// Follows `log` after `start`.
    pub fn new(log: Arc<Log>, start: Offset) -> Follow {
        let moved = Arc::new(Notify::new());
        log.observe(&moved);
        Follow { log, follower: Follower::new(start), moved }
    }

    /// Everything up to this offset was returned.
    pub fn written_to(&self) -> Offset {
        self.follower.written_to()
    }

    /// Returns the next part of the log. Waits for a commit if there is none.
    ///
    /// A consumer that pulls is its own fan-out. Its `tail` is the log's head:
    /// it joins at the head and takes each later batch from memory. Its
    /// `fanned_to` is `written_to`: what it returns is written.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk cannot be read. The next call reads again.
    ///
    /// # Cancel safety
    /// Safe: the cursor moves after the last wait.
    pub async fn next(&mut self) -> Result<Followed, Error> {
        loop {
            let Some(after) = self.follower.read_after() else {
                let Some(batches) = self.log.tail_from(self.follower.written_to(), 1) else {
                    self.follower.fall_behind();
                    continue;
                };
                match batches.into_iter().next() {
                    None => self.moved.notified().await,
                    Some(batch) => {
                        let end = batch.end();
                        let accepted = self.follower.accept(end, self.follower.written_to());
                        if let Some(after) = accepted {
                            self.follower.push(end);
                            self.follower.advance(end);
                            return Ok(Followed::Events { batch, after });
                        }
                    }
                }
                continue;
            };
            if self.follower.join(self.log.head()) {
                continue;
            }
            let page = self.log.page(after).await?;
            if page.floor > after {
                self.follower.restart(page.floor);
                return Ok(Followed::Gap { from: after, to: page.floor });
            }
            self.follower.advance(page.scanned_to);
            return Ok(Followed::Events { batch: page.batch, after });
        }
    }
}

#[cfg(test)]
mod tests;
