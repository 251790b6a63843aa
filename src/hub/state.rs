//! The state of a connection, which one lock protects, and the decisions that
//! need this lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::ring::{OnEviction, Ring};
use super::run::{DropMarker, Slice};
use super::subscription::{Mode, ReadRequest, Subscription};
use super::words::{DirectWriter, EndReason, Overflow, SubscriptionId, WriteBudget};
use crate::event::EventId;

/// The next action of a connection's writer.
pub enum WriterAction {
    /// Write the slices that [`Subscriber::next`](super::Subscriber::next) has added.
    Write,
    /// Write the rest of a direct write of the fan-out, before anything else.
    PartialWrite(Bytes),
    /// Read a page of the log for a subscription.
    Read(ReadRequest),
    /// Read resources for the snapshot of a subscription.
    Snapshot(ReadRequest),
    /// Tell the client that the overflow policy has dropped events of a
    /// subscription.
    Dropped(ReadRequest, DropMarker),
    /// Send a heartbeat. Contains the position of the connection's only
    /// subscription, if the connection has one subscription.
    Heartbeat(Option<EventId>),
    /// Send the reason to the client and end the connection. Contains the
    /// position of the connection's only subscription.
    End(EndReason, Option<EventId>),
    /// Wait until the hub wakes the writer.
    Wait,
}

/// The source that the writer asks for first. The ring and the log take turns, so
/// that on a connection with many subscriptions no source starves the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// The ring first, then the log.
    Ring,
    /// The log first, then the ring.
    Log,
    /// The ring only, because a read of the log is in progress.
    RingOnly,
    /// No source, because pacing does not permit events yet.
    Paced,
}

/// The activity of a connection's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// The writer may have slices or a partial write.
    Busy,
    /// The writer waits for events and has no partial write.
    Asleep,
    /// The writer waits until pacing permits events. A timer wakes it.
    Paced,
}

/// The ring, the subscriptions and the times of a connection.
pub(super) struct State {
    pub(super) ring: Ring,
    pub(super) subscriptions: Vec<Option<Subscription>>,
    pub(super) waker: Option<Waker>,
    pub(super) end_reason: Option<EndReason>,
    /// The socket, if the fan-out may write to it.
    pub(super) direct_writer: Option<Arc<dyn DirectWriter>>,
    /// The rest of a direct write that the socket did not accept. Boxed, because
    /// it is rare and a connection must stay small.
    pub(super) partial_write: Option<Box<Bytes>>,
    /// Whether the writer has its own deadline. Each tick then wakes the writer.
    pub(super) needs_tick: bool,
    /// Whether the connection is closed. The next tick removes it from the shard.
    pub(super) has_left: bool,
    pub(super) heartbeat_due: bool,
    pub(super) writer: Writer,
    /// The shard's time of the last write, in milliseconds.
    pub(super) last_sent: u64,
    /// The shard's time since which the socket accepts no byte.
    pub(super) blocked_since: Option<u64>,
    /// The part of the heartbeat interval after which this connection sends a
    /// heartbeat.
    pub(super) heartbeat_fraction: f32,
    /// The shard's time of the last event or of the client's last command.
    pub(super) last_active: u64,
    /// The shard's time at which a drain or the maximum lifetime ends this
    /// connection.
    pub(super) scheduled_end: Option<(u64, EndReason)>,
    /// The slot of the subscription that reads next.
    pub(super) next_slot: usize,
}

impl State {
    /// Returns the state of a connection that joins at the shard's time `now`.
    pub(super) fn new(now: u64, heartbeat_fraction: f32) -> State {
        State {
            ring: Ring::default(),
            subscriptions: Vec::new(),
            waker: None,
            end_reason: None,
            direct_writer: None,
            partial_write: None,
            needs_tick: false,
            has_left: false,
            heartbeat_due: false,
            writer: Writer::Busy,
            last_sent: now,
            blocked_since: None,
            heartbeat_fraction,
            last_active: now,
            scheduled_end: None,
            next_slot: 0,
        }
    }

    /// Returns whether the writer sleeps, the ring is empty and the connection does
    /// not end.
    pub(super) fn accepts_direct_write(&self) -> bool {
        self.writer == Writer::Asleep && self.ring.is_empty() && self.end_reason.is_none()
    }

    /// Keeps the rest of a direct write for the writer.
    pub(super) fn keep_partial_write(&mut self, rest: Bytes) {
        self.writer = Writer::Busy;
        self.partial_write = Some(Box::new(rest));
    }

