//! The methods of a connection that the tasks of its shard call. The fan-out task
//! pushes events to the connection. The tick task checks its timeouts.

use std::sync::atomic::Ordering;
use std::task::Waker;

use super::direct_write;
use super::fanout_pass::FanoutPass;
use super::overflow::BLOCKED_RUNS_MAX;
use super::run::Run;
use super::state::{State, Writer};
use super::subscriber::{Subscriber, wake};
use super::subscription::{Mode, Subscription};
use super::words::{EndReason, Overflow, Settings, SubscriptionId};
use crate::wire::Selection;

/// The cost of a push that overflows a ring. The unit is the cost of a push that
/// fits. To conflate a ring of a thousand events takes about 50 µs.
const OVERFLOW_COST: usize = 64;

/// The number of subscriptions whose lag a tick computes in the time of one push
/// into a ring, about 100 ns. The cost of a tick is measured in such pushes.
const SUBSCRIPTIONS_A_VISIT: usize = 8;

/// The result of a tick for one connection: its lag, and the cost of the tick.
pub(super) struct Ticked {
    /// The largest lag of the connection's subscriptions, in offsets.
    pub(super) lag: u64,
    /// The cost of the processing. The unit is the cost of a push into a ring.
    pub(super) cost: usize,
}

impl Default for Ticked {
    fn default() -> Ticked {
        Ticked { lag: 0, cost: 1 }
    }
}

/// The result of a visit. A visit is the processing of one batch for one matching
/// subscription.
pub(super) struct Visit {
    /// The waker of the connection's writer, if the writer has to be woken. The
    /// caller wakes it after the lock of the connection is released.
    pub(super) waker: Option<Waker>,
    /// The cost of the processing. The unit is the cost of a push into a ring.
    pub(super) cost: usize,
}

impl Default for Visit {
    fn default() -> Visit {
        Visit { waker: None, cost: 1 }
    }
}

impl Subscriber {
    /// Pushes the selected events of the pass's batch into the ring of the
    /// connection, or writes them to its socket. Does nothing if the subscription is
    /// not live (`docs/delivery.md#push`).
    pub(super) fn push(
        &self,
        id: SubscriptionId,
        pass: &mut FanoutPass<'_>,
        selection: Selection,
    ) -> Visit {
        self.visit(id, pass, selection).unwrap_or_default()
    }

    /// Returns whether a subscription of the connection may be live. If none is, the
    /// fan-out need not push a batch to the connection. The fan-out must set its
    /// `tail` to the end of the batch before this call.
    pub(super) fn is_live(&self) -> bool {
        self.live.load(Ordering::SeqCst)
    }

    fn visit(
        &self,
        id: SubscriptionId,
        pass: &mut FanoutPass<'_>,
        selection: Selection,
    ) -> Option<Visit> {
        let (batch, fanned) = (pass.batch, pass.fanned_to);
        let mut state = self.state.lock();
        let subscription = state.subscription(id)?;
        let after = subscription.follower().accept(batch.end(), fanned)?;
        let selection = if after > fanned {
            subscription.spec.filter.narrow(batch, &selection, after)?
        } else {
            selection
        };
        if subscription.waiting == 0 {
            subscription.advance(fanned);
        }
        let events = u64::from(selection.len());
        let credit = subscription.spec.credit;
        let exceeds_credit = credit.is_some_and(|credit| subscription.waiting + events > credit);
        if pass.is_direct
            && !exceeds_credit
            && self.write_directly(&mut state, id, pass, &selection)
        {
            // Do not wake the writer, unless the socket has accepted only a part of
            // the bytes. The writer must then write the rest.
            let waker = if state.partial_write.is_some() { state.waker.take() } else { None };
            return Some(Visit { waker, cost: direct_write::COST });
        }
        let State { ring, subscriptions, blocked_since, .. } = &mut *state;
        let subscription = subscriptions[id.slot as usize].as_mut()?;
        let run = Run::new(id, batch.clone(), selection, subscription.spec.format);
        let bounds = self.shard.bounds(self.bounds);
        let is_log = subscription.spec.overflow == Overflow::Log;
        let mut visit = Visit::default();
        if exceeds_credit {
            state.start_catching_up(id);
            self.update_live(&state);
        } else if ring.fits(&run, bounds)
            && !(is_log && blocked_since.is_some() && ring.len() >= BLOCKED_RUNS_MAX)
        {
            ring.push(run);
            subscription.waiting += events;
            subscription.pushed(batch.end());
        } else {
            self.shard.metrics().ring_overflows.increment(1);
            // The ring is empty, so the client is fast enough, but the commit is
            // larger than the ring. The overflow policy is for clients that fall
            // behind. This client reads the commit from the log.
            if ring.is_empty() {
                state.start_catching_up(id);
            } else {
                state.overflow(id, run, bounds);
                visit.cost = OVERFLOW_COST;
            }
            self.update_live(&state);
        }
        // Do not wake the writer if the socket accepts no bytes or pacing does not
        // permit events: the writer could not write. The socket or the timer of the
        // pacing wakes it later.
        if state.blocked_since.is_none() && state.writer != Writer::Paced {
            visit.waker = state.waker.take();
        }
        Some(visit)
    }

