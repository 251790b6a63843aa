//! The state of a connection, and the decisions that need this state. The lock of
//! the connection protects the state.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::ring::{OnEviction, Ring};
use super::run::{DropMarker, Slice};
use super::subscription::{Mode, ReadRequest, Subscription};
use super::words::{DirectWriter, EndReason, Overflow, SubscriptionId, WriteBudget};
use crate::event::EventId;

/// The next action of a connection's writer: the task that writes to the socket.
pub enum WriterAction {
    /// Write the slices that [`Subscriber::next`](super::Subscriber::next) has added
    /// to its argument `slices`.
    Write,
    /// Write these bytes before anything else. The socket has not accepted them in a
    /// direct write of the fan-out.
    PartialWrite(Bytes),
    /// Read a page of the log for a subscription.
    Read(ReadRequest),
    /// Read resources for the snapshot of a subscription.
    Snapshot(ReadRequest),
    /// Send a `gap` to the client: the overflow policy has dropped events of a
    /// subscription.
    Dropped(ReadRequest, DropMarker),
    /// Send a heartbeat. Contains the position of the subscription if the connection
    /// has exactly one.
    Heartbeat(Option<EventId>),
    /// Send the end reason to the client and close the connection. Contains the
    /// position of the subscription if the connection has exactly one.
    End(EndReason, Option<EventId>),
    /// Wait until the hub wakes the task of the writer.
    Wait,
}

/// The source from which [`Subscriber::next`](super::Subscriber::next) takes events
/// first. The writer alternates between the ring and the log. So on a connection
/// with many subscriptions, neither source starves the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// Take events from the ring. If the ring is empty, read the log.
    Ring,
    /// Read the log if a subscription is catching up. Otherwise take events from the
    /// ring.
    Log,
    /// Take events only from the ring, because a read of the log is in progress.
    RingOnly,
    /// Take no events, because pacing does not permit events yet.
    Paced,
}

/// Whether a connection's writer works, sleeps, or waits because of pacing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// The writer may have slices of the ring, or the rest of a partial direct
    /// write.
    Busy,
    /// The writer waits for events. It has no slices, and no bytes of a direct write
    /// are left.
    Asleep,
    /// The writer waits until pacing permits events. A timer wakes the writer.
    Paced,
}

/// The state of a connection: its ring, its subscriptions and its times.
pub(super) struct State {
    pub(super) ring: Ring,
    pub(super) subscriptions: Vec<Option<Subscription>>,
    pub(super) waker: Option<Waker>,
    pub(super) end_reason: Option<EndReason>,
    /// The socket of the connection, if the fan-out is allowed to write to it.
    pub(super) direct_writer: Option<Arc<dyn DirectWriter>>,
    /// The bytes that the socket has not accepted in a direct write. The field is
    /// boxed, because partial writes are rare and a connection must stay small.
    pub(super) partial_write: Option<Box<Bytes>>,
    /// Whether each tick of the shard wakes the writer. This is set while the writer
    /// has a deadline of its own.
    pub(super) needs_tick: bool,
    /// Whether the connection is closed. The next tick of the shard removes the
    /// connection from the shard.
    pub(super) has_left: bool,
    pub(super) heartbeat_due: bool,
    pub(super) writer: Writer,
    /// The time of the last write, in milliseconds since the start of the shard.
    pub(super) last_sent: u64,
    /// The time since which the socket accepts no bytes, in milliseconds since the
    /// start of the shard. `None` if the socket accepts bytes.
    pub(super) blocked_since: Option<u64>,
    /// The fraction of the configured heartbeat interval that this connection uses
    /// as its interval.
    pub(super) heartbeat_fraction: f32,
    /// The time of the last written event or of the client's last command, in
    /// milliseconds since the start of the shard.
    pub(super) last_active: u64,
    /// The time at which a drain or the maximum lifetime ends this connection, in
    /// milliseconds since the start of the shard, and the reason.
    pub(super) scheduled_end: Option<(u64, EndReason)>,
    /// The slot in `subscriptions` from which the search for the next read starts.
    pub(super) next_slot: usize,
}

impl State {
    /// Returns the state of a new connection. `now` is the time in milliseconds
    /// since the start of the shard.
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

    /// Returns whether the fan-out may write to the socket: the writer sleeps, the
    /// ring is empty, and the connection does not end.
    pub(super) fn accepts_direct_write(&self) -> bool {
        self.writer == Writer::Asleep && self.ring.is_empty() && self.end_reason.is_none()
    }

    /// Stores the bytes that the socket has not accepted in a direct write. The
    /// writer writes them next.
    pub(super) fn keep_partial_write(&mut self, rest: Bytes) {
        self.writer = Writer::Busy;
        self.partial_write = Some(Box::new(rest));
    }

    /// Makes each subscription live if it has read its log to the end. Returns a
    /// read for one of the other subscriptions, or `None` if none has to read. The
    /// subscriptions that have to read take turns.
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

    /// Returns the action for the first items of the ring, or `None` if the ring is
    /// empty. If the first item is a drop marker, removes it from the ring.
    /// Otherwise adds slices of the first events to `slices`; these events stay in
    /// the ring.
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
                // In a conflated ring, an event that was kept may come before an
                // event that was dropped. So the position of the subscription moves
                // only if the ring has no other event of the subscription. If the
                // subscription catches up, the events up to `conflated` stay
                // conflated.
                Overflow::Conflate => {
                    subscription.conflated = subscription.conflated.max(marker.scanned_to);
                    if subscription.waiting == 0 {
                        subscription.advance(marker.to);
                    }
                }
                // All events of the subscription in the ring come after the dropped
                // events. The writer sends the gap before it calls this method
                // again.
                _ => subscription.advance(marker.to),
            }
            return Some(WriterAction::Dropped(request, marker));
        }
        self.ring.peek(slices, budget);
        (!slices.is_empty()).then_some(WriterAction::Write)
    }

    /// Removes the events of evicted batches from the ring. These are the batches
    /// that the log has evicted from its tail in memory. Returns whether there were
    /// such events.
    ///
    /// A ring counts only the bytes of its events, but it keeps whole batches in
    /// memory. This costs nothing while the tail of the log keeps the same batches
    /// in memory. After the eviction, a ring with a narrow filter could keep a
    /// thousand large batches. So the subscription catches up from the log. If its
    /// policy is to drop, it drops the events.
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

    /// Returns the id from which the client can resume, if the connection has
    /// exactly one subscription. Returns `None` before the end of a snapshot,
    /// because a resume from the id would skip the rest of the snapshot.
    pub(super) fn resume_id(&self) -> Option<EventId> {
        match self.subscriptions.as_slice() {
            [Some(only)] if only.mode() != Mode::Snapshot => {
                Some(only.progress.log.identity().id(only.position()))
            }
            _ => None,
        }
    }

    /// Stores the waker of the writer's task, unless the stored waker wakes this
    /// task already.
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
