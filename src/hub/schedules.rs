//! Catching up and live fan-out, in every order of threads that shuttle finds
//! (`docs/delivery.md#proof-no-gap-and-no-repeat`).
//!
//! A committer, the fan-out task, the writers of subscribers and a ticker run as
//! threads of shuttle. The log, the queue, the fan-out, the ring, the subscriber
//! and the stream source are the code of the gateway. The socket, the commit and
//! the clock are models. Memory is sequentially consistent in shuttle, so these
//! tests show nothing about weaker orderings.

mod end;
mod queue;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool as Flag, AtomicU64 as Counter, Ordering};
use std::sync::{Arc, Mutex as Cell};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use shuttle::rand::Rng as _;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use tempfile::TempDir;

use super::fan_out::fan_out;
use super::shard::{Counts, Shard};
use super::{
    DirectWriter, EndReason, OnGap, Overflow, Scope, Settings, Slice, Subscriber, SubscriptionSpec,
};
use crate::deliver::{self, Filled, HeartbeatFormat, Pace, StreamSource};
use crate::event::{Epoch, Event, EventType, LogId, Offset, ResourceId, Timestamp};
use crate::log::Log;
use crate::metrics::{Metrics, Protocol};
use crate::store::{Durability, EncodedEvent, LogMetadata, Store};
use crate::wire::{Batch, Filter, LogIdentity, LogKind, WireFormat};
use end::End;

/// The resource of each event of each batch.
const BATCHES: [&[&str]; 5] = [&["a"], &["b", "a"], &["a"], &["b"], &["a", "b", "a"]];

/// A time of the shard at which a heartbeat is due.
const LATE: u64 = 3_600_000;

/// The state that all schedules share. shuttle does not schedule its locks.
struct Fixture {
    _folder: TempDir,
    store: Store,
    meta: LogMetadata,
    identity: Arc<LogIdentity>,
    metrics: Arc<Metrics>,
    streams: Arc<deliver::Settings>,
}

impl Fixture {
    /// Writes all events to a store. The log reads them there after their commit.
    fn new() -> Arc<Fixture> {
        let folder = tempfile::tempdir().unwrap();
        let opened = Store::open(&folder.path().join("store")).unwrap();
        let mut writer = opened.writer;
        let name = "orders".to_owned();
        let empty = LogMetadata::new(LogId(1), name.clone(), false, Epoch::from_bits(1));
        let mut changes = writer.begin();
        for event in events() {
            let number = event.offset.0;
            changes.put_event(empty.id, EncodedEvent::new(empty.id, number, event));
        }
        let mut full = empty.clone();
        full.position.head = Offset(events().len() as u64);
        full.number = full.position.head.0;
        changes.put_meta(&full);
        writer.commit(changes, Durability::Buffered).unwrap();
        let second = Duration::from_secs(1);
        let streams = deliver::Settings {
            retry: second..2 * second,
            heartbeat_format: HeartbeatFormat::Event,
            message_bytes_max: 1 << 16,
            pace: Pace::default(),
            message_timeout: second,
            control_rate: 0,
        };
        Arc::new(Fixture {
            _folder: folder,
            store: opened.store,
            identity: Arc::new(LogIdentity::new(
                name,
                empty.epoch,
                LogKind::collection("order").unwrap(),
            )),
            meta: empty,
            metrics: Arc::new(Metrics::new()),
            streams: Arc::new(streams),
        })
    }
}

