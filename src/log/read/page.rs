//! A page: events that were read back from a log.

use std::sync::Arc;

use crate::event::{Event, Offset};
use crate::wire::Batch;

/// The number of consecutive offsets that one page covers.
pub(in crate::log) const PAGE_OFFSETS: u64 = 256;

/// Consecutive events that were read back from a log, in ascending order.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events. Readers share pages, so a page has fixed boundaries and may
    /// start at or before the offset that a reader asked for.
    pub batch: Arc<Batch>,
    /// The offset up to which the log was read, also if no event matched. It is
    /// never below the offset that the reader asked for. If the page reaches the end
    /// of the log, it is the head of the log.
    pub scanned_to: Offset,
    /// The offset up to which the log was trimmed when the page was read. If it
    /// is above the offset that the reader asked for, events between the two may
    /// be missing. Otherwise no event is missing.
    pub floor: Offset,
}

/// The range of offsets that a page covers. The boundaries do not depend on the
/// reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::log) struct PageRange {
    start: u64,
    length: u64,
}

impl PageRange {
    /// Returns the range of the page that contains the first offset after `after`.
    pub(in crate::log) fn around(after: Offset) -> PageRange {
        PageRange { start: after.0 - after.0 % PAGE_OFFSETS, length: PAGE_OFFSETS }
    }

    /// Returns the part of the range up to `end`.
    pub(in crate::log) fn until(self, end: Offset) -> PageRange {
        PageRange { length: self.length.min(end.0 - self.start), ..self }
    }

    /// Returns the offset before the first offset of the range.
    pub(in crate::log) fn start(self) -> Offset {
        Offset(self.start)
    }

    /// Returns the last offset of the range.
    pub(in crate::log) fn end(self) -> Offset {
        Offset(self.start + self.length)
    }

    /// Returns the number of offsets in the range.
    pub(in crate::log) fn length(self) -> u64 {
        self.length
    }

    /// Returns the half of the range that contains the first offset after `after`.
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
    /// Returns the page with a corrected floor (the offset of the newest trimmed
    /// event). `floor` is the floor of the log before the read, and the page gets at
    /// least this floor. The read may have found a floor above `head`, because a
    /// commit trims the store before it moves the head. Such a floor is lowered to
    /// `head`.
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
