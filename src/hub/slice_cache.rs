//! The slice that most visits of a pass write, and the counts of a pass.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;

use super::words::SLICE_BYTES;
use crate::event::Offset;
use crate::metrics::{Metrics, Protocol};
use crate::wire::{Batch, Selection, WireFormat};

/// The last slice of the batch that was encoded. Most visits of a pass write the
/// same slice.
#[derive(Default)]
pub(super) struct SliceCache(Option<(WireFormat, Range<u32>, Option<WholeSlice>)>);

/// A range of events of a batch in one slice.
#[derive(Clone)]
pub(super) struct WholeSlice {
    pub(super) bytes: Bytes,
    /// The offset of the last event.
    pub(super) through: Offset,
}

impl SliceCache {
    /// Returns the selected events as one slice. Returns `None` if the events are
    /// not adjacent or have more than [`SLICE_BYTES`].
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
        // The data alone may be too long. Then nothing is encoded.
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

/// The events and bytes that a pass has written since the metrics were updated.
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

    /// Adds the counts to the metrics and resets them. Reads the clock once for
    /// each protocol.
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
