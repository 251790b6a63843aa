//! What a connection's one lock protects, and what is decided under it.

use std::task::{Context, Waker};
use std::time::Duration;

use super::Ending;
use super::ring::Ring;
use super::subscription::{Mode, Reading, Subscription, SubscriptionId};
use crate::event::EventId;

/// What the writer does next.
pub enum Next {
    /// Writes what was put into its hand.
    Write,
    /// Reads the log after this place for this subscription.
    Read(Reading),
    /// Reads resources for this subscription.
    Snapshot(Reading),
    /// Tells the client that it is still there, with the position that the
    /// only subscription has been read up to.
    Heartbeat(Option<EventId>),
    /// Tells the client why, with the position that the only subscription has
    /// been written up to, and ends.
    End(Ending, Option<EventId>),
    /// Sleeps; it will be woken.
    Wait,
}

/// Who goes first when both the ring and the log have something, so that on a
/// socket with many subscriptions neither starves the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// What was pushed.
    Ring,
    /// What must be read.
    Log,
    /// What was pushed, while a read is under way.
    RingOnly,
}

/// A connection's queue, subscriptions and moments.
pub(super) struct State {
    pub(super) ring: Ring,
    pub(super) subscriptions: Vec<Option<Subscription>>,
    pub(super) waker: Option<Waker>,
    pub(super) ending: Option<Ending>,
    /// The connection is gone; the shard forgets it at its next tick.
    pub(super) gone: bool,
    pub(super) heartbeat_due: bool,
    /// The shard's time of the last write, in milliseconds.
    pub(super) quiet_since: u64,
    /// The shard's time since which the socket takes nothing.
    pub(super) blocked_since: Option<u64>,
    /// This connection's own heartbeat interval, in milliseconds.
    pub(super) heartbeat_ms: u64,
    /// When a drain reaches this connection, in the shard's time.
    pub(super) drain_at: Option<u64>,
    /// The slot whose turn to read it is.
    pub(super) read_from: usize,
}

impl State {
    /// Of a connection that was quiet since `now` and beats after `heartbeat`
    /// of silence.
    pub(super) fn new(now: u64, heartbeat: Duration) -> State {
        State {
            ring: Ring::default(),
            subscriptions: Vec::new(),
            waker: None,
            ending: None,
            gone: false,
            heartbeat_due: false,
            quiet_since: now,
            blocked_since: None,
            heartbeat_ms: heartbeat.as_millis() as u64,
            drain_at: None,
            read_from: 0,
        }
    }

    /// The next subscription that has to read, by turns, after letting all
    /// those join the fan-out that have nothing left to read.
    pub(super) fn read_next(&mut self) -> Option<Next> {
        let mut found = None;
        let count = self.subscriptions.len();
        for n in 0..count {
            let slot = (self.read_from + n) % count;
            let Some(subscription) = &mut self.subscriptions[slot] else { continue };
            match subscription.mode {
                Mode::Live => {}
                Mode::Parked if subscription.interest.credit == Some(0) => {}
                // Delivery, join 3: what is fanned out already is taken, and
                // what comes will find the subscription live.
                Mode::Parked if subscription.lane.tail() <= subscription.taken => {
                    subscription.mode = Mode::Live;
                    subscription.queued = subscription.taken;
                }
                Mode::Parked | Mode::Snapshot if found.is_some() => {}
                Mode::Parked => found = Some((slot, Next::Read(subscription.reading()))),
                Mode::Snapshot => found = Some((slot, Next::Snapshot(subscription.reading()))),
            }
        }
        let (slot, next) = found?;
        self.read_from = slot + 1;
        Some(next)
    }

    /// A ring counts the bytes that it will write, but holds the whole batches
    /// they lie in. That costs nothing while the log's tail holds them too;
    /// past it a narrow filter could keep a thousand large ones alive, so the
    /// subscription reads them back when its client gets to them.
    pub(super) fn release_evicted(&mut self) {
        while let Some((id, end)) = self.ring.front() {
            let slot = self.subscriptions.get_mut(id.slot as usize).and_then(Option::as_mut);
            match slot {
                Some(subscription) if subscription.id == id => {
                    if subscription.lane.log.holds(end) {
                        return;
                    }
                    subscription.waiting = 0;
                    subscription.mode = Mode::Parked;
                }
                _ => {}
            }
            self.ring.forget(id);
        }
    }

    /// The position of the only subscription; none if there are several, or
    /// it has not got its snapshot yet, which a position would skip.
    pub(super) fn bookmark(&self) -> Option<EventId> {
        match self.subscriptions.as_slice() {
            [Some(only)] if only.mode != Mode::Snapshot => {
                Some(only.lane.log.origin().id(only.position()))
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
