//! One fan-out task and its subscribers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::Notify;

use super::fanout_pass::{self, COST_AT_ONCE};
use super::index::Cursor;
use super::log_fanout::{LagStats, LogFanout};
use super::overflow::Bounds;
use super::push::Ticked;
use super::state::State;
use super::subscriber::Subscriber;
use super::{EndReason, Settings};
use crate::event::LogId;
use crate::log::{Engine, Log};
use crate::metrics::{Metrics, Protocol};
use crate::supervisor::{Supervisor, Task};
use crate::sync::Mutex;

/// A heartbeat comes after 75 to 100 % of its interval: a broadcast aligns the
/// silence of ten thousand connections, and what a tick finds due comes at
/// once, so the default of 15 s spreads them over 15 ticks.
const JITTER: f64 = 0.25;

/// Longest time between two ticks.
const TICK: Duration = Duration::from_millis(250);

pub(super) struct Shard {
    settings: RwLock<Arc<Settings>>,
    /// Memory is short: no ring grows beyond one event.
    tight: Arc<AtomicBool>,
    open: Arc<Counts>,
    metrics: Arc<Metrics>,
    lanes: Mutex<HashMap<LogId, Arc<LogFanout>>>,
    stats: Arc<LagStats>,
    members: Mutex<Members>,
    pub(super) progress: Arc<Notify>,
    started: Instant,
    /// Milliseconds since `started`, as of the last tick: nothing on the hot
    /// path asks the clock.
    now: AtomicU64,
    /// Until when a drain waits for the answers to commands under way, in
    /// milliseconds since `started`; `u64::MAX` where there is no drain.
    answers_due: AtomicU64,
}

#[derive(Default)]
struct Members {
    all: Vec<Arc<Subscriber>>,
    drain: Option<Drain>,
}

#[derive(Clone, Copy)]
struct Drain {
    from: u64,
    spread: u64,
}

impl Drain {
    fn at_random(self) -> u64 {
        let spread = Duration::from_millis(0)..Duration::from_millis(self.spread);
        self.from + crate::random::within(&spread).as_millis() as u64
    }

    fn reach(self, subscriber: &Subscriber) {
        subscriber.end_at(self.at_random(), EndReason::Drained);
    }
}

/// How many connections of each protocol are open, on all shards.
#[derive(Default)]
pub(super) struct Counts([AtomicUsize; Protocol::ALL.len()]);

impl Counts {
    pub(super) fn of(&self, protocol: Protocol) -> &AtomicUsize {
        &self.0[protocol as usize]
    }
}

impl Shard {
    pub(super) fn start(
        settings: Arc<Settings>,
        tight: Arc<AtomicBool>,
        open: Arc<Counts>,
        engine: &Engine,
        metrics: Arc<Metrics>,
        supervisor: &Supervisor,
    ) -> Arc<Shard> {
        let shard = Arc::new(Shard::new(settings, tight, open, metrics));
        engine.observe(&shard.progress);
        supervisor.spawn(Task::FanOut, fan_out(shard.clone()));
        supervisor.spawn(Task::Tick, tick(shard.clone()));
        shard
    }

