//! A shard serves a part of the connections. It has a fan-out for each log that
//! these connections subscribe to.

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

/// The maximum random reduction of a connection's heartbeat interval, as a part of
/// the interval. Without it, after a broadcast, ten thousand connections would be
/// silent since the same time, and one tick would send the heartbeats of all of
/// them. With 25 % of the default interval of 15 s, the heartbeats are spread over
/// 15 ticks. The lifetime of a stream is reduced in the same way.
const JITTER: f64 = 0.25;

/// The state of a shard, which its fan-out task and its tick task share.
pub(super) struct Shard {
    pub(super) settings: RwLock<Arc<Settings>>,
    /// Whether the process is short of memory. A ring then accepts only one event.
    memory_pressure: Arc<AtomicBool>,
    /// The number of open connections of all shards, by protocol.
    open: Arc<Counts>,
    metrics: Arc<Metrics>,
    /// The fan-out of each log that has a subscription on this shard.
    fanouts: Mutex<HashMap<LogId, Arc<LogFanout>>>,
    pub(super) stats: Arc<LagStats>,
    pub(super) members: Mutex<Members>,
    pub(super) queue: Arc<ProgressQueue>,
    pub(super) started: Instant,
    /// The time of the last tick, in milliseconds since `started`. Code that runs
    /// often reads this value, because a read of the clock costs more.
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

/// The period in which a drain ends the streams of a shard.
#[derive(Clone, Copy)]
struct Drain {
    /// The start of the period, in milliseconds since the start of the shard.
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

/// The number of open connections of each protocol, on all shards together.
#[derive(Default)]
pub(super) struct Counts([AtomicUsize; Protocol::ALL.len()]);

impl Counts {
    pub(super) fn of(&self, protocol: Protocol) -> &AtomicUsize {
        &self.0[protocol as usize]
    }
}

impl Shard {
    /// Returns a shard without connections. The caller starts the tasks of the
    /// shard.
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

    /// Returns the current limits of a ring. `own` are the limits that the
    /// connection got when it joined. They apply while the process is not short of
    /// memory.
    pub(super) fn bounds(&self, own: Bounds) -> Bounds {
        let one_event = Bounds { events: 1, bytes: 0 };
        if self.memory_pressure.load(Ordering::Relaxed) { one_event } else { own }
    }

    /// Adds a connection to the shard. The caller has counted it in [`Counts`].
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

    /// Subtracts a closed connection from the number of open connections.
    pub(super) fn count_closed(&self, protocol: Protocol) {
        self.open.of(protocol).fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds a subscription to this shard's index of `log`. The first subscription to
    /// a log starts the fan-out of this log on this shard.
    pub(super) fn add_entry(
        &self,
        log: &Arc<Log>,
        scope: &Scope,
        entry: Entry,
    ) -> (Arc<FanoutProgress>, SlotIndex) {
        loop {
            // The fan-out evaluates filters while it holds the lock of the index.
            // The lock of `fanouts` is released before the index is locked. So the
            // fan-out of one log does not delay subscriptions to other logs.
            let fanout = self.fanout(log);
            let mut index = fanout.index.lock();
            if !index.has_ended {
                let slot = index.insert(scope, entry);
                return (fanout.progress.clone(), slot);
            }
        }
    }

    /// Returns the fan-out of `log` on this shard. Starts the fan-out if there is
    /// none.
    fn fanout(&self, log: &Arc<Log>) -> Arc<LogFanout> {
        let mut fanouts = self.fanouts.lock();
        let start = || LogFanout::start(log, self.stats.clone(), self.queue.clone());
        fanouts.entry(log.id()).or_insert_with(start).clone()
    }

    /// Removes a subscription from this shard's index of `log`. If it is the last
    /// one, ends the fan-out of the log on this shard. Commits to the log then no
    /// longer wake the shard.
    pub(super) fn remove_entry(&self, log: &Log, slot: SlotIndex) {
        let Some(fanout) = self.fanouts.lock().get(&log.id()).cloned() else { return };
        let is_empty = {
            let mut index = fanout.index.lock();
            index.remove(slot);
            index.is_empty()
        };
        if is_empty {
            self.end_fanout(log, &fanout);
        }
    }

    /// Ends the fan-out of a log on this shard, if the log still has no
    /// subscription. A concurrent [`Shard::add_entry`] either adds its subscription
    /// before, or finds the index ended and starts a new fan-out.
    fn end_fanout(&self, log: &Log, fanout: &Arc<LogFanout>) {
        let mut fanouts = self.fanouts.lock();
        let mut index = fanout.index.lock();
        if index.is_empty() && !index.has_ended {
            index.has_ended = true;
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

    /// Returns the number of subscriptions of the shard that are catching up, and
    /// the largest lag of a subscription at the last tick, in offsets.
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
