//! What a commit and a tick cost does not depend on the number of logs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::conformance::{Fixture, one, publish, until};
use super::embedded::TestClock;
use super::{Engine, FsyncPolicy, LogConfig, StorageKind};
use crate::event::Timestamp;
use crate::store::Retention;

const LOGS: usize = 1000;

fn many(storage: StorageKind, clock: &TestClock) -> Fixture {
    let retention = Retention { events: 100, bytes: 1 << 20, age: Duration::from_hours(1) };
    let mut fixture = Fixture::new(Engine::open_at).at(clock);
    fixture.specs = (0..LOGS).map(|n| LogConfig::topic(&format!("topic{n}"), storage)).collect();
    fixture.settings.sync = FsyncPolicy::Never;
    fixture.keeping(retention)
}

/// Waits until a whole tick has passed. A tick reads the clocks twice, and one
/// may be under way.
async fn a_tick(clock: &TestClock) {
    let due = clock.reads() + 4;
    until(|| clock.reads() >= due).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_to_one_of_many_logs_visits_one_writer() {
    for storage in [StorageKind::Disk, StorageKind::Memory] {
        let clock = TestClock::new(Timestamp(1_700_000_000_000));
        let engine = many(storage, &clock).open();
        let Engine::Embedded(embedded) = &engine;
        let visits = || embedded.shared.visits.load(Ordering::Relaxed);
        // Each log has an event, which is younger than the age to keep.
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
