//! The position of a reader in a log. The reader reads pages until it has caught up,
//! and then takes live batches.
//!
//! [`Follower`] only decides what to read next. It has no I/O and no lock. Each
//! subscription of the hub has a follower, and calls it under the lock of the
//! connection. [`Follow`] is the loop of a consumer that asks for each part of the
//! log. It has no ring and no fan-out.
//!
//! # No gap and no repeat
//!
//! The *fan-out* visits each follower with each batch that a log commits, in order.
//! It may skip a follower whose filter excludes the whole batch. A visit *pushes* the
//! new events of the batch: it puts them into the ring of the connection or writes
//! them to the socket. The *owner* of the follower reads pages and writes the ring to
//! the client. Four offsets describe the state:
//!
//! | Offset | Part of | Meaning |
//! |---|---|---|
//! | `written_to` | follower | The client has the events up to here. |
//! | `pushed_to` | follower | The end of the last pushed batch. |
//! | `tail` | fan-out | The end of the last batch whose visits have started. |
//! | `fanned_to` | fan-out | The end of the last batch whose visits have ended. |
//!
//! The fan-out sets `tail` before the first visit of a batch, and `fanned_to` after
//! the last one. The follower is in the list of the fan-out before
//! [`Follower::new`] sets its start. No two calls on a follower run at the same
//! time. An event that the filter of the follower excludes counts as pushed and
//! written.
//!
//! **Invariant: the client has each event after the start up to `written_to` exactly
//! once. If the follower is live, each event after `written_to` up to the larger one of
//! `pushed_to` and `fanned_to` was pushed exactly once, and no later event was
//! pushed.** An event that an overflow policy drops or conflates is the exception: a
//! `gap` reports it to the client.
//!
//! Each call keeps the invariant:
//!
//! 1. [`Follower::new`] and [`Follower::restart`]. The follower is not live, and the
//!    reader asked for no event up to the start.
//! 2. [`Follower::read_after`]. A follower that is not live reads the log after
//!    `written_to`. The log is its only source: [`Follower::accept`] rejects each
//!    batch, because `pushed_to` is beyond every offset.
//! 3. [`Follower::advance`]. The owner has written the events up to an offset, has
//!    reported them as dropped, or has found that the filter excludes the rest of
//!    them. All of them came from one source and in order. So no event between the
//!    old and the new `written_to` is missing.
//! 4. [`Follower::join`]. The last page ended at `written_to`. If `tail` is not
//!    beyond `written_to`, the visits of all later batches have not started. They
//!    find a live follower, so there is no gap. The visit of the batch at `tail` may
//!    still come. It finds `pushed_to` = `written_to` and pushes nothing that was
//!    read, so there is no repeat. If `tail` is beyond `written_to`, a visit may
//!    have passed the follower before it was live. The follower then reads another
//!    page. The page has the events of that batch, because a batch is committed
//!    before its fan-out.
//! 5. [`Follower::accept`]. The events after both `pushed_to` and `fanned_to` are
//!    new. No event before them is missing, because the batches come in order: if
//!    `fanned_to` is beyond `pushed_to`, the fan-out skipped the batches between.
//! 6. [`Follower::push`]. The batch was pushed, and `pushed_to` becomes its end.
//! 7. [`Follower::fall_behind`]. The ring overflowed, a batch has more events than
//!    the credit of the subscription, or a batch in the ring or the next batch of the
//!    fan-out was evicted from memory. The owner drops the events that were pushed and
//!    not written. The follower is no longer live and reads them from the log (step
//!    2).
//!
//! `src/hub/schedules.rs` runs these steps with the code of the fan-out under
//! shuttle, in random orders.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{Error, Log};
use crate::event::Offset;
use crate::wire::Batch;

/// The position of a reader in a log. The reader reads pages until it can take live
/// batches.
#[derive(Clone, Debug)]
pub struct Follower {
    /// The client has the events up to this offset.
    written_to: Offset,
    /// The end of the last batch that was put into the ring or written to the
    /// socket, or [`READS`] if the follower is not live. One field for both makes a
    /// subscription 8 bytes smaller.
    pushed_to: Offset,
}

/// The value of `pushed_to` for a follower that reads pages. No offset is larger, so
/// no batch has events after it.
const READS: Offset = Offset(u64::MAX);

impl Follower {
    /// Returns a follower that reads the log after `start`.
    pub fn new(start: Offset) -> Follower {
        Follower { written_to: start, pushed_to: READS }
    }

    /// Returns whether the follower takes live batches. Otherwise it reads pages of
    /// the log.
    pub fn is_live(&self) -> bool {
        self.pushed_to != READS
    }

    /// Returns the offset up to which the client has received the events.
    pub fn written_to(&self) -> Offset {
        self.written_to
    }

    /// Returns the offset after which the next page starts, or `None` if the
    /// follower is live.
    pub fn read_after(&self) -> Option<Offset> {
        (!self.is_live()).then_some(self.written_to)
    }

    /// Moves `written_to` forward to `to`. The events up to `to` were written to the
    /// client or reported to it as dropped, or the filter excludes them.
    pub fn advance(&mut self, to: Offset) {
        self.written_to = self.written_to.max(to);
    }

