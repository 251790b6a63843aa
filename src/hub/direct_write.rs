//! Writing to a socket from the fan-out itself: while a connection's writer
//! sleeps with nothing half out, waking it costs a third of its write again.

use std::sync::Arc;

use bytes::Bytes;

use super::fanout_pass::FanoutPass;
use super::state::{State, Writer};
use super::subscriber::Subscriber;
use super::words::{DirectWriter, SubscriptionId};
use crate::wire::Selection;

/// What a visit that writes costs, in visits that only push. `send(2)` to a
/// socket on loopback takes 4 to 8 µs, some fifty times as long; counted lower,
/// since each yield of a pass is a look at all sockets.
pub(super) const COST: usize = 4;

impl Subscriber {
    /// Writes the selected events in the writer's place: it sleeps, and
    /// nothing waits. False where that is not so or the socket takes nothing;
    /// then they are to be pushed. The lock is held over the write, which does
    /// not wait: it is what keeps the writer from writing at the same time.
    pub(super) fn write_directly(
        &self,
        state: &mut State,
        id: SubscriptionId,
        pass: &mut FanoutPass<'_>,
        selection: &Selection,
    ) -> bool {
        if !state.is_vacant() {
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
        // A broken socket is left to the writer, whose it is.
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

    /// Lets the fan-out write to `port` whenever the writer sleeps. To be
    /// called by the writer, before it first asks what is [next](Self::next).
    pub fn allow_direct_writes(&self, direct_writer: Arc<dyn DirectWriter>) {
        self.state.lock().direct_writer = Some(direct_writer);
    }

    /// The writer is about to write without having asked what is next: the
    /// fan-out keeps off until it has. Gives the rest of what is half out.
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
