//! A page: events that were read back from a log.

use std::sync::Arc;

use crate::event::{Event, Offset};
use crate::wire::Batch;

/// The number of offsets of a page.
pub(in crate::log) const PAGE_OFFSETS: u64 = 256;

/// Consecutive events that were read back from a log, in ascending order.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events. Readers share pages, so a page has fixed boundaries and may
    /// start at or before the offset that a reader asked for.
    pub batch: Arc<Batch>,
    /// The offset up to which the log was read, also if no event matched. It is
    /// never below the offset that the reader asked for, and at the end of the
    /// log it is the head.
    pub scanned_to: Offset,
    /// The offset up to which the log was trimmed when the page was read. If it
    /// is above the offset that the reader asked for, events between the two may
    /// be missing. Otherwise no event is missing.
    pub floor: Offset,
}

/// The range of offsets of a page. The boundaries do not depend on the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::log) struct PageRange {
    start: u64,
    length: u64,
}

impl PageRange {
    /// Returns the range that has the first offset after `after`.
    pub(in crate::log) fn around(after: Offset) -> PageRange {
        PageRange { start: after.0 - after.0 % PAGE_OFFSETS, length: PAGE_OFFSETS }
    }

    /// Returns the part of the range up to `end`.
    pub(in crate::log) fn until(self, end: Offset) -> PageRange {
        PageRange { length: self.length.min(end.0 - self.start), ..self }
    }

    /// Returns the start. It is exclusive.
    pub(in crate::log) fn start(self) -> Offset {
        Offset(self.start)
    }

    /// Returns the end. It is inclusive.
    pub(in crate::log) fn end(self) -> Offset {
        Offset(self.start + self.length)
    }

    /// Returns the number of offsets.
    pub(in crate::log) fn length(self) -> u64 {
        self.length
    }

    /// Returns the half that has the first offset after `after`.
    pub(in crate::log) fn half(self, after: Offset) -> PageRange {
        let lower = self.length / 2;
        let middle = self.start + lower;
        if after.0 >= middle {
            PageRange { start: middle, length: self.length - lower }
        } else {
            PageRange { length: lower, ..self }
        }
    }
}

impl Page {
    /// Returns the page with a floor of at least `floor`, the floor of the log
    /// before the read. The floor that the read found may be above `head`,
    /// because a commit trims the store before it moves the head. Such a floor is
    /// lowered to `head`.
    pub(in crate::log) fn trimmed(self, floor: Offset, head: Offset) -> Page {
        Page { floor: self.floor.min(head).max(floor), ..self }
    }
}

/// Returns a page of all events of `batch`.
pub(in crate::log) fn whole(batch: Arc<Batch>) -> Page {
    let scanned_to = batch.end();
    Page { batch, scanned_to, floor: Offset::ZERO }
}

/// Returns the memory that a batch of `events` takes, in bytes. The encoded events
/// take about as much as their data.
pub(in crate::log) fn footprint(events: &[Event]) -> usize {
    const BATCH: usize = 512;
    const EVENT: usize = 256;
    BATCH + events.iter().map(|event| EVENT + 2 * event.data.len()).sum::<usize>()
}