    /// Makes each subscription live that has nothing left to read. Returns the
    /// read of the next subscription that has to read; they take turns.
    pub(super) fn read_next(&mut self) -> Option<WriterAction> {
        let mut found = None;
        let count = self.subscriptions.len();
        for n in 0..count {
            let slot = (self.next_slot + n) % count;
            let Some(subscription) = &mut self.subscriptions[slot] else { continue };
            match subscription.mode() {
                Mode::Live => {}
                Mode::CatchingUp if subscription.spec.credit == Some(0) => {}
                Mode::CatchingUp if subscription.join() => {}
                Mode::CatchingUp | Mode::Snapshot if found.is_some() => {}
                Mode::CatchingUp => {
                    found = Some((slot, WriterAction::Read(subscription.read_request())));
                }
                Mode::Snapshot => {
                    found = Some((slot, WriterAction::Snapshot(subscription.read_request())));
                }
            }
        }
        let (slot, next) = found?;
        self.next_slot = slot + 1;
        Some(next)
    }

    /// Returns whether any subscription is live.
    pub(super) fn is_live(&self) -> bool {
        self.subscriptions.iter().flatten().any(|subscription| subscription.mode() == Mode::Live)
    }

    /// Returns whether every subscription is live.
    pub(super) fn is_all_live(&self) -> bool {
        self.subscriptions.iter().flatten().all(|subscription| subscription.mode() == Mode::Live)
    }

    /// Returns the next action for the ring: events, which are added to `slices`
    /// and stay in the ring, or a drop marker, which is removed from the ring.
    pub(super) fn peek(
        &mut self,
        slices: &mut Vec<Slice>,
        budget: &mut WriteBudget,
    ) -> Option<WriterAction> {
        while let Some(marker) = self.ring.take_marker() {
            let Some(subscription) = self.subscription(marker.subscription) else { continue };
            let request = subscription.read_request();
            subscription.waiting -= 1;
            match subscription.spec.overflow {
                // In a conflated ring, a kept event may stand before a dropped
                // one. So the position moves only if nothing else waits. If the
                // subscription catches up, the events up to `conflated` stay
                // conflated.
                Overflow::Conflate => {
                    subscription.conflated = subscription.conflated.max(marker.scanned_to);
                    if subscription.waiting == 0 {
                        subscription.advance(marker.to);
                    }
                }
                // All waiting events come after the dropped ones, and the writer
                // writes the gap before the next call.
                _ => subscription.advance(marker.to),
            }
            return Some(WriterAction::Dropped(request, marker));
        }
        self.ring.peek(slices, budget);
        (!slices.is_empty()).then_some(WriterAction::Write)
    }

    /// Removes the events from the ring whose batches the log has evicted from
    /// memory. Returns whether there were such events.
    ///
    /// A ring counts the bytes of its events, but keeps the whole batches in
    /// memory. This is free while the tail of the log has the same batches.
    /// After the eviction, a ring with a narrow filter could keep a thousand
    /// large batches. So the subscription catches up from the log, or drops the
    /// events if its policy is to drop.
    pub(super) fn release_evicted(&mut self) -> bool {
        let evicted = self.ring.evicted(self.subscriptions.len(), |id, end| {
            let slot = self.subscriptions.get(id.slot as usize).and_then(Option::as_ref);
            slot.is_some_and(|slot| slot.id == id && slot.progress.log.holds(end))
        });
        if evicted.is_empty() {
            return false;
        }
        let State { ring, subscriptions, .. } = self;
        let mut evicted: HashMap<_, _> = evicted
            .into_iter()
            .map(|id| {
                let slot = subscriptions.get_mut(id.slot as usize).and_then(Option::as_mut);
                let subscription = slot.filter(|subscription| subscription.id == id);
                let evicted = subscription.map_or(OnEviction::CatchUp, Subscription::evict);
                (id, evicted)
            })
            .collect();
        let is_held = |id: SubscriptionId, end| {
            let slot = subscriptions.get(id.slot as usize).and_then(Option::as_ref);
            slot.is_some_and(|subscription| subscription.progress.log.holds(end))
        };
        ring.evict(&mut evicted, is_held);
        for (id, evicted) in evicted {
            if let OnEviction::Drop(dropped) = evicted
                && let Some(subscription) = self.subscription(id)
            {
                let waiting = subscription.waiting.saturating_add_signed(dropped.change);
                subscription.waiting = waiting;
            }
        }
        true
    }

    /// Returns the position of the connection's only subscription. Returns `None`
    /// if there are several, or if the snapshot is not complete, because a resume
    /// from the position would skip the snapshot.
    pub(super) fn resume_id(&self) -> Option<EventId> {
        match self.subscriptions.as_slice() {
            [Some(only)] if only.mode() != Mode::Snapshot => {
                Some(only.progress.log.origin().id(only.position()))
            }
            _ => None,
        }
    }

    /// Stores the waker of the writer's task.
    pub(super) fn store_waker(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn subscription(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        let slot = self.subscriptions.get_mut(id.slot as usize)?.as_mut()?;
        (slot.id == id).then_some(slot)
    }

    pub(super) fn take_subscription(&mut self, id: SubscriptionId) -> Option<Subscription> {
        self.subscription(id)?;
        self.subscriptions[id.slot as usize].take()
    }
}
