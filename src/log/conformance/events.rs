//! Tests of events on each kind of storage: reads, retention, lookups and
//! followers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{
    Fixture, Open, futures_all, id, kind, offsets, one, publish, put, read, read_of, text, until,
};
use crate::event::{Event, Offset, Timestamp};
use crate::log::{Error, Log, StorageKind, Write};
use crate::store::Retention;

const MEDIA: [StorageKind; 2] = [StorageKind::Disk, StorageKind::Memory];

/// Events that are no longer in the tail are read from the store, and both agree.
/// If the log has only a tail, its pages agree with the tail.
pub(super) async fn tail_and_pages_agree(open: Open) {
    for storage in MEDIA {
        let mut fixture = Fixture::new(open).on(storage);
        if storage == StorageKind::Disk {
            fixture.settings.tail_bytes = 64 << 10;
        }
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        for n in 0..700_u32 {
            let writes = (0..=n % 5).map(|m| publish(&format!("[{n},{m}]"))).collect();
            engine.append(log, writes).await.unwrap();
        }
        let tail = log.tail(Offset::ZERO);
        assert_eq!(tail.is_none(), storage == StorageKind::Disk, "the tail is bounded");
        let kept: Vec<Event> = if let Some(batches) = tail {
            batches.iter().flat_map(|batch| batch.events().to_vec()).collect()
        } else {
            let kept = engine.store().view().events(log.id(), Offset::ZERO);
            kept.map(Result::unwrap).collect()
        };
        assert_eq!(kept.len() as u64, log.head().0);
        for after in [0, 1, 255, 256, 257, 1000, log.head().0 - 1, log.head().0] {
            assert_eq!(read(log, Offset(after)).await, kept[after as usize..], "after {after}");
        }
        let newest = log.tail(Offset(log.head().0 - 3)).unwrap();
        assert_eq!(newest.last().unwrap().end(), log.head());
        assert!(log.tail(log.head()).unwrap().is_empty());
    }
}

