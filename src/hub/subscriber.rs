//! A connection in the hub: its subscriptions, its ring, and the methods that its
//! writer calls. The writer is the task that writes to the socket.
//! `docs/delivery.md` has the proof that no event is lost or repeated.

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

/// A client connection in the hub, with its subscriptions and with the events that
/// wait to be written.
pub struct Subscriber {
    id: u64,
    protocol: Protocol,
    /// The limits of the ring. They come from the settings at the time when the
    /// connection joined. A reload of the configuration does not change them.
    pub(super) bounds: Bounds,
    pub(super) shard: Arc<Shard>,
    pub(super) state: Mutex<State>,
    /// Whether a subscription of the connection is live. If none is, the fan-out
    /// skips the connection and does not take its lock. Without this flag, two
    /// thousand stalled clients would cost as much as two thousand live ones. The
    /// flag is written only under the lock of the connection.
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

    /// Returns the number that identifies the connection in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the time of the shard's last tick, in milliseconds since the shard
    /// started.
    pub fn now(&self) -> u64 {
        self.shard.now()
    }

    /// Returns the protocol of the connection.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Adds a subscription to `log` that starts after the offset `start`, or at the
    /// head of the log if `start` is `None`. The subscription is added to the index
    /// of the fan-out before its start is fixed. So it misses no later commit.
    /// Returns the id and the start of the subscription.
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
        // Only the task of this connection adds subscriptions. So no other task can
        // use the free slot meanwhile.
        let slot = state.subscriptions.iter().position(Option::is_none).unwrap_or_else(|| {
            state.subscriptions.reserve_exact(1);
            state.subscriptions.push(None);
            state.subscriptions.len() - 1
        });
        SubscriptionId::new(slot)
    }

    /// Ends a subscription and removes its events from the ring. Returns whether the
    /// subscription existed.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        let removed = {
            let mut state = self.state.lock();
            let removed = state.take_subscription(id);
            state.ring.remove(id);
            removed
        };
        // The lock of the connection is released here, because the lock order is:
        // first the index, then the connection.
        match removed {
            Some(removed) => {
                self.shard.remove_entry(&removed.progress.log, removed.slot);
                true
            }
            None => false,
        }
    }

    /// Adds `n` to the credit of a subscription, which is the number of events that
    /// the client still accepts. Returns `false` if the subscription does not exist
    /// or has no credit limit.
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

    /// Closes the connection in the hub. Removes its subscriptions from the index of
    /// the fan-out and frees the ring.
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

    /// Makes the writer end the connection with `end_reason`. If there is an earlier
    /// reason, keeps the earlier one.
    pub fn end(&self, end_reason: EndReason) {
        let mut state = self.state.lock();
        state.end_reason.get_or_insert(end_reason);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }

    // === calls of the writer ===

    /// Returns the next action of the writer. For [`WriterAction::Write`], adds
    /// slices of the next events to `slices`; the events stay in the ring. For
    /// [`WriterAction::Wait`], the hub wakes the task of `cx` when there is a new
    /// action.
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
        // While a read of the log is in progress, the writer may write the result
        // without a call of this method. So the fan-out must not write then.
        if matches!(mode, PollMode::Ring | PollMode::Log) {
            state.writer = Writer::Asleep;
        }
        state.store_waker(cx);
        WriterAction::Wait
    }

    /// Returns the next read of the log or of the resources. Makes each subscription
    /// live that has nothing left to read: step 4 of
    /// [`log::Follower`](crate::log::Follower).
    ///
    /// The fan-out first sets its `tail` and then reads `live`. This method first
    /// sets `live` and then reads `tail`. All four accesses are `SeqCst`, so they
    /// have a single total order. So if the fan-out skips the connection because
    /// `live` is not set, this method reads the new `tail`, and the subscription
    /// does not go live.
    fn read_next(&self, state: &mut State) -> Option<WriterAction> {
        if state.is_all_live() {
            return None;
        }
        self.live.store(true, Ordering::SeqCst);
        let next = state.read_next();
        self.update_live(state);
        next
    }

    /// Sets `live` to `true` if a subscription in `state` is live, else to `false`.
    /// The caller holds the lock of the connection. It calls this after a change
    /// that may have made a subscription catch up.
    pub(super) fn update_live(&self, state: &State) {
        self.live.store(state.is_live(), Ordering::SeqCst);
    }

    /// Returns the end reason if the connection has to end at once, even in the
    /// middle of a frame. Otherwise returns `None`, and the next change wakes the
    /// task of `cx`. The writer calls this while it waits for the socket, for a
    /// read, or for the answer to a command. If `is_answering` is set, a command
    /// waits for its answer, and the connection does not count as idle.
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

    /// Records that the writer has started to write these slices. The writer must
    /// write their last byte before it writes any other bytes.
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

    /// Records that the socket accepts no bytes. The writer has discarded the slices
    /// from [`Subscriber::next`] that it has not started to write. Their events are
    /// still in the ring.
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

    /// Records that the client has sent a command. Returns `false` if the connection
    /// is about to end. The caller must then not execute the command.
    pub fn note_received(&self) -> bool {
        let now = self.shard.now();
        let mut state = self.state.lock();
        state.last_active = now;
        state.end_reason.is_none()
    }

    /// Returns the time until which the end of the connection waits for the answer
    /// to a command. `since` is the time at which the end was decided. During a
    /// drain, the result is the drain's deadline for answers. Otherwise it is
    /// `since` plus the stall timeout. All times are in milliseconds since the start
    /// of the shard.
    pub fn answer_due(&self, since: u64) -> u64 {
        self.shard.answer_due(since)
    }

    /// Sets whether each tick of the shard wakes the writer. A writer that has a
    /// deadline of its own needs this. Without it, the writer would sleep until the
    /// next event or heartbeat, which may come after the deadline.
    pub fn set_needs_tick(&self, needs_tick: bool) {
        self.state.lock().needs_tick = needs_tick;
    }

    /// Records that a `gap` has reported the conflated events of a subscription up
    /// to `to` to the client.
    pub fn note_conflated(&self, id: SubscriptionId, to: Offset) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.conflated = subscription.conflated.max(to);
        }
    }

    /// Records that a subscription that is catching up has processed the events of
    /// the log up to `to`.
    pub fn note_read(&self, id: SubscriptionId, to: Offset) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.advance(to);
        }
    }

    /// Makes a subscription read the log after the offset `start`, because events
    /// are missing (a gap). With `snapshot`, the subscription first sends a snapshot
    /// of the resources.
    pub fn restart(&self, id: SubscriptionId, start: Offset, snapshot: bool) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.restart(start, snapshot);
        }
    }

    /// Records that the resources of a subscription's snapshot up to and including
    /// `resource` are written.
    pub fn note_snapshot_to(&self, id: SubscriptionId, resource: ResourceId) {
        let mut state = self.state.lock();
        if let Some(subscription) = state.subscription(id) {
            subscription.snapshot_after = Some(resource);
        }
    }

    /// Returns the data that a read for a subscription needs: its spec and its
    /// position. Returns `None` if the subscription has ended.
    pub fn read_request(&self, id: SubscriptionId) -> Option<ReadRequest> {
        self.state.lock().subscription(id).map(|subscription| subscription.read_request())
    }
}

/// Wakes the task of `waker`, if there is a waker.
pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
