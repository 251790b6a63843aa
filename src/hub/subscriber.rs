//! One connection as the hub knows it: subscriptions, ring, and the writer
//! that sleeps on it. `docs/architecture.md#delivery` says why this loses and
//! repeats nothing; the comments here say which line is which step.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use super::index::Entry;
use super::ring::Ring;
use super::run::Slice;
use super::shard::Shard;
use super::state::{PollMode, State, Writer, WriterAction};
use super::subscription::{ReadRequest, Subscription};
use super::words::{Bounds, EndReason, SubscriptionId, SubscriptionSpec, WriteBudget};
use crate::event::{Offset, ResourceId};
use crate::log::Log;
use crate::metrics::Protocol;
use crate::sync::{AtomicBool, Mutex};
use crate::wire::WireFormat;

/// One client connection: what it subscribes to and what waits to be written.
pub struct Subscriber {
    id: u64,
    protocol: Protocol,
    /// As they were when it came; a reload is for those who come later.
    pub(super) bounds: Bounds,
    pub(super) shard: Arc<Shard>,
    pub(super) state: Mutex<State>,
    /// Whether any of its subscriptions is live, so that the fan-out passes by
    /// without the lock where none is: two thousand stalled readers else cost
    /// it as much as two thousand live ones. Written under the lock alone.
    pub(super) live: AtomicBool,
}

