//! What waits for one connection's writer: runs of shared batches, and marks
//! where an overflow policy took something away.

use std::collections::{HashMap, HashSet, VecDeque};

use super::run::{DropMarker, Run, Slice};
use super::words::{Bounds, SubscriptionId, WriteBudget};
use crate::event::Offset;
use crate::wire::{Selection, WireFormat};

#[derive(Debug)]
enum Item {
    Run(Run),
    Lost(DropMarker),
}

impl Item {
    fn subscription(&self) -> SubscriptionId {
        match self {
            Item::Run(run) => run.subscription,
            Item::Lost(lost) => lost.subscription,
        }
    }
}

/// What becomes of a subscription whose oldest run is of a batch that its log's
/// tail does not hold any more.
#[derive(Debug)]
pub(super) enum Evicted {
    /// All of its items go: it reads the log.
    CatchUp,
    /// Its runs up to the first that is held go, and a mark tells of them.
    Drop(Dropped),
}

/// What was dropped of a subscription so far.
#[derive(Debug)]
pub(super) struct Dropped {
    lost: DropMarker,
    /// By how much its items grew.
    pub(super) change: i64,
    is_begun: bool,
    is_done: bool,
}

impl Dropped {
    pub(super) fn new(id: SubscriptionId) -> Dropped {
        Dropped { lost: DropMarker::new(id), change: 0, is_begun: false, is_done: false }
    }

    /// Takes the subscription's next item behind the writer's slices. Gives what
    /// stands in its index: for the first that is dropped, a mark that is
    /// still empty; marks between runs become part of it.
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
                self.lost.add(to, count);
                self.change -= count.cast_signed();
            }
            Item::Lost(mark) => {
                self.lost.merge(mark);
                self.change -= 1;
            }
        }
        if std::mem::replace(&mut self.is_begun, true) {
            return None;
        }
        self.change += 1;
        Some(Item::Lost(DropMarker::new(self.lost.subscription)))
    }
}

/// The queue of one connection. Allocated while it holds something, and until
/// the tick after; bounded by its owner, which asks [`Ring::fits`] before it
/// pushes.
#[derive(Debug, Default)]
pub(super) struct Ring {
    items: VecDeque<Item>,
    events: u64,
    bytes: u64,
    /// Items at the front of which the writer may have events in its slices,
    /// which are therefore not dropped.
    peeked: usize,
    /// Items that were looked at, one by one.
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

    /// Runs, and marks of what was lost.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether `run` fits beside what is there. An empty ring takes any one
    /// event, or one larger than the ring would overflow it each time.
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

