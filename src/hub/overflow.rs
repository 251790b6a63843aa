//! What happens when an event does not fit into a ring
//! (`docs/architecture.md#delivery`, `docs/protocol.md#streams`).

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use super::ring::{Dropped, Evicted, Ring};
use super::run::{DropMarker, Run};
use super::state::State;
use super::subscription::Subscription;
use super::words::{Bounds, EndReason, Overflow, SubscriptionId};
use crate::event::{Offset, ResourceId};
use crate::wire::{Batch, Selection};

/// Runs that wait on a socket that takes nothing, before a `log` subscription
/// reads for itself: each costs about 80 bytes, so that a stalled reader of
/// many small batches stays below 8 KiB instead of a ring's worth of runs.
pub(super) const BLOCKED_RUNS_MAX: usize = 64;

impl State {
    /// Deals with a run that does not fit, by the subscription's own policy.
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

    /// From here on the subscription reads the log by itself. What waits for
    /// it is read there, so nothing is lost, and nothing of it has to be told.
    pub(super) fn start_catching_up(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.subscription(id) {
            subscription.fall_behind();
        }
        self.ring.remove(id);
    }
}

impl Subscription {
    /// Its oldest run is of a batch that its log's tail does not hold any more:
    /// it reads the log, or, where its policy is to drop, goes without.
    pub(super) fn evict(&mut self) -> Evicted {
        match self.spec.overflow {
            // Told later, by a mark.
            Overflow::DropOldest | Overflow::DropNewest => Evicted::Drop(Dropped::new(self.id)),
            Overflow::Log | Overflow::Conflate | Overflow::Disconnect => {
                self.fall_behind();
                Evicted::CatchUp
            }
        }
    }
}

/// Each gives by how much the subscription's items in the ring grow: events,
/// and marks of what was lost.
impl Ring {
    /// Puts `run` in and drops the subscription's oldest until the ring is
    /// within its bounds. What is in the writer's slices stays, and so does the
    /// newest event of all, up to once more the bytes: what others of the
    /// socket have waiting must not hold back how things are now.
    fn push_over_oldest(&mut self, run: Run, bounds: Bounds) -> i64 {
        let mut lost = DropMarker::new(run.subscription);
        let mut change = run.events().cast_signed();
        let mut first = None;
        self.push(run);
        while self.is_over(bounds) && self.events() > 1 {
            let Some(place) = self.first_item_of(lost.subscription, first) else { break };
            first.get_or_insert(place);
            let is_newest = place + 1 == self.len() && self.bytes() <= 2 * bounds.bytes;
            let dropped = self.drop_excess(place, bounds, is_newest, &mut lost);
            change -= dropped;
            if dropped == 0 {
                break;
            }
        }
        change + self.insert_marker(first, lost)
    }

    /// Puts in of `run` what fits and drops the rest.
    fn push_what_fits(&mut self, mut run: Run, bounds: Bounds) -> i64 {
        let mut lost = DropMarker::new(run.subscription);
        lost.add(run.batch.end(), run.events());
        // As a run of one event would: an empty ring takes one of any size.
        let least = u32::from(self.events() == 0);
        let free = Bounds {
            events: bounds.events.saturating_sub(self.events()),
            bytes: bounds.bytes.saturating_sub(self.bytes()),
        };
        run.truncate(free, least);
        let kept = run.events();
        lost.count -= kept;
        if kept > 0 {
            self.push(run);
        }
        kept.cast_signed() + self.append_marker(lost)
    }

    /// Keeps the newest event of each resource, `run` included. None when that
    /// frees less than a quarter, since it would have to be done again at
    /// once, or not enough.
    fn conflate(&mut self, run: Run, bounds: Bounds) -> Option<i64> {
        let (id, end) = (run.subscription, run.batch.end());
        let had = self.count_of(id);
        self.push(run);
        let (kept, mut lost) = self.newest_of(id);
        lost.scanned_to = end;
        let events = lost.count + kept.iter().map(|it| u64::from(it.len())).sum::<u64>();
        if lost.count * 4 < events {
            return None;
        }
        let first = self.replace(id, kept, &mut lost);
        self.insert_marker(first, lost);
        (!self.is_over(bounds)).then(|| self.count_of(id) - had)
    }

    /// For each run of a subscription, the oldest first, what in it is the
    /// newest of its resource; and what is not.
    fn newest_of(&self, id: SubscriptionId) -> (Vec<Selection>, DropMarker) {
        let mut seen = HashSet::new();
        let mut lost = DropMarker::new(id);
        let mut kept: Vec<Selection> = self
            .droppable_runs(id)
            .iter()
            .rev()
            .map(|run| newest(&run.batch, run.positions().rev(), &mut seen, &mut lost))
            .collect();
        kept.reverse();
        (kept, lost)
    }
}

/// The newest event of each resource in `selection`, of those up to `limit`
/// alone; how many are left out, and the last of them. Events without a
/// resource are of one.
pub fn newest_of_each(
    batch: &Batch,
    selection: &Selection,
    limit: Offset,
) -> (Selection, u64, Offset) {
    let mut lost = DropMarker::new(SubscriptionId::NONE);
    let positions = (0..selection.len()).map(|n| selection.position(n)).rev();
    let within = positions.filter(|&at| batch.events()[at as usize].offset <= limit);
    let kept = newest(batch, within, &mut HashSet::new(), &mut lost);
    (kept, lost.count, lost.to)
}

fn newest<'a>(
    batch: &'a Batch,
    newest_first: impl Iterator<Item = u32>,
    seen: &mut HashSet<Option<&'a ResourceId>>,
    lost: &mut DropMarker,
) -> Selection {
    let mut kept = Vec::new();
    for position in newest_first {
        let event = &batch.events()[position as usize];
        if seen.insert(event.subject.as_ref()) {
            kept.push(position);
        } else {
            lost.add(event.offset, 1);
        }
    }
    kept.reverse();
    Selection::of(kept)
}
