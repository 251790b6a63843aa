//! A fan-out pass: a shard pushes one batch of a log to each of its subscriptions
//! that matches the batch.

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

/// The maximum cost of the fan-out between two yields to the runtime. The unit is
/// the cost of a push into a ring, about 100 ns. Between two yields, the fan-out
/// does at most 64 [direct writes](super::direct_write::COST). Other tasks on the
/// same thread then wait for up to half a millisecond. Under shuttle the fan-out
/// yields after one or two pushes.
pub(super) const COST_AT_ONCE: usize = if cfg!(feature = "shuttle") { 2 } else { 256 };

/// The number of events that a filter evaluates in the time of one push into a ring,
/// about 100 ns. The cost of the fan-out is measured in such pushes.
const EVENTS_A_VISIT: usize = 8;

/// A fan-out pass: pushes one batch of a log to the subscriptions of one shard
/// (`docs/delivery.md#push`).
pub(super) struct FanoutPass<'a> {
    shard: &'a Shard,
    fanout: &'a LogFanout,
    pub(super) batch: &'a Arc<Batch>,
    /// The end offset of the previous batch. The events up to it were pushed before.
    pub(super) fanned_to: Offset,
    /// Whether the pass may write to sockets directly. It may not if the log has
    /// newer batches: the writer of the connection then writes several batches at
    /// once, which costs less.
    pub(super) is_direct: bool,
    pub(super) slice_cache: SliceCache,
    pub(super) counts: DeliveryCounts,
    wakers: Vec<Waker>,
    /// A buffer for the next subscriptions that get the batch. It is reused for each
    /// chunk of subscriptions.
    chunk: Vec<Match>,
    cost: usize,
}

/// A subscription that matches the batch, with the matching events.
struct Match {
    subscriber: Arc<Subscriber>,
    subscription: SubscriptionId,
    selection: Selection,
}

/// Pushes a batch to all subscriptions that match it. Does nothing if the batch was
/// already fanned out. `cost` is the cost of the fan-out since its last yield to the
/// runtime. The function adds its own cost.
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
        chunk: Vec::new(),
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

    /// Pushes the batch to the live subscriptions of one list of the index. Handles
    /// the list in chunks of at most [`COST_AT_ONCE`] subscriptions. Locks the index
    /// to collect a chunk, and unlocks it before the pushes.
    ///
    /// Subscriptions join and leave between two chunks. There is still no gap and no
    /// repeat (`docs/delivery.md#proof-no-gap-and-no-repeat`):
    /// - An entry of the index that stays keeps its slot, so the pass finds it
    ///   exactly once.
    /// - A new entry takes any free slot, or a slot of a new list. It entered the
    ///   index after `tail` was set to the end of the batch
    ///   ([`FanoutProgress::set_tail`](super::fanout_progress::FanoutProgress::set_tail)).
    ///   Its subscription reads the batch from the log before it goes live. If the
    ///   pass finds this entry too, the batch has no event after `pushed_to`, and
    ///   nothing is pushed.
    /// - The subscription of a removed entry wants no more events. A list is removed
    ///   with its last entry, and the pass over this list then ends.
    async fn visit_all<L, S>(&mut self, list: L, cache: &mut SelectionCache<S>)
    where
        L: Fn(&Index) -> Option<&Slots<Entry>>,
        S: Fn(&Filter) -> Option<Selection>,
    {
        let (mut chunk, mut cursor) = (std::mem::take(&mut self.chunk), 0);
        let mut is_done = false;
        while !is_done {
            is_done = self.collect(&list, cache, &mut cursor, &mut chunk);
            self.visit(&mut chunk).await;
            self.pause_if_due().await;
        }
        self.chunk = chunk;
    }

    /// Adds the next matching subscriptions of a list to `chunk`, from the slot
    /// `cursor` on. Stops at the maximum cost. Returns whether the end of the list
    /// is reached.
    fn collect<L, S>(
        &mut self,
        list: L,
        cache: &mut SelectionCache<S>,
        cursor: &mut usize,
        chunk: &mut Vec<Match>,
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
                chunk.push(Match { subscriber, subscription, selection });
            }
        }
        self.cost += (*cursor - begun) / 8 + std::mem::take(&mut cache.cost);
        *cursor >= entries.len()
    }

    async fn visit(&mut self, chunk: &mut Vec<Match>) {
        for Match { subscriber, subscription, selection } in chunk.drain(..) {
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

    /// Wakes the writers of the connections that got events since the last call.
    /// Records the direct writes since the last call in the metrics.
    fn flush(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
        self.counts.record(self.shard.metrics(), self.batch.committed());
    }
}

/// A cache of the events that each filter selects from the batch. Most subscriptions
/// of a list share one filter. Subscriptions with another common filter are often
/// adjacent in the list.
struct SelectionCache<S> {
    select: S,
    /// The cost of one evaluation of a filter over the batch. The unit is the cost
    /// of a push into a ring.
    evaluation: usize,
    known: Vec<(Arc<Filter>, Option<Selection>)>,
    /// The cost of the filter evaluations since the last chunk of subscriptions was
    /// collected. The unit is the cost of a push into a ring. This cost is limited,
    /// because the index is locked during the evaluations.
    cost: usize,
}

impl<S: Fn(&Filter) -> Option<Selection>> SelectionCache<S> {
    /// The maximum number of filters in the cache. With more filters, a search in
    /// the cache would cost as much as an evaluation.
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