fn events() -> Vec<Event> {
    let subjects = BATCHES.iter().copied().flatten();
    let event = |(n, subject): (u64, &&str)| Event {
        offset: Offset(n),
        time: Timestamp(0),
        event_type: EventType::new("order-seen").unwrap(),
        subject: Some(ResourceId::new(subject).unwrap()),
        merge: true,
        data: format!(r#"{{"n":{n}}}"#).into(),
    };
    (1..).zip(subjects).map(event).collect()
}

/// The threads and the parameters of one schedule.
#[derive(Clone)]
struct Plan {
    batches: usize,
    ring_events: usize,
    /// The clients. Each has its own connection.
    subscribers: Vec<Follow>,
    /// Whether the log evicts batches from its tail.
    evicts: bool,
    /// The number of ticks. At each one a heartbeat is due, and a connection may
    /// end.
    ticks: u64,
    /// Whether sockets accept no byte, or a part of the bytes, at random.
    erratic: bool,
}

#[derive(Clone)]
struct Follow {
    /// The resource. `None` means all resources.
    subject: Option<&'static str>,
    /// The start offset. `None` means the head of the log.
    start: Option<u64>,
    /// Whether the fan-out may write to the socket.
    direct_writes: bool,
    /// The connection ends after this number of events. The client then resumes
    /// on another connection after the last id.
    leaves_after: Option<usize>,
}

/// The bytes that a client has received.
#[derive(Clone, Default)]
struct Socket {
    read: Arc<Cell<Vec<u8>>>,
    erratic: bool,
}

impl Socket {
    fn write(&self, bytes: &[u8]) {
        self.read.lock().unwrap().extend_from_slice(bytes);
    }

    /// Checks that the events are the first ones of `expected`, and that no other
    /// id is ahead of them. Returns the number of events, and the last id.
    fn check(&self, expected: &[u64]) -> (usize, Option<u64>) {
        let read = self.read.lock().unwrap();
        let text = str::from_utf8(&read).unwrap();
        let (mut seen, mut last) = (0, None);
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {text}"));
            let id = line["id"].as_str().map(|id| id.rsplit_once('-').unwrap().1.parse().unwrap());
            if line["type"] == "order-seen" {
                assert_eq!(id, expected.get(seen).copied(), "of {expected:?} in\n{text}");
                seen += 1;
            } else if let Some(id) = id {
                let next = expected.get(seen).copied().unwrap_or(u64::MAX);
                assert!(id < next, "the id {id} is ahead of the event {next} in\n{text}");
            }
            last = id.or(last);
        }
        (seen, last)
    }
}

impl DirectWriter for Socket {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let accepted = if self.erratic && one_in(3) { bytes.len() / 2 } else { bytes.len() };
        if self.erratic && one_in(4) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.write(&bytes[..accepted]);
        Ok(accepted)
    }
}

fn one_in(n: u32) -> bool {
    shuttle::rand::thread_rng().gen_ratio(1, n)
}

/// The state that the threads of a schedule share.
struct Model {
    fixture: Arc<Fixture>,
    plan: Plan,
    settings: Settings,
    counts: Arc<Counts>,
    shard: Arc<Shard>,
    log: Arc<Log>,
    connections: Counter,
    subscribers: Cell<Vec<Arc<Subscriber>>>,
    /// Whether all batches are committed.
    committed: Flag,
    /// Whether the fan-out has pushed all batches. An event that a writer cannot
    /// get now is lost.
    idle: Flag,
    waiting: Cell<Vec<Waker>>,
    end: End,
}

impl Model {
    fn new(fixture: Arc<Fixture>, plan: Plan) -> Arc<Model> {
        let settings = Settings {
            heartbeat: Duration::from_secs(1),
            stall_timeout: Duration::from_hours(24),
            ..Settings::of_rings(plan.ring_events, 1 << 20)
        };
        let counts = Arc::<Counts>::default();
        let metrics = fixture.metrics.clone();
        let shard = Shard::new(Arc::new(settings.clone()), Arc::default(), counts.clone(), metrics);
        let log = Log::scheduled(&fixture.meta, fixture.identity.clone(), fixture.store.clone());
        Arc::new(Model {
            fixture,
            plan,
            settings,
            counts,
            shard: Arc::new(shard),
            log,
            connections: Counter::default(),
            subscribers: Cell::default(),
            committed: Flag::default(),
            idle: Flag::default(),
            waiting: Cell::default(),
            end: End::default(),
        })
    }

    /// Publishes each batch and then notifies the observers, as the committer
    /// does.
    fn commit(&self) {
        let mut events = events().into_iter();
        for subjects in BATCHES.iter().take(self.plan.batches) {
            let events = events.by_ref().take(subjects.len()).collect();
            let batch = Batch::new(self.fixture.identity.clone(), events, None);
            self.log.show(Arc::new(batch));
            if self.plan.evicts && one_in(2) {
                self.log.evict_oldest();
            }
            self.log.notify_observers();
        }
        self.committed.store(true, Ordering::SeqCst);
        self.end.wake();
    }

