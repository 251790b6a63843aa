//! One fan-out task and its subscribers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::lane::{Entry, Lane};
use super::overflow::Bounds;
use super::state::State;
use super::subscriber::Subscriber;
use super::{Ending, Settings};
use crate::event::{LogId, Offset, ResourceId};
use crate::log::{Engine, Log};
use crate::metrics::{Metrics, Protocol};
use crate::wire::{Batch, Filter, Selection};

/// Visits between two yields to the runtime: at about 100 ns each this keeps
/// the task below the 100 µs that others on its thread may have to wait.
const VISITS_AT_ONCE: usize = 256;

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
    lanes: Mutex<HashMap<LogId, Arc<Lane>>>,
    members: Mutex<Members>,
    progress: Arc<Notify>,
    started: Instant,
    /// Milliseconds since `started`, as of the last tick: nothing on the hot
    /// path asks the clock.
    now: AtomicU64,
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
        subscriber.end_at(self.at_random(), Ending::Drained);
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
        tasks: &mut JoinSet<()>,
    ) -> Arc<Shard> {
        let shard = Arc::new(Shard {
            settings: RwLock::new(settings),
            tight,
            open,
            metrics,
            lanes: Mutex::default(),
            members: Mutex::default(),
            progress: Arc::new(Notify::new()),
            started: Instant::now(),
            now: AtomicU64::new(0),
        });
        engine.observe(shard.progress.clone());
        tasks.spawn(fan_out(shard.clone()));
        tasks.spawn(tick(shard.clone()));
        shard
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
            subscriber.end_at(now + lifetime, Ending::Lifetime);
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
    pub(super) fn lane(&self, log: &Arc<Log>) -> Arc<Lane> {
        let mut lanes = self.lanes.lock();
        lanes.entry(log.id()).or_insert_with(|| Arc::new(Lane::new(log.clone()))).clone()
    }

    pub(super) fn drain(&self, spread: Duration) {
        let drain = Drain { from: self.now(), spread: spread.as_millis() as u64 };
        let mut members = self.members.lock();
        members.drain = Some(drain);
        for subscriber in &members.all {
            drain.reach(subscriber);
        }
    }

    pub(super) fn census(&self) -> (u64, u64) {
        let members = self.members.lock().all.clone();
        members
            .iter()
            .map(|member| member.census())
            .fold((0, 0), |(parked, lag), one| (parked + one.0, lag.max(one.1)))
    }

    pub(super) fn open(&self) -> usize {
        self.members.lock().all.len()
    }
}

/// Brings every lane to its log's head, for ever. The lanes take turns, so
/// that a log that is written without a pause does not hold up the others.
async fn fan_out(shard: Arc<Shard>) {
    loop {
        shard.progress.notified().await;
        let lanes: Vec<Arc<Lane>> = shard.lanes.lock().values().cloned().collect();
        while lanes.iter().any(|lane| lane.fanned() < lane.log.head()) {
            for lane in &lanes {
                if lane.fanned() < lane.log.head() {
                    advance(lane).await;
                }
            }
        }
    }
}

/// Fans out what memory holds of a log beyond the lane's place.
async fn advance(lane: &Lane) {
    match lane.log.tail(lane.fanned()) {
        Some(batches) => {
            for batch in batches {
                visit_all(lane, &batch).await;
            }
        }
        None => park_all(lane).await,
    }
}

/// Pushes one batch to everybody who wants of it (delivery, push).
async fn visit_all(lane: &Lane, batch: &Arc<Batch>) {
    let fanned = lane.fanned();
    if batch.end() <= fanned {
        return;
    }
    lane.begin(batch.end());
    let mut wakers = Vec::new();
    visit_whole(lane, batch, fanned, &mut wakers).await;
    visit_subjects(lane, batch, fanned, &mut wakers).await;
    lane.finish(batch.end());
}

