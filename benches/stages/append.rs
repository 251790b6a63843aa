//! Appends through the embedded engine, each commit synced before its answer.
//!
//! Unit: time in which every writer has made one write, and events a second;
//! of batches, time a call. Budget: one write alone in 0.4 ms, of which the
//! disk's sync is half; 100,000 events a second of 256 writers, since they
//! share a sync, so that the store is not what holds up 256 connections;
//! 250,000 a second in calls of 1,000 to a topic, and 100,000 to a collection,
//! whose resources are new. The disk is that of the system's temporary folder.
//! `cargo bench --bench stages -- append`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use streamgate::event::ResourceId;
use streamgate::log::{Engine, Medium, Write};
use tokio::runtime::Runtime;

use super::fixture;

/// Writes of one call, where there are several.
const BATCH: u64 = 1000;

/// See the head of this file.
pub fn append(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let folder = tempfile::tempdir().expect("a folder");
    let engine = Arc::new(fixture::open(folder.path(), Medium::Disk));
    let mut group = criterion.benchmark_group("append");
    group.sampling_mode(SamplingMode::Flat);
    for writers in [1, 16, 256] {
        group.throughput(Throughput::Elements(writers));
        group.bench_function(format!("an event of each writer, {writers}"), |bencher| {
            bencher.iter_custom(|rounds| runtime.block_on(single(&engine, writers, rounds)));
        });
    }
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("1,000 events in one call to a topic", |bencher| {
        let batch = || (0..BATCH).map(fixture::tick).collect();
        bencher.iter_custom(|calls| runtime.block_on(batches(&engine, "ticks", calls, batch)));
    });
    let next = AtomicU64::new(0);
    group.bench_function("1,000 new resources in one call to a collection", |bencher| {
        let batch = || (0..BATCH).map(|_| resource(&engine, &next)).collect();
        bencher.iter_custom(|calls| runtime.block_on(batches(&engine, "orders", calls, batch)));
    });
    group.finish();
}

/// How long it takes until each of `writers` has made `rounds` writes.
async fn single(engine: &Arc<Engine>, writers: u64, rounds: u64) -> Duration {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let log = engine.log("ticks").expect("it is configured");
                for _ in 0..rounds {
                    let answers = engine.append(&log, vec![fixture::tick(writer)]).await;
                    answers.expect("the disk works")[0].as_ref().expect("it is accepted");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it ends");
    }
    begun.elapsed()
}

/// How long so many calls take, one after the other, the making of their
/// writes aside.
async fn batches(
    engine: &Engine,
    name: &str,
    calls: u64,
    batch: impl Fn() -> Vec<Write>,
) -> Duration {
    let log = engine.log(name).expect("it is configured");
    let mut took = Duration::ZERO;
    for _ in 0..calls {
        let writes = batch();
        let begun = Instant::now();
        let answers = engine.append(&log, writes).await.expect("the disk works");
        took += begun.elapsed();
        assert!(answers.iter().all(Result::is_ok), "they are accepted");
    }
    took
}

fn resource(engine: &Engine, next: &AtomicU64) -> Write {
    let log = engine.log("orders").expect("it is configured");
    let number = next.fetch_add(1, Ordering::Relaxed);
    let id = ResourceId::new(&format!("r{number}")).expect("a good id");
    Write::create(log.origin(), id, &fixture::document(number)).expect("it is an object")
}
