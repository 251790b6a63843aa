//! A shard: a part of the connections, and the fan-outs of their logs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::fanout_progress::{FanoutProgress, LagStats};
use super::index::Entry;
use super::log_fanout::{LogFanout, ProgressQueue};
use super::state::State;
use super::subscriber::Subscriber;
use super::words::{Bounds, EndReason, Scope, Settings, SlotIndex};
use crate::event::LogId;
use crate::log::Log;
use crate::metrics::{Metrics, Protocol};
use crate::sync::Mutex;

/// The largest part of the heartbeat interval by which a heartbeat is early.
/// After a broadcast, ten thousand connections are silent since the same time,
/// and a tick sends all heartbeats that are due at once. With 25 % of the
/// default of 15 s, the heartbeats are spread over 15 ticks.
const JITTER: f64 = 0.25;

/// The state that the fan-out task and the tick task of a shard share.
pub(super) struct Shard {
    pub(super) settings: RwLock<Arc<Settings>>,
    /// Whether memory is short: a ring then accepts one event.
    memory_pressure: Arc<AtomicBool>,
    /// The open connections of all shards.
    open: Arc<Counts>,
    metrics: Arc<Metrics>,
    /// The fan-out of each log that has a subscription on this shard.
    fanouts: Mutex<HashMap<LogId, Arc<LogFanout>>>,
    pub(super) stats: Arc<LagStats>,
    pub(super) members: Mutex<Members>,
    pub(super) queue: Arc<ProgressQueue>,
    pub(super) started: Instant,
    /// The time of the last tick, in milliseconds since `started`. The hot path
    /// reads this value and not the clock.
    pub(super) now: AtomicU64,
    /// The time until which a drain waits for the answers to commands, in
    /// milliseconds since `started`. `u64::MAX` if there is no drain.
    answers_due: AtomicU64,
}

/// The connections of a shard.
#[derive(Default)]
pub(super) struct Members {
    pub(super) all: Vec<Arc<Subscriber>>,
    drain: Option<Drain>,
}

/// The period in which the streams of a shard end, in milliseconds.
#[derive(Clone, Copy)]
struct Drain {
    /// The shard's time at which the period begins.
    from: u64,
    spread: u64,
}

impl Drain {
    fn random_time(self) -> u64 {
        let spread = Duration::from_millis(0)..Duration::from_millis(self.spread);
        self.from + crate::random::within(&spread).as_millis() as u64
    }

    fn apply(self, subscriber: &Subscriber) {
        subscriber.end_at(self.random_time(), EndReason::Drained);
    }
}

/// The number of open connections of each protocol, on all shards.
#[derive(Default)]
pub(super) struct Counts([AtomicUsize; Protocol::ALL.len()]);

impl Counts {
    pub(super) fn of(&self, protocol: Protocol) -> &AtomicUsize {
        &self.0[protocol as usize]
    }
}

impl Shard {
    /// Returns a shard without connections. The caller starts the tasks.
    pub(super) fn new(
        settings: Arc<Settings>,
        memory_pressure: Arc<AtomicBool>,
        open: Arc<Counts>,
        metrics: Arc<Metrics>,
    ) -> Shard {
        Shard {
            settings: RwLock::new(settings),
            memory_pressure,
            open,
            metrics,
            fanouts: Mutex::default(),
            stats: Arc::default(),
            members: Mutex::default(),
            queue: Arc::default(),
            started: Instant::now(),
            now: AtomicU64::new(0),
            answers_due: AtomicU64::new(u64::MAX),
        }
    }

