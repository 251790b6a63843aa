//! One batch's round: everybody of a lane who wants of it is visited once.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;

use super::inline::{Cut, Tally};
use super::lane::{Entry, Lane};
use super::shard::Shard;
use super::subscriber::Subscriber;
use super::subscription::SubscriptionId;
use crate::event::{Offset, ResourceId};
use crate::wire::{Batch, Filter, Selection};

/// What a round may cost between two yields to the runtime, in visits that do
/// nothing but push, of about 100 ns each. With 64 [writes](super::inline::COST)
/// others on its thread wait for up to half a millisecond.
/// Under shuttle a round pauses after each visit or two.
pub(super) const COST_AT_ONCE: usize = if cfg!(feature = "shuttle") { 2 } else { 256 };

/// Events that a filter looks at in the time of a visit.
const EVENTS_A_VISIT: usize = 8;

/// A batch on its way to the subscribers of a lane (delivery, push).
pub(super) struct Round<'a> {
    shard: &'a Shard,
    lane: &'a Lane,
    pub(super) batch: &'a Arc<Batch>,
    /// How far the lane was fanned out before.
    pub(super) fanned: Offset,
    /// Whether the visits may write to sockets. Not with more batches behind
    /// this one: then writers take several at once, which costs less.
    pub(super) inline: bool,
    pub(super) cut: Cut,
    pub(super) tally: Tally,
    wakers: Vec<Waker>,
    cost: usize,
}

/// A subscription that is to be visited.
struct Visited {
    subscriber: Arc<Subscriber>,
    subscription: SubscriptionId,
    selection: Selection,
}

/// Goes the round of a batch, unless the lane is past it. `cost` is what was
/// done since the last yield, here and in rounds before.
pub(super) async fn go(shard: &Shard, lane: &Lane, batch: &Arc<Batch>, cost: &mut usize) {
    let fanned = lane.fanned();
    if batch.end() <= fanned {
        return;
    }
    lane.begin(batch.end());
    let mut round = Round {
        shard,
        lane,
        batch,
        fanned,
        inline: batch.end() == lane.log.head(),
        cut: Cut::default(),
        tally: Tally::default(),
        wakers: Vec::new(),
        cost: *cost + 1,
    };
    round.visit_whole().await;
    round.visit_subjects().await;
    round.settle();
    lane.finish(batch.end());
    round.pause_if_due().await;
    *cost = round.cost;
}

impl Round<'_> {
    async fn visit_whole(&mut self) {
        let mut memo = Memo::default();
        let mut found = Vec::new();
        let mut place = 0;
        loop {
            {
                let index = self.lane.index.lock();
                if place >= index.whole.len() {
                    return;
                }
                let begun = place;
                let end = index.whole.len().min(place + COST_AT_ONCE);
                while place < end && self.cost + memo.cost < COST_AT_ONCE {
                    let entry = &index.whole[place];
                    place += 1;
                    let Some(entry) = entry.as_ref().filter(|it| it.subscriber.is_live()) else {
                        continue;
                    };
                    if let Some(selection) = memo.select(&entry.filter, self.batch, self.fanned) {
                        let Entry { subscriber, subscription, .. } = entry;
                        let (subscriber, subscription) = (subscriber.clone(), *subscription);
                        found.push(Visited { subscriber, subscription, selection });
                    }
                }
                self.cost += (place - begun) / 8 + std::mem::take(&mut memo.cost);
            }
            self.visit(&mut found).await;
            self.pause_if_due().await;
        }
    }

    async fn visit_subjects(&mut self) {
        if self.lane.index.lock().by_subject.is_empty() {
            return;
        }
        let (batch, fanned) = (self.batch, self.fanned);
        let mut runs: HashMap<&ResourceId, Vec<u32>> = HashMap::new();
        for position in batch.position_after(fanned)..batch.events().len() as u32 {
            if let Some(subject) = &batch.events()[position as usize].subject {
                runs.entry(subject).or_default().push(position);
            }
        }
        let (mut entries, mut found): (Vec<Entry>, _) = (Vec::new(), Vec::new());
        for (subject, positions) in runs {
            let selection = Selection::of(positions);
            if let Some(all) = self.lane.index.lock().by_subject.get(subject) {
                entries.extend_from_slice(all);
            }
            self.cost += 1;
            let asked = selection.len() as usize / EVENTS_A_VISIT;
            for Entry { subscriber, subscription, filter } in entries.drain(..) {
                self.cost += 1 + if filter.is_open() { 0 } else { asked };
                if subscriber.is_live()
                    && let Some(selection) = filter.narrow(batch, &selection, fanned)
                {
                    found.push(Visited { subscriber, subscription, selection });
                }
                self.visit(&mut found).await;
                self.pause_if_due().await;
            }
        }
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
            self.settle();
            self.cost = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Wakes and counts what the visits since the last time have come to.
    fn settle(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
        self.tally.fold(self.shard.metrics(), self.batch.committed());
    }
}

/// What the filters of one batch's visits came to. Most subscribers share
/// one, and the rest come in runs of the same.
#[derive(Default)]
struct Memo {
    known: Vec<(Arc<Filter>, Option<Selection>)>,
    /// Of the filters that were asked, in visits: the lane is locked meanwhile.
    cost: usize,
}

impl Memo {
    /// Filters remembered at a time: a search among more costs as much as
    /// asking a filter again.
    const LENGTH: usize = 8;

    fn select(&mut self, filter: &Arc<Filter>, batch: &Batch, after: Offset) -> Option<Selection> {
        if let Some((_, known)) = self.known.iter().find(|(known, _)| Arc::ptr_eq(known, filter)) {
            return known.clone();
        }
        let selection = filter.select(batch, after);
        self.cost += batch.events().len() / EVENTS_A_VISIT;
        if self.known.len() == Self::LENGTH {
            self.known.remove(0);
        }
        self.known.push((filter.clone(), selection.clone()));
        selection
    }
}