/// Retention keeps the exact number of events and bytes. The floor is below the
/// oldest event.
pub(super) async fn retention_keeps_the_newest(open: Open) {
    type Make = fn(&Log, &str, &str) -> Write;
    let said = |_: &Log, name: &str, text: &str| {
        Write::publish(Some(id(name)), kind("said"), super::json(text))
    };
    let logs: [(&str, StorageKind, Make); 3] = [
        ("orders", StorageKind::Disk, put),
        ("news", StorageKind::Disk, said),
        ("news", StorageKind::Memory, said),
    ];
    let by_events = Retention { events: 10, ..Retention::default() };
    let by_bytes = Retention { bytes: 2_000, ..Retention::default() };
    for (retention, (name, storage, make)) in
        [by_events, by_bytes].into_iter().flat_map(|it| logs.map(|log| (it, log)))
    {
        let fixture = Fixture::new(open).keeping(retention).on(storage);
        let engine = fixture.open();
        let log = &engine.log(name).unwrap();
        for n in 0..100 {
            let writes = (0..=n % 17).map(|m| make(log, &format!("r{m}"), r#"{"x":"yyyyy"}"#));
            engine.append(log, writes.collect()).await.unwrap();
            let position = log.position();
            let kept = offsets(&read(log, log.floor()).await);
            assert!(retention.events == 0 || position.events <= retention.events);
            assert!(retention.bytes == 0 || position.bytes <= retention.bytes);
            assert_eq!(kept, (position.floor.0 + 1..=position.head.0).collect::<Vec<_>>());
            assert_eq!((log.floor(), position.events), (position.floor, kept.len() as u64));
        }
        let full = log.position();
        assert!(retention.events == 0 || full.events == retention.events);
        assert!(retention.bytes == 0 || full.bytes > retention.bytes - 100);
        let resources = if name == "orders" { 17 } else { 0 };
        assert_eq!(full.resources, resources, "retention trims events, not resources");
        assert!(read_of(log, "r0", Offset::ZERO).await.iter().all(|it| it.offset > full.floor));
        let stored = engine.store().view().events(log.id(), Offset::ZERO).count() as u64;
        assert_eq!(stored, if storage == StorageKind::Disk { full.events } else { 0 });
    }
}

/// Old events are trimmed without further writes.
pub(super) async fn retention_by_age_trims_in_time(open: Open) {
    for storage in MEDIA {
        let age = Duration::from_millis(300);
        let retention = Retention { age, ..Retention::default() };
        let fixture = Fixture::new(open).keeping(retention).on(storage);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        let written = one(&engine, log, publish("1")).await.unwrap();
        until(|| log.floor() == written.offset).await;
        assert!(Timestamp::now().0 - written.time.0 >= age.as_millis() as i64);
        // The floor moves just before the events go.
        until(|| log.position().events == 0).await;
        assert!(engine.store().view().events(log.id(), Offset::ZERO).next().is_none());
        let position = log.position();
        assert_eq!((position.events, position.bytes), (0, 0));
        assert_eq!((position.floor, position.floor_time), (written.offset, written.time));
        assert_eq!(log.page(Offset::ZERO).await.unwrap().scanned_to, written.offset);
        let next = one(&engine, log, publish("2")).await.unwrap();
        assert_eq!(next.offset, written.offset.next());
    }
}

/// A lookup by time finds the first event, with and without trimmed events.
pub(super) async fn times_are_found(open: Open) {
    for storage in MEDIA {
        let retention = Retention { events: 20, ..Retention::default() };
        let fixture = Fixture::new(open).keeping(retention).on(storage);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        let mut all = Vec::new();
        for _ in 0..10 {
            all.push(one(&engine, log, publish("1")).await.unwrap().time);
            let more = engine.append(log, vec![publish("2"), publish("3")]).await.unwrap();
            all.extend(more.into_iter().map(|it| it.unwrap().time));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let events = read(log, log.floor()).await;
        assert_eq!((all.len(), events.len()), (30, 20));
        let times = all.iter().flat_map(|it| [it.0 - 1, it.0, it.0 + 1]);
        for time in times {
            let later = events.iter().filter(|it| it.time.0 >= time).count();
            let (found, whole) = log.before(Timestamp(time)).unwrap();
            assert_eq!(events.iter().filter(|it| it.offset > found).count(), later);
            assert!(found >= log.floor());
            let trimmed = all[..10].iter().any(|it| it.0 >= time);
            assert_eq!(whole, !trimmed, "on {storage:?}");
        }
    }
}

/// A follower that reads pages and tails during writes gets each event once and in
/// order.
pub(super) async fn a_follower_misses_and_repeats_nothing(open: Open) {
    const WRITERS: usize = 8;
    const WRITES: usize = 100;
    let disk = [0, 4 << 10, 16 << 20].map(|tail_bytes| (StorageKind::Disk, tail_bytes));
    for (storage, tail_bytes) in disk.into_iter().chain([(StorageKind::Memory, 16 << 20)]) {
        let mut fixture = Fixture::new(open).on(storage);
        fixture.settings.tail_bytes = tail_bytes;
        let engine = Arc::new(fixture.open());
        let log = engine.log("news").unwrap();
        let observer = Arc::new(Notify::new());
        log.observe(&observer);
        let follower = tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < WRITERS * WRITES {
                let after = seen.last().map_or(Offset::ZERO, |event: &Event| event.offset);
                if after == log.head() {
                    observer.notified().await;
                }
                let batches = match log.tail(after) {
                    Some(batches) => batches,
                    None => vec![log.page(after).await.unwrap().batch],
                };
                for batch in batches {
                    seen.extend_from_slice(&batch.events()[batch.position_after(after) as usize..]);
                }
            }
            seen
        });
        let log = engine.log("news").unwrap();
        let writers = (0..WRITERS).map(async |writer| {
            for n in 0..WRITES {
                one(&engine, &log, publish(&format!("[{writer},{n}]"))).await.unwrap();
            }
        });
        futures_all(writers).await;
        let seen = follower.await.unwrap();
        let count = (WRITERS * WRITES) as u64;
        assert_eq!(offsets(&seen), (1..=count).collect::<Vec<_>>());
        for writer in 0..WRITERS {
            let own = seen.iter().map(|event| text(&event.data));
            let own: Vec<_> = own.filter(|data| data.starts_with(&format!("[{writer},"))).collect();
            let sent: Vec<_> = (0..WRITES).map(|n| format!("[{writer},{n}]")).collect();
            assert_eq!(own, sent, "each writer's order is kept");
        }
    }
}

/// Observers are notified once a commit can be read. A closed engine rejects
/// writes.
pub(super) async fn observers_are_told_and_closing_refuses(open: Open) {
    for storage in MEDIA {
        let fixture = Fixture::new(open).on(storage);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        let observer = Arc::new(Notify::new());
        log.observe(&observer);
        let (told, written) = tokio::join!(
            async {
                observer.notified().await;
                log.head()
            },
            one(&engine, log, publish("1"))
        );
        assert_eq!(told, written.unwrap().offset);
        engine.close();
        let refused = engine.append(log, vec![publish("2")]).await;
        assert!(matches!(refused, Err(Error::Closed)));
        assert_eq!(read(log, Offset::ZERO).await.len(), 1, "reads go on");
    }
}
