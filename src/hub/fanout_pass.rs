//! One batch's pass: everybody of a fanout who wants of it is visited once.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use super::index::{Entry, Index, Slots};
use super::log_fanout::LogFanout;
use super::shard::Shard;
use super::slice_cache::{DeliveryCounts, SliceCache};
use super::subscriber::Subscriber;
use super::words::SubscriptionId;
use crate::event::{Offset, ResourceId};
use crate::wire::{Batch, Filter, Selection};

/// What a pass may cost between two yields to the runtime, in visits that do
/// nothing but push, of about 100 ns each. With 64 [writes](super::direct_write::COST)
/// others on its thread wait for up to half a millisecond.
/// Under shuttle a pass pauses after each visit or two.
pub(super) const COST_AT_ONCE: usize = if cfg!(feature = "shuttle") { 2 } else { 256 };

/// Events that a filter looks at in the time of a visit.
const EVENTS_A_VISIT: usize = 8;

/// A batch on its way to the subscribers of a fanout (delivery, push).
pub(super) struct FanoutPass<'a> {
    shard: &'a Shard,
    fanout: &'a LogFanout,
    pub(super) batch: &'a Arc<Batch>,
    /// How far the fanout was fanned out before.
    pub(super) fanned_to: Offset,
    /// Whether the visits may write to sockets. Not with more batches behind
    /// this one: then writers take several at once, which costs less.
    pub(super) is_direct: bool,
    pub(super) slice_cache: SliceCache,
    pub(super) counts: DeliveryCounts,
    wakers: Vec<Waker>,
    /// The chunk to be visited, empty between two lists: its cachery is kept.
    found: Vec<Visited>,
    cost: usize,
}

/// A subscription that is to be visited.
struct Visited {
    subscriber: Arc<Subscriber>,
    subscription: SubscriptionId,
    selection: Selection,
}

/// Goes the pass of a batch, unless the fanout is past it. `cost` is what was
/// done since the last yield, here and in passes before.
pub(super) async fn fan_out_batch(
    shard: &Shard,
    fanout: &LogFanout,
    batch: &Arc<Batch>,
    cost: &mut usize,
) {
    let fanned = fanout.progress.fanned_to();
    if batch.end() <= fanned {
        return;
    }
    fanout.progress.set_tail(batch.end());
    let mut pass = FanoutPass {
        shard,
        fanout,
        batch,
        fanned_to: fanned,
        is_direct: batch.end() == fanout.progress.log.head(),
        slice_cache: SliceCache::default(),
        counts: DeliveryCounts::default(),
        wakers: Vec::new(),
        found: Vec::new(),
        cost: *cost + 1,
    };
    pass.visit_whole().await;
    pass.visit_subjects().await;
    pass.flush();
    fanout.progress.set_fanned_to(batch.end());
    pass.pause_if_due().await;
    *cost = pass.cost;
}