    /// Makes a subscription catch up if it is live, because the tail of the log in
    /// memory no longer contains the next batch of the fan-out. Returns the waker of
    /// the writer.
    pub(super) fn fall_behind(&self, id: SubscriptionId) -> Option<Waker> {
        let mut state = self.state.lock();
        let subscription = state.subscription(id)?;
        if subscription.mode() == Mode::Live {
            if subscription.waiting == 0 {
                let fanned = subscription.progress.fanned_to();
                subscription.advance(fanned);
            }
            state.start_catching_up(id);
            self.update_live(&state);
        }
        state.waker.take()
    }

    /// Handles a tick of the shard: checks the timeouts, the heartbeat and the
    /// scheduled end of the connection. `now` is the shard's time. Returns `None` if
    /// the connection is closed.
    pub(super) fn tick(&self, now: u64, settings: &Settings) -> Option<Ticked> {
        let mut state = self.state.lock();
        if state.has_left {
            return None;
        }
        state.ring.shrink();
        if state.release_evicted() {
            self.update_live(&state);
        }
        let since = |moment: u64| now.saturating_sub(moment);
        let stall = settings.stall_timeout.as_millis() as u64;
        if state.blocked_since.is_some_and(|blocked| since(blocked) >= stall) {
            // Replace an earlier end reason. The writer would wait for the socket to
            // send that reason, and the socket accepts no bytes.
            state.end_reason = Some(EndReason::Stalled);
        }
        if let Some((at, end_reason)) = state.scheduled_end
            && now >= at
        {
            state.end_reason.get_or_insert(end_reason);
        }
        let idle = settings.stream_idle_timeout.as_millis() as u64;
        if idle > 0 && since(state.last_active) >= idle && state.blocked_since.is_none() {
            state.end_reason.get_or_insert(EndReason::Idle);
        }
        let heartbeat = settings.heartbeat.mul_f32(state.heartbeat_fraction);
        let quiet = since(state.last_sent) >= heartbeat.as_millis() as u64;
        if quiet && state.blocked_since.is_none() {
            state.heartbeat_due = true;
        }
        let subscriptions = state.subscriptions.iter().flatten();
        let lag = subscriptions.map(Subscription::lag).max().unwrap_or(0);
        let cost = 1 + state.subscriptions.len() / SUBSCRIPTIONS_A_VISIT;
        if state.heartbeat_due || state.end_reason.is_some() || state.needs_tick {
            let waker = state.waker.take();
            drop(state);
            wake(waker);
        }
        Some(Ticked { lag, cost })
    }

    /// Returns the number of subscriptions that are catching up, and the largest
    /// lag. Tests compare this with the statistics that the hub maintains.
    #[cfg(test)]
    pub(super) fn count_lag(&self) -> (u64, u64) {
        let state = self.state.lock();
        let (mut catching_up, mut lag) = (0, 0);
        for subscription in state.subscriptions.iter().flatten() {
            catching_up += u64::from(subscription.mode() != Mode::Live);
            lag = lag.max(subscription.lag());
        }
        (catching_up, lag)
    }

    pub(super) fn has_left(&self) -> bool {
        self.state.lock().has_left
    }

    /// Sets the connection to end with `end_reason` at `at`, in milliseconds since
    /// the start of the shard. Does nothing if an earlier end is scheduled.
    pub(super) fn end_at(&self, at: u64, end_reason: EndReason) {
        let mut state = self.state.lock();
        if state.scheduled_end.is_none_or(|(due, _)| at < due) {
            state.scheduled_end = Some((at, end_reason));
        }
    }
}
