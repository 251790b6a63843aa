//! What a client subscribes to, and how far it has come.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::fanout_progress::FanoutProgress;
use super::words::{OnGap, Overflow, Scope, SlotIndex, SubscriptionId, SubscriptionSpec};
use crate::event::{Offset, ResourceId};
use crate::log::{Follower, Log};
use crate::wire::{Filter, WireFormat};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Fed by the fan-out.
    Live,
    /// Reads the log by itself.
    CatchingUp,
    /// Reads the resources first.
    Snapshot,
}

/// A subscription of a connection. While it is not live, its shard's
/// [`LagStats`](super::fanout_progress::LagStats) count it as catching up.
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    pub(super) progress: Arc<FanoutProgress>,
    pub(super) slot: SlotIndex,
    pub(super) spec: SubscriptionSpec,
    /// Where in the log the subscription is. Changed by methods alone, because
    /// the count of those that catch up changes with it.
    follower: Follower,
    /// Items of it in the ring: events, and marks of what was lost.
    pub(super) waiting: u64,
    /// It reads the log because its ring was full, and wants of what it reads
    /// the newest of each resource alone.
    pub(super) conflating: bool,
    /// What is left out up to here has been told.
    pub(super) conflated: Offset,
    /// The last resource of its snapshot that was written.
    pub(super) snapshot_after: Option<ResourceId>,
}

/// A read of the log that a subscription needs.
#[derive(Clone)]
pub struct ReadRequest {
    /// Whose it is.
    pub subscription: SubscriptionId,
    /// The log.
    pub log: Arc<Log>,
    /// What part of it.
    pub scope: Scope,
    /// Which events.
    pub filter: Arc<Filter>,
    /// The format they will be written in.
    pub format: WireFormat,
    /// Where to go on.
    pub after: Offset,
    /// Most events to write.
    pub credit: Option<u64>,
    /// What to do where events are missing.
    pub on_gap: OnGap,
    /// Where its snapshot has come to.
    pub snapshot_after: Option<ResourceId>,
    /// Its policy.
    pub overflow: Overflow,
    /// Whether it wants of a page the newest event of each resource alone;
    /// then, up to where what that leaves out has been told already.
    pub conflate: Option<Offset>,
}

impl Subscription {
    /// A subscription that reads what follows `taken`, or the resources first.
    pub(super) fn new(
        id: SubscriptionId,
        progress: Arc<FanoutProgress>,
        slot: SlotIndex,
        spec: SubscriptionSpec,
        written_to: Offset,
    ) -> Subscription {
        progress.stats.catching_up.fetch_add(1, Ordering::Relaxed);
        Subscription {
            id,
            progress,
            slot,
            spec,
            follower: Follower::new(written_to),
            waiting: 0,
            conflating: false,
            conflated: written_to,
            snapshot_after: None,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        if self.follower.is_live() {
            Mode::Live
        } else if self.spec.snapshot {
            Mode::Snapshot
        } else {
            Mode::CatchingUp
        }
    }

    pub(super) fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Changes the follower, and the count of those that catch up with it.
    fn update_follower<T>(&mut self, change: impl FnOnce(&mut Follower) -> T) -> T {
        let was_live = self.follower.is_live();
        let changed = change(&mut self.follower);
        let catching_up = &self.progress.stats.catching_up;
        match (was_live, self.follower.is_live()) {
            (false, true) => catching_up.fetch_sub(1, Ordering::Relaxed),
            (true, false) => catching_up.fetch_add(1, Ordering::Relaxed),
            (true, true) | (false, false) => 0,
        };
        changed
    }

    /// Events up to `to` are written or passed over ([`Follower::advance`]).
    pub(super) fn advance(&mut self, to: Offset) {
        self.follower.advance(to);
    }

    /// The batch that ends at `end` was pushed ([`Follower::push`]).
    pub(super) fn pushed(&mut self, end: Offset) {
        self.follower.push(end);
    }

    /// Goes live if nothing is left to read ([`Follower::join`]). Not in the
    /// middle of a page of which some was left out: the fan-out would push it.
    pub(super) fn join(&mut self) -> bool {
        let joins = !self.spec.snapshot && self.is_past_conflated() && {
            let tail = self.progress.tail();
            self.update_follower(|follower| follower.join(tail))
        };
        self.conflating &= !joins;
        joins
    }

    /// Reads the log from here on ([`Follower::fall_behind`]). Its items in the
    /// ring are no longer counted; the caller removes them.
    pub(super) fn fall_behind(&mut self) {
        self.update_follower(Follower::fall_behind);
        self.waiting = 0;
        self.conflating = self.spec.overflow == Overflow::Conflate;
    }

    /// Reads the log after `start`, or the resources first.
    pub(super) fn restart(&mut self, start: Offset, snapshot: bool) {
        self.update_follower(|follower| follower.restart(start));
        self.spec.snapshot = snapshot;
        self.snapshot_after = None;
    }

    /// How many offsets the client is behind the log's head.
    pub(super) fn lag(&self) -> u64 {
        self.progress.log.head().0.saturating_sub(self.position().0)
    }

    /// How far the client has everything it asked for.
    pub(super) fn position(&self) -> Offset {
        self.follower.position(self.waiting == 0, self.progress.fanned_to())
    }

    /// Whether nothing is left to be read of which some was left out.
    pub(super) fn is_past_conflated(&self) -> bool {
        !self.conflating || self.conflated <= self.follower.written_to()
    }

    pub(super) fn read_request(&self) -> ReadRequest {
        ReadRequest {
            subscription: self.id,
            log: self.progress.log.clone(),
            scope: self.spec.scope.clone(),
            filter: self.spec.filter.clone(),
            format: self.spec.format,
            after: self.follower.written_to(),
            credit: self.spec.credit,
            on_gap: self.spec.on_gap,
            snapshot_after: self.snapshot_after.clone(),
            overflow: self.spec.overflow,
            conflate: self.conflating.then_some(self.conflated),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.follower.is_live() {
            self.progress.stats.catching_up.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
