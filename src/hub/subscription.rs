//! A subscription of a connection: its spec and its position in the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::fanout_progress::FanoutProgress;
use super::words::{OnGap, Overflow, Scope, SlotIndex, SubscriptionId, SubscriptionSpec};
use crate::event::{Offset, ResourceId};
use crate::log::{Follower, Log};
use crate::wire::{Filter, WireFormat};

/// The source of a subscription's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The fan-out pushes the events.
    Live,
    /// The writer reads the log.
    CatchingUp,
    /// The writer reads the resources, and then the log.
    Snapshot,
}

/// A subscription of a connection. While the subscription is not live, the
/// [`LagStats`](super::fanout_progress::LagStats) of the shard count it.
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    pub(super) progress: Arc<FanoutProgress>,
    pub(super) slot: SlotIndex,
    pub(super) spec: SubscriptionSpec,
    /// The position in the log. Only [`Subscription::update_follower`] changes
    /// it, because the count in the lag statistics changes with it.
    follower: Follower,
    /// The number of the subscription's events and drop markers in the ring.
    pub(super) waiting: u64,
    /// Whether the subscription catches up because its ring was full and its
    /// policy is `conflate`. Such a subscription writes only the newest event of
    /// each resource on a page.
    pub(super) conflating: bool,
    /// The client knows of the conflated events up to this offset.
    pub(super) conflated: Offset,
    /// The last resource of the snapshot that was written.
    pub(super) snapshot_after: Option<ResourceId>,
}

/// A read of the log, or of the resources, that a subscription needs.
#[derive(Clone)]
pub struct ReadRequest {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The log.
    pub log: Arc<Log>,
    /// The part of the log.
    pub scope: Scope,
    /// The filter of the events.
    pub filter: Arc<Filter>,
    /// The wire format of the events.
    pub format: WireFormat,
    /// The read starts after this offset.
    pub after: Offset,
    /// The maximum number of events to write. `None` means no limit.
    pub credit: Option<u64>,
    /// The reaction to events that the log no longer keeps.
    pub on_gap: OnGap,
    /// The last resource of the snapshot that was written.
    pub snapshot_after: Option<ResourceId>,
    /// The overflow policy.
    pub overflow: Overflow,
    /// `Some` if only the newest event of each resource on the page is written. The
    /// client knows of the conflated events up to this offset.
    pub conflate: Option<Offset>,
}

impl Subscription {
    /// Returns a subscription that reads the log after `written_to`. If the spec
    /// has a snapshot, it reads the resources first.
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

    /// Changes the follower, and updates the lag statistics.
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

    /// Records that events up to `to` are written or not wanted
    /// ([`Follower::advance`]).
    pub(super) fn advance(&mut self, to: Offset) {
        self.follower.advance(to);
    }

    /// Records that the batch that ends at `end` was pushed ([`Follower::push`]).
    pub(super) fn pushed(&mut self, end: Offset) {
        self.follower.push(end);
    }

    /// Goes live if nothing is left to read ([`Follower::join`]). Returns whether
    /// it did. A subscription in the middle of a conflated page does not go live,
    /// because the fan-out would push events that were conflated.
    pub(super) fn join(&mut self) -> bool {
        let joins = !self.spec.snapshot && self.is_past_conflated() && {
            let tail = self.progress.tail();
            self.update_follower(|follower| follower.join(tail))
        };
        self.conflating &= !joins;
        joins
    }

    /// Starts to catch up from the log ([`Follower::fall_behind`]). The caller
    /// removes the subscription's items from the ring.
    pub(super) fn fall_behind(&mut self) {
        self.update_follower(Follower::fall_behind);
        self.waiting = 0;
        self.conflating = self.spec.overflow == Overflow::Conflate;
    }

    /// Reads the log after `start`. With `snapshot`, reads the resources first.
    pub(super) fn restart(&mut self, start: Offset, snapshot: bool) {
        self.update_follower(|follower| follower.restart(start));
        self.spec.snapshot = snapshot;
        self.snapshot_after = None;
    }

    /// Returns the number of offsets that the client is behind the log's head.
    pub(super) fn lag(&self) -> u64 {
        self.progress.log.head().0.saturating_sub(self.position().0)
    }

    /// Returns the offset up to which the client has all events that it asked for.
    pub(super) fn position(&self) -> Offset {
        self.follower.position(self.waiting == 0, self.progress.fanned_to())
    }

    /// Returns whether the events up to `conflated` are written.
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
