//! Reading from a log's tail. For a log that is kept in memory that is all
//! there is of it: what the tail has given up is gone, and the floor says so.

use std::sync::Arc;
use std::time::Duration;

use super::page::{Page, PageRange, footprint};
use super::tail::{Log, TailBatch};
use crate::event::{Event, Offset, ResourceId, Timestamp};
use crate::log::StorageKind;
use crate::store::LogBounds;
use crate::wire::Batch;

/// Events of one resource in a page.
const PAGE_EVENTS: usize = 256;
/// Events that a page of one resource looks through. There is no index in
/// memory, and the reader's thread is busy meanwhile: so many comparisons of
/// short texts are no more than encoding one page.
const LOOKED_AT_EVENTS: u64 = 8192;

impl Log {
    /// Where it is kept.
    pub fn medium(&self) -> StorageKind {
        self.medium
    }

    /// The batches with what follows `after`, as many as have `events_max` of
    /// these between them; and the offset up to which the tail has given up
    /// what it had.
    pub(in crate::log) fn read_tail(
        &self,
        after: Offset,
        events_max: u64,
    ) -> (Offset, Vec<Arc<Batch>>) {
        let tail = self.tail.lock();
        let first = tail.batches.partition_point(|held| held.batch.end() <= after);
        let mut events = 0;
        let wanted = |held: &&TailBatch| {
            let wanted = events < events_max;
            let length = held.batch.events().len() as u64;
            events += length - u64::from(held.batch.position_after(after));
            wanted
        };
        let batches = tail.batches.range(first..).take_while(wanted);
        (tail.from, batches.map(|held| held.batch.clone()).collect())
    }

    /// The events of `span` and the first one behind it, if memory holds them;
    /// or, where there is nothing but memory, those that it does hold. Above
    /// the offset that comes first none is missing.
    pub(in crate::log) fn recent(&self, span: PageRange) -> Option<(Offset, Vec<Event>)> {
        let (from, batches) = self.read_tail(span.start(), span.length() + 1);
        let whole = from <= span.start();
        if !whole && self.medium == StorageKind::Disk {
            return None;
        }
        let mut events = Vec::new();
        for event in batches.iter().flat_map(|batch| batch.events()) {
            if event.offset > span.start() {
                events.push(event.clone());
            }
            if event.offset > span.end() {
                break;
            }
        }
        Some((if whole { Offset::ZERO } else { from }, events))
    }

    /// A page of one resource's events after `after`, of a log in memory whose
    /// floor and head were these before.
    pub(in crate::log) fn read_tail_of(
        &self,
        subject: &ResourceId,
        after: Offset,
        (floor, head): (Offset, Offset),
    ) -> Page {
        let after = after.max(floor);
        let (from, batches) = self.read_tail(after, LOOKED_AT_EVENTS);
        let mut upto = batches.last().map_or(after.max(head), |batch| batch.end());
        let mut found = Vec::new();
        for event in batches.iter().flat_map(|batch| batch.events()) {
            if event.offset > after && event.subject.as_ref() == Some(subject) {
                found.push(event.clone());
                if found.len() == PAGE_EVENTS {
                    upto = event.offset;
                    break;
                }
            }
        }
        let batch = Arc::new(Batch::new(self.origin().clone(), found, None));
        Page { batch, scanned_to: upto, floor: floor.max(from) }
    }

    /// [`Log::before`] of a log in memory.
    pub(in crate::log) fn tail_before(&self, time: Timestamp) -> (Offset, bool) {
        let tail = self.tail.lock();
        let (place, step) = (tail.bounds, tail.step);
        let whole = place.keeps_since(step, time);
        let earlier = |event: &Event| event.offset <= step || event.time < time;
        let n =
            tail.batches.partition_point(|held| held.batch.events().last().is_some_and(earlier));
        let found = match tail.batches.get(n) {
            Some(held) => {
                let events = held.batch.events();
                Offset(events[events.partition_point(earlier)].offset.0 - 1)
            }
            None => tail.batches.back().map_or(place.head, |held| held.batch.end()),
        };
        (found.max(place.floor), whole)
    }

    /// Sets the bounds that a commit left.
    pub(in crate::log) fn set_bounds(&self, bounds: LogBounds) {
        self.tail.lock().bounds = bounds;
    }

    /// Whether the oldest batch is below the floor: in memory for those who
    /// are live and a little late, and for nobody else.
    pub(in crate::log) fn is_oldest_trimmed(&self) -> bool {
        let floor = self.floor();
        self.tail.lock().batches.front().is_some_and(|held| held.batch.end() <= floor)
    }

    /// What memory gives back next: the oldest batch, and how many of its
    /// events. The newest one stays for `shown` after its commit, however
    /// large: everybody who is live takes it from here. Of a log in memory its
    /// newest event stays for good, so of the last batch no more than half
    /// goes at a time.
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
        let count = match self.medium {
            StorageKind::Disk => all,
            StorageKind::Memory => (all / 2).max(oldest.position_after(floor) as usize),
        };
        (count > 0).then_some((oldest, count))
    }

    /// Drops the first `count` events of the oldest batch from memory; tells
    /// what that frees.
    pub(in crate::log) fn evict(&self, count: usize) -> usize {
        let mut tail = self.tail.lock();
        let Some(TailBatch { batch, bytes }) = tail.batches.pop_front() else { return 0 };
        let (gone, rest) = batch.events().split_at(count);
        tail.from = gone.last().map_or(tail.from, |event| event.offset);
        if rest.is_empty() {
            return bytes;
        }
        let rest = Batch::new(self.origin().clone(), rest.to_vec(), batch.committed());
        let left = footprint(rest.events());
        tail.batches.push_front(TailBatch { batch: Arc::new(rest), bytes: left });
        bytes.saturating_sub(left)
    }
}
