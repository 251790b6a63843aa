//! Writing to a socket from the fan-out itself: while a connection's writer
//! sleeps with nothing half out, waking it costs a third of its write again.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::fanout_pass::FanoutPass;
use super::run::SLICE_BYTES;
use super::state::{State, Writer};
use super::subscriber::Subscriber;
use super::subscription::SubscriptionId;
use crate::event::Offset;
use crate::metrics::{Metrics, Protocol};
use crate::wire::{Batch, Selection, WireFormat};

/// What a visit that writes costs, in visits that only push. `send(2)` to a
/// socket on loopback takes 4 to 8 µs, some fifty times as long; counted lower,
/// since each yield of a round is a look at all sockets.
pub(super) const COST: usize = 4;

/// A socket that the fan-out may write to in its writer's place.
pub trait DirectWriter: Send + Sync {
    /// Writes what the socket takes at once, and never waits.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where it takes nothing; any other where it
    /// is broken, which its writer will meet as well.
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// The last slice that was cut from a round's batch: most of the visits of a
/// round write the same.
#[derive(Default)]
pub(super) struct SliceCache(Option<(WireFormat, Range<u32>, Option<Slice>)>);

/// Some of a batch in one piece.
#[derive(Clone)]
struct Slice {
    bytes: Bytes,
    through: Offset,
}

impl SliceCache {
    /// The selected events as one slice; none where they are more than that.
    fn of(&mut self, batch: &Batch, selection: &Selection, form: WireFormat) -> Option<&Slice> {
        let run = selection.run_from(0);
        if run.end - run.start < selection.len() {
            return None;
        }
        let known = |(of, cut, _): &(WireFormat, Range<u32>, _)| *of == form && *cut == run;
        if !self.0.as_ref().is_some_and(known) {
            let slice = Slice::of(batch, &run, form);
            self.0 = Some((form, run, slice));
        }
        self.0.as_ref().and_then(|(_, _, slice)| slice.as_ref())
    }
}

impl Slice {
    fn of(batch: &Batch, run: &Range<u32>, form: WireFormat) -> Option<Slice> {
        let events = &batch.events()[run.start as usize..run.end as usize];
        // What is too long in its data alone need not be looked at encoded.
        let least: usize = events.iter().map(|event| event.data.len()).sum();
        if least > SLICE_BYTES {
            return None;
        }
        let (bytes, count) = batch.encoded(form).slice(run.clone(), SLICE_BYTES);
        let whole = count == run.end - run.start && bytes.len() <= SLICE_BYTES;
        let through = events.last()?.offset;
        whole.then_some(Slice { bytes, through })
    }
}

/// What was written in a round, until it is folded into the metrics.
#[derive(Default)]
pub(super) struct DeliveryCounts([Sent; Protocol::ALL.len()]);

#[derive(Default)]
struct Sent {
    events: u64,
    bytes: u64,
}

impl DeliveryCounts {
    fn add(&mut self, protocol: Protocol, events: u64, bytes: u64) {
        let sent = &mut self.0[protocol as usize];
        sent.events += events;
        sent.bytes += bytes;
    }

    /// Counts it, with one look at the clock, and begins anew.
    pub(super) fn fold(&mut self, metrics: &Metrics, committed: Option<Instant>) {
        for protocol in Protocol::ALL {
            let Sent { events, bytes } = std::mem::take(&mut self.0[protocol as usize]);
            if events == 0 {
                continue;
            }
            let streams = metrics.streams(protocol);
            streams.sent_bytes.increment(bytes);
            streams.delivered.increment(events);
            if let Some(committed) = committed {
                streams.latency.record(committed.elapsed(), events);
            }
        }
    }
}

impl Subscriber {
    /// Writes the selected events in the writer's place: it sleeps, and
    /// nothing waits. False where that is not so or the socket takes nothing;
    /// then they are to be pushed. The lock is held over the write, which does
    /// not wait: it is what keeps the writer from writing at the same time.
    pub(super) fn write_inline(
        &self,
        state: &mut State,
        id: SubscriptionId,
        round: &mut FanoutPass<'_>,
        selection: &Selection,
    ) -> bool {
        if !state.is_vacant() {
            return false;
        }
        let State { port, subscriptions, .. } = &mut *state;
        let (Some(port), Some(subscription)) = (port, &mut subscriptions[id.slot as usize]) else {
            return false;
        };
        let form = subscription.interest.form;
        let Some(slice) = round.cut.of(round.batch, selection, form) else { return false };
        // A broken socket is left to the writer, whose it is.
        let Ok(written @ 1..) = port.write_now(&slice.bytes) else { return false };
        let events = u64::from(selection.len());
        subscription.advance(slice.through);
        subscription.pushed(round.batch.end());
        if let Some(credit) = &mut subscription.interest.credit {
            *credit = credit.saturating_sub(events);
        }
        let now = self.shard.now();
        (state.quiet_since, state.active_at) = (now, now);
        state.heartbeat_due = false;
        if written < slice.bytes.len() {
            state.half_out(slice.bytes.slice(written..));
        }
        round.tally.add(self.protocol(), events, written as u64);
        true
    }

    /// Lets the fan-out write to `port` whenever the writer sleeps. To be
    /// called by the writer, before it first asks what is [next](Self::next).
    pub fn open_port(&self, port: Arc<dyn DirectWriter>) {
        self.state.lock().port = Some(port);
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
