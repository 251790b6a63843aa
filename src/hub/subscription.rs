//! A subscription of a connection to a log: its spec and its position in the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::fanout_progress::FanoutProgress;
use super::words::{OnGap, Overflow, Scope, SlotIndex, SubscriptionId, SubscriptionSpec};
use crate::event::{Offset, ResourceId};
use crate::log::{Follower, Log};
use crate::wire::{Filter, WireFormat};

/// The source from which a subscription gets its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The fan-out pushes the events into the ring of the connection.
    Live,
    /// The writer of the connection reads the events from the log.
    CatchingUp,
    /// The writer of the connection reads the resources, and then reads the events
    /// from the log.
    Snapshot,
}

/// A subscription of a connection to a log. While the subscription is not live, the
/// [`LagStats`](super::fanout_progress::LagStats) of the shard count it as catching
/// up.
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    pub(super) progress: Arc<FanoutProgress>,
    pub(super) slot: SlotIndex,
    pub(super) spec: SubscriptionSpec,
    /// The position of the subscription in the log. Only
    /// [`Subscription::update_follower`] changes whether the follower is live,
    /// because the lag statistics must change at the same time.
    follower: Follower,
    /// The number of the subscription's events and drop markers in the ring.
    pub(super) waiting: u64,
    /// Whether the subscription catches up because its ring was full and its policy
    /// is `conflate`. The writer then writes only the newest event of each resource
    /// on a page of the log.
    pub(super) conflating: bool,
    /// The offset up to which a `gap` message has reported conflated events to the
    /// client.
    pub(super) conflated: Offset,
    /// The last written resource of the snapshot. `None` if none is written yet.
    pub(super) snapshot_after: Option<ResourceId>,
}

/// A read of the log or of the resources that the writer has to do for a
/// subscription.
#[derive(Clone)]
pub struct ReadRequest {
    /// The subscription that needs the read.
    pub subscription: SubscriptionId,
    /// The log of the subscription.
    pub log: Arc<Log>,
    /// The part of the log that the subscription covers.
    pub scope: Scope,
    /// The filter that selects the events.
    pub filter: Arc<Filter>,
    /// The wire format of the events.
    pub format: WireFormat,
    /// The offset after which the read starts.
    pub after: Offset,
    /// The maximum number of events to write. `None` means no limit.
    pub credit: Option<u64>,
    /// The reaction to a gap: the log no longer keeps events that the client asked
    /// for.
    pub on_gap: OnGap,
    /// The last written resource of the snapshot. `None` if none is written yet.
    pub snapshot_after: Option<ResourceId>,
    /// The overflow policy of the subscription.
    pub overflow: Overflow,
    /// `Some` if the writer writes only the newest event of each resource on a page
    /// of the log. The value is the offset up to which a `gap` message has reported
    /// conflated events to the client.
    pub conflate: Option<Offset>,
}

impl Subscription {
    /// Returns a subscription that reads the log after the offset `written_to`. If
    /// the spec asks for a snapshot, the subscription reads the resources first.
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

    /// Calls `change` with the follower. Updates the lag statistics if this call
    /// changes whether the follower is live.
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

    /// Records that the events up to `to` are written or that the filter excludes
    /// them ([`Follower::advance`]).
    pub(super) fn advance(&mut self, to: Offset) {
        self.follower.advance(to);
    }

    /// Records that the fan-out has pushed the batch with the end offset `end`
    /// ([`Follower::push`]).
    pub(super) fn pushed(&mut self, end: Offset) {
        self.follower.push(end);
    }

    /// Makes the subscription live if it has read the log to the end
    /// ([`Follower::join`]). Returns whether the subscription became live. A
    /// subscription in the middle of a conflated page does not go live, because the
    /// fan-out would push events that were conflated.
    pub(super) fn join(&mut self) -> bool {
        let joins = !self.spec.snapshot && self.is_past_conflated() && {
            let tail = self.progress.tail();
            self.update_follower(|follower| follower.join(tail))
        };
        self.conflating &= !joins;
        joins
    }

    /// Makes the subscription read from the log again ([`Follower::fall_behind`]).
    /// The caller must remove the subscription's events and drop markers from the
    /// ring.
    pub(super) fn fall_behind(&mut self) {
        self.update_follower(Follower::fall_behind);
        self.waiting = 0;
        self.conflating = self.spec.overflow == Overflow::Conflate;
    }

    /// Makes the subscription read the log after `start`. With `snapshot`, it reads
    /// the resources first.
    pub(super) fn restart(&mut self, start: Offset, snapshot: bool) {
        self.update_follower(|follower| follower.restart(start));
        self.spec.snapshot = snapshot;
        self.snapshot_after = None;
    }

    /// Returns the lag of the client: the number of offsets from its position to the
    /// head of the log.
    pub(super) fn lag(&self) -> u64 {
        self.progress.log.head().0.saturating_sub(self.position().0)
    }

    /// Returns the offset up to which the client has all events that match its
    /// filter.
    pub(super) fn position(&self) -> Offset {
        self.follower.position(self.waiting == 0, self.progress.fanned_to())
    }

    /// Returns whether all events up to the offset `conflated` are written, or the
    /// subscription is not conflating.
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