    pub(super) fn reconfigure(&self, settings: &Arc<Settings>) {
        *self.settings.write() = settings.clone();
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Returns the current limits of a ring whose own limits are `own`.
    pub(super) fn bounds(&self, own: Bounds) -> Bounds {
        let one_event = Bounds { events: 1, bytes: 0 };
        if self.memory_pressure.load(Ordering::Relaxed) { one_event } else { own }
    }

    /// Adds a connection that [`Counts`] already counts.
    pub(super) fn join(
        self: &Arc<Self>,
        id: u64,
        protocol: Protocol,
        settings: &Settings,
    ) -> Arc<Subscriber> {
        let fraction = || 1.0 - JITTER * crate::random::unit();
        let bounds =
            Bounds { events: settings.ring_events as u64, bytes: settings.ring_bytes as u64 };
        let now = self.now();
        let state = State::new(now, fraction() as f32);
        let subscriber = Arc::new(Subscriber::new(id, protocol, bounds, self.clone(), state));
        if !settings.stream_lifetime.is_zero() {
            let lifetime = settings.stream_lifetime.mul_f64(fraction()).as_millis() as u64;
            subscriber.end_at(now + lifetime, EndReason::Lifetime);
        }
        let mut members = self.members.lock();
        if let Some(drain) = members.drain {
            drain.apply(&subscriber);
        }
        members.all.push(subscriber.clone());
        subscriber
    }

    /// Counts a connection as closed.
    pub(super) fn count_closed(&self, protocol: Protocol) {
        self.open.of(protocol).fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds a subscription to the index of `log`. The first one starts the
    /// log's fan-out on this shard.
    pub(super) fn add_entry(
        &self,
        log: &Arc<Log>,
        scope: &Scope,
        entry: Entry,
    ) -> (Arc<FanoutProgress>, SlotIndex) {
        let mut fanouts = self.fanouts.lock();
        let start = || LogFanout::start(log, self.stats.clone(), self.queue.clone());
        let fanout = fanouts.entry(log.id()).or_insert_with(start);
        let slot = fanout.index.lock().insert(scope, entry);
        (fanout.progress.clone(), slot)
    }

    /// Removes a subscription from the index of `log`. The last one ends the
    /// log's fan-out on this shard: commits to the log no longer wake the shard.
    pub(super) fn remove_entry(&self, log: &Log, slot: SlotIndex) {
        let mut fanouts = self.fanouts.lock();
        let Some(fanout) = fanouts.get(&log.id()) else { return };
        let mut index = fanout.index.lock();
        index.remove(slot);
        if index.is_empty() {
            drop(index);
            fanouts.remove(&log.id());
        }
    }

    /// Returns whether a log has events that are not fanned out.
    #[cfg(all(test, feature = "shuttle"))]
    pub(super) fn is_behind(&self) -> bool {
        self.fanouts.lock().values().any(|fanout| fanout.progress.is_behind())
    }

    pub(super) fn answer_due(&self, since: u64) -> u64 {
        match self.answers_due.load(Ordering::Relaxed) {
            u64::MAX => since + self.settings.read().stall_timeout.as_millis() as u64,
            due => due,
        }
    }

    pub(super) fn drain(&self, spread: Duration, answers: Duration) {
        let answers_due = self.now() + answers.as_millis() as u64;
        self.answers_due.store(answers_due, Ordering::Relaxed);
        let drain = Drain { from: self.now(), spread: spread.as_millis() as u64 };
        let mut members = self.members.lock();
        members.drain = Some(drain);
        for subscriber in &members.all {
            drain.apply(subscriber);
        }
    }

    /// Returns the number of subscriptions that are catching up, and the largest
    /// lag at the last tick, in offsets.
    pub(super) fn lag_stats(&self) -> (u64, u64) {
        let LagStats { catching_up, lag } = &*self.stats;
        (catching_up.load(Ordering::Relaxed), lag.load(Ordering::Relaxed))
    }

    /// Computes [`Shard::lag_stats`] from all connections.
    #[cfg(test)]
    pub(super) fn count_lag(&self) -> (u64, u64) {
        let members = self.members.lock();
        let each = members.all.iter().map(|member| member.count_lag());
        each.fold((0, 0), |(catching_up, lag), one| (catching_up + one.0, lag.max(one.1)))
    }

    pub(super) fn open(&self) -> usize {
        self.members.lock().all.len()
    }
}

#[cfg(test)]
mod tests;