async fn visit_whole(lane: &Lane, batch: &Arc<Batch>, fanned: Offset, wakers: &mut Vec<Waker>) {
    let mut memo = Memo::default();
    let mut place = 0;
    loop {
        {
            let index = lane.index.lock();
            let mut cost = 0;
            while place < index.whole.len() && cost < VISITS_AT_ONCE {
                let entry = index.whole[place].as_ref();
                place += 1;
                cost += 1;
                let Some(entry) = entry.filter(|entry| entry.subscriber.is_live()) else {
                    continue;
                };
                let Some(selection) = memo.select(&entry.filter, batch, fanned) else { continue };
                let visit = entry.subscriber.push(entry.subscription, batch, selection, fanned);
                wakers.extend(visit.waker);
                cost += visit.cost - 1;
            }
            if place >= index.whole.len() {
                break;
            }
        }
        wakers.drain(..).for_each(Waker::wake);
        tokio::task::yield_now().await;
    }
    wakers.drain(..).for_each(Waker::wake);
}

async fn visit_subjects(lane: &Lane, batch: &Arc<Batch>, fanned: Offset, wakers: &mut Vec<Waker>) {
    if lane.index.lock().by_subject.is_empty() {
        return;
    }
    let mut runs: HashMap<&ResourceId, Vec<u32>> = HashMap::new();
    for position in batch.position_after(fanned)..batch.events().len() as u32 {
        if let Some(subject) = &batch.events()[position as usize].subject {
            runs.entry(subject).or_default().push(position);
        }
    }
    let mut cost = 0;
    for (subject, positions) in runs {
        let mut entries: Vec<Entry> = Vec::new();
        if let Some(found) = lane.index.lock().by_subject.get(subject) {
            entries.extend_from_slice(found);
        }
        let selection = Selection::of(positions);
        for Entry { subscriber, subscription, filter } in &entries {
            cost += 1;
            if !subscriber.is_live() {
                continue;
            }
            if let Some(selection) = filter.narrow(batch, &selection, fanned) {
                let visit = subscriber.push(*subscription, batch, selection, fanned);
                wakers.extend(visit.waker);
                cost += visit.cost - 1;
            }
            if cost >= VISITS_AT_ONCE {
                cost = 0;
                wakers.drain(..).for_each(Waker::wake);
                tokio::task::yield_now().await;
            }
        }
        cost += 1;
        wakers.drain(..).for_each(Waker::wake);
    }
}

/// The lane's place is gone from the tail: everybody reads the log, and the
/// lane goes on at its head.
async fn park_all(lane: &Lane) {
    let head = lane.log.head();
    lane.begin(head);
    let entries: Vec<Entry> = lane.index.lock().entries().cloned().collect();
    for some in entries.chunks(VISITS_AT_ONCE) {
        for entry in some {
            if let Some(waker) = entry.subscriber.park(entry.subscription) {
                waker.wake();
            }
        }
        tokio::task::yield_now().await;
    }
    lane.finish(head);
}

/// What the filters of one batch's visits came to. Most subscribers share
/// one, and the rest come in runs of the same.
#[derive(Default)]
struct Memo(Vec<(Arc<Filter>, Option<Selection>)>);

impl Memo {
    /// Filters remembered at a time: a search among more costs as much as
    /// asking a filter again.
    const LENGTH: usize = 8;

    fn select(&mut self, filter: &Arc<Filter>, batch: &Batch, after: Offset) -> Option<Selection> {
        if let Some((_, known)) = self.0.iter().find(|(known, _)| Arc::ptr_eq(known, filter)) {
            return known.clone();
        }
        let selection = filter.select(batch, after);
        if self.0.len() == Self::LENGTH {
            self.0.remove(0);
        }
        self.0.push((filter.clone(), selection.clone()));
        selection
    }
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
        let mut gone = false;
        for some in members.chunks(VISITS_AT_ONCE) {
            for subscriber in some {
                gone |= !subscriber.tick(now, &settings);
            }
            tokio::task::yield_now().await;
        }
        if gone {
            shard.members.lock().all.retain(|subscriber| !subscriber.is_gone());
        }
    }
}
