//! The overflow policies: the rules for events that do not fit into a ring
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

/// The maximum number of runs in the ring of a blocked socket, with the policy
/// `log`. A blocked socket accepts no bytes. A run is the matching events of one
/// batch for one subscription. With more runs, the subscription catches up. A run
/// costs about 80 bytes, so a stalled client of many small batches costs less than 8
/// KiB.
pub(super) const BLOCKED_RUNS_MAX: usize = 64;

impl State {
    /// Applies the overflow policy of a subscription to `run`, which does not fit
    /// into the ring. `bounds` are the limits of the ring.
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

    /// Makes a subscription catch up from the log. Removes its events and drop
    /// markers from the ring, because the subscription reads all these events from
    /// the log.
    pub(super) fn start_catching_up(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.subscription(id) {
            subscription.fall_behind();
        }
        self.ring.remove(id);
    }
}

impl Subscription {
    /// Handles the eviction of a batch from the memory of the log, if the ring still
    /// has events of this batch for the subscription. If the overflow policy is to
    /// drop, returns [`OnEviction::Drop`]. With any other policy, makes the
    /// subscription catch up and returns [`OnEviction::CatchUp`].
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
/// change of the number of the subscription's events and drop markers in the ring.
impl Ring {
    /// Pushes `run`, and then drops the oldest events of the subscription until the
    /// ring is within `bounds`. Does not drop events whose slices the writer may
    /// have. Also keeps the newest event, even if the ring then has up to twice its
    /// maximum bytes: events of other subscriptions must not suppress the newest
    /// state.
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

    /// Pushes as many of the first events of `run` as fit into the ring, and drops
    /// the others.
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

    /// Pushes `run`, and then keeps only the newest event of each resource in the
    /// ring. Returns `None` if the ring is still over `bounds`, or if fewer than a
    /// quarter of the events were removed. In the second case, the next push would
    /// need to conflate again.
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

    /// Selects the newest event of each resource among all events of a subscription
    /// in the ring. Returns one selection for each run, oldest run first, and a drop
    /// marker for the events that are not selected. Omits the runs whose slices the
    /// writer may have.
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
/// after `limit`. Returns the new selection, the number of omitted older events, and
/// the offset of the last omitted event. All events without a resource count as
/// events of one resource.
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
