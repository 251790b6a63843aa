//! Appends through the embedded engine. Each commit is synced before its
//! response.
//!
//! Unit: the time in which every writer makes one write, and events a second;
//! for batches, the time of a call. Budget: 0.4 ms for one write alone; half of
//! this is the sync of the disk. 100,000 events a second for 256 writers, which
//! share a sync, so that the store does not limit 256 connections. In calls of
//! 1,000 events: 250,000 events a second to a topic, and 100,000 to a
//! collection, where each event creates a resource. The disk is that of the
//! system's temporary folder. `cargo bench --bench stages -- append`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use streamgate::event::ResourceId;
use streamgate::log::{Engine, StorageKind, Write};
use tokio::runtime::Runtime;

use super::fixture;

/// The number of writes in a batch.
const BATCH: u64 = 1000;

/// Runs the benchmarks of this file.
pub fn append(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let folder = tempfile::tempdir().expect("a folder can be created");
    let engine = Arc::new(fixture::open(folder.path(), StorageKind::Disk));
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

/// Returns the time until each of `writers` has made `rounds` writes.
async fn single(engine: &Arc<Engine>, writers: u64, rounds: u64) -> Duration {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let log = engine.log("ticks").expect("the log is configured");
                for _ in 0..rounds {
                    let answers = engine.append(&log, vec![fixture::tick(writer)]).await;
                    answers.expect("the write succeeds")[0]
                        .as_ref()
                        .expect("the write is accepted");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the task ends");
    }
    begun.elapsed()
}

/// Returns the time of that many calls, one after the other, without building
/// their writes.
async fn batches(
    engine: &Engine,
    name: &str,
    calls: u64,
    batch: impl Fn() -> Vec<Write>,
) -> Duration {
    let log = engine.log(name).expect("the log is configured");
    let mut took = Duration::ZERO;
    for _ in 0..calls {
        let writes = batch();
        let begun = Instant::now();
        let answers = engine.append(&log, writes).await.expect("the write succeeds");
        took += begun.elapsed();
        assert!(answers.iter().all(Result::is_ok), "the writes are accepted");
    }
    took
}

fn resource(engine: &Engine, next: &AtomicU64) -> Write {
    let log = engine.log("orders").expect("the log is configured");
    let number = next.fetch_add(1, Ordering::Relaxed);
    let id = ResourceId::new(&format!("r{number}")).expect("the id is valid");
    Write::create(log.identity(), id, &fixture::document(number))
        .expect("the document is an object")
}