impl Subscriber {
    pub(super) fn new(
        id: u64,
        protocol: Protocol,
        bounds: Bounds,
        shard: Arc<Shard>,
        state: State,
    ) -> Subscriber {
        let (state, live) = (Mutex::new(state), AtomicBool::new(false));
        Subscriber { id, protocol, bounds, shard, state, live }
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
        spec: SubscriptionSpec,
        start: Option<Offset>,
    ) -> (SubscriptionId, Offset) {
        let id = self.reserve_slot();
        let entry =
            Entry { subscriber: self.clone(), subscription: id, filter: spec.filter.clone() };
        let (progress, slot) = self.shard.add_entry(log, &spec.scope, entry);
        let start = start.unwrap_or_else(|| log.head());
        let subscription = Subscription::new(id, progress, slot, spec, start);
        let mut state = self.state.lock();
        state.subscriptions[id.slot as usize] = Some(subscription);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        (id, start)
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
            state.ring.remove(id);
            removed
        };
        // The index is locked before a subscriber by the fan-out, never after.
        match removed {
            Some(gone) => {
                self.shard.remove_entry(&gone.progress.log, gone.slot);
                true
            }
            None => false,
        }
    }

    /// Gives a windowed subscription `n` more events.
    pub fn request(&self, id: SubscriptionId, n: u64) -> bool {
        let mut state = self.state.lock();
        let Some(subscription) = state.subscription(id) else { return false };
        let Some(credit) = &mut subscription.spec.credit else { return false };
        *credit = credit.saturating_add(n);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        true
    }

    /// Changes the format of everything from here on, also of what waits.
    pub fn change_format(&self, format: WireFormat) {
        let mut state = self.state.lock();
        for subscription in state.subscriptions.iter_mut().flatten() {
            subscription.spec.format = format;
        }
        state.ring.change_format(format);
    }

    /// The connection is over: nothing more is pushed, the index forgets it.
    pub fn leave(&self) {
        // The socket may be closed with its port, and not under the lock.
        let (subscriptions, _direct_writer) = {
            let mut state = self.state.lock();
            if !std::mem::replace(&mut state.has_left, true) {
                self.shard.count_closed(self.protocol);
            }
            state.ring = Ring::default();
            (state.waker, state.partial_write) = (None, None);
            (std::mem::take(&mut state.subscriptions), state.direct_writer.take())
        };
        for gone in subscriptions.into_iter().flatten() {
            self.shard.remove_entry(&gone.progress.log, gone.slot);
        }
    }

    /// Asks the writer to end the connection; the first reason stays.
    pub fn end(&self, end_reason: EndReason) {
        let mut state = self.state.lock();
        state.end_reason.get_or_insert(end_reason);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }

    // === the writer's side ===

    /// What to do next. On the ring's turn, and when no subscription has to
    /// read, fills `slices` from the ring without taking anything out of it.
    /// When there is nothing to do, the task of `cx` is woken once there is.
    pub fn next(
        &self,
        cx: &Context<'_>,
        mode: PollMode,
        slices: &mut Vec<Slice>,
        budget: &mut WriteBudget,
    ) -> WriterAction {
        let mut state = self.state.lock();
        state.writer = if mode == PollMode::Paced { Writer::Paced } else { Writer::Busy };
        if let Some(rest) = state.partial_write.take() {
            return WriterAction::PartialWrite(*rest);
        }
        if let Some(end_reason) = state.end_reason {
            return WriterAction::End(end_reason, state.resume_id());
        }
        let found = match mode {
            PollMode::Ring => state.peek(slices, budget).or_else(|| self.read_next(&mut state)),
            PollMode::Log => self.read_next(&mut state).or_else(|| state.peek(slices, budget)),
            PollMode::RingOnly => state.peek(slices, budget),
            PollMode::Paced => None,
        };
        if let Some(next) = found {
            return next;
        }
        if std::mem::take(&mut state.heartbeat_due) {
            return WriterAction::Heartbeat(state.resume_id());
        }
        // With a read under way the writer does not ask before it writes.
        if matches!(mode, PollMode::Ring | PollMode::Log) {
            state.writer = Writer::Asleep;
        }
        state.sleep(cx);
        WriterAction::Wait
    }

    /// Step 4 of [`log::Follower`](crate::log::Follower). The fan-out sets a fanout's `tail` and then looks at
    /// `live`; here it is the other way pass, and all of it in one order
    /// (`SeqCst`): where the fan-out still found nobody live, the `tail` that
    /// is compared here is the new one, and nobody joins.
    fn read_next(&self, state: &mut State) -> Option<WriterAction> {
        if state.is_all_live() {
            return None;
        }
        self.live.store(true, Ordering::SeqCst);
        let next = state.read_next();
        self.note_live(state);
        next
    }

    /// To be called under the lock wherever a subscription may have parked.
    pub(super) fn note_live(&self, state: &State) {
        self.live.store(state.is_live(), Ordering::SeqCst);
    }

    /// For a writer that waits for its socket, for a read or, where it is
    /// `answering`, for a command: whether the connection must end although a
    /// frame may be half out. If not, the task of `cx` is woken by whatever
    /// comes. A connection that is `answering` is not idle.
    pub fn watch(&self, cx: &Context<'_>, answering: bool) -> Option<EndReason> {
        let mut state = self.state.lock();
        let is_urgent = |end_reason: &EndReason| match end_reason {
            EndReason::Idle => !answering,
            end_reason => end_reason.is_urgent(),
        };
        if let Some(end_reason) = state.end_reason.filter(is_urgent) {
            return Some(end_reason);
        }
        state.sleep(cx);
        None
    }

    /// These slices are on their way: whatever happens to the rest, their
    /// last byte goes out before anything else.
    pub fn note_written(&self, slices: &[Slice]) {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.last_sent = now;
        state.heartbeat_due = false;
        state.blocked_since = None;
        let State { ring, subscriptions, last_active, .. } = &mut *state;
        ring.end_peek();
        for slice in slices.iter().filter(|slice| slice.events > 0) {
            *last_active = now;
            let id = slice.subscription;
            let slot = subscriptions.get_mut(id.slot as usize).and_then(Option::as_mut);
            if let Some(subscription) = slot.filter(|subscription| subscription.id == id) {
                subscription.advance(slice.through);
                if subscription.waiting > 0 {
                    subscription.waiting -= ring.remove_written(id, slice.through);
                }
                if let Some(credit) = &mut subscription.spec.credit {
                    *credit = credit.saturating_sub(u64::from(slice.events));
                }
            }
        }
    }

    /// Something other than events was written.
    pub fn note_sent(&self) {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.last_sent = now;
        state.heartbeat_due = false;
        state.blocked_since = None;
    }

    /// The socket takes nothing at the moment; what was shown to the writer
    /// and not written is back in the ring.
    pub fn blocked(&self) {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.ring.end_peek();
        state.blocked_since.get_or_insert(now);
    }

    /// The socket takes something again.
    pub fn unblocked(&self) {
        self.state.lock().blocked_since = None;
    }

    /// The client has sent a command. Returns false if the connection is about
    /// to end: the command must not be carried out.
    pub fn note_received(&self) -> bool {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.last_active = now;
        state.end_reason.is_none()
    }

    /// The hub's time until which an end that was decided at `since` waits for
    /// the answer to a command under way: the drain's deadline for answers, or
    /// `since` and the stall timeout where there is no drain.
    pub fn answer_due(&self, since: u64) -> u64 {
        self.shard.answer_due(since)
    }

    /// Whether the writer has a deadline of its own: then every tick wakes it,
    /// since neither an event nor a heartbeat need come.
    pub fn set_needs_tick(&self, timed: bool) {
        self.state.lock().needs_tick = timed;
    }

    /// What conflating leaves out of the log up to `upto` has been told.
    pub fn note_conflated(&self, id: SubscriptionId, to: Offset) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.conflated = subscription.conflated.max(to);
        }
    }

    /// A parked subscription has been read up to `upto`.
    pub fn note_read(&self, id: SubscriptionId, to: Offset) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.advance(to);
        }
    }

    /// A subscription starts anew after `start`: past a gap, or with a snapshot.
    pub fn restart(&self, id: SubscriptionId, start: Offset, snapshot: bool) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.restart(start, snapshot);
        }
    }

    /// The snapshot of a subscription is written up to a resource.
    pub fn note_snapshot_to(&self, id: SubscriptionId, resource: ResourceId) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.snapshot_after = Some(resource);
        }
    }

    /// Where a subscription stands and what it asked for; none if it is gone.
    pub fn read_request(&self, id: SubscriptionId) -> Option<ReadRequest> {
        self.state.lock().subscription(id).map(|subscription| subscription.read_request())
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
