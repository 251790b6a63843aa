//! Fan-out of committed events into the rings of subscribers, and the reads of
//! a writer from the rings. The socket of the writer accepts all bytes. The
//! topic is in memory, so no sync is included.
//!
//! Unit: the time of an event, or a batch, until the last subscriber has it,
//! and deliveries a second. Budget: one encoding per event and format for any
//! number of subscribers (law 3 of `docs/architecture.md`; otherwise the
//! benchmark fails). 0.25 µs per delivery of a single event to 10,000
//! subscribers, including both sides of the ring. 0.01 µs per event in a run of
//! 100, because a run is one push. The direct write of a single event, while the
//! writers sleep, has the same budget as its delivery through the ring. `cargo
//! bench --bench stages -- fanout`

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use streamgate::hub::{
    DirectWriter, Hub, OnGap, Overflow, PollMode, Scope, Settings, Slice, Subscriber,
    SubscriptionSpec, WriteBudget, WriterAction,
};
use streamgate::log::{Engine, Log, StorageKind};
use streamgate::metrics::{Metrics, Protocol};
use streamgate::supervisor::Supervisor;
use streamgate::wire::{Filter, WireFormat};
use tokio::runtime::Runtime;

use super::fixture;

/// The timeout for one commit to reach all subscribers.
const DEADLINE: Duration = Duration::from_mins(1);

/// The number of subscribers, and of events in one commit.
const SHAPES: [(u64, u64); 2] = [(10_000, 1), (1000, 100)];

/// The direct writer that the fan-out uses while the writer sleeps. It counts
/// the events that it receives.
#[derive(Default)]
struct CountingPort {
    writes: AtomicU64,
    bytes: AtomicU64,
}

impl DirectWriter for CountingPort {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Release);
        Ok(bytes.len())
    }
}

/// A hub with its subscribers.
struct SubscribedHub {
    engine: Engine,
    log: Arc<Log>,
    subscribers: Vec<Arc<Subscriber>>,
    _hub: Hub,
    _supervisor: Supervisor,
}

/// Runs the benchmarks of this file.
pub fn fanout(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let mut group = criterion.benchmark_group("fanout");
    group.sampling_mode(SamplingMode::Flat);
    for (subscribers, events) in SHAPES {
        let folder = tempfile::tempdir().expect("a folder can be created");
        let subscribed = {
            let _entered = runtime.enter();
            subscribe_all(folder.path(), subscribers)
        };
        group.throughput(Throughput::Elements(subscribers * events));
        group.bench_function(format!("{events} to {subscribers} subscribers"), |bencher| {
            bencher.iter_custom(|commits| runtime.block_on(subscribed.deliver(events, commits)));
        });
        // Several events are not one slice, and are left to the writers.
        if events == 1 {
            let port = subscribed.open_ports();
            group.bench_function(format!("{events} to {subscribers} open ports"), |bencher| {
                let deliver = |commits| subscribed.deliver_to(&port, commits);
                bencher.iter_custom(|commits| runtime.block_on(deliver(commits)));
            });
        }
    }
    group.finish();
}

fn subscribe_all(path: &Path, count: u64) -> SubscribedHub {
    let engine = fixture::open(path, StorageKind::Memory);
    let settings = Settings {
        heartbeat: Duration::from_hours(1),
        ring_events: 1024,
        ring_bytes: 1 << 20,
        stream_idle_timeout: Duration::ZERO,
        stream_lifetime: Duration::ZERO,
        stall_timeout: Duration::from_hours(1),
    };
    let metrics = Arc::new(Metrics::new());
    let supervisor = Supervisor::new(metrics.clone());
    let hub = Hub::start(&settings, &metrics, &supervisor, 2);
    let log = engine.log("ticks").expect("the log is configured");
    let filter = Arc::new(Filter::default());
    let subscribe = |_| {
        let subscriber = hub.join(Protocol::Sse, &settings, 0).expect("no limit applies");
        let interest = SubscriptionSpec {
            overflow: Overflow::Log,
            scope: Scope::Whole,
            filter: filter.clone(),
            format: WireFormat::SseChunked,
            credit: None,
            snapshot: false,
            on_gap: OnGap::Event,
        };
        subscriber.subscribe(&log, interest, None);
        assert_eq!(drain(&subscriber), 0, "the log is empty, so the subscription is live now");
        subscriber
    };
    let subscribers = (0..count).map(subscribe).collect();
    SubscribedHub { engine, log, subscribers, _hub: hub, _supervisor: supervisor }
}

impl SubscribedHub {
    /// Opens a port for every subscriber, whose writer then sleeps.
    fn open_ports(&self) -> Arc<CountingPort> {
        let port = Arc::<CountingPort>::default();
        for subscriber in &self.subscribers {
            subscriber.allow_direct_writes(port.clone());
            assert_eq!(drain(subscriber), 0, "the subscriber has every event");
        }
        port
    }

    /// Returns the time until that many commits of one event are at all ports.
    async fn deliver_to(&self, port: &CountingPort, commits: u64) -> Duration {
        let (writes, bytes) = (&port.writes, &port.bytes);
        let mut took = Duration::ZERO;
        for n in 0..commits {
            let due = writes.load(Ordering::Acquire) + self.subscribers.len() as u64;
            let before = bytes.load(Ordering::Relaxed);
            let begun = Instant::now();
            self.engine
                .append(&self.log, vec![fixture::tick(n)])
                .await
                .expect("the log accepts it");
            while writes.load(Ordering::Acquire) < due {
                assert!(begun.elapsed() < DEADLINE, "an event has not reached all ports");
                tokio::task::yield_now().await;
            }
            took += begun.elapsed();
            let each = bytes.load(Ordering::Relaxed) - before;
            assert_eq!(each % self.subscribers.len() as u64, 0, "each port gets the same bytes");
        }
        took
    }

    /// Returns the time until all subscribers have all events of that many
    /// commits.
    async fn deliver(&self, events: u64, commits: u64) -> Duration {
        let identity = self.log.identity();
        let before = identity.encodings(WireFormat::SseChunked);
        let mut took = Duration::ZERO;
        for _ in 0..commits {
            let writes = (0..events).map(fixture::tick).collect();
            let begun = Instant::now();
            self.engine.append(&self.log, writes).await.expect("the log accepts it");
            for subscriber in &self.subscribers {
                let mut came = 0;
                while came < events {
                    assert!(begun.elapsed() < DEADLINE, "only {came} of {events} events arrived");
                    match drain(subscriber) {
                        0 => tokio::task::yield_now().await,
                        more => came += u64::from(more),
                    }
                }
            }
            took += begun.elapsed();
        }
        let encodings = identity.encodings(WireFormat::SseChunked) - before;
        assert_eq!(encodings, events * commits, "one encoding for each event");
        took
    }
}

/// Takes everything from the ring and returns the number of events.
fn drain(subscriber: &Subscriber) -> u32 {
    let mut hand: Vec<Slice> = Vec::new();
    let mut room = WriteBudget::for_write(u32::MAX);
    let cx = Context::from_waker(Waker::noop());
    match subscriber.next(&cx, PollMode::Ring, &mut hand, &mut room) {
        WriterAction::Write => {
            subscriber.note_written(&hand);
            hand.iter().map(|slice| slice.events).sum()
        }
        _ => 0,
    }
}
