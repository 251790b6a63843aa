//! Tests of topics that are kept in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Fixture, Open, id, json, kind, offsets, one, publish, put, read, read_of, until};
use crate::event::{Event, Offset};
use crate::log::{AppendRejection, Engine, IdempotencyKey, Log, StorageKind, Write};
use crate::store;

fn fixture(open: Open) -> Fixture {
    Fixture::new(open).on(StorageKind::Memory)
}

fn short_of_memory(open: Open, tail_bytes: usize) -> Fixture {
    let mut fixture = fixture(open);
    fixture.settings.tail_bytes = tail_bytes;
    fixture
}

async fn publish_all(engine: &Engine, log: &Log, count: u64) {
    for n in 0..count {
        one(engine, log, publish(&n.to_string())).await.unwrap();
    }
}

/// The store has no event, no metadata and no commit of the topic.
pub(super) async fn nothing_of_a_topic_in_memory_is_on_disk(open: Open) {
    let fixture = fixture(open);
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    publish_all(&engine, &log, 50).await;
    let about = Write::publish(Some(id("x")), kind("said"), json("1"));
    one(&engine, &log, about).await.unwrap();
    assert_eq!(read(&log, Offset::ZERO).await.len(), 51);
    assert_eq!(log.resource(&id("x")).await.unwrap(), None);
    drop((log, engine));
    let report = store::verify(&fixture.settings.path, |_, _| {}).unwrap();
    let names: Vec<_> = report.logs.iter().map(|log| log.name.as_str()).collect();
    assert_eq!((report.damage, names), (Vec::new(), vec!["orders"]));
    assert_eq!(report.commit, 1, "one commit made the log of the orders");
    let engine = fixture.open();
    let log = engine.log("orders").unwrap();
    one(&engine, &log, put(&log, "a", "{}")).await.unwrap();
    drop((log, engine));
    assert_eq!(store::verify(&fixture.settings.path, |_, _| {}).unwrap().commit, 2);
}

/// The log has a new epoch after a restart, so it rejects older event ids.
pub(super) async fn an_epoch_in_memory_ends_with_the_process(open: Open) {
    let fixture = fixture(open);
    let mut epochs = Vec::new();
    for _ in 0..3 {
        let engine = fixture.open();
        let log = engine.log("news").unwrap();
        assert_eq!((log.head(), log.floor()), (Offset::ZERO, Offset::ZERO));
        let written = one(&engine, &log, publish("1")).await.unwrap();
        assert_eq!(written.offset, Offset(1));
        assert!(!epochs.contains(&log.identity().epoch));
        epochs.push(log.identity().epoch);
    }
}

/// A topic that is moved to memory and back to disk has its earlier events.
pub(super) async fn a_topic_on_disk_waits_while_its_name_is_in_memory(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    publish_all(&engine, &log, 3).await;
    let (epoch, events) = (log.identity().epoch, read(&log, Offset::ZERO).await);
    drop((log, engine));
    let fixture = fixture.on(StorageKind::Memory);
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    assert_ne!(log.identity().epoch, epoch);
    publish_all(&engine, &log, 5).await;
    assert_eq!(read(&log, Offset::ZERO).await.len(), 5);
    drop((log, engine));
    let fixture = fixture.on(StorageKind::Disk);
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    assert_eq!(log.identity().epoch, epoch);
    assert_eq!(read(&log, Offset::ZERO).await, events);
    assert_eq!(one(&engine, &log, publish("1")).await.unwrap().offset, Offset(4));
}

/// Eviction from the tail raises the floor, also for the events of one subject. The
/// remaining events are complete.
pub(super) async fn a_full_tail_raises_the_floor(open: Open) {
    let fixture = short_of_memory(open, 64 << 10);
    let engine = fixture.open();
    let log = &engine.log("news").unwrap();
    for n in 0..1000_u64 {
        let about = Write::publish(Some(id("x")), kind("said"), json(&n.to_string()));
        one(&engine, log, about).await.unwrap();
        let position = log.position();
        assert_eq!((position.floor, position.head), (log.floor(), log.head()));
        assert_eq!(position.events, log.head().0 - log.floor().0);
    }
    let floor = log.floor();
    assert!(floor > Offset(500) && floor < Offset(990), "{floor}");
    let kept: Vec<u64> = (floor.0 + 1..=1000).collect();
    assert_eq!(offsets(&read(log, floor).await), kept);
    assert_eq!(offsets(&read_of(log, "x", floor).await), kept);
    let bytes: u64 = read(log, floor).await.iter().map(store::EncodedEvent::bytes_of).sum();
    assert_eq!(log.position().bytes, bytes);
    for after in [0, 255, 256, floor.0 - 1] {
        let page = log.page(Offset(after)).await.unwrap();
        assert_eq!(page.floor, floor, "after {after}");
        let page = log.page_of(&id("x"), Offset(after)).await.unwrap();
        assert_eq!(page.floor, floor, "of one, after {after}");
    }
    assert!(log.page(floor).await.unwrap().floor <= floor);
    assert!(log.tail(Offset(floor.0 - 1)).is_none());
    assert!(log.holds(floor.next()) && !log.holds(floor));
}