impl FanoutPass<'_> {
    async fn visit_whole(&mut self) {
        let (batch, fanned) = (self.batch, self.fanned_to);
        let cost = batch.events().len() / EVENTS_A_VISIT;
        let mut cache = SelectionCache::new(cost, |filter| filter.select(batch, fanned));
        self.visit_all(|index| Some(index.whole()), &mut cache).await;
    }

    async fn visit_subjects(&mut self) {
        if !self.fanout.index.lock().has_subjects() {
            return;
        }
        let (batch, fanned) = (self.batch, self.fanned_to);
        let mut runs: HashMap<&ResourceId, Vec<u32>> = HashMap::new();
        for position in batch.position_after(fanned)..batch.events().len() as u32 {
            if let Some(subject) = &batch.events()[position as usize].subject {
                runs.entry(subject).or_default().push(position);
            }
        }
        for (subject, positions) in runs {
            let selection = Selection::of(positions);
            let cost = selection.len() as usize / EVENTS_A_VISIT;
            let mut cache =
                SelectionCache::new(cost, |filter| filter.narrow(batch, &selection, fanned));
            self.cost += 1;
            self.visit_all(|index| index.subject(subject), &mut cache).await;
        }
    }

    /// Visits the live subscriptions of one list, in chunks: at most
    /// [`COST_AT_ONCE`] of them are referred to at a time, and the index is
    /// locked for no longer than it takes to find these.
    ///
    /// Subscriptions come and go between two chunks. That leaves no gap and
    /// repeats nothing (`docs/architecture.md#delivery`):
    /// - An entry that stays keeps its slot, so it is met once.
    /// - An entry that comes, in a free slot before or behind the cursor or in
    ///   a list made anew, was indexed after [`FanoutProgress::set_tail`](super::fanout_progress::FanoutProgress::set_tail) set `tail` to the
    ///   batch's end. Its subscription reads the batch from the log before it
    ///   goes live, and a visit then finds nothing after what was pushed.
    /// - An entry that goes wants nothing more. A list that goes with its last
    ///   entry ends the pass.
    async fn visit_all<L, S>(&mut self, list: L, cache: &mut SelectionCache<S>)
    where
        L: Fn(&Index) -> Option<&Slots<Entry>>,
        S: Fn(&Filter) -> Option<Selection>,
    {
        let (mut found, mut cursor) = (std::mem::take(&mut self.found), 0);
        let mut is_done = false;
        while !is_done {
            is_done = self.find(&list, cache, &mut cursor, &mut found);
            self.visit(&mut found).await;
            self.pause_if_due().await;
        }
        self.found = found;
    }

    /// Finds the next chunk of a list from `cursor` on; true at the list's end.
    fn find<L, S>(
        &mut self,
        list: L,
        cache: &mut SelectionCache<S>,
        cursor: &mut usize,
        found: &mut Vec<Visited>,
    ) -> bool
    where
        L: Fn(&Index) -> Option<&Slots<Entry>>,
        S: Fn(&Filter) -> Option<Selection>,
    {
        let index = self.fanout.index.lock();
        let Some(entries) = list(&index) else { return true };
        let begun = *cursor;
        let end = entries.len().min(begun + COST_AT_ONCE);
        while *cursor < end && self.cost + cache.cost < COST_AT_ONCE {
            let entry = entries.get(*cursor);
            *cursor += 1;
            if let Some(entry) = entry.filter(|it| it.subscriber.is_live())
                && let Some(selection) = cache.select(&entry.filter)
            {
                let Entry { subscriber, subscription, .. } = entry;
                let (subscriber, subscription) = (subscriber.clone(), *subscription);
                found.push(Visited { subscriber, subscription, selection });
            }
        }
        self.cost += (*cursor - begun) / 8 + std::mem::take(&mut cache.cost);
        *cursor >= entries.len()
    }

    async fn visit(&mut self, found: &mut Vec<Visited>) {
        for Visited { subscriber, subscription, selection } in found.drain(..) {
            let visit = subscriber.push(subscription, self, selection);
            self.wakers.extend(visit.waker);
            self.cost += visit.cost;
            self.pause_if_due().await;
        }
    }

    async fn pause_if_due(&mut self) {
        if self.cost >= COST_AT_ONCE {
            self.flush();
            self.cost = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Wakes and counts what the visits since the last time have come to.
    fn flush(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
        self.counts.record(self.shard.metrics(), self.batch.committed());
    }
}

/// What each filter selects of one list's part of a batch. Most subscribers
/// share one filter, and the rest come in runs of the same.
struct SelectionCache<S> {
    select: S,
    /// Of one filter that is evaluated, in visits.
    evaluation: usize,
    known: Vec<(Arc<Filter>, Option<Selection>)>,
    /// Of the filters evaluated since it was last taken, in visits: the index
    /// is locked meanwhile.
    cost: usize,
}

impl<S: Fn(&Filter) -> Option<Selection>> SelectionCache<S> {
    /// Filters remembered at a time: a search among more costs as much as
    /// asking a filter again.
    const LENGTH: usize = 8;

    fn new(evaluation: usize, select: S) -> SelectionCache<S> {
        SelectionCache { select, evaluation, known: Vec::new(), cost: 0 }
    }

    fn select(&mut self, filter: &Arc<Filter>) -> Option<Selection> {
        if let Some((_, known)) = self.known.iter().find(|(known, _)| Arc::ptr_eq(known, filter)) {
            return known.clone();
        }
        let selection = (self.select)(filter);
        self.cost += self.evaluation;
        if self.known.len() == Self::LENGTH {
            self.known.remove(0);
        }
        self.known.push((filter.clone(), selection.clone()));
        selection
    }
}