    /// Runs the fan-out task until all batches are fanned out.
    fn fan_out(&self) {
        let is_done = || self.committed.load(Ordering::SeqCst) && !self.shard.is_behind();
        self.end.run(&self.shard, is_done);
        self.idle.store(true, Ordering::SeqCst);
        self.waiting.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    fn tick(&self) {
        for n in 1..=self.plan.ticks {
            let members = self.subscribers.lock().unwrap().clone();
            for subscriber in members {
                subscriber.tick(n * LATE, &self.settings);
                if one_in(4) {
                    subscriber.end(EndReason::Drained);
                }
            }
            shuttle::thread::yield_now();
        }
    }

    /// Runs a client until it has all events. It may use several connections.
    fn follow(&self, follow: &Follow) {
        let wanted: Vec<u64> = {
            let all = BATCHES.iter().take(self.plan.batches).map(|batch| batch.len()).sum();
            let events = events().into_iter().take(all);
            let wants = |event: &Event| {
                follow
                    .subject
                    .is_none_or(|subject| event.subject.as_ref().unwrap().as_str() == subject)
            };
            events.filter(wants).map(|event| event.offset.0).collect()
        };
        let after =
            |start: u64| wanted.iter().copied().filter(|&it| it > start).collect::<Vec<_>>();
        let (mut start, mut leaves_after) = (follow.start.map(Offset), follow.leaves_after);
        loop {
            let mut writer = Writer::connect(self, follow, start);
            let expected = after(writer.start.0);
            let leaves = leaves_after.take();
            let poll = |cx: &mut Context<'_>| writer.poll(self, cx, &expected, leaves);
            let over = shuttle::future::block_on(std::future::poll_fn(poll));
            let (seen, last) = writer.socket.check(&expected);
            match over {
                Over::Connection => start = Some(last.map_or(writer.start, Offset)),
                Over::Log => {
                    assert_eq!(seen, expected.len(), "lost: {:?}", &expected[seen..]);
                    return;
                }
            }
        }
    }
}

/// The reason why a writer ends.
enum Over {
    /// The connection has ended. The client resumes after the last id.
    Connection,
    /// The client has all events of the log.
    Log,
}

/// The task of a connection.
struct Writer {
    source: StreamSource,
    socket: Socket,
    start: Offset,
}

impl Writer {
    fn connect(model: &Model, follow: &Follow, start: Option<Offset>) -> Writer {
        let protocol = Protocol::Ndjson;
        model.counts.of(protocol).fetch_add(1, Ordering::Relaxed);
        let id = model.connections.fetch_add(1, Ordering::Relaxed);
        let subscriber = model.shard.join(id, protocol, &model.settings);
        model.subscribers.lock().unwrap().push(subscriber.clone());
        let streams = model.fixture.streams.clone();
        let source = StreamSource::new(
            subscriber.clone(),
            streams,
            model.fixture.metrics.clone(),
            WireFormat::Ndjson,
            None,
        );
        let socket = Socket { erratic: model.plan.erratic, ..Socket::default() };
        if follow.direct_writes {
            subscriber.allow_direct_writes(Arc::new(socket.clone()));
        }
        let scope = match follow.subject {
            Some(subject) => Scope::Subject(ResourceId::new(subject).unwrap()),
            None => Scope::Whole,
        };
        let spec = SubscriptionSpec {
            scope,
            filter: Filter::shared(Vec::new(), Vec::new()),
            format: WireFormat::Ndjson,
            credit: None,
            snapshot: false,
            on_gap: OnGap::Event,
            overflow: Overflow::Log,
        };
        let (_, start) = subscriber.subscribe(&model.log, spec, start);
        Writer { source, socket, start }
    }

