//! A mass disconnect: all subscribers of one resource leave, one after another,
//! as after a failed network between the gateway and its clients.
//!
//! Unit: the time of one departure, and departures a second. Budget: 0.25 µs a
//! departure, with 1,000 and with 10,000 subscribers, because a departure does
//! not visit other subscribers. `cargo bench --bench stages -- leave`

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use streamgate::event::ResourceId;
use streamgate::hub::{Hub, OnGap, Overflow, Scope, Settings, SubscriptionSpec};
use streamgate::log::{Engine, StorageKind};
use streamgate::metrics::{Metrics, Protocol};
use streamgate::supervisor::Supervisor;
use streamgate::wire::{Filter, WireFormat};
use tokio::runtime::Runtime;

use super::fixture;

const SUBSCRIBERS: [u64; 2] = [1000, 10_000];

/// Runs the benchmarks of this file.
pub fn leave(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let _entered = runtime.enter();
    let folder = tempfile::tempdir().expect("the folder is made");
    let engine = fixture::open(folder.path(), StorageKind::Memory);
    let mut group = criterion.benchmark_group("leave");
    group.sampling_mode(SamplingMode::Flat);
    for count in SUBSCRIBERS {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} subscribers of one resource"), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| disconnect(&engine, count)).sum());
        });
    }
    group.finish();
}

/// Returns the time until `count` subscribers have left.
fn disconnect(engine: &Engine, count: u64) -> Duration {
    let hour = Duration::from_hours(1);
    let settings = Settings {
        heartbeat: hour,
        ring_events: 1024,
        ring_bytes: 1 << 20,
        stream_idle_timeout: Duration::ZERO,
        stream_lifetime: Duration::ZERO,
        stall_timeout: hour,
    };
    // Each run has a hub with one shard, so that one index has all subscribers.
    let metrics = Arc::new(Metrics::new());
    let supervisor = Supervisor::new(metrics.clone());
    let hub = Hub::start(&settings, &metrics, &supervisor, 1);
    let log = engine.log("ticks").expect("the log is configured");
    let filter = Arc::new(Filter::default());
    let scope = Scope::Subject(ResourceId::new("hot").expect("the name is valid"));
    let subscribe = |_| {
        let subscriber = hub.join(Protocol::Sse, &settings, 0).expect("no limit applies");
        let spec = SubscriptionSpec {
            overflow: Overflow::Log,
            scope: scope.clone(),
            filter: filter.clone(),
            format: WireFormat::SseChunked,
            credit: None,
            snapshot: false,
            on_gap: OnGap::Event,
        };
        subscriber.subscribe(&log, spec, None);
        subscriber
    };
    let subscribers: Vec<_> = (0..count).map(subscribe).collect();
    let begun = Instant::now();
    for subscriber in &subscribers {
        subscriber.leave();
    }
    let took = begun.elapsed();
    assert_eq!(hub.lag_stats().0, 0, "all have left");
    took
}
