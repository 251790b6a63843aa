//! A connection in the hub: its subscriptions, its ring and the calls of its
//! writer. `docs/delivery.md` has the proof that no event is lost or repeated.

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

/// A client connection: its subscriptions, and the events that wait to be
/// written.
pub struct Subscriber {
    id: u64,
    protocol: Protocol,
    /// The ring limits of the settings at the time of the join. A reload does not
    /// change them.
    pub(super) bounds: Bounds,
    pub(super) shard: Arc<Shard>,
    pub(super) state: Mutex<State>,
    /// Whether a subscription of the connection is live. If none is, the fan-out
    /// skips the connection without its lock. Otherwise two thousand stalled
    /// clients would cost as much as two thousand live ones. Written only under
    /// the lock.
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

    /// Returns the number of the connection in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the shard's time: the time of the last tick in milliseconds since
    /// the shard started.
    pub fn now(&self) -> u64 {
        self.shard.now()
    }

    /// Returns the protocol of the connection.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Adds a subscription to `log` that starts after the offset `start`, or at
    /// the head of the log if `start` is `None`. The subscription enters the
    /// index before its start is fixed, so it misses no later commit. Returns the
    /// id and the start.
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
        // Only the connection's task subscribes, so no other task takes the free
        // slot.
        let slot = state.subscriptions.iter().position(Option::is_none).unwrap_or_else(|| {
            state.subscriptions.reserve_exact(1);
            state.subscriptions.push(None);
            state.subscriptions.len() - 1
        });
        SubscriptionId::new(slot)
    }

    /// Ends a subscription and removes its events from the ring. Returns whether
    /// the subscription existed.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        let removed = {
            let mut state = self.state.lock();
            let removed = state.take_subscription(id);
            state.ring.remove(id);
            removed
        };
        // The lock of the connection is released: the lock order is index, then
        // connection.
        match removed {
            Some(removed) => {
                self.shard.remove_entry(&removed.progress.log, removed.slot);
                true
            }
            None => false,
        }
    }

    /// Adds `n` events to the credit of a subscription. Returns whether the
    /// subscription exists and has a credit.
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

    /// Changes the wire format of all events that are not written yet.
    pub fn change_format(&self, format: WireFormat) {
        let mut state = self.state.lock();
        for subscription in state.subscriptions.iter_mut().flatten() {
            subscription.spec.format = format;
        }
        state.ring.change_format(format);
    }

    /// Closes the connection in the hub: removes its subscriptions from the index
    /// and frees the ring.
    pub fn leave(&self) {
        // The direct writer may be the last owner of the socket. It is dropped
        // after the lock is released, because the drop closes the socket.
        let (subscriptions, _direct_writer) = {
            let mut state = self.state.lock();
            if !std::mem::replace(&mut state.has_left, true) {
                self.shard.count_closed(self.protocol);
            }
            state.ring = Ring::default();
            (state.waker, state.partial_write) = (None, None);
            (std::mem::take(&mut state.subscriptions), state.direct_writer.take())
        };
        for removed in subscriptions.into_iter().flatten() {
            self.shard.remove_entry(&removed.progress.log, removed.slot);
        }
    }

    /// Tells the writer to end the connection. The first reason is kept.
    pub fn end(&self, end_reason: EndReason) {
        let mut state = self.state.lock();
        state.end_reason.get_or_insert(end_reason);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }

    // === calls of the writer ===

    /// Returns the next action of the writer. For [`WriterAction::Write`], the
    /// slices of the next events are added to `slices`, and the events stay in
    /// the ring. If there is nothing to do, the task of `cx` is woken later.
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
        let action = match mode {
            PollMode::Ring => state.peek(slices, budget).or_else(|| self.read_next(&mut state)),
            PollMode::Log => self.read_next(&mut state).or_else(|| state.peek(slices, budget)),
            PollMode::RingOnly => state.peek(slices, budget),
            PollMode::Paced => None,
        };
        if let Some(action) = action {
            return action;
        }
        if std::mem::take(&mut state.heartbeat_due) {
            return WriterAction::Heartbeat(state.resume_id());
        }
        // During a read, the writer writes without a call of this method first.
        if matches!(mode, PollMode::Ring | PollMode::Log) {
            state.writer = Writer::Asleep;
        }
        state.store_waker(cx);
        WriterAction::Wait
    }

    /// Returns the next read, and makes subscriptions live that have nothing left
    /// to read: step 4 of [`log::Follower`](crate::log::Follower).
    ///
    /// The fan-out sets `tail` and then reads `live`. This method sets `live` and
    /// then reads `tail`. All four accesses have one order (`SeqCst`). So if the
    /// fan-out skips the connection because `live` is not set, this method
    /// compares the new `tail`, and the subscription does not go live.
    fn read_next(&self, state: &mut State) -> Option<WriterAction> {
        if state.is_all_live() {
            return None;
        }
        self.live.store(true, Ordering::SeqCst);
        let next = state.read_next();
        self.update_live(state);
        next
    }

    /// Updates `live`. Call this under the lock after a change that may have made
    /// a subscription catch up.
    pub(super) fn update_live(&self, state: &State) {
        self.live.store(state.is_live(), Ordering::SeqCst);
    }

    /// Returns the reason if the connection has to end at once, even in the
    /// middle of a frame. Otherwise the task of `cx` is woken by the next change.
    /// The writer calls this while it waits for the socket, for a read or for the
    /// answer to a command. With `is_answering`, a command waits for its answer,
    /// and the connection is not idle.
    pub fn watch(&self, cx: &Context<'_>, is_answering: bool) -> Option<EndReason> {
        let mut state = self.state.lock();
        let is_urgent = |end_reason: &EndReason| match end_reason {
            EndReason::Idle => !is_answering,
            end_reason => end_reason.is_urgent(),
        };
        if let Some(end_reason) = state.end_reason.filter(is_urgent) {
            return Some(end_reason);
        }
        state.store_waker(cx);
        None
    }

    /// Records that the writer has started to write these slices. It writes their
    /// last byte before anything else.
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

    /// Records that the writer has written bytes that are not events.
    pub fn note_sent(&self) {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.last_sent = now;
        state.heartbeat_due = false;
        state.blocked_since = None;
    }

    /// Records that the socket accepts no bytes. The writer has given up the slices
    /// of [`Subscriber::next`] that it has not written; their events are still in
    /// the ring.
    pub fn blocked(&self) {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.ring.end_peek();
        state.blocked_since.get_or_insert(now);
    }

    /// Records that the socket accepts bytes again.
    pub fn unblocked(&self) {
        self.state.lock().blocked_since = None;
    }

    /// Records that the client has sent a command. Returns `false` if the
    /// connection is about to end; the command must then not be executed.
    pub fn note_received(&self) -> bool {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.last_active = now;
        state.end_reason.is_none()
    }

    /// Returns the shard's time until which the end of the connection, decided at
    /// `since`, waits for the answer to a command. During a drain this is the
    /// drain's deadline for answers. Otherwise it is `since` plus the stall
    /// timeout.
    pub fn answer_due(&self, since: u64) -> u64 {
        self.shard.answer_due(since)
    }

    /// Sets whether each tick wakes the writer. A writer with its own deadline
    /// needs this, because no event and no heartbeat may wake it in time.
    pub fn set_needs_tick(&self, needs_tick: bool) {
        self.state.lock().needs_tick = needs_tick;
    }

    /// Records that the client knows of the conflated events up to `to`.
    pub fn note_conflated(&self, id: SubscriptionId, to: Offset) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.conflated = subscription.conflated.max(to);
        }
    }

    /// Records that a subscription that is catching up has read the log up to
    /// `to`.
    pub fn note_read(&self, id: SubscriptionId, to: Offset) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.advance(to);
        }
    }

    /// Restarts a subscription after the offset `start`, because of a gap. With
    /// `snapshot`, it first sends the resources.
    pub fn restart(&self, id: SubscriptionId, start: Offset, snapshot: bool) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.restart(start, snapshot);
        }
    }

    /// Records that the snapshot of a subscription is written up to and including
    /// `resource`.
    pub fn note_snapshot_to(&self, id: SubscriptionId, resource: ResourceId) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.snapshot_after = Some(resource);
        }
    }

    /// Returns the spec and the position of a subscription. Returns `None` if the
    /// subscription has ended.
    pub fn read_request(&self, id: SubscriptionId) -> Option<ReadRequest> {
        self.state.lock().subscription(id).map(|subscription| subscription.read_request())
    }
}

/// Wakes a task, if there is a waker.
pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
