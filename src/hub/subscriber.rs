//! One connection as the hub knows it: subscriptions, ring, and the writer
//! that sleeps on it. `docs/architecture.md#delivery` says why this loses and
//! repeats nothing; the comments here say which line is which step.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::lane::Entry;
use super::ring::{Ring, Room, Run, Slice};
use super::shard::Shard;
use super::state::{Next, State, Turn};
use super::subscription::{Interest, Mode, Reading, Subscription, SubscriptionId};
use super::{Ending, Overflow};
use crate::event::{Offset, ResourceId};
use crate::log::Log;
use crate::metrics::Protocol;
use crate::wire::{Batch, Form, Selection};

/// One client connection: what it subscribes to and what waits to be written.
pub struct Subscriber {
    id: u64,
    protocol: Protocol,
    shard: Arc<Shard>,
    state: Mutex<State>,
}

impl Subscriber {
    pub(super) fn new(id: u64, protocol: Protocol, shard: Arc<Shard>, heartbeat: Duration) -> Self {
        let state = State::new(shard.now(), heartbeat);
        Subscriber { id, protocol, shard, state: Mutex::new(state) }
    }

    /// The connection's number in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Milliseconds since the hub started, as of its last tick.
    pub fn now(&self) -> u64 {
        self.shard.now()
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Adds a subscription to `log` that starts after `start`, or now if none.
    /// It is in the index before the start is fixed, so nothing that is
    /// committed from here on can pass it by. Gives the start back.
    pub fn subscribe(
        self: &Arc<Self>,
        log: &Arc<Log>,
        interest: Interest,
        start: Option<Offset>,
    ) -> (SubscriptionId, Offset) {
        let lane = self.shard.lane(log);
        let mode = if interest.snapshot { Mode::Snapshot } else { Mode::Parked };
        let id = self.reserve_slot();
        let entry =
            Entry { subscriber: self.clone(), subscription: id, filter: interest.filter.clone() };
        let place = lane.index.lock().insert(&interest.scope, entry);
        let taken = start.unwrap_or_else(|| log.head());
        let subscription = Subscription {
            id,
            lane,
            place,
            interest,
            mode,
            taken,
            queued: taken,
            waiting: 0,
            reached: None,
        };
        let mut state = self.state.lock();
        state.subscriptions[id.slot as usize] = Some(subscription);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        (id, taken)
    }

    fn reserve_slot(&self) -> SubscriptionId {
        let mut state = self.state.lock();
        // Only the connection's own task subscribes, so a free slot stays free
        // until that task fills it.
        let slot = state.subscriptions.iter().position(Option::is_none).unwrap_or_else(|| {
            state.subscriptions.reserve_exact(1);
            state.subscriptions.push(None);
            state.subscriptions.len() - 1
        });
        SubscriptionId::new(slot)
    }

    /// Ends a subscription and frees what waits for it; false if there was none.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        let removed = {
            let mut state = self.state.lock();
            let removed = state.take_subscription(id);
            state.ring.forget(id);
            removed
        };
        // The index is locked before a subscriber by the fan-out, never after.
        match removed {
            Some(gone) => {
                gone.lane.index.lock().remove(&gone.interest.scope, gone.place, id);
                true
            }
            None => false,
        }
    }

    /// Gives a windowed subscription `n` more events.
    pub fn request(&self, id: SubscriptionId, n: u64) -> bool {
        let mut state = self.state.lock();
        let Some(subscription) = state.subscription(id) else { return false };
        let Some(credit) = &mut subscription.interest.credit else { return false };
        *credit = credit.saturating_add(n);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        true
    }

    /// Changes the form of everything from here on, also of what waits.
    pub fn reform(&self, form: Form) {
        let mut state = self.state.lock();
        for subscription in state.subscriptions.iter_mut().flatten() {
            subscription.interest.form = form;
        }
        state.ring.reform(form);
    }

    /// The connection is over: nothing more is pushed, the index forgets it.
    pub fn leave(&self) {
        let subscriptions = {
            let mut state = self.state.lock();
            state.gone = true;
            state.ring = Ring::default();
            state.waker = None;
            std::mem::take(&mut state.subscriptions)
        };
        for gone in subscriptions.into_iter().flatten() {
            gone.lane.index.lock().remove(&gone.interest.scope, gone.place, gone.id);
        }
    }

    /// Asks the writer to end the connection; the first reason stays.
    pub fn end(&self, ending: Ending) {
        let mut state = self.state.lock();
        state.ending.get_or_insert(ending);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }

    // === the fan-out's side ===

    /// A visit of the fan-out with a run of events (delivery, push 2). Gives
    /// the writer's waker, to be woken outside the lock.
    pub(super) fn push(
        &self,
        id: SubscriptionId,
        batch: &Arc<Batch>,
        selection: Selection,
        fanned: Offset,
    ) -> Option<Waker> {
        let settings = self.shard.settings();
        let mut state = self.state.lock();
        let State { ring, subscriptions, waker, .. } = &mut *state;
        let subscription = subscriptions.get_mut(id.slot as usize)?.as_mut()?;
        if subscription.id != id || subscription.mode != Mode::Live {
            return None;
        }
        let selection = if subscription.queued > fanned {
            subscription.interest.filter.narrow(batch, &selection, subscription.queued)?
        } else {
            selection
        };
        if subscription.waiting == 0 {
            subscription.taken = subscription.taken.max(fanned);
        }
        let events = u64::from(selection.len());
        let run = Run::new(id, batch.clone(), selection, subscription.interest.form);
        let credited = subscription
            .interest
            .credit
            .is_none_or(|credit| subscription.waiting + events <= credit);
        if credited && ring.fits(&run, settings.ring_events as u64, settings.ring_bytes as u64) {
            ring.push(run);
            subscription.waiting += events;
            subscription.queued = batch.end();
        } else {
            match settings.overflow {
                Overflow::Log => {
                    if credited {
                        self.shard.metrics().ring_overflows.increment(1);
                    }
                    subscription.waiting = 0;
                    subscription.mode = Mode::Parked;
                    ring.forget(id);
                }
            }
        }
        waker.take()
    }

    /// The shard lost its place in the log's tail: the subscription reads for itself.
    pub(super) fn park(&self, id: SubscriptionId) -> Option<Waker> {
        let mut state = self.state.lock();
        let subscription = state.subscription(id)?;
        if subscription.mode == Mode::Live {
            if subscription.waiting == 0 {
                let fanned = subscription.lane.fanned();
                subscription.taken = subscription.taken.max(fanned);
            }
            subscription.mode = Mode::Parked;
            subscription.waiting = 0;
            state.ring.forget(id);
        }
        state.waker.take()
    }

    /// The shard's tick: is anything due? False when the connection is gone.
    pub(super) fn tick(&self, now: u64) -> bool {
        let mut state = self.state.lock();
        if state.gone {
            return false;
        }
        state.release_evicted();
        let stall = self.shard.settings().stall_timeout.as_millis() as u64;
        if state.blocked_since.is_some_and(|since| now.saturating_sub(since) >= stall) {
            // Whatever was to be said before, the socket does not take it.
            state.ending = Some(Ending::Stalled);
        }
        if state.drain_at.is_some_and(|at| now >= at) {
            state.ending.get_or_insert(Ending::Drained);
        }
        let quiet = now.saturating_sub(state.quiet_since) >= state.heartbeat_ms;
        if quiet && state.blocked_since.is_none() {
            state.heartbeat_due = true;
        }
        if state.heartbeat_due || state.ending.is_some() {
            let waker = state.waker.take();
            drop(state);
            wake(waker);
        }
        true
    }

    /// How many subscriptions read the log, and how far the last of all is
    /// behind its log, in offsets.
    pub(super) fn census(&self) -> (u64, u64) {
        let state = self.state.lock();
        let mut parked = 0;
        let mut lag = 0;
        for subscription in state.subscriptions.iter().flatten() {
            parked += u64::from(subscription.mode != Mode::Live);
            let head = subscription.lane.log.head();
            lag = lag.max(head.0.saturating_sub(subscription.position().0));
        }
        (parked, lag)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state.lock().gone
    }

    pub(super) fn drain_at(&self, at: u64) {
        self.state.lock().drain_at = Some(at);
    }

    // === the writer's side ===

    /// What to do next. On the ring's turn, and when no subscription has to
    /// read, fills `hand` from the ring without taking anything out of it.
    /// When there is nothing to do, the task of `cx` is woken once there is.
    pub fn next(
        &self,
        cx: &Context<'_>,
        turn: Turn,
        hand: &mut Vec<Slice>,
        room: &mut Room,
    ) -> Next {
        let mut state = self.state.lock();
        if let Some(ending) = state.ending {
            return Next::End(ending, state.bookmark());
        }
        if turn != Turn::Log {
            state.ring.peek(hand, room);
        }
        if hand.is_empty() && turn != Turn::RingOnly {
            if let Some(next) = state.read_next() {
                return next;
            }
            state.ring.peek(hand, room);
        }
        if !hand.is_empty() {
            return Next::Write;
        }
        if std::mem::take(&mut state.heartbeat_due) {
            return Next::Heartbeat(state.bookmark());
        }
        state.sleep(cx);
        Next::Wait
    }

    /// For a writer that waits for its socket or for a read: whether the
    /// connection must end although a frame may be half out. If not, the task
    /// of `cx` is woken by whatever comes.
    pub fn watch(&self, cx: &Context<'_>) -> Option<Ending> {
        let mut state = self.state.lock();
        if let Some(ending) = state.ending.filter(|ending| ending.is_urgent()) {
            return Some(ending);
        }
        state.sleep(cx);
        None
    }

    /// These slices are on their way: whatever happens to the rest, their
    /// last byte goes out before anything else.
    pub fn wrote(&self, slices: &[Slice]) {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.quiet_since = now;
        state.heartbeat_due = false;
        state.blocked_since = None;
        let State { ring, subscriptions, .. } = &mut *state;
        for slice in slices.iter().filter(|slice| slice.events > 0) {
            let id = slice.subscription;
            let slot = subscriptions.get_mut(id.slot as usize).and_then(Option::as_mut);
            if let Some(subscription) = slot.filter(|subscription| subscription.id == id) {
                subscription.taken = slice.through;
                if subscription.waiting > 0 {
                    subscription.waiting -= ring.pass(id, slice.through);
                }
                if let Some(credit) = &mut subscription.interest.credit {
                    *credit = credit.saturating_sub(u64::from(slice.events));
                }
            }
        }
    }

    /// Something other than events was written.
    pub fn spoke(&self) {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.quiet_since = now;
        state.heartbeat_due = false;
        state.blocked_since = None;
    }

    /// The socket takes nothing at the moment.
    pub fn blocked(&self) {
        let now = self.shard.now();
        self.state.lock().blocked_since.get_or_insert(now);
    }

    /// The socket takes something again.
    pub fn unblocked(&self) {
        self.state.lock().blocked_since = None;
    }

    /// A parked subscription has been read up to `upto`.
    pub fn passed(&self, id: SubscriptionId, upto: Offset) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.taken = subscription.taken.max(upto);
        }
    }

    /// A subscription starts anew after `start`: past a gap, or with a snapshot.
    pub fn restart(&self, id: SubscriptionId, start: Offset, snapshot: bool) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.taken = start;
            subscription.reached = None;
            subscription.mode = if snapshot { Mode::Snapshot } else { Mode::Parked };
        }
    }

    /// The snapshot of a subscription is written up to a resource.
    pub fn reached(&self, id: SubscriptionId, reached: ResourceId) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.reached = Some(reached);
        }
    }

    /// Where a subscription stands and what it asked for; none if it is gone.
    pub fn reading(&self, id: SubscriptionId) -> Option<Reading> {
        self.state.lock().subscription(id).map(|subscription| subscription.reading())
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
