//! What a connection's one lock protects, and what is decided under it.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::ring::{Evicted, Ring};
use super::run::{DropMarker, Slice};
use super::subscription::{Mode, ReadRequest, Subscription};
use super::words::{DirectWriter, EndReason, Overflow, SubscriptionId, WriteBudget};
use crate::event::EventId;

/// What the writer does next.
pub enum WriterAction {
    /// Writes what was put into its slices.
    Write,
    /// Writes the rest of what the fan-out has put out half, before anything
    /// else.
    PartialWrite(Bytes),
    /// Reads the log after this place for this subscription.
    Read(ReadRequest),
    /// Reads resources for this subscription.
    Snapshot(ReadRequest),
    /// Tells the client that events of this subscription were dropped behind
    /// where it stands.
    Dropped(ReadRequest, DropMarker),
    /// Tells the client that it is still there, with the position that the
    /// only subscription has been read up to.
    Heartbeat(Option<EventId>),
    /// Tells the client why, with the position that the only subscription has
    /// been written up to, and ends.
    End(EndReason, Option<EventId>),
    /// Sleeps; it will be woken.
    Wait,
}

/// Who goes first when both the ring and the log have something, so that on a
/// socket with many subscriptions neither starves the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollMode {
    /// What was pushed.
    Ring,
    /// What must be read.
    Log,
    /// What was pushed, while a read is under way.
    RingOnly,
    /// Neither, while events may not be sent yet.
    Paced,
}

/// What a connection's writer is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// It may have something in its slices or half out.
    Busy,
    /// It waits for something to write and has nothing half out.
    Asleep,
    /// It waits until it may send events again; its timer wakes it.
    Paced,
}

/// A connection's queue, subscriptions and moments.
pub(super) struct State {
    pub(super) ring: Ring,
    pub(super) subscriptions: Vec<Option<Subscription>>,
    pub(super) waker: Option<Waker>,
    pub(super) end_reason: Option<EndReason>,
    /// The socket, where the fan-out may write to it.
    pub(super) direct_writer: Option<Arc<dyn DirectWriter>>,
    /// The rest of what the fan-out wrote and the socket did not take. Seldom
    /// there, so behind a pointer.
    pub(super) partial_write: Option<Box<Bytes>>,
    /// The writer has a deadline of its own, for which every tick wakes it.
    pub(super) needs_tick: bool,
    /// The connection is gone; the shard forgets it at its next tick.
    pub(super) has_left: bool,
    pub(super) heartbeat_due: bool,
    pub(super) writer: Writer,
    /// The shard's time of the last write, in milliseconds.
    pub(super) last_sent: u64,
    /// The shard's time since which the socket takes nothing.
    pub(super) blocked_since: Option<u64>,
    /// This connection's own part of the heartbeat interval.
    pub(super) heartbeat_fraction: f32,
    /// The shard's time of the last event, or of the client's last word.
    pub(super) last_active: u64,
    /// When a drain or its age ends this connection, in the shard's time.
    pub(super) due: Option<(u64, EndReason)>,
    /// The slot whose turn to read it is.
    pub(super) next_slot: usize,
}

impl State {
    /// Of a connection that was quiet since `now` and beats after a part of
    /// the heartbeat interval.
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
            due: None,
            next_slot: 0,
        }
    }

    /// Whether the fan-out may write to the socket, if it has it.
    pub(super) fn is_vacant(&self) -> bool {
        self.writer == Writer::Asleep && self.ring.is_empty() && self.end_reason.is_none()
    }

    /// The fan-out's write was taken in part.
    pub(super) fn keep_partial_write(&mut self, rest: Bytes) {
        self.writer = Writer::Busy;
        self.partial_write = Some(Box::new(rest));
    }

    /// The next subscription that has to read, by turns, after letting all
    /// those join the fan-out that have nothing left to read.
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

    /// Whether the fan-out has anything to do here.
    pub(super) fn is_live(&self) -> bool {
        self.subscriptions.iter().flatten().any(|subscription| subscription.mode() == Mode::Live)
    }

    /// Whether there is nothing to read.
    pub(super) fn is_all_live(&self) -> bool {
        self.subscriptions.iter().flatten().all(|subscription| subscription.mode() == Mode::Live)
    }

    /// What of the ring comes next: events into `slices`, or a mark.
    pub(super) fn peek(
        &mut self,
        slices: &mut Vec<Slice>,
        budget: &mut WriteBudget,
    ) -> Option<WriterAction> {
        while let Some(lost) = self.ring.take_marker() {
            let Some(subscription) = self.subscription(lost.subscription) else { continue };
            let request = subscription.read_request();
            subscription.waiting -= 1;
            match subscription.spec.overflow {
                // Of a conflated ring some that were kept stand before some
                // that were not; with nothing still to come all is passed. What
                // was left out stays so if the log has to be read for the rest.
                Overflow::Conflate => {
                    subscription.conflated = subscription.conflated.max(lost.scanned_to);
                    if subscription.waiting == 0 {
                        subscription.advance(lost.to);
                    }
                }
                // Whatever waits stands behind what was dropped, and the gap is
                // written before anything else is asked for.
                _ => subscription.advance(lost.to),
            }
            return Some(WriterAction::Dropped(request, lost));
        }
        self.ring.peek(slices, budget);
        (!slices.is_empty()).then_some(WriterAction::Write)
    }

    /// A ring counts the bytes that it will write, but holds the whole batches
    /// they lie in. That costs nothing while the log's tail holds them too;
    /// past it a narrow filter could keep a thousand large ones alive. So the
    /// subscription reads them back when its client gets to them, or, where
    /// its policy is to drop, goes without. Tells whether any did either.
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
                let evicted = subscription.map_or(Evicted::CatchUp, Subscription::evict);
                (id, evicted)
            })
            .collect();
        let held = |id: SubscriptionId, end| {
            let slot = subscriptions.get(id.slot as usize).and_then(Option::as_ref);
            slot.is_some_and(|subscription| subscription.progress.log.holds(end))
        };
        ring.evict(&mut evicted, held);
        for (id, evicted) in evicted {
            if let Evicted::Drop(dropped) = evicted
                && let Some(subscription) = self.subscription(id)
            {
                let waiting = subscription.waiting.saturating_add_signed(dropped.change);
                subscription.waiting = waiting;
            }
        }
        true
    }

    /// The position of the only subscription; none if there are several, or
    /// it has not got its snapshot yet, which a position would skip.
    pub(super) fn resume_id(&self) -> Option<EventId> {
        match self.subscriptions.as_slice() {
            [Some(only)] if only.mode() != Mode::Snapshot => {
                Some(only.progress.log.origin().id(only.position()))
            }
            _ => None,
        }
    }

    pub(super) fn sleep(&mut self, cx: &Context<'_>) {
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
