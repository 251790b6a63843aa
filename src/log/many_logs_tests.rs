//! The cost of a commit and of a tick does not depend on the number of logs, and
//! a log without events takes little memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::conformance::{Fixture, one, publish, until};
use super::embedded::{LogRegistry, LogWriter, TestClock, Writers};
use super::read::PageCache;
use super::{Engine, FsyncPolicy, Log, LogConfig, StorageKind};
use crate::event::Timestamp;
use crate::store::{self, Retention, Store};
use crate::wire::LogIdentity;

const LOGS: usize = 1000;

/// The most bytes that the structs of the engine may take for a log without events.
/// The bench `many_logs` measures 370 bytes more, for the allocator and fjall. Both
/// together must be below 1 KiB.
const IDLE_BYTES_MAX: usize = 544;

fn many(storage: StorageKind, clock: &TestClock) -> Fixture {
    let retention = Retention { events: 100, bytes: 1 << 20, age: Duration::from_hours(1) };
    let mut fixture = Fixture::new(Engine::open_at).at(clock);
    fixture.configs = (0..LOGS).map(|n| LogConfig::topic(&format!("topic{n}"), storage)).collect();
    fixture.settings.sync = FsyncPolicy::Never;
    fixture.keeping(retention)
}

/// Waits until a whole tick has passed. A tick reads the clocks twice, and a tick
/// may be running at the start of the wait.
async fn a_tick(clock: &TestClock) {
    let due = clock.reads() + 4;
    until(|| clock.reads() >= due).await;
}

/// The bytes of the two counters of an [`Arc`].
const COUNTERS_BYTES: usize = 16;

/// Returns the bytes of a log without events: its writer, its [`Log`], its
/// identity and name, and its entries in the directory and in [`Writers`].
fn idle_bytes(writer: &LogWriter) -> usize {
    let identity = writer.log().identity();
    assert!(!writer.is_active(), "no event was written");
    assert!(Arc::ptr_eq(&writer.metadata().name, &identity.name), "there is one name");
    assert_eq!(writer.metadata().steps.capacity(), 0);
    assert_eq!(writer.log().tail.lock().batches.capacity(), 0);
    // An entry of the hash map of `Writers` has 9 bytes. The map takes at most 16 / 7
    // of the size of its entries.
    let entries = size_of::<Arc<Log>>() + size_of::<u32>() + 9 * 16 / 7;
    let shared = [size_of::<Log>(), size_of::<LogIdentity>(), identity.name.len()];
    let shared = shared.map(|bytes| COUNTERS_BYTES + bytes.next_multiple_of(8));
    size_of_val(writer) + shared.iter().sum::<usize>() + entries
}

#[test]
fn a_log_without_events_takes_little_memory() {
    let clock = TestClock::new(Timestamp(1_700_000_000_000));
    let fixture = many(StorageKind::Disk, &clock);
    let store::Opened { store, metas, .. } = Store::open(&fixture.settings.path).unwrap();
    let pages = Arc::new(PageCache::new(0, 1));
    let opened = LogRegistry::new(store, pages, metas).open(fixture.configs.iter());
    let mut writers = Writers::default();
    let now = clock.start().read();
    writers.add(opened.writers, now);
    writers.trim_due(StorageKind::Disk, now).unwrap();
    writers.wake_tails();
    let bytes = writers.iter().map(idle_bytes).max().unwrap();
    assert!(bytes <= IDLE_BYTES_MAX, "{bytes} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_to_one_of_many_logs_visits_one_writer() {
    for storage in [StorageKind::Disk, StorageKind::Memory] {
        let clock = TestClock::new(Timestamp(1_700_000_000_000));
        let engine = many(storage, &clock).open();
        let Engine::Embedded(embedded) = &engine;
        let visits = || embedded.shared.visits.load(Ordering::Relaxed);
        // Each log has an event that is too young to be trimmed.
        for log in engine.logs().iter() {
            one(&engine, log, publish("1")).await.unwrap();
        }
        a_tick(&clock).await;
        let before = visits();
        a_tick(&clock).await;
        assert_eq!(visits(), before, "nothing is due");
        one(&engine, &engine.log("topic500").unwrap(), publish("2")).await.unwrap();
        let during = visits() - before;
        assert!((1..20).contains(&during), "{during} visits");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_visits_the_logs_whose_events_are_too_old() {
    let clock = TestClock::new(Timestamp(1_700_000_000_000));
    let engine = many(StorageKind::Disk, &clock).open();
    let Engine::Embedded(embedded) = &engine;
    let log = &engine.log("topic500").unwrap();
    one(&engine, log, publish("1")).await.unwrap();
    clock.advance(Duration::from_mins(40));
    for other in ["topic1", "topic2"] {
        one(&engine, &engine.log(other).unwrap(), publish("1")).await.unwrap();
    }
    a_tick(&clock).await;
    let before = embedded.shared.visits.load(Ordering::Relaxed);
    clock.advance(Duration::from_mins(40));
    until(|| log.floor() == log.head()).await;
    a_tick(&clock).await;
    let during = embedded.shared.visits.load(Ordering::Relaxed) - before;
    assert!((1..20).contains(&during), "{during} visits");
    assert_eq!(engine.log("topic1").unwrap().floor().0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_is_seen_by_every_log() {
    let clock = TestClock::new(Timestamp(1_700_000_000_000));
    let engine = many(StorageKind::Disk, &clock).open();
    let log = &engine.log("topic7").unwrap();
    a_tick(&clock).await;
    let right = clock.wall();
    clock.set_wall(Timestamp(right.0 + 86_400_000));
    one(&engine, log, publish("1")).await.unwrap();
    clock.set_wall(right);
    a_tick(&clock).await;
    clock.advance(Duration::from_mins(11));
    a_tick(&clock).await;
    let written = one(&engine, log, publish("2")).await.unwrap();
    assert_eq!(written.time, clock.wall());
    assert_eq!(log.clock_steps(), 1);
}
