//! A page: events read back. A page knows nothing of the log that it came from.

use std::sync::Arc;

use crate::event::{Event, Offset};
use crate::wire::Batch;

/// Offsets of a page.
pub(in crate::log) const PAGE_OFFSETS: u64 = 256;

/// Events read back, in order, and how far the reading has come.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events. With fixed boundaries in offset where a page is shared, so
    /// it may begin at or before the position that was asked for.
    pub batch: Arc<Batch>,
    /// The last offset that was looked at: the log's end when there is no
    /// more, even where nothing matched. Never below the position asked for.
    pub scanned_to: Offset,
    /// Where it is above the position asked for, events between the two may
    /// be missing: it is the last one that had been trimmed. Where it is not,
    /// nothing is missing.
    pub floor: Offset,
}

/// A run of offsets, of which a page holds the events. Its boundaries do not
/// depend on the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::log) struct PageRange {
    start: u64,
    length: u64,
}

impl PageRange {
    /// The page that holds what follows `after`.
    pub(in crate::log) fn around(after: Offset) -> PageRange {
        PageRange { start: after.0 - after.0 % PAGE_OFFSETS, length: PAGE_OFFSETS }
    }

    /// The part of the range up to `end`.
    pub(in crate::log) fn until(self, end: Offset) -> PageRange {
        PageRange { length: self.length.min(end.0 - self.start), ..self }
    }

    /// Exclusive.
    pub(in crate::log) fn start(self) -> Offset {
        Offset(self.start)
    }

    /// Inclusive.
    pub(in crate::log) fn end(self) -> Offset {
        Offset(self.start + self.length)
    }

    /// How many offsets it has.
    pub(in crate::log) fn length(self) -> u64 {
        self.length
    }

    /// The half that holds what follows `after`.
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
    /// With the floor that was met, if it is above the page's own. What a view
    /// finds may be trimmed further than the head has moved yet.
    pub(in crate::log) fn trimmed(self, floor: Offset, head: Offset) -> Page {
        Page { floor: self.floor.min(head).max(floor), ..self }
    }
}

pub(in crate::log) fn whole(batch: Arc<Batch>) -> Page {
    let upto = batch.end();
    Page { batch, scanned_to: upto, floor: Offset::ZERO }
}

/// Memory that a batch takes: its events, and about as much again encoded.
pub(in crate::log) fn footprint(events: &[Event]) -> usize {
    const BATCH: usize = 512;
    const EVENT: usize = 256;
    BATCH + events.iter().map(|event| EVENT + 2 * event.data.len()).sum::<usize>()
}
