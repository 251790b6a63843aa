//! Tests of a reconfiguration while the engine runs.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Fixture, Open, collection, futures_all, id, json, offsets, one, publish, put, read, until,
};
use crate::event::Offset;
use crate::log::embedded::Clock;
use crate::log::{AppendRejection, Engine, Error, LogConfig, StorageKind, Write};
use crate::store::Retention;

const BYTES_MAX: usize = 1 << 20;

async fn reconfigure(engine: &Engine, configs: &[LogConfig]) -> Vec<String> {
    engine.reconfigure(configs, BYTES_MAX).await.unwrap()
}

fn names(engine: &Engine) -> Vec<String> {
    engine.logs().iter().map(|log| log.identity().name.to_string()).collect()
}

fn keeping(mut spec: LogConfig, events: u64) -> LogConfig {
    spec.retention = Retention { events, ..Retention::default() };
    spec
}

/// New logs work on each kind of storage, and have their identity from the start.
pub(super) async fn new_logs_can_be_used_at_once_and_later(open: Open) {
    let mut fixture = Fixture::new(open);
    let engine = fixture.open();
    fixture.configs.insert(0, LogConfig::topic("alerts", StorageKind::Disk));
    fixture.configs.push(collection("carts", "cart"));
    fixture.configs.push(LogConfig::topic("ticks", StorageKind::Memory));
    assert_eq!(reconfigure(&engine, &fixture.configs).await, Vec::<String>::new());
    assert_eq!(names(&engine), ["alerts", "orders", "news", "carts", "ticks"]);
    let logs = engine.logs();
    let mut numbers: Vec<_> = logs.iter().map(|log| log.id()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 5, "each has its own");
    let [alerts, _, _, carts, ticks] = &*logs else { unreachable!() };
    assert_eq!(one(&engine, carts, put(carts, "a", "{}")).await.unwrap().offset, Offset(1));
    for log in [alerts, ticks] {
        assert_eq!(one(&engine, log, publish("1")).await.unwrap().offset, Offset(1));
        assert_eq!(read(log, Offset::ZERO).await.len(), 1);
    }
    let identities: Vec<_> = logs.iter().map(|log| log.identity().clone()).collect();
    drop((logs, engine));
    let engine = fixture.open();
    for (log, identity) in engine.logs().iter().zip(&identities) {
        let (there, same) = (log.head() == Offset(1), log.identity() == identity);
        match &*identity.name {
            "ticks" => assert!(!there && !same),
            "alerts" | "carts" => assert!(there && same),
            _ => assert!(!there && same),
        }
    }
}

/// A lower limit trims events in the steps of the commits. A higher limit keeps
/// further events.
pub(super) async fn retention_changes_while_it_runs(open: Open) {
    for storage in [StorageKind::Disk, StorageKind::Memory] {
        let fixture = Fixture::new(open).on(storage);
        let engine = fixture.open();
        let log = &engine.log("news").unwrap();
        engine.append(log, (0..5000).map(|n| publish(&n.to_string())).collect()).await.unwrap();
        let configs =
            [keeping(LogConfig::topic("news", storage), 10), collection("orders", "order")];
        assert!(reconfigure(&engine, &configs).await.is_empty());
        until(|| log.position().events == 10).await;
        assert_eq!(log.floor(), Offset(4990));
        assert_eq!(read(log, log.floor()).await.len(), 10);
        reconfigure(&engine, &[keeping(LogConfig::topic("news", storage), 12)]).await;
        engine.append(log, (0..5).map(|n| publish(&n.to_string())).collect()).await.unwrap();
        assert_eq!(offsets(&read(log, log.floor()).await), (4994..=5005).collect::<Vec<_>>());
        let age = Duration::from_millis(1);
        let mut aged = LogConfig::topic("news", storage);
        aged.retention.age = age;
        reconfigure(&engine, &[aged]).await;
        until(|| log.position().events == 0).await;
        assert_eq!(log.floor(), log.head());
    }
}

/// A log that the configuration no longer names can be read and written.
pub(super) async fn who_is_not_named_stays_as_it_is(open: Open) {
    let fixture = Fixture::new(open).keeping(Retention { events: 3, ..Retention::default() });
    let engine = fixture.open();
    let news = engine.log("news").unwrap();
    one(&engine, &news, publish("1")).await.unwrap();
    assert!(reconfigure(&engine, &[collection("orders", "order")]).await.is_empty());
    assert_eq!(names(&engine), ["orders", "news"]);
    engine.append(&news, (0..5).map(|n| publish(&n.to_string())).collect()).await.unwrap();
    assert_eq!(news.position().events, 3, "its retention is as it was");
    // The same name for something else, and back.
    reconfigure(&engine, &[collection("news", "new")]).await;
    let other = engine.log("news").unwrap();
    assert_eq!(one(&engine, &other, put(&other, "a", "{}")).await.unwrap().offset, Offset(1));
    reconfigure(&engine, &fixture.configs).await;
    let again = engine.log("news").unwrap();
    assert!(Arc::ptr_eq(&again, &news));
    assert_eq!(one(&engine, &again, publish("2")).await.unwrap().offset, Offset(7));
}

