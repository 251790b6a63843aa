//! A connection's side of the fan-out: what the shard pushes to it, and what
//! its tick finds due.

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

/// What a visit that overflows a ring may cost, in visits that do not: a ring
/// of a thousand events is conflated in about 50 µs.
const OVERFLOW_COST: usize = 64;

/// Subscriptions whose lag is looked at in the time of a visit.
const SUBSCRIPTIONS_A_VISIT: usize = 8;

/// What a tick found of a connection.
pub(super) struct Ticked {
    /// How far its slowest subscription is behind, in offsets.
    pub(super) lag: u64,
    /// In visits of the usual kind.
    pub(super) cost: usize,
}

impl Default for Ticked {
    fn default() -> Ticked {
        Ticked { lag: 0, cost: 1 }
    }
}

/// What a visit came to.
pub(super) struct Visit {
    /// The writer's, to be woken outside the lock.
    pub(super) waker: Option<Waker>,
    /// In visits of the usual kind.
    pub(super) cost: usize,
}

impl Default for Visit {
    fn default() -> Visit {
        Visit { waker: None, cost: 1 }
    }
}

impl Subscriber {
    /// A visit of the fan-out with a run of events (delivery, push 2).
    pub(super) fn push(
        &self,
        id: SubscriptionId,
        pass: &mut FanoutPass<'_>,
        selection: Selection,
    ) -> Visit {
        self.visit(id, pass, selection).unwrap_or_default()
    }

    /// Whether a visit may find a subscription to push to; to be asked after
    /// the fanout's `tail` was set.
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
        let over = credit.is_some_and(|credit| subscription.waiting + events > credit);
        if pass.is_direct && !over && self.write_directly(&mut state, id, pass, &selection) {
            // The writer sleeps on, unless there is a rest for it.
            let waker = if state.partial_write.is_some() { state.waker.take() } else { None };
            return Some(Visit { waker, cost: direct_write::COST });
        }
        let State { ring, subscriptions, blocked_since, .. } = &mut *state;
        let subscription = subscriptions[id.slot as usize].as_mut()?;
        let run = Run::new(id, batch.clone(), selection, subscription.spec.format);
        let bounds = self.shard.bounds(self.bounds);
        let is_log = subscription.spec.overflow == Overflow::Log;
        let mut visit = Visit::default();
        if over {
            state.start_catching_up(id);
            self.note_live(&state);
        } else if ring.fits(&run, bounds)
            && !(is_log && blocked_since.is_some() && ring.len() >= BLOCKED_RUNS_MAX)
        {
            ring.push(run);
            subscription.waiting += events;
            subscription.pushed(batch.end());
        } else {
            self.shard.metrics().ring_overflows.increment(1);
            // A client that has nothing waiting keeps up: a commit that is
            // larger than a ring is no fault of its own, and in the log.
            if ring.is_empty() {
                state.start_catching_up(id);
            } else {
                state.overflow(id, run, bounds);
                visit.cost = OVERFLOW_COST;
            }
            self.note_live(&state);
        }
        // A writer that its socket or its pace holds back is woken by these:
        // it could do nothing with what was pushed.
        if state.blocked_since.is_none() && state.writer != Writer::Paced {
            visit.waker = state.waker.take();
        }
        Some(visit)
    }

    /// The shard lost its place in the log's tail: the subscription reads for itself.
    pub(super) fn fall_behind(&self, id: SubscriptionId) -> Option<Waker> {
        let mut state = self.state.lock();
        let subscription = state.subscription(id)?;
        if subscription.mode() == Mode::Live {
            if subscription.waiting == 0 {
                let fanned = subscription.progress.fanned_to();
                subscription.advance(fanned);
            }
            state.start_catching_up(id);
            self.note_live(&state);
        }
        state.waker.take()
    }

    /// The shard's tick: is anything due? Returns `None` when the connection is
    /// gone.
    pub(super) fn tick(&self, now: u64, settings: &Settings) -> Option<Ticked> {
        let mut state = self.state.lock();
        if state.has_left {
            return None;
        }
        state.ring.shrink();
        if state.release_evicted() {
            self.note_live(&state);
        }
        let since = |moment: u64| now.saturating_sub(moment);
        let stall = settings.stall_timeout.as_millis() as u64;
        if state.blocked_since.is_some_and(|blocked| since(blocked) >= stall) {
            // Whatever was to be said before, the socket does not take it.
            state.end_reason = Some(EndReason::Stalled);
        }
        if let Some((at, end_reason)) = state.due
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

    /// How many subscriptions are not live, and how far the slowest of all is
    /// behind its log: a recount for tests of what the hub keeps.
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

    /// Ends the connection at a moment of the shard's time, for `end_reason`,
    /// unless it ends before.
    pub(super) fn end_at(&self, at: u64, end_reason: EndReason) {
        let mut state = self.state.lock();
        if state.due.is_none_or(|(due, _)| at < due) {
            state.due = Some((at, end_reason));
        }
    }
}
