//! Snapshots: the pages of a collection of 100,000 resources of 256 bytes, read
//! from the store in order, as a followed snapshot reads them.
//!
//! Unit: the time of all pages, and resources a second. Budget: 0.5 µs a
//! resource, which is 500 MB/s, so that the store does not limit a client over
//! loopback. `cargo bench --bench stages -- snapshot`

use criterion::{Criterion, SamplingMode, Throughput};
use streamgate::event::ResourceId;
use streamgate::log::{Engine, Log, StorageKind, Write};
use tokio::runtime::Runtime;

use super::fixture;

const RESOURCES: u64 = 100_000;

/// The number of writes in a call that fills the store.
const BATCH: u64 = 1000;

/// Runs the benchmarks of this file.
pub fn snapshot(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let folder = tempfile::tempdir().expect("a folder can be created");
    let engine = fixture::open(folder.path(), StorageKind::Disk);
    let log = engine.log("orders").expect("the log is configured");
    runtime.block_on(fill(&engine, &log));
    let mut group = criterion.benchmark_group("snapshot");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(RESOURCES));
    group.bench_function("100,000 resources", |bencher| {
        bencher.iter(|| runtime.block_on(walk(&log)));
    });
    group.finish();
}

async fn fill(engine: &Engine, log: &Log) {
    for start in (0..RESOURCES).step_by(BATCH as usize) {
        let create = |number| {
            let id = ResourceId::new(&format!("r{number}")).expect("the id is valid");
            Write::create(log.identity(), id, &fixture::document(number))
                .expect("the document is an object")
        };
        let writes = (start..start + BATCH).map(create).collect();
        engine.append(log, writes).await.expect("the write succeeds");
    }
}

async fn walk(log: &Log) {
    let (mut count, mut after) = (0, None);
    loop {
        let page = log.resources(after).await.expect("the write succeeds");
        count += page.len() as u64;
        match page.into_iter().next_back() {
            Some((id, _)) => after = Some(id),
            None => break,
        }
    }
    assert_eq!(count, RESOURCES);
}
