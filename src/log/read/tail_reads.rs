//! Reads from the tail of a log: the newest batches, in memory. A log in memory has
//! only its tail. An event that is evicted from the tail is lost then, and the floor
//! rises to its offset.

use std::sync::Arc;
use std::time::Duration;

use super::page::{Page, PageRange, footprint};
use super::tail::{Log, TailBatch};
use crate::event::{Event, Offset, ResourceId, Timestamp};
use crate::log::StorageKind;
use crate::store::LogBounds;
use crate::wire::Batch;

/// The largest number of events in a page of one resource.
const PAGE_EVENTS: usize = 256;
/// The largest number of events that are searched for one page of one resource. A
/// log in memory has no index, and the search blocks the thread of the reader. The
/// comparison of this number of resource ids takes no longer than the encoding of
/// one page.
const SEARCHED_EVENTS: u64 = 8192;

impl Log {
    /// Returns the offset up to which events were evicted from the tail, and the
    /// batches with events after the offset `after`. The list of batches ends as
    /// soon as it has `events_max` events after `after`.
    pub(in crate::log) fn read_tail(
        &self,
        after: Offset,
        events_max: u64,
    ) -> (Offset, Vec<Arc<Batch>>) {
        let tail = self.tail.lock();
        let first = tail.batches.partition_point(|entry| entry.batch.end() <= after);
        let mut events = 0;
        let is_needed = |entry: &&TailBatch| {
            let is_needed = events < events_max;
            let length = entry.batch.events().len() as u64;
            events += length - u64::from(entry.batch.position_after(after));
            is_needed
        };
        let batches = tail.batches.range(first..).take_while(is_needed);
        (tail.from, batches.map(|entry| entry.batch.clone()).collect())
    }

    /// Returns the events of `range` from the tail, followed by the first event
    /// after the range if there is one, and a floor. No event of the range above
    /// this floor is missing. Returns `None` if the log is on disk and the tail no
    /// longer has some of the events.
    pub(in crate::log) fn recent(&self, range: PageRange) -> Option<(Offset, Vec<Event>)> {
        let (from, batches) = self.read_tail(range.start(), range.length() + 1);
        let is_whole = from <= range.start();
        if !is_whole && self.storage() == StorageKind::Disk {
            return None;
        }
        let mut events = Vec::new();
        for event in batches.iter().flat_map(|batch| batch.events()) {
            if event.offset > range.start() {
                events.push(event.clone());
            }
            if event.offset > range.end() {
                break;
            }
        }
        // If the tail has the whole range, no event is missing, even if retention has
        // trimmed some of the events since.
        Some((if is_whole { Offset::ZERO } else { from }, events))
    }

    /// Returns a page of events of one resource after the offset `after`, from a log
    /// in memory. `floor` and `head` are the bounds of the log that the caller has
    /// read before.
    pub(in crate::log) fn read_tail_of(
        &self,
        subject: &ResourceId,
        after: Offset,
        (floor, head): (Offset, Offset),
    ) -> Page {
        let after = after.max(floor);
        let (from, batches) = self.read_tail(after, SEARCHED_EVENTS);
        let mut scanned_to = batches.last().map_or(after.max(head), |batch| batch.end());
        let mut events = Vec::new();
        for event in batches.iter().flat_map(|batch| batch.events()) {
            if event.offset > after && event.subject.as_ref() == Some(subject) {
                events.push(event.clone());
                if events.len() == PAGE_EVENTS {
                    scanned_to = event.offset;
                    break;
                }
            }
        }
        let batch = Arc::new(Batch::new(self.identity().clone(), events, None));
        Page { batch, scanned_to, floor: floor.max(from) }
    }

    /// Returns the result of [`Log::before`] for a log in memory.
    pub(in crate::log) fn tail_before(&self, time: Timestamp) -> (Offset, bool) {
        let tail = self.tail.lock();
        let (bounds, step) = (tail.bounds, tail.step);
        let is_whole = bounds.keeps_since(step, time);
        let is_before = |event: &Event| event.offset <= step || event.time < time;
        let batches = &tail.batches;
        let index =
            batches.partition_point(|entry| entry.batch.events().last().is_some_and(is_before));
        let before = match batches.get(index) {
            Some(entry) => {
                let events = entry.batch.events();
                Offset(events[events.partition_point(is_before)].offset.0 - 1)
            }
            None => batches.back().map_or(bounds.head, |entry| entry.batch.end()),
        };
        (before.max(bounds.floor), is_whole)
    }

    /// Sets the bounds of the log to their values after a published commit.
    pub(in crate::log) fn set_bounds(&self, bounds: LogBounds) {
        self.tail.lock().bounds = bounds;
    }

    /// Returns whether retention has trimmed all events of the oldest batch in the
    /// tail. Only live subscribers that are a little late still need such a batch.
    pub(in crate::log) fn is_oldest_trimmed(&self) -> bool {
        let floor = self.floor();
        self.tail.lock().batches.front().is_some_and(|entry| entry.batch.end() <= floor)
    }

    /// Returns the oldest batch of the tail and the number of its events to evict
    /// next, or `None` if no event may be evicted. The newest batch is not evicted
    /// for the duration `shown` after its commit, also if it is large, because all
    /// live subscribers read it from the tail. A log in memory always keeps its
    /// newest event. If only one batch is left, at most half of it is evicted at a
    /// time, or the part that is trimmed already.
    pub(in crate::log) fn oldest(&self, shown: Duration) -> Option<(Arc<Batch>, usize)> {
        let floor = self.floor();
        let tail = self.tail.lock();
        let oldest = tail.batches.front()?.batch.clone();
        let all = oldest.events().len();
        if tail.batches.len() > 1 {
            return Some((oldest, all));
        }
        if oldest.committed().is_some_and(|committed| committed.elapsed() < shown) {
            return None;
        }
        let count = match self.storage() {
            StorageKind::Disk => all,
            StorageKind::Memory => (all / 2).max(oldest.position_after(floor) as usize),
        };
        (count > 0).then_some((oldest, count))
    }

    /// Removes the first `count` events of the oldest batch from the tail. Returns
    /// the freed memory, in bytes.
    pub(in crate::log) fn evict(&self, count: usize) -> usize {
        let mut tail = self.tail.lock();
        let Some(TailBatch { batch, bytes }) = tail.batches.pop_front() else { return 0 };
        let (evicted, rest) = batch.events().split_at(count);
        tail.from = evicted.last().map_or(tail.from, |event| event.offset);
        if rest.is_empty() {
            return bytes;
        }
        let rest = Batch::new(self.identity().clone(), rest.to_vec(), batch.committed());
        let left = footprint(rest.events());
        tail.batches.push_front(TailBatch { batch: Arc::new(rest), bytes: left });
        bytes.saturating_sub(left)
    }
}