    /// Writes until the fan-out has pushed all batches and nothing is left, or
    /// until the client `leaves` after this number of events.
    fn poll(
        &mut self,
        model: &Model,
        cx: &mut Context<'_>,
        expected: &[u64],
        leaves: Option<usize>,
    ) -> Poll<Over> {
        loop {
            if leaves.is_some_and(|count| self.socket.check(expected).0 >= count) {
                return Poll::Ready(Over::Connection);
            }
            let idle = model.idle.load(Ordering::SeqCst);
            let mut slices: Vec<Slice> = Vec::new();
            match self.source.poll_fill(cx, &mut slices) {
                Poll::Pending if idle => return Poll::Ready(Over::Log),
                Poll::Pending => {
                    let mut waiting = model.waiting.lock().unwrap();
                    if model.idle.load(Ordering::SeqCst) {
                        continue;
                    }
                    waiting.push(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(Filled::PartialWrite(rest)) => self.socket.write(&rest),
                Poll::Ready(Filled::Slices) => self.write(&slices),
                Poll::Ready(Filled::End(_)) => return Poll::Ready(Over::Connection),
            }
        }
    }

    /// Writes the slices that the socket accepts.
    fn write(&mut self, slices: &[Slice]) {
        let mut accepted = slices.len();
        if self.socket.erratic && one_in(4) {
            accepted = shuttle::rand::thread_rng().gen_range(0..accepted);
        }
        if accepted == 0 {
            self.source.subscriber().blocked();
            self.source.release_read();
            shuttle::thread::yield_now();
            self.source.subscriber().unblocked();
            return;
        }
        for slice in &slices[..accepted] {
            self.socket.write(&slice.bytes);
        }
        self.source.note_written(&slices[..accepted]);
    }
}

/// Runs `schedule` under each schedule that `scheduler` finds.
fn explore(scheduler: impl Scheduler + 'static, schedule: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    // A debug build needs more than the 32 KiB of shuttle.
    config.stack_size = 256 * 1024;
    config.silence_warnings = true;
    let begun = Arc::<Counter>::default();
    let counted = begun.clone();
    let run = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        schedule();
    };
    let runner = shuttle::Runner::new(scheduler, config);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| runner.run(run))) {
        eprintln!("failed in schedule {}", begun.load(Ordering::Relaxed));
        resume_unwind(panic);
    }
}

/// Runs `plan` under each schedule that `scheduler` finds.
fn run_plan(scheduler: impl Scheduler + 'static, plan: Plan) {
    let fixture = Fixture::new();
    explore(scheduler, move || {
        let model = Model::new(fixture.clone(), plan.clone());
        let mut threads = Vec::new();
        let mut spawn = |run: Box<dyn FnOnce(&Model) + Send>| {
            let model = model.clone();
            threads.push(shuttle::thread::spawn(move || run(&model)));
        };
        spawn(Box::new(Model::commit));
        spawn(Box::new(Model::fan_out));
        for follow in plan.subscribers.clone() {
            spawn(Box::new(move |model| model.follow(&follow)));
        }
        spawn(Box::new(Model::tick));
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

const EVERYTHING: Follow =
    Follow { subject: None, start: Some(0), direct_writes: false, leaves_after: None };

fn crowd() -> Plan {
    Plan {
        batches: BATCHES.len(),
        ring_events: 2,
        subscribers: vec![
            EVERYTHING,
            Follow { start: None, direct_writes: true, ..EVERYTHING },
            Follow { subject: Some("a"), leaves_after: Some(1), ..EVERYTHING },
        ],
        evicts: true,
        ticks: 2,
        erratic: true,
    }
}

/// One client that subscribes during two commits.
fn pair(follow: Follow) -> Plan {
    Plan {
        batches: 2,
        ring_events: 8,
        subscribers: vec![follow],
        evicts: false,
        ticks: 0,
        erratic: false,
    }
}

#[test]
fn every_subscriber_gets_every_event_once_in_random_schedules() {
    run_plan(RandomScheduler::new(2000), crowd());
}

#[test]
fn every_subscriber_gets_every_event_once_with_few_preemptions() {
    run_plan(PctScheduler::new(4, 2000), crowd());
}

#[test]
fn one_subscriber_joins_beside_two_commits() {
    for direct_writes in [false, true] {
        for start in [None, Some(0)] {
            let follow = Follow { start, direct_writes, ..EVERYTHING };
            run_plan(RandomScheduler::new(1000), pair(follow.clone()));
            run_plan(PctScheduler::new(3, 1000), pair(follow));
        }
    }
}
