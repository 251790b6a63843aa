//! Runs and slices. A run is the matching events of one batch for one subscription,
//! in a ring. A slice is a part of these events in encoded form, for the writer.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::words::{Bounds, SubscriptionId, WriteBudget};
use crate::event::Offset;
use crate::wire::{Batch, Selection, WireFormat};

/// The events of one batch that wait in a ring for one subscription.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) subscription: SubscriptionId,
    pub(super) batch: Arc<Batch>,
    selection: Selection,
    format: WireFormat,
    /// The first event that still waits, as an index into `selection`.
    next: u32,
    /// The end of the events that still wait, as an exclusive index into
    /// `selection`.
    end: u32,
    /// The encoded size of the events that still wait, in bytes.
    bytes: u64,
}

impl Run {
    pub(super) fn new(
        subscription: SubscriptionId,
        batch: Arc<Batch>,
        selection: Selection,
        format: WireFormat,
    ) -> Run {
        let bytes = batch.encoded(format).selected_bytes(&selection);
        let end = selection.len();
        Run { subscription, batch, selection, format, next: 0, end, bytes }
    }

    pub(super) fn events(&self) -> u64 {
        u64::from(self.end - self.next)
    }

    /// Returns the positions in the batch of the events that still wait.
    pub(super) fn positions(&self) -> impl DoubleEndedIterator<Item = u32> {
        (self.next..self.end).map(|n| self.selection.position(n))
    }

    /// Adds slices of the run's events to `out` until `budget` is used up. The
    /// events stay in the run.
    pub(super) fn peek(&self, out: &mut Vec<Slice>, budget: &mut WriteBudget) {
        let Run { subscription, batch, selection, format, next, end, .. } = self;
        slices(out, budget, *subscription, batch, selection, *format, *next..*end);
    }

    /// Changes the wire format of the run's events, and computes their encoded size
    /// again.
    pub(super) fn change_format(&mut self, format: WireFormat) {
        self.format = format;
        self.bytes = self.bytes_at(self.next..self.end);
    }