    /// Puts every item through `change`, in order, with its index.
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
                Item::Lost(_) => self.push_item(item),
            }
        }
    }

    /// Frees what waits for `subscription`, and forgets what it lost: who
    /// parks it reads all of that in the log.
    pub(super) fn remove(&mut self, subscription: SubscriptionId) {
        let (before, mut peeked) = (self.peeked, 0);
        self.rebuild(|index, item| {
            let kept = item.subscription() != subscription;
            peeked += usize::from(kept && index < before);
            kept.then_some(item)
        });
        self.peeked = peeked;
    }

    /// Shows in `format` what waits in another: for a socket that turns bare.
    pub(super) fn change_format(&mut self, format: WireFormat) {
        self.rebuild(|_, item| match item {
            Item::Lost(_) => Some(item),
            Item::Run(mut run) => {
                run.change_format(format);
                Some(Item::Run(run))
            }
        });
    }

    /// Shows the writer what comes next, up to the first mark; it stays here
    /// until it is written.
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

    /// The writer has put out or let go what it had in its slices.
    pub(super) fn end_peek(&mut self) {
        self.peeked = 0;
    }

    /// Takes a mark off the front.
    pub(super) fn take_marker(&mut self) -> Option<DropMarker> {
        let Some(&Item::Lost(lost)) = self.items.front() else { return None };
        self.items.pop_front();
        Some(lost)
    }

    /// Drops from the front what of `subscription` was written, up to
    /// `through`, and says how many events these were. What was freed
    /// meanwhile is simply not there any more.
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

    /// Lets go of memory that holds nothing. Not at once, or each push to a
    /// ring that is emptied each time would take and give it back.
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

    // === what the policies do ===

    /// Events and marks of a subscription.
    pub(super) fn count_of(&self, id: SubscriptionId) -> i64 {
        let count = |item: &Item| match item {
            Item::Run(run) => run.events().cast_signed(),
            Item::Lost(_) => 1,
        };
        self.items().filter(|item| item.subscription() == id).map(count).sum()
    }

    /// The runs of a subscription that are not in the writer's slices.
    pub(super) fn droppable_runs(&self, id: SubscriptionId) -> Vec<&Run> {
        let droppable = self.items().skip(self.peeked).filter_map(|item| match item {
            Item::Run(run) if run.subscription == id => Some(run),
            _ => None,
        });
        droppable.collect()
    }

    /// The index of the first item of a subscription at or behind `from`, or
    /// behind the writer's slices.
    pub(super) fn first_item_of(&self, id: SubscriptionId, from: Option<usize>) -> Option<usize> {
        let from = from.unwrap_or(self.peeked);
        let found = self.items().skip(from).position(|item| item.subscription() == id);
        found.map(|index| index + from)
    }

    /// Drops at a index as many events as the ring is over `bounds`, but not
    /// the last one of all, nor the last one there where `keeps`; or takes the
    /// mark that stands there. Into `lost`; gives how many items these were.
    pub(super) fn drop_excess(
        &mut self,
        index: usize,
        bounds: Bounds,
        keeps: bool,
        lost: &mut DropMarker,
    ) -> i64 {
        let excess = Bounds {
            events: self.events.saturating_sub(bounds.events),
            bytes: self.bytes.saturating_sub(bounds.bytes),
        };
        let there = match self.items().nth(index) {
            Some(Item::Run(run)) => run.events(),
            _ => 0,
        };
        let most = if keeps { there.saturating_sub(1) } else { u64::MAX };
        self.drop_at(index, excess, most.min(self.events.saturating_sub(1)), lost)
    }

    fn drop_at(&mut self, index: usize, excess: Bounds, most: u64, lost: &mut DropMarker) -> i64 {
        let (dropped, is_empty) = match self.items.get_mut(index) {
            None => return 0,
            Some(Item::Lost(mark)) => {
                lost.merge(*mark);
                (1, true)
            }
            Some(Item::Run(run)) => {
                let before = run.bytes();
                let (to, count) = run.drop_first(excess, most);
                lost.add(to, count);
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

    /// The subscriptions, of `count`, with runs that are not in the writer's
    /// slices and of batches that, by where they end, are not held any more. Of
    /// each its oldest run alone is asked for: its runs are in its log's order.
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

    /// Frees what was evicted of many subscriptions in one pass: a socket may
    /// have a thousand, and their runs end with the same batch.
    pub(super) fn evict(
        &mut self,
        evicted: &mut HashMap<SubscriptionId, Evicted>,
        is_held: impl Fn(SubscriptionId, Offset) -> bool,
    ) {
        let (before, mut peeked) = (self.peeked, 0);
        self.rebuild(|index, item| {
            let item = match evicted.get_mut(&item.subscription()) {
                None => Some(item),
                Some(Evicted::CatchUp) => None,
                Some(Evicted::Drop(_)) if index < before => Some(item),
                Some(Evicted::Drop(dropped)) => dropped.take(item, &is_held),
            };
            peeked += usize::from(index < before && item.is_some());
            item
        });
        self.peeked = peeked;
        for item in &mut self.items {
            if let Item::Lost(mark) = item
                && mark.count == 0
                && let Some(Evicted::Drop(dropped)) = evicted.get(&mark.subscription)
            {
                *mark = dropped.lost;
            }
        }
    }

    /// Leaves in the runs of a subscription what is `kept` of each, takes its
    /// marks into `lost`, and gives the index of the first of them.
    pub(super) fn replace(
        &mut self,
        id: SubscriptionId,
        kept: Vec<Selection>,
        lost: &mut DropMarker,
    ) -> Option<usize> {
        let peeked = self.peeked;
        let first = self.first_item_of(id, None);
        let mut kept = kept.into_iter();
        self.rebuild(|index, item| match item {
            item if index < peeked || item.subscription() != id => Some(item),
            Item::Lost(before) => {
                lost.merge(before);
                None
            }
            Item::Run(run) => {
                let run = run.with_selection(kept.next()?);
                (run.events() > 0).then_some(Item::Run(run))
            }
        });
        first
    }

    /// Puts a mark at a index; gives how many items that is.
    pub(super) fn insert_marker(&mut self, index: Option<usize>, lost: DropMarker) -> i64 {
        let Some(index) = index.filter(|_| lost.count > 0) else { return 0 };
        self.items.insert(index, Item::Lost(lost));
        1
    }

    /// Puts a mark at the end, or into the subscription's own where that is its
    /// last item: what others have in between is no matter of its order, and
    /// marks must not pile up beside each other.
    pub(super) fn append_marker(&mut self, lost: DropMarker) -> i64 {
        if lost.count == 0 {
            return 0;
        }
        let mut items = self.items.iter_mut().rev();
        let own = items.find(|item| item.subscription() == lost.subscription);
        if let Some(Item::Lost(mark)) = own {
            mark.merge(lost);
            return 0;
        }
        self.push_item(Item::Lost(lost));
        1
    }
}
