//! The ring of a connection: a queue of runs and drop markers. A run is the matching
//! events of one shared batch for one subscription.

use std::collections::{HashMap, HashSet, VecDeque};

use super::run::{DropMarker, Run, Slice};
use super::words::{Bounds, SubscriptionId, WriteBudget};
use crate::event::Offset;
use crate::wire::{Selection, WireFormat};

#[derive(Debug)]
enum Item {
    Run(Run),
    Marker(DropMarker),
}

impl Item {
    fn subscription(&self) -> SubscriptionId {
        match self {
            Item::Run(run) => run.subscription,
            Item::Marker(marker) => marker.subscription,
        }
    }
}

/// How a ring handles the items of one subscription after the log has evicted the
/// batch of the oldest item from memory.
#[derive(Debug)]
pub(super) enum OnEviction {
    /// Remove all runs and drop markers of the subscription. It catches up from the
    /// log.
    CatchUp,
    /// Drop the subscription's runs of evicted batches. Put a drop marker in their
    /// place.
    Drop(DropProgress),
}

/// The progress of [`Ring::evict`] for one subscription whose policy is to drop.
#[derive(Debug)]
pub(super) struct DropProgress {
    marker: DropMarker,
    /// The change of the number of the subscription's events and drop markers in the
    /// ring.
    pub(super) change: i64,
    /// Whether an item has been dropped already. The drop marker takes the place of
    /// the first dropped item.
    is_begun: bool,
    /// Whether a run was found whose batch is still in memory. The later items stay.
    is_done: bool,
}

impl DropProgress {
    pub(super) fn new(id: SubscriptionId) -> DropProgress {
        DropProgress { marker: DropMarker::new(id), change: 0, is_begun: false, is_done: false }
    }

    /// Handles the next item of the subscription. Returns the item that replaces it,
    /// or `None` if the item is dropped without a replacement. `is_held` returns
    /// whether a batch is still in memory. An empty marker replaces the first
    /// dropped item. A drop marker before the first run that stays is merged into
    /// the new marker.
    fn take(
        &mut self,
        item: Item,
        is_held: impl Fn(SubscriptionId, Offset) -> bool,
    ) -> Option<Item> {
        const ALL: Bounds = Bounds { events: u64::MAX, bytes: u64::MAX };
        match item {
            item if self.is_done => return Some(item),
            Item::Run(run) if is_held(run.subscription, run.batch.end()) => {
                self.is_done = true;
                return Some(Item::Run(run));
            }
            Item::Run(mut run) => {
                let (to, count) = run.drop_first(ALL, u64::MAX);
                self.marker.add(to, count);
                self.change -= count.cast_signed();
            }
            Item::Marker(other) => {
                self.marker.merge(other);
                self.change -= 1;
            }
        }
        if std::mem::replace(&mut self.is_begun, true) {
            return None;
        }
        self.change += 1;
        Some(Item::Marker(DropMarker::new(self.marker.subscription)))
    }
}

/// The ring of one connection: a queue of events that wait for the connection's
/// writer. The caller of [`Ring::push`] calls [`Ring::fits`] before, and so limits
/// the ring. The tick of the shard frees the memory of an empty ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    items: VecDeque<Item>,
    events: u64,
    bytes: u64,
    /// The number of items at the front of the ring from which [`Ring::peek`] has
    /// given slices to the writer. These items are not dropped.
    peeked: usize,
    /// The number of items that the methods have examined.
    #[cfg(test)]
    pub(super) visits: std::cell::Cell<u64>,
}