    /// Returns a run of the same batch with the selection `kept`.
    pub(super) fn with_selection(self, kept: Selection) -> Run {
        Run::new(self.subscription, self.batch, kept, self.format)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the encoded size of a part of the run's events, in bytes. `places` is
    /// a range of indexes into the selection.
    fn bytes_at(&self, places: Range<u32>) -> u64 {
        let encoded = self.batch.encoded(self.format);
        match &self.selection {
            Selection::Run(run) => {
                encoded.bytes_of(&(run.start + places.start..run.start + places.end))
            }
            Selection::Sparse(picks) => {
                let picks = &picks[places.start as usize..places.end as usize];
                picks.iter().map(|&at| encoded.bytes_of(&(at..at + 1))).sum()
            }
        }
    }

    /// Returns how many of the first events of the run together have at least
    /// `bytes` bytes. Returns the number of all events if the whole run has fewer
    /// bytes.
    fn events_with_bytes(&self, bytes: u64) -> u32 {
        if bytes >= self.bytes {
            return self.end - self.next;
        }
        let enough = |count: u32| self.bytes_at(self.next..self.next + count) >= bytes;
        let (mut less, mut most) = (0, self.end - self.next);
        while less < most {
            let middle = u32::midpoint(less, most);
            if enough(middle) { most = middle } else { less = middle + 1 }
        }
        most
    }

    /// Drops the first events of the run. Drops as many as are needed to remove at
    /// least the events and the bytes of `excess`, but at most `most` events.
    /// Returns the offset of the last dropped event, and the number of dropped
    /// events.
    pub(super) fn drop_first(&mut self, excess: Bounds, most: u64) -> (Offset, u64) {
        let at_most = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let count = at_most(excess.events).max(self.events_with_bytes(excess.bytes));
        let count = count.min(self.end - self.next).min(at_most(most));
        if count == 0 {
            return (Offset::ZERO, 0);
        }
        self.bytes -= self.bytes_at(self.next..self.next + count);
        self.next += count;
        let last = self.selection.position(self.next - 1);
        (self.batch.events()[last as usize].offset, u64::from(count))
    }

    /// Drops the last events of the run until the rest fits into `free`. Keeps at
    /// least the first `least` events.
    pub(super) fn truncate(&mut self, free: Bounds, least: u32) {
        let events = u32::try_from(free.events).unwrap_or(u32::MAX).min(self.end - self.next);
        let held = self.events_with_bytes(free.bytes);
        let fits = self.bytes_at(self.next..self.next + held) <= free.bytes;
        let count = events.min(if fits { held } else { held - 1 });
        self.end = self.next + count.max(least).min(self.end - self.next);
        self.bytes = self.bytes_at(self.next..self.end);
    }

    /// Removes the events up to the offset `through` from the run, because they are
    /// written.
    pub(super) fn remove_written(&mut self, through: Offset) {
        let encoded = self.batch.encoded(self.format);
        match &self.selection {
            Selection::Run(run) => {
                let from = run.start + self.next;
                let to = self.batch.position_after(through).clamp(from, run.start + self.end);
                self.bytes -= encoded.bytes_of(&(from..to));
                self.next = to - run.start;
            }
            Selection::Sparse(picks) => {
                let events = self.batch.events();
                for &position in &picks[self.next as usize..self.end as usize] {
                    if events[position as usize].offset > through {
                        break;
                    }
                    self.bytes -= encoded.bytes_of(&(position..position + 1));
                    self.next += 1;
                }
            }
        }
    }
}

/// A drop marker: an item of the ring that replaces events which the overflow policy
/// has dropped. The client gets a `gap` message when the marker reaches the front of
/// the ring.
#[derive(Clone, Copy, Debug)]
pub struct DropMarker {
    pub(super) subscription: SubscriptionId,
    /// The offset of the last dropped event.
    pub to: Offset,
    /// The number of dropped events.
    pub count: u64,
    /// The end of the last batch that was conflated. Up to this offset, the ring has
    /// only the newest event of each resource for this subscription.
    pub(super) scanned_to: Offset,
}

impl DropMarker {
    pub(super) fn new(subscription: SubscriptionId) -> DropMarker {
        DropMarker { subscription, to: Offset::ZERO, count: 0, scanned_to: Offset::ZERO }
    }

    pub(super) fn add(&mut self, to: Offset, count: u64) {
        self.to = self.to.max(to);
        self.count += count;
    }

    /// Adds the dropped events of another marker to this marker.
    pub(super) fn merge(&mut self, other: DropMarker) {
        self.add(other.to, other.count);
        self.scanned_to = self.scanned_to.max(other.scanned_to);
    }
}

/// Encoded events of one subscription for the writer of the connection. The bytes
/// are shared with other connections.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Complete frames, as they are written to the socket.
    pub bytes: Bytes,
    /// The subscription that the events belong to.
    pub subscription: SubscriptionId,
    /// The offset of the last event in the slice.
    pub through: Offset,
    /// The number of events in the slice.
    pub events: u32,
    /// The time when the events were committed. `None` if the batch was read from
    /// disk.
    pub committed: Option<std::time::Instant>,
}

/// Adds slices of a batch's events to `out`, until `budget` is used up. `range`
/// selects the events, as indexes into `selection`.
pub fn slices(
    out: &mut Vec<Slice>,
    budget: &mut WriteBudget,
    subscription: SubscriptionId,
    batch: &Batch,
    selection: &Selection,
    format: WireFormat,
    range: Range<u32>,
) {
    let encoded = batch.encoded(format);
    let Range { start: mut next, end } = range;
    while next < end && !budget.is_full() {
        let mut run = selection.run_from(next);
        run.end = run.end.min(run.start.saturating_add(budget.events.min(end - next)));
        let (bytes, events) = encoded.slice(run.clone(), budget.slice_bytes());
        budget.take(&bytes, events);
        let last = run.start + events - 1;
        out.push(Slice {
            bytes,
            subscription,
            through: batch.events()[last as usize].offset,
            events,
            committed: batch.committed(),
        });
        next += events;
    }
}