/// The log is in the store, and the process did not name it at the start.
pub(super) async fn a_log_from_before_is_found_again(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    engine.append(&log, (0..300).map(|n| publish(&n.to_string())).collect()).await.unwrap();
    let (identity, events) = (log.identity().clone(), read(&log, Offset::ZERO).await);
    drop((log, engine));
    let engine = open(&fixture.settings, &fixture.configs[..1], Clock::system()).unwrap();
    assert_eq!(names(&engine), ["orders"]);
    assert!(engine.log("news").is_none());
    reconfigure(&engine, &fixture.configs).await;
    let log = engine.log("news").unwrap();
    assert_eq!((log.identity(), log.head()), (&identity, Offset(300)));
    assert_eq!(read(&log, Offset::ZERO).await, events);
    assert_eq!(one(&engine, &log, publish("1")).await.unwrap().offset, Offset(301));
}

/// The other parts of the reconfiguration take effect.
pub(super) async fn what_needs_a_restart_is_named_and_left(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let (orders, news) = (engine.log("orders").unwrap(), engine.log("news").unwrap());
    let configs = [
        keeping(LogConfig::topic("news", StorageKind::Memory), 1),
        keeping(collection("orders", "purchase"), 1),
        LogConfig::topic("ticks", StorageKind::Memory),
    ];
    assert_eq!(reconfigure(&engine, &configs).await, ["news", "orders"]);
    for n in 0..3 {
        one(&engine, &news, publish("1")).await.unwrap();
        one(&engine, &orders, put(&orders, "a", &format!(r#"{{"n":{n}}}"#))).await.unwrap();
    }
    assert_eq!((news.position().events, orders.position().events), (3, 3));
    assert_eq!(read(&orders, Offset::ZERO).await[0].event_type.as_str(), "order-created");
    assert_eq!(news.storage(), StorageKind::Disk);
    assert_eq!(engine.log("ticks").unwrap().storage(), StorageKind::Memory);
    // A collection is never in memory, so there is nothing to change here.
    let mut durable = collection("orders", "order");
    durable.durability = StorageKind::Memory;
    assert!(reconfigure(&engine, &[durable]).await.is_empty());
}

/// The new maximum applies to the next write.
pub(super) async fn the_largest_resource_changes(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    one(&engine, log, put(log, "a", "{}")).await.unwrap();
    let grow = |n: usize| {
        let patch = json(&format!(r#"{{"n{n}":"{}"}}"#, "x".repeat(1000)));
        Write::patch(log.identity(), id("a"), &patch).unwrap()
    };
    one(&engine, log, grow(0)).await.unwrap();
    engine.reconfigure(&fixture.configs, 1500).await.unwrap();
    assert_eq!(one(&engine, log, grow(1)).await, Err(AppendRejection::TooLarge));
    engine.reconfigure(&fixture.configs, 3000).await.unwrap();
    one(&engine, log, grow(1)).await.unwrap();
}

/// Each write during a reconfiguration is answered, and its event is in the log.
pub(super) async fn writes_go_on_meanwhile(open: Open) {
    const WRITERS: usize = 8;
    const WRITES: usize = 50;
    const CHANGES: usize = 20;
    let fixture = Fixture::new(open);
    let engine = Arc::new(fixture.open());
    let changing = tokio::spawn({
        let (engine, configs) = (engine.clone(), fixture.configs.clone());
        async move {
            for n in 0..CHANGES {
                let mut configs = configs.clone();
                configs.push(LogConfig::topic(&format!("t{n}"), StorageKind::Disk));
                configs[1].retention.events = if n.is_multiple_of(2) { 100_000 } else { 0 };
                assert!(reconfigure(&engine, &configs).await.is_empty());
                let log = engine.log(&format!("t{n}")).unwrap();
                one(&engine, &log, publish("1")).await.unwrap();
            }
        }
    });
    let logs = ["orders", "news"].map(|name| engine.log(name).unwrap());
    let [orders, news] = &logs;
    let writers = (0..WRITERS).map(async |writer| {
        let mut answered = Vec::new();
        for n in 0..WRITES {
            if writer.is_multiple_of(2) {
                let write = put(orders, &format!("r{writer}"), &format!(r#"{{"n":{n}}}"#));
                answered.push(one(&engine, orders, write).await.unwrap().offset.0);
            } else {
                answered.push(one(&engine, news, publish("1")).await.unwrap().offset.0);
            }
        }
        answered
    });
    let answered = futures_all(writers).await;
    changing.await.unwrap();
    for (log, odd) in [(orders, 0), (news, 1)] {
        let mut offsets_answered: Vec<u64> =
            answered.iter().skip(odd).step_by(2).flatten().copied().collect();
        offsets_answered.sort_unstable();
        assert_eq!(offsets(&read(log, Offset::ZERO).await), offsets_answered);
    }
    assert_eq!(engine.logs().len(), 2 + CHANGES);
}

/// A reconfiguration of a closed engine returns an error.
pub(super) async fn a_closed_engine_changes_nothing(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    engine.close();
    let refused =
        engine.reconfigure(&[LogConfig::topic("alerts", StorageKind::Disk)], BYTES_MAX).await;
    assert!(matches!(refused, Err(Error::Closed)));
    assert_eq!(names(&engine), ["orders", "news"]);
}

/// The error has the name of the log, because its number belongs to another engine.
pub(super) async fn a_log_of_another_engine_is_refused_by_its_name(open: Open) {
    let fixture = Fixture::new(open);
    let mut other = Fixture::new(open);
    other.configs.push(LogConfig::topic("alerts", StorageKind::Disk));
    let (engine, others) = (fixture.open(), other.open());
    let alerts = others.log("alerts").unwrap();
    let Err(Error::Store(error)) = engine.append(&alerts, vec![publish("1")]).await else {
        panic!("it was taken");
    };
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(why, "alerts is not a log of this engine");
}