    /// Makes a shard without subscribers, whose tasks do not run yet.
    pub(super) fn new(
        settings: Arc<Settings>,
        tight: Arc<AtomicBool>,
        open: Arc<Counts>,
        metrics: Arc<Metrics>,
    ) -> Shard {
        Shard {
            settings: RwLock::new(settings),
            tight,
            open,
            metrics,
            lanes: Mutex::default(),
            stats: Arc::default(),
            members: Mutex::default(),
            progress: Arc::new(Notify::new()),
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

    /// What a ring may hold at the moment.
    pub(super) fn bounds(&self, own: Bounds) -> Bounds {
        let tight = Bounds { events: 1, bytes: 0 };
        if self.tight.load(Ordering::Relaxed) { tight } else { own }
    }

    /// A connection that was counted among the open ones.
    pub(super) fn join(
        self: &Arc<Self>,
        id: u64,
        protocol: Protocol,
        settings: &Settings,
    ) -> Arc<Subscriber> {
        let part = || 1.0 - JITTER * crate::random::unit();
        let bounds =
            Bounds { events: settings.ring_events as u64, bytes: settings.ring_bytes as u64 };
        let now = self.now();
        let state = State::new(now, part() as f32);
        let subscriber = Arc::new(Subscriber::new(id, protocol, bounds, self.clone(), state));
        if !settings.stream_lifetime.is_zero() {
            let lifetime = settings.stream_lifetime.mul_f64(part()).as_millis() as u64;
            subscriber.end_at(now + lifetime, EndReason::Lifetime);
        }
        let mut members = self.members.lock();
        if let Some(drain) = members.drain {
            drain.reach(&subscriber);
        }
        members.all.push(subscriber.clone());
        subscriber
    }

    /// A connection that joined is over.
    pub(super) fn left(&self, protocol: Protocol) {
        self.open.of(protocol).fetch_sub(1, Ordering::Relaxed);
    }

    /// The lane of a log, made at its first subscription here. A lane begins
    /// at the log's end: what is older is read by who wants it.
    pub(super) fn lane(&self, log: &Arc<Log>) -> Arc<LogFanout> {
        let mut lanes = self.lanes.lock();
        let new = || Arc::new(LogFanout::new(log.clone(), self.stats.clone()));
        lanes.entry(log.id()).or_insert_with(new).clone()
    }

    /// The lanes whose logs have gone on.
    pub(super) fn behind(&self) -> Vec<Arc<LogFanout>> {
        let lanes = self.lanes.lock();
        lanes.values().filter(|lane| lane.fanned_to() < lane.log.head()).cloned().collect()
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
            drain.reach(subscriber);
        }
    }

    /// How many subscriptions catch up, and how far the slowest of all is behind
    /// as of the last tick, in offsets.
    pub(super) fn lag_stats(&self) -> (u64, u64) {
        let LagStats { catching_up, lag } = &*self.stats;
        (catching_up.load(Ordering::Relaxed), lag.load(Ordering::Relaxed))
    }

    #[cfg(test)]
    pub(super) fn census(&self) -> (u64, u64) {
        let members = self.members.lock();
        let each = members.all.iter().map(|member| member.census());
        each.fold((0, 0), |(catching_up, lag), one| (catching_up + one.0, lag.max(one.1)))
    }

    pub(super) fn open(&self) -> usize {
        self.members.lock().all.len()
    }
}

/// Brings every lane to its log's head, for ever. The lanes take turns, those
/// made meanwhile too, so that a log that is written without a pause does not
/// hold up the others.
pub(super) async fn fan_out(shard: Arc<Shard>) {
    let mut cost = 0;
    loop {
        shard.progress.notified().await;
        loop {
            let behind = shard.behind();
            if behind.is_empty() {
                break;
            }
            for lane in behind {
                advance(&shard, &lane, &mut cost).await;
            }
        }
    }
}

/// Fans out what memory holds of a log beyond the lane's place. Yields as its
/// rounds' `cost` goes.
async fn advance(shard: &Shard, lane: &LogFanout, cost: &mut usize) {
    match lane.log.tail(lane.fanned_to()) {
        Some(batches) => {
            for batch in batches {
                fanout_pass::fan_out_batch(shard, lane, &batch, cost).await;
            }
        }
        None => park_all(lane).await,
    }
}

/// The lane's place is gone from the tail: every subscription reads the log,
/// and the lane goes on at its head.
///
/// Subscriptions come and go between two chunks, while the index is not
/// locked. One that comes was indexed after `begin`: it reads the log up to
/// `head` before it goes live, whether the walk meets it or not. One that
/// stays keeps its slot, so the walk meets it once.
async fn park_all(lane: &LogFanout) {
    let head = lane.log.head();
    lane.begin(head);
    let (mut cursor, mut chunk) = (Cursor::default(), Vec::new());
    loop {
        let more = lane.index.lock().walk(&mut cursor, COST_AT_ONCE, |entry| {
            chunk.push((entry.subscriber.clone(), entry.subscription));
        });
        for (subscriber, subscription) in chunk.drain(..) {
            if let Some(waker) = subscriber.park(subscription) {
                waker.wake();
            }
        }
        if !more {
            break;
        }
        tokio::task::yield_now().await;
    }
    lane.finish(head);
}

/// Serves everything that is a matter of time, for all connections of a shard.
async fn tick(shard: Arc<Shard>) {
    loop {
        let settings = shard.settings.read().clone();
        let period = (settings.heartbeat / 4).min(TICK).max(Duration::from_millis(1));
        tokio::time::sleep(period).await;
        let now = shard.started.elapsed().as_millis() as u64;
        shard.now.store(now, Ordering::Relaxed);
        let members = shard.members.lock().all.clone();
        let (mut gone, mut lag, mut cost) = (false, 0, 0);
        for subscriber in &members {
            let ticked = subscriber.tick(now, &settings);
            gone |= ticked.is_none();
            let Ticked { lag: behind, cost: own } = ticked.unwrap_or_default();
            (lag, cost) = (lag.max(behind), cost + own);
            if cost >= COST_AT_ONCE {
                cost = 0;
                tokio::task::yield_now().await;
            }
        }
        shard.stats.lag.store(lag, Ordering::Relaxed);
        if gone {
            shard.members.lock().all.retain(|subscriber| !subscriber.is_gone());
        }
    }
}

#[cfg(test)]
mod tests;
