//! The overflow policies: the reaction to an event that does not fit into a ring
//! (`docs/delivery.md#push`, `docs/protocol.md#streams`).

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use super::ring::{DropProgress, OnEviction, Ring};
use super::run::{DropMarker, Run};
use super::state::State;
use super::subscription::Subscription;
use super::words::{Bounds, EndReason, Overflow, SubscriptionId};
use crate::event::{Offset, ResourceId};
use crate::wire::{Batch, Selection};

/// The maximum number of runs in the ring of a blocked socket with the policy
/// `log`. With more runs, the subscription catches up. A run costs about 80 bytes,
/// so a stalled client of many small batches costs less than 8 KiB.
pub(super) const BLOCKED_RUNS_MAX: usize = 64;

impl State {
    /// Applies the overflow policy of a subscription to a run that does not fit.
    pub(super) fn overflow(&mut self, id: SubscriptionId, run: Run, bounds: Bounds) {
        let Some(subscription) = self.subscription(id) else { return };
        let (waiting, end) = (subscription.waiting, run.batch.end());
        let change = match subscription.spec.overflow {
            Overflow::Log => None,
            Overflow::Conflate => self.ring.conflate(run, bounds),
            Overflow::DropOldest => Some(self.ring.push_over_oldest(run, bounds)),
            Overflow::DropNewest => Some(self.ring.push_what_fits(run, bounds)),
            Overflow::Disconnect => {
                self.end_reason.get_or_insert(EndReason::Overflow);
                None
            }
        };
        let Some(subscription) = self.subscription(id) else { return };
        if let Some(change) = change {
            subscription.waiting = waiting.saturating_add_signed(change);
            subscription.pushed(end);
        } else {
            self.start_catching_up(id);
        }
    }

    /// Makes a subscription catch up from the log. Its events and drop markers leave
    /// the ring, because the subscription reads all these events from the log.
    pub(super) fn start_catching_up(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.subscription(id) {
            subscription.fall_behind();
        }
        self.ring.remove(id);
    }
}

impl Subscription {
    /// Returns the reaction to the eviction of the subscription's oldest batch from
    /// the tail of the log. The subscription catches up, or drops the events if its
    /// policy is to drop.
    pub(super) fn evict(&mut self) -> OnEviction {
        match self.spec.overflow {
            Overflow::DropOldest | Overflow::DropNewest => {
                OnEviction::Drop(DropProgress::new(self.id))
            }
            Overflow::Log | Overflow::Conflate | Overflow::Disconnect => {
                self.fall_behind();
                OnEviction::CatchUp
            }
        }
    }
}

/// The overflow policies that change a ring. Each of these methods returns the
/// change of the number of the subscription's events and drop markers.
impl Ring {
    /// Pushes `run`, and drops the oldest events of the subscription until the ring
    /// is within its bounds. Events whose slices the writer may have stay. The newest
    /// event also stays, even if the ring then has up to twice its maximum bytes:
    /// events of other subscriptions must not suppress the newest state.
    fn push_over_oldest(&mut self, run: Run, bounds: Bounds) -> i64 {
        let mut marker = DropMarker::new(run.subscription);
        let mut change = run.events().cast_signed();
        let mut first = None;
        self.push(run);
        while self.is_over(bounds) && self.events() > 1 {
            let Some(index) = self.first_item_of(marker.subscription, first) else { break };
            first.get_or_insert(index);
            let is_newest = index + 1 == self.len() && self.bytes() <= 2 * bounds.bytes;
            let dropped = self.drop_excess(index, bounds, is_newest, &mut marker);
            change -= dropped;
            if dropped == 0 {
                break;
            }
        }
        change + self.insert_marker(first, marker)
    }

    /// Pushes the first events of `run` that fit, and drops the others.
    fn push_what_fits(&mut self, mut run: Run, bounds: Bounds) -> i64 {
        let mut marker = DropMarker::new(run.subscription);
        marker.add(run.batch.end(), run.events());
        // An empty ring accepts one event of any size.
        let least = u32::from(self.events() == 0);
        let free = Bounds {
            events: bounds.events.saturating_sub(self.events()),
            bytes: bounds.bytes.saturating_sub(self.bytes()),
        };
        run.truncate(free, least);
        let kept = run.events();
        marker.count -= kept;
        if kept > 0 {
            self.push(run);
        }
        kept.cast_signed() + self.append_marker(marker)
    }

    /// Pushes `run`, and keeps only the newest event of each resource. Returns `None`
    /// if this does not free enough, or frees less than a quarter of the events:
    /// the next push would then conflate again.
    fn conflate(&mut self, run: Run, bounds: Bounds) -> Option<i64> {
        let (id, end) = (run.subscription, run.batch.end());
        let had = self.count_of(id);
        self.push(run);
        let (kept, mut marker) = self.newest_of(id);
        marker.scanned_to = end;
        let events = marker.count + kept.iter().map(|it| u64::from(it.len())).sum::<u64>();
        if marker.count * 4 < events {
            return None;
        }
        let first = self.replace(id, kept, &mut marker);
        self.insert_marker(first, marker);
        (!self.is_over(bounds)).then(|| self.count_of(id) - had)
    }

    /// Returns the newest event of each resource in each run of a subscription,
    /// oldest run first, and a drop marker for the other events.
    fn newest_of(&self, id: SubscriptionId) -> (Vec<Selection>, DropMarker) {
        let mut seen = HashSet::new();
        let mut marker = DropMarker::new(id);
        let mut kept: Vec<Selection> = self
            .droppable_runs(id)
            .iter()
            .rev()
            .map(|run| newest(&run.batch, run.positions().rev(), &mut seen, &mut marker))
            .collect();
        kept.reverse();
        (kept, marker)
    }
}

/// Selects the newest event of each resource in `selection`, and ignores the events
/// after `limit`. Returns the selection, the number of omitted older events, and
/// the offset of the last of them. Events without a resource count as events of
/// one resource.
pub fn newest_of_each(
    batch: &Batch,
    selection: &Selection,
    limit: Offset,
) -> (Selection, u64, Offset) {
    let mut marker = DropMarker::new(SubscriptionId::NONE);
    let positions = (0..selection.len()).map(|n| selection.position(n)).rev();
    let within = positions.filter(|&at| batch.events()[at as usize].offset <= limit);
    let kept = newest(batch, within, &mut HashSet::new(), &mut marker);
    (kept, marker.count, marker.to)
}

fn newest<'a>(
    batch: &'a Batch,
    newest_first: impl Iterator<Item = u32>,
    seen: &mut HashSet<Option<&'a ResourceId>>,
    marker: &mut DropMarker,
) -> Selection {
    let mut kept = Vec::new();
    for position in newest_first {
        let event = &batch.events()[position as usize];
        if seen.insert(event.subject.as_ref()) {
            kept.push(position);
        } else {
            marker.add(event.offset, 1);
        }
    }
    kept.reverse();
    Selection::of(kept)
}