    /// Makes the follower live if it has all events that the fan-out has started to
    /// push. `tail` is the end of the last batch that the fan-out has started to
    /// push. The caller must read `tail` while no other call on this follower can
    /// run. Returns whether the follower became live.
    pub fn join(&mut self, tail: Offset) -> bool {
        let joins = !self.is_live() && tail <= self.written_to;
        if joins {
            self.pushed_to = self.written_to;
        }
        joins
    }

    /// Returns the offset after which the events of a batch are new for this
    /// follower, or `None` if no event is new. `end` is the end of the batch, and
    /// `fanned_to` the end of the batch before it.
    pub fn accept(&self, end: Offset, fanned_to: Offset) -> Option<Offset> {
        let after = self.pushed_to.max(fanned_to);
        (after < end).then_some(after)
    }

    /// Records that the new events of the batch that ends at `end` are in the ring
    /// of the connection or were written to its socket.
    pub fn push(&mut self, end: Offset) {
        debug_assert!(self.is_live(), "a follower that is not live accepts no batch");
        self.pushed_to = end;
    }

    /// Makes the follower read the log after `written_to`. Its owner must drop the
    /// events that are in the ring and are not written to the client.
    pub fn fall_behind(&mut self) {
        self.pushed_to = READS;
    }

    /// Makes the follower read the log after the offset `start`, for example after a
    /// gap or after a snapshot.
    pub fn restart(&mut self, start: Offset) {
        *self = Follower::new(start);
    }

    /// Returns the offset up to which the client has all events. If the follower is
    /// live and its ring is empty (`is_drained`), the client has all events that were
    /// fanned out.
    pub fn position(&self, is_drained: bool, fanned_to: Offset) -> Offset {
        if self.is_live() && is_drained {
            self.written_to.max(self.pushed_to).max(fanned_to)
        } else {
            self.written_to
        }
    }
}

/// A part of a log that [`Follow::next`] returns.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The events of `batch` after the offset `after`. There may be none.
    Events {
        /// A page of the log, or a live batch.
        batch: Arc<Batch>,
        /// The end of the previous part.
        after: Offset,
    },
    /// The log no longer has all events after `from` up to `to`.
    Gap {
        /// The end of the previous part.
        from: Offset,
        /// The next part starts after this offset.
        to: Offset,
    },
}

/// The loop of a consumer that asks for each part of a log. A slow consumer needs no
/// ring, because the log keeps the events.
///
/// The loop has no separate fan-out. It reads pages up to the head of the log, and
/// then takes each later batch from memory. The follower gets the head as `tail`. It
/// gets its own `written_to` as `fanned_to`, because a returned part counts as
/// written.
pub struct Follow {
    log: Arc<Log>,
    follower: Follower,
    /// The log notifies this object after each commit.
    committed: Arc<Notify>,
}

impl Follow {
    /// Returns a loop over `log` after `start`.
    pub fn new(log: Arc<Log>, start: Offset) -> Follow {
        let committed = Arc::new(Notify::new());
        log.observe(&committed);
        Follow { log, follower: Follower::new(start), committed }
    }

    /// Returns the end of the last returned part.
    pub fn written_to(&self) -> Offset {
        self.follower.written_to()
    }

    /// Returns the next part of the log. If there is no new part, waits for a
    /// commit.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read. The next call reads again.
    ///
    /// # Cancel safety
    /// Safe. The position moves only after the last `await`.
    pub async fn next(&mut self) -> Result<Followed, Error> {
        loop {
            let part = match self.follower.read_after() {
                Some(after) => self.page(after).await?,
                None => self.live_batch().await,
            };
            if let Some(part) = part {
                return Ok(part);
            }
        }
    }

    /// Reads the page after the offset `after`. If the consumer has read all pages,
    /// makes the follower live and returns `None`. The caller then takes live
    /// batches from memory.
    async fn page(&mut self, after: Offset) -> Result<Option<Followed>, Error> {
        if self.follower.join(self.log.head()) {
            return Ok(None);
        }
        let page = self.log.page(after).await?;
        if page.floor > after {
            self.follower.restart(page.floor);
            return Ok(Some(Followed::Gap { from: after, to: page.floor }));
        }
        self.follower.advance(page.scanned_to);
        Ok(Some(Followed::Events { batch: page.batch, after }))
    }

    /// Returns the next batch from the tail, the newest batches of the log in
    /// memory. If there is no next batch yet, waits for a commit and returns `None`.
    /// If the tail no longer has the next batch, makes the follower read pages and
    /// returns `None`.
    async fn live_batch(&mut self) -> Option<Followed> {
        let written_to = self.follower.written_to();
        let Some(batches) = self.log.tail_from(written_to, 1) else {
            self.follower.fall_behind();
            return None;
        };
        let Some(batch) = batches.into_iter().next() else {
            self.committed.notified().await;
            return None;
        };
        let end = batch.end();
        let after = self.follower.accept(end, written_to)?;
        self.follower.push(end);
        self.follower.advance(end);
        Some(Followed::Events { batch, after })
    }
}

#[cfg(test)]
mod tests;