impl Ring {
    #[cfg(test)]
    fn count_visits(&self, items: u64) {
        self.visits.set(self.visits.get() + items);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the number of runs and drop markers in the ring.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns whether `run` fits into the ring. An empty ring accepts one event of
    /// any size, because an event that is larger than the ring would never fit.
    pub(super) fn fits(&self, run: &Run, bounds: Bounds) -> bool {
        (self.is_empty() && run.events() == 1)
            || (self.events + run.events() <= bounds.events
                && self.bytes + run.bytes() <= bounds.bytes)
    }

    pub(super) fn is_over(&self, bounds: Bounds) -> bool {
        self.events > bounds.events || self.bytes > bounds.bytes
    }

    pub(super) fn push(&mut self, run: Run) {
        self.events += run.events();
        self.bytes += run.bytes();
        self.push_item(Item::Run(run));
    }

    fn push_item(&mut self, item: Item) {
        self.items.push_back(item);
    }

    /// Replaces each item of the ring by the result of `change`, and removes the
    /// item if the result is `None`. `change` gets the index of the item and the
    /// item.
    fn rebuild(&mut self, mut change: impl FnMut(usize, Item) -> Option<Item>) {
        #[cfg(test)]
        self.count_visits(self.items.len() as u64);
        let items = std::mem::take(&mut self.items);
        (self.events, self.bytes) = (0, 0);
        let items: Vec<Item> =
            items.into_iter().enumerate().filter_map(|(index, item)| change(index, item)).collect();
        for item in items {
            match item {
                Item::Run(run) => self.push(run),
                Item::Marker(_) => self.push_item(item),
            }
        }
    }

    /// Removes the runs and drop markers of `subscription` from the ring. If the
    /// subscription catches up, it reads these events from the log.
    pub(super) fn remove(&mut self, subscription: SubscriptionId) {
        let (before, mut peeked) = (self.peeked, 0);
        self.rebuild(|index, item| {
            let kept = item.subscription() != subscription;
            peeked += usize::from(kept && index < before);
            kept.then_some(item)
        });
        self.peeked = peeked;
    }

    /// Changes the wire format of the events in the ring. This is for a WebSocket
    /// that switches to the format `bare`.
    pub(super) fn change_format(&mut self, format: WireFormat) {
        self.rebuild(|_, item| match item {
            Item::Marker(_) => Some(item),
            Item::Run(mut run) => {
                run.change_format(format);
                Some(Item::Run(run))
            }
        });
    }

    /// Adds slices of the next events in the ring to `out`, up to the first drop
    /// marker or until `budget` is used up. The events stay in the ring until they
    /// are written.
    pub(super) fn peek(&mut self, out: &mut Vec<Slice>, budget: &mut WriteBudget) {
        let mut peeked = 0;
        for item in self.items() {
            let Item::Run(run) = item else { break };
            if budget.is_full() {
                break;
            }
            run.peek(out, budget);
            peeked += 1;
        }
        self.peeked = peeked;
    }

    /// Records that the writer no longer has slices of events in the ring.
    pub(super) fn end_peek(&mut self) {
        self.peeked = 0;
    }

    /// Removes and returns the first item of the ring if it is a drop marker.
    pub(super) fn take_marker(&mut self) -> Option<DropMarker> {
        let Some(&Item::Marker(marker)) = self.items.front() else { return None };
        self.items.pop_front();
        Some(marker)
    }

    /// Removes the events of `subscription` up to `through` from the front of the
    /// ring, because they are written. Returns the number of removed events. Events
    /// that left the ring before do not count.
    pub(super) fn remove_written(&mut self, subscription: SubscriptionId, through: Offset) -> u64 {
        let before = self.events;
        while let Some(Item::Run(first)) = self.items.front_mut() {
            if first.subscription != subscription {
                break;
            }
            let (events, bytes) = (first.events(), first.bytes());
            first.remove_written(through);
            self.events -= events - first.events();
            self.bytes -= bytes - first.bytes();
            if first.events() > 0 {
                break;
            }
            self.items.pop_front();
        }
        before - self.events
    }

    /// Frees the memory of the ring if it is empty. The tick of the shard calls
    /// this. A write does not, because each push to an empty ring would then
    /// allocate.
    pub(super) fn shrink(&mut self) {
        if self.items.is_empty() {
            self.items = VecDeque::new();
        }
    }

    fn items(&self) -> impl DoubleEndedIterator<Item = &Item> {
        let items = self.items.iter();
        #[cfg(test)]
        let items = items.inspect(|_| self.count_visits(1));
        items
    }

    // === changes by the overflow policies ===

    /// Returns the number of events and drop markers of a subscription in the ring.
    pub(super) fn count_of(&self, id: SubscriptionId) -> i64 {
        let count = |item: &Item| match item {
            Item::Run(run) => run.events().cast_signed(),
            Item::Marker(_) => 1,
        };
        self.items().filter(|item| item.subscription() == id).map(count).sum()
    }

    /// Returns the runs of a subscription that may be dropped. These are the runs of
    /// which the writer has no slices.
    pub(super) fn droppable_runs(&self, id: SubscriptionId) -> Vec<&Run> {
        let droppable = self.items().skip(self.peeked).filter_map(|item| match item {
            Item::Run(run) if run.subscription == id => Some(run),
            _ => None,
        });
        droppable.collect()
    }

    /// Returns the index in the ring of the first item of a subscription, from index
    /// `from` on. Without `from`, the search starts after the items whose slices the
    /// writer may have.
    pub(super) fn first_item_of(&self, id: SubscriptionId, from: Option<usize>) -> Option<usize> {
        let from = from.unwrap_or(self.peeked);
        let found = self.items().skip(from).position(|item| item.subscription() == id);
        found.map(|index| index + from)
    }

    /// Drops the first events of the run at `index` until the ring is within
    /// `bounds`. Keeps at least one event in the ring. If `keep_last` is set, keeps
    /// the last event of the run. If the item at `index` is a drop marker, removes
    /// the marker. Adds the dropped events to `marker`. Returns the number of
    /// dropped events and markers.
    pub(super) fn drop_excess(
        &mut self,
        index: usize,
        bounds: Bounds,
        keep_last: bool,
        marker: &mut DropMarker,
    ) -> i64 {
        let excess = Bounds {
            events: self.events.saturating_sub(bounds.events),
            bytes: self.bytes.saturating_sub(bounds.bytes),
        };
        let run_events = match self.items().nth(index) {
            Some(Item::Run(run)) => run.events(),
            _ => 0,
        };
        let max = if keep_last { run_events.saturating_sub(1) } else { u64::MAX };
        self.drop_at(index, excess, max.min(self.events.saturating_sub(1)), marker)
    }

    fn drop_at(&mut self, index: usize, excess: Bounds, max: u64, marker: &mut DropMarker) -> i64 {
        let (dropped, is_empty) = match self.items.get_mut(index) {
            None => return 0,
            Some(Item::Marker(other)) => {
                marker.merge(*other);
                (1, true)
            }
            Some(Item::Run(run)) => {
                let before = run.bytes();
                let (to, count) = run.drop_first(excess, max);
                marker.add(to, count);
                self.events -= count;
                self.bytes -= before - run.bytes();
                (count, run.events() == 0)
            }
        };
        if is_empty {
            self.items.remove(index);
        }
        dropped.cast_signed()
    }

    /// Returns the subscriptions whose oldest run is of a batch that the log has
    /// evicted from memory. `is_held` returns whether the batch with this end is
    /// still in memory. `count` is the number of subscriptions. Only the oldest run
    /// of each subscription is checked, because the runs are in the order of the
    /// log. Runs whose slices the writer may have are skipped.
    pub(super) fn evicted(
        &self,
        count: usize,
        is_held: impl Fn(SubscriptionId, Offset) -> bool,
    ) -> Vec<SubscriptionId> {
        let (mut asked, mut evicted) = (HashSet::new(), Vec::new());
        for item in self.items().skip(self.peeked) {
            if asked.len() == count {
                break;
            }
            if let Item::Run(run) = item
                && asked.insert(run.subscription)
                && !is_held(run.subscription, run.batch.end())
            {
                evicted.push(run.subscription);
            }
        }
        evicted
    }

    /// Removes the events of evicted batches from the ring. `evicted` has the
    /// affected subscriptions, and how to handle each one. `is_held` returns whether
    /// the batch with this end is still in memory. The method handles all
    /// subscriptions in one loop over the ring, because a connection may have a
    /// thousand subscriptions with runs of the same batch.
    pub(super) fn evict(
        &mut self,
        evicted: &mut HashMap<SubscriptionId, OnEviction>,
        is_held: impl Fn(SubscriptionId, Offset) -> bool,
    ) {
        let (before, mut peeked) = (self.peeked, 0);
        self.rebuild(|index, item| {
            let item = match evicted.get_mut(&item.subscription()) {
                None => Some(item),
                Some(OnEviction::CatchUp) => None,
                Some(OnEviction::Drop(_)) if index < before => Some(item),
                Some(OnEviction::Drop(dropped)) => dropped.take(item, &is_held),
            };
            peeked += usize::from(index < before && item.is_some());
            item
        });
        self.peeked = peeked;
        for item in &mut self.items {
            if let Item::Marker(other) = item
                && other.count == 0
                && let Some(OnEviction::Drop(dropped)) = evicted.get(&other.subscription)
            {
                *other = dropped.marker;
            }
        }
    }

    /// Replaces the selections of a subscription's runs by `kept`, one selection for
    /// each run. Merges the subscription's drop markers into `marker` and removes
    /// them from the ring. Skips the items whose slices the writer may have. Returns
    /// the index of the subscription's first item that is not skipped.
    pub(super) fn replace(
        &mut self,
        id: SubscriptionId,
        kept: Vec<Selection>,
        marker: &mut DropMarker,
    ) -> Option<usize> {
        let peeked = self.peeked;
        let first = self.first_item_of(id, None);
        let mut kept = kept.into_iter();
        self.rebuild(|index, item| match item {
            item if index < peeked || item.subscription() != id => Some(item),
            Item::Marker(before) => {
                marker.merge(before);
                None
            }
            Item::Run(run) => {
                let run = run.with_selection(kept.next()?);
                (run.events() > 0).then_some(Item::Run(run))
            }
        });
        first
    }

    /// Inserts a drop marker at `index` of the ring, if `index` is given and the
    /// marker counts at least one event. Returns the number of inserted markers.
    pub(super) fn insert_marker(&mut self, index: Option<usize>, marker: DropMarker) -> i64 {
        let Some(index) = index.filter(|_| marker.count > 0) else { return 0 };
        self.items.insert(index, Item::Marker(marker));
        1
    }

    /// Appends a drop marker to the ring. If the last item of the subscription is a
    /// drop marker, merges the two, so that markers do not accumulate. Items of
    /// other subscriptions may follow that item. Returns the number of added
    /// markers.
    pub(super) fn append_marker(&mut self, marker: DropMarker) -> i64 {
        if marker.count == 0 {
            return 0;
        }
        let mut items = self.items.iter_mut().rev();
        let own = items.find(|item| item.subscription() == marker.subscription);
        if let Some(Item::Marker(other)) = own {
            other.merge(marker);
            return 0;
        }
        self.push_item(Item::Marker(marker));
        1
    }
}
