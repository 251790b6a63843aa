//! The cache of the encoded slice that a fan-out pass writes to most sockets, and
//! the counters of the events and bytes that the pass has written.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;

use super::words::SLICE_BYTES;
use crate::event::Offset;
use crate::metrics::{Metrics, Protocol};
use crate::wire::{Batch, Selection, WireFormat};

/// A cache with one entry: the slice of the batch that was encoded last. A fan-out
/// pass writes the same slice to most connections.
#[derive(Default)]
pub(super) struct SliceCache(Option<(WireFormat, Range<u32>, Option<WholeSlice>)>);

/// An encoded range of events of a batch, in one slice of at most [`SLICE_BYTES`].
#[derive(Clone)]
pub(super) struct WholeSlice {
    pub(super) bytes: Bytes,
    /// The offset of the last event in the slice.
    pub(super) through: Offset,
}

impl SliceCache {
    /// Returns the selected events of `batch` as one slice. Returns `None` if the
    /// events are not adjacent or have more than [`SLICE_BYTES`] bytes.
    pub(super) fn get(
        &mut self,
        batch: &Batch,
        selection: &Selection,
        format: WireFormat,
    ) -> Option<&WholeSlice> {
        let run = selection.run_from(0);
        if run.end - run.start < selection.len() {
            return None;
        }
        let known = |(of, cut, _): &(WireFormat, Range<u32>, _)| *of == format && *cut == run;
        if !self.0.as_ref().is_some_and(known) {
            let slice = WholeSlice::of(batch, &run, format);
            self.0 = Some((format, run, slice));
        }
        self.0.as_ref().and_then(|(_, _, slice)| slice.as_ref())
    }
}

impl WholeSlice {
    fn of(batch: &Batch, run: &Range<u32>, format: WireFormat) -> Option<WholeSlice> {
        let events = &batch.events()[run.start as usize..run.end as usize];
        // If the data alone is longer than a slice, return before the encoding.
        let least: usize = events.iter().map(|event| event.data.len()).sum();
        if least > SLICE_BYTES {
            return None;
        }
        let (bytes, count) = batch.encoded(format).slice(run.clone(), SLICE_BYTES);
        let whole = count == run.end - run.start && bytes.len() <= SLICE_BYTES;
        let through = events.last()?.offset;
        whole.then_some(WholeSlice { bytes, through })
    }
}

/// The number of events and bytes that the fan-out has written directly to sockets
/// since the metrics were updated, by protocol.
#[derive(Default)]
pub(super) struct DeliveryCounts([Sent; Protocol::ALL.len()]);

#[derive(Default)]
struct Sent {
    events: u64,
    bytes: u64,
}

impl DeliveryCounts {
    pub(super) fn add(&mut self, protocol: Protocol, events: u64, bytes: u64) {
        let sent = &mut self.0[protocol as usize];
        sent.events += events;
        sent.bytes += bytes;
    }

    /// Adds the counts to the metrics and resets the counts. Also records the time
    /// since `committed` as the delivery latency. Reads the clock once for each
    /// protocol.
    pub(super) fn record(&mut self, metrics: &Metrics, committed: Option<Instant>) {
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
