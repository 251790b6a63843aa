//! Tests of the order of writes, of the floor and the head, and of gaps in pages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::conformance::{Fixture, id, one, publish, put};
use super::{Engine, StorageKind};
use crate::event::Offset;
use crate::store::Retention;

fn keeping(events: u64) -> Fixture {
    Fixture::new(Engine::open_at).keeping(Retention { events, ..Retention::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_floor_never_passes_the_head() {
    for storage in [StorageKind::Disk, StorageKind::Memory] {
        let fixture = keeping(2).on(storage);
        let engine = fixture.open();
        let log = engine.log("news").unwrap();
        one(&engine, &log, publish("0")).await.unwrap();
        let done = std::sync::Arc::new(AtomicBool::new(false));
        let watcher = std::thread::spawn({
            let (log, done) = (log.clone(), done.clone());
            move || {
                while !done.load(Ordering::Acquire) {
                    let floor = log.floor();
                    let head = log.head();
                    assert!(floor <= head, "the floor {floor} is above the head {head}");
                }
            }
        });
        for _ in 0..20 {
            engine.append(&log, (0..50).map(|n| publish(&n.to_string())).collect()).await.unwrap();
            assert_eq!(log.floor().0 + 2, log.head().0);
        }
        done.store(true, Ordering::Release);
        watcher.join().unwrap();
    }
}

/// A page comes from a batch of the tail, from the cache, or from the disk.
#[tokio::test]
async fn a_page_reports_each_gap_and_no_other() {
    let memory = (StorageKind::Memory, 16 << 20);
    for (storage, tail_bytes) in [(StorageKind::Disk, 0), (StorageKind::Disk, 16 << 20), memory] {
        let mut fixture = keeping(300).on(storage);
        fixture.settings.tail_bytes = tail_bytes;
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        let append = async |count: u64| {
            let writes = (0..count).map(|n| publish(&n.to_string())).collect();
            engine.append(log, writes).await.unwrap();
        };
        append(256).await;
        append(44).await;
        for after in [0, 100, 255, 256, 290, 300] {
            let page = log.page(Offset(after)).await.unwrap();
            assert!(page.floor <= Offset(after), "nothing is missing after {after}");
        }
        append(200).await;
        append(1).await;
        assert_eq!(log.floor(), Offset(201));
        for after in [0, 200, 201, 255, 256, 400, 500, 501] {
            let page = log.page(Offset(after)).await.unwrap();
            assert_eq!(page.floor > Offset(after), after < 201, "after {after}");
            assert!(page.floor <= log.floor());
            let first = page.batch.position_after(page.floor.max(Offset(after)));
            let first = page.batch.events().get(first as usize).map(|event| event.offset.0);
            assert_eq!(first, (after < 501).then_some(after.max(201) + 1), "after {after}");
            let page = log.page_of(&id("nobody"), Offset(after)).await.unwrap();
            assert_eq!(page.floor > Offset(after), after < 201, "of one resource, after {after}");
        }
    }
}

/// Events can be evicted after a reader has read the floor and before it reads the
/// tail.
#[tokio::test]
async fn a_page_from_memory_reports_the_events_evicted_during_the_read() {
    let mut fixture = Fixture::new(Engine::open_at).on(StorageKind::Memory);
    fixture.settings.tail_bytes = 64 << 10;
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    for n in 0..300 {
        one(&engine, &log, publish(&n.to_string())).await.unwrap();
    }
    let (floor, head) = (log.floor(), log.head());
    assert!(floor > Offset(100) && floor < Offset(256), "{floor}");
    for after in [0, 100, floor.0 - 1].map(Offset) {
        let growing = log.growing_page(after, head).await.unwrap();
        let sealed = log.sealed_page(after, head).await.unwrap();
        let of_one = log.read_tail_of(&id("nobody"), after, (Offset::ZERO, head));
        assert_eq!((growing.floor, sealed.floor, of_one.floor), (floor, floor, floor));
        assert_eq!(growing.batch.events()[0].offset, floor.next());
        assert_eq!(sealed.batch.events()[0].offset, floor.next());
        assert_eq!(
            (growing.scanned_to, sealed.scanned_to, of_one.scanned_to),
            (head, Offset(256), head)
        );
    }
    let sealed = log.sealed_page(floor, head).await.unwrap();
    assert!(sealed.floor <= floor, "nothing is missing after the floor");
}

/// Also if the memory for tails is small and the commit is large. Otherwise all live
/// subscribers would have to read the batch from disk.
#[tokio::test]
async fn the_newest_batch_is_in_memory_for_a_while() {
    let mut fixture = Fixture::new(Engine::open_at);
    fixture.settings.tail_bytes = 0;
    let engine = fixture.open();
    let logs = engine.logs();
    let [orders, news] = &*logs else { panic!("there are two logs") };
    for n in 0..10 {
        let start = Instant::now();
        let published = one(&engine, news, publish(&n.to_string())).await.unwrap();
        let other = put(orders, "a", &format!(r#"{{"n":{n}}}"#));
        let other = one(&engine, orders, other).await.unwrap();
        for (log, newest) in [(news, published.offset), (orders, other.offset)] {
            let is_kept = log.tail(Offset(newest.0 - 1)).is_some();
            assert!(is_kept || start.elapsed() > Duration::from_secs(1), "it was evicted at once");
            assert!(n == 0 || log.tail(Offset(newest.0 - 2)).is_none(), "an older batch was kept");
        }
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while news.tail(Offset(news.head().0 - 1)).is_some() {
        assert!(tokio::time::Instant::now() < deadline, "the newest batch stays forever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The order in which the callers wait for the answers does not matter.
#[tokio::test]
async fn writes_are_committed_in_the_order_they_were_queued() {
    let fixture = Fixture::new(Engine::open_at);
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    let mut queued = Vec::new();
    for n in 0..20 {
        let writes = (0..3).map(|m| put(log, "a", &format!(r#"{{"n":[{n},{m}]}}"#))).collect();
        queued.push(engine.queue(log, writes).await.unwrap());
    }
    for (n, queued) in queued.into_iter().enumerate().rev() {
        let written = queued.answered().await.unwrap();
        let offsets: Vec<_> = written.into_iter().map(|it| it.unwrap().offset.0).collect();
        let first = 3 * n as u64 + 1;
        assert_eq!(offsets, (first..first + 3).collect::<Vec<_>>());
    }
}
