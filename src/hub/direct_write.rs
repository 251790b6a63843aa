//! Direct writes: the fan-out task writes events to the socket itself while the
//! writer task of the connection sleeps. To wake the writer would add a third to the
//! cost of the write.

use std::sync::Arc;

use bytes::Bytes;

use super::fanout_pass::FanoutPass;
use super::state::{State, Writer};
use super::subscriber::Subscriber;
use super::words::{DirectWriter, SubscriptionId};
use crate::wire::Selection;

/// The cost of a direct write to a socket. The unit is the cost of a push into a
/// ring. `send(2)` to a loopback socket takes 4 to 8 µs, which is fifty times as
/// long as a push. The constant is smaller than fifty, because the fan-out yields
/// more often if the cost is high, and the runtime polls all sockets at each yield.
pub(super) const COST: usize = 4;

impl Subscriber {
    /// Writes the selected events to the socket if the writer of the connection
    /// sleeps and the ring is empty. Returns whether at least one byte was written.
    /// If not, the caller must push the events into the ring. The caller holds the
    /// lock of the connection during the write, so that the writer does not write at
    /// the same time. The write does not block.
    pub(super) fn write_directly(
        &self,
        state: &mut State,
        id: SubscriptionId,
        pass: &mut FanoutPass<'_>,
        selection: &Selection,
    ) -> bool {
        if !state.accepts_direct_write() {
            return false;
        }
        let State { direct_writer, subscriptions, .. } = &mut *state;
        let (Some(direct_writer), Some(subscription)) =
            (direct_writer, &mut subscriptions[id.slot as usize])
        else {
            return false;
        };
        let format = subscription.spec.format;
        let Some(slice) = pass.slice_cache.get(pass.batch, selection, format) else { return false };
        // An error of a broken socket is ignored here. The writer gets the error at
        // its next write and ends the connection.
        let Ok(written @ 1..) = direct_writer.write_now(&slice.bytes) else { return false };
        let events = u64::from(selection.len());
        subscription.advance(slice.through);
        subscription.pushed(pass.batch.end());
        if let Some(credit) = &mut subscription.spec.credit {
            *credit = credit.saturating_sub(events);
        }
        let now = self.shard.now();
        (state.last_sent, state.last_active) = (now, now);
        state.heartbeat_due = false;
        if written < slice.bytes.len() {
            state.keep_partial_write(slice.bytes.slice(written..));
        }
        pass.counts.add(self.protocol(), events, written as u64);
        true
    }

    /// Allows the fan-out to write to `direct_writer` while the writer of the
    /// connection sleeps. The writer calls this before its first call of
    /// [`Subscriber::next`].
    pub fn allow_direct_writes(&self, direct_writer: Arc<dyn DirectWriter>) {
        self.state.lock().direct_writer = Some(direct_writer);
    }

    /// Prevents direct writes until the next call of [`Subscriber::next`]. The
    /// writer calls this before it writes bytes that are not events. Returns the
    /// bytes that the socket has not accepted in a direct write. The writer must
    /// write these bytes first.
    pub fn suspend_direct_writes(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        if state.writer == Writer::Asleep {
            state.writer = Writer::Busy;
        }
        state.partial_write.take().map(|rest| *rest)
    }
}

#[cfg(test)]
mod tests;