/// The newest event stays, whatever its size and the memory limit are. The older
/// events of a large append are evicted after live readers had time to read them.
pub(super) async fn the_newest_event_stays_in_memory(open: Open) {
    let fixture = short_of_memory(open, 0);
    let engine = fixture.open();
    let log = &engine.log("news").unwrap();
    let begun = Instant::now();
    engine.append(log, (0..100).map(|n| publish(&n.to_string())).collect()).await.unwrap();
    let whole = log.tail(Offset::ZERO).is_some();
    assert!(whole || begun.elapsed() > Duration::from_secs(1), "it went at once");
    until(|| log.position().events == 1).await;
    assert_eq!(log.floor(), Offset(99));
    assert_eq!(offsets(&read(log, Offset(99)).await), [100]);
    assert_eq!(log.tail(Offset(99)).unwrap()[0].events().len(), 1);
    assert_eq!(log.before(crate::event::Timestamp(0)).unwrap(), (Offset(99), false));
    one(&engine, log, publish("101")).await.unwrap();
    assert_eq!(offsets(&read(log, log.floor()).await), [101]);
}

/// A reader that is slower than the eviction gets each event or a gap.
pub(super) async fn a_reader_is_told_each_gap_of_a_tail_that_runs_away(open: Open) {
    let fixture = short_of_memory(open, 16 << 10);
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers = [false, true].map(|of_one| {
        let (log, done) = (log.clone(), done.clone());
        tokio::spawn(async move {
            let (mut after, mut seen, mut missed) = (Offset::ZERO, 0, 0);
            while !(done.load(Ordering::Acquire) && after == log.head()) {
                let page = if of_one {
                    log.page_of(&id("x"), after).await.unwrap()
                } else {
                    log.page(after).await.unwrap()
                };
                assert!(page.floor <= log.floor() && log.floor() <= log.head());
                if page.floor > after {
                    missed += page.floor.0 - after.0;
                    after = page.floor;
                    continue;
                }
                let first = page.batch.position_after(after) as usize;
                let events: &[Event] = &page.batch.events()[first..];
                let due: Vec<u64> = (after.0 + 1..).take(events.len()).collect();
                assert_eq!(offsets(events), due, "a gap that nobody told");
                assert!(page.scanned_to.0 <= after.0 + events.len() as u64, "passed over");
                seen += events.len() as u64;
                after = page.scanned_to;
                tokio::task::yield_now().await;
            }
            (seen, missed)
        })
    });
    for n in 0..2000_u64 {
        let about = || Write::publish(Some(id("x")), kind("said"), json(&n.to_string()));
        let writes = (0..=n % 3).map(|_| about()).collect();
        engine.append(&log, writes).await.unwrap();
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        let (seen, missed) = reader.await.unwrap();
        assert!(seen > 0);
        assert_eq!(seen + missed, log.head().0);
    }
}

/// The events of one subject are read one page at a time, even if few events match.
pub(super) async fn one_subject_is_found_without_an_index(open: Open) {
    let fixture = fixture(open);
    let engine = fixture.open();
    let log = &engine.log("news").unwrap();
    let about = |n: u64| {
        let subject = if n.is_multiple_of(1000) { "rare" } else { "common" };
        Write::publish(Some(id(subject)), kind("said"), json(&n.to_string()))
    };
    for n in 0..20 {
        let writes = (1000 * n + 1..=1000 * (n + 1)).map(about).collect();
        engine.append(log, writes).await.unwrap();
    }
    let first = log.page_of(&id("rare"), Offset::ZERO).await.unwrap();
    assert!(first.scanned_to < log.head(), "it was looked through at once");
    let rare: Vec<u64> = (1..=20).map(|n| 1000 * n).collect();
    assert_eq!(offsets(&read_of(log, "rare", Offset::ZERO).await), rare);
    assert_eq!(read_of(log, "common", Offset::ZERO).await.len(), 20_000 - 20);
    assert!(read_of(log, "nobody", Offset::ZERO).await.is_empty());
}

/// A stored response would be lost with the process, and a repeat would write
/// twice.
pub(super) async fn no_answer_is_kept_in_memory(open: Open) {
    let fixture = fixture(open);
    let engine = fixture.open();
    let log = &engine.log("news").unwrap();
    let key = IdempotencyKey { key: [1; 32], body: [2; 32] };
    let refused = one(&engine, log, publish("1").with_idempotency_key(key)).await;
    assert_eq!(refused, Err(AppendRejection::KeyNotKept));
    assert_eq!(log.head(), Offset::ZERO);
}
