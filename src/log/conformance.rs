//! What every engine must do: one suite, run against each of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::{
    Engine, Error, IdempotencyKey, Log, Precondition, Refusal, Settings, Spec, Sync, Write, Written,
};
use crate::event::{Event, EventType, Offset, ResourceId, Timestamp};
use crate::store::{self, Retention};
use crate::wire::Kind;
use crate::wire::json::Json;

/// How the suite opens an engine on a store, again and again.
pub(super) type Open = fn(&Settings, &[Spec]) -> Result<Engine, store::Error>;

/// A store in a folder of its own, and the engine that is open on it.
pub(super) struct Fixture {
    _folder: TempDir,
    pub(super) settings: Settings,
    pub(super) specs: Vec<Spec>,
    open: Open,
}

impl Fixture {
    pub(super) fn new(open: Open) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            path: folder.path().join("data"),
            sync: Sync::Always,
            tail_bytes: 16 << 20,
            page_cache_bytes: 16 << 20,
            catchup_concurrency: 4,
            resource_bytes_max: 1 << 20,
        };
        let retention = Retention::default();
        let kind = Kind::collection("order").unwrap();
        let specs = vec![
            Spec { name: "orders".to_owned(), kind, retention },
            Spec { name: "news".to_owned(), kind: Kind::Topic, retention },
        ];
        Fixture { _folder: folder, settings, specs, open }
    }

    pub(super) fn keeping(mut self, retention: Retention) -> Fixture {
        for spec in &mut self.specs {
            spec.retention = retention;
        }
        self
    }

    pub(super) fn open(&self) -> Engine {
        (self.open)(&self.settings, &self.specs).unwrap()
    }
}

pub(super) fn id(text: &str) -> ResourceId {
    ResourceId::new(text).unwrap()
}

pub(super) fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

pub(super) fn kind(text: &str) -> EventType {
    EventType::new(text).unwrap()
}

pub(super) fn create(log: &Log, name: &str, document: &str) -> Write {
    Write::create(log.origin(), id(name), &json(document)).unwrap()
}

pub(super) fn put(log: &Log, name: &str, document: &str) -> Write {
    Write::put(log.origin(), id(name), &json(document)).unwrap()
}

pub(super) fn publish(text: &str) -> Write {
    Write::publish(None, kind("said"), json(text))
}

pub(super) async fn one(engine: &Engine, log: &Log, write: Write) -> Result<Written, Refusal> {
    engine.append(log, vec![write]).await.unwrap().pop().unwrap()
}

/// Everything after `after`, as a reader catches up.
pub(super) async fn read(log: &Log, mut after: Offset) -> Vec<Event> {
    let mut events = Vec::new();
    while after < log.head() {
        let page = log.page(after).await.unwrap();
        assert!(page.upto > after, "a page before the end gets on");
        let first = page.batch.position_after(after) as usize;
        events.extend_from_slice(&page.batch.events()[first..]);
        after = page.upto;
    }
    assert_eq!(log.page(after).await.unwrap().upto, after);
    events
}

pub(super) async fn read_of(log: &Log, name: &str, mut after: Offset) -> Vec<Event> {
    let mut events = Vec::new();
    while after < log.head() {
        let page = log.page_of(&id(name), after).await.unwrap();
        assert!(page.upto > after, "a page before the end gets on");
        events.extend_from_slice(page.batch.events());
        after = page.upto;
    }
    events
}

fn text(bytes: &Bytes) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn offsets(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.offset.0).collect()
}

/// A life of a resource: each write's answer, event and state.
pub(super) async fn writes_become_events_and_states(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = engine.log("orders").unwrap();
    let written = one(&engine, log, create(log, "7", r#"{"a":1}"#)).await.unwrap();
    assert!(written.created && !written.replayed);
    assert_eq!(written.document.as_ref().map(text), Some(r#"{"id":"7","a":1}"#));
    let patch = Write::patch(log.origin(), id("7"), &json(r#"{"b":2}"#)).unwrap();
    let written = one(&engine, log, patch).await.unwrap();
    assert!(!written.created);
    let shipped = |data: &str, merge| {
        Write::event(log.origin(), id("7"), kind("order-shipped"), &json(data), merge).unwrap()
    };
    one(&engine, log, shipped(r#"{"by":"sea"}"#, true)).await.unwrap();
    let unmerged = one(&engine, log, shipped(r#"{"c":3}"#, false)).await.unwrap();
    assert_eq!(unmerged.document, None);
    let state = engine.store().resource(log.id(), &id("7")).unwrap().unwrap();
    assert_eq!(state.revision, unmerged.offset, "an unmerged event is the newest one too");
    assert_eq!(text(&state.document), r#"{"id":"7","a":1,"b":2,"by":"sea"}"#);
    one(&engine, log, Write::delete(id("7"))).await.unwrap();
    assert_eq!(engine.store().resource(log.id(), &id("7")).unwrap(), None);
    let events = read(log, Offset::ZERO).await;
    let seen: Vec<_> =
        events.iter().map(|it| (it.kind.as_str(), it.merge, text(&it.data))).collect();
    let expected = [
        ("order-created", true, r#"{"orderId":"7","a":1}"#),
        ("order-updated", true, r#"{"orderId":"7","a":1,"b":2}"#),
        ("order-shipped", true, r#"{"orderId":"7","by":"sea"}"#),
        ("order-shipped", false, r#"{"orderId":"7","c":3}"#),
        ("order-deleted", true, r#"{"orderId":"7"}"#),
    ];
    assert_eq!(seen, expected);
    assert_eq!(read_of(log, "7", Offset::ZERO).await, events);
    assert!(events.windows(2).all(|pair| pair[0].time <= pair[1].time));
}

/// Within one call each write sees what those before it did.
pub(super) async fn writes_of_one_call_see_each_other(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = engine.log("orders").unwrap();
    let first = log.head().next();
    let absent = || put(log, "a", "{}").only_if(Precondition::Absent);
    let writes = vec![
        absent(),
        absent(),
        put(log, "a", r#"{"x":1}"#).only_if(Precondition::OneOf(vec![first])),
        put(log, "a", r#"{"x":2}"#).only_if(Precondition::OneOf(vec![first])),
        create(log, "a", "{}"),
        Write::delete(id("a")).only_if(Precondition::Present),
        Write::delete(id("a")),
        create(log, "a", "{}"),
    ];
    let results = engine.append(log, writes).await.unwrap();
    let kinds: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().map(|written| written.created).map_err(Clone::clone))
        .collect();
    let second = results[2].as_ref().unwrap().offset;
    let expected = [
        Ok(true),
        Err(Refusal::Precondition(Some(first))),
        Ok(false),
        Err(Refusal::Precondition(Some(second))),
        Err(Refusal::Exists),
        Ok(false),
        Err(Refusal::NotFound),
        Ok(true),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(engine.store().view().position(log.id()).unwrap().resources, 1);
}

/// Of many conditional writes at once on one revision, one is done.
pub(super) async fn one_of_many_rivals_wins(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = engine.log("orders").unwrap();
    let base = one(&engine, log, create(log, "a", r#"{"n":0}"#)).await.unwrap().offset;
    let rivals = (1..=50).map(|n| {
        let write = put(log, "a", &format!(r#"{{"n":{n}}}"#));
        one(&engine, log, write.only_if(Precondition::OneOf(vec![base])))
    });
    let results = futures_all(rivals).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(read(log, base).await.len(), 1);
}

/// Polls all of them to their ends, at once.
async fn futures_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(move |context| {
        for (future, output) in &mut futures {
            if output.is_none()
                && let std::task::Poll::Ready(done) = future.as_mut().poll(context)
            {
                *output = Some(done);
            }
        }
        if futures.iter().any(|(_, output)| output.is_none()) {
            return std::task::Poll::Pending;
        }
        let outputs = futures.iter_mut().filter_map(|(_, output)| output.take()).collect();
        std::task::Poll::Ready(outputs)
    })
    .await
}

/// A repeat answers as the first did, also after a restart; the same key with
/// another body does nothing.
pub(super) async fn a_repeat_is_answered_and_not_done(open: Open) {
    let fixture = Fixture::new(open);
    let (first, count) = {
        let engine = fixture.open();
        let log = engine.log("orders").unwrap();
        let key = IdempotencyKey { key: [1; 32], body: [2; 32] };
        let write = || create(log, "a", r#"{"n":1}"#).once(key.clone());
        let results = engine.append(log, vec![write(), write()]).await.unwrap();
        let first = results[0].clone().unwrap();
        let again = Written { replayed: true, ..first.clone() };
        assert_eq!(results[1], Ok(again.clone()));
        assert_eq!(one(&engine, log, write()).await, Ok(again));
        let other = IdempotencyKey { body: [3; 32], ..key };
        let reused = create(log, "b", "{}").once(other);
        assert_eq!(one(&engine, log, reused).await, Err(Refusal::KeyReused));
        engine.close();
        (first, log.head())
    };
    let engine = fixture.open();
    let log = engine.log("orders").unwrap();
    let key = IdempotencyKey { key: [1; 32], body: [2; 32] };
    let repeat = one(&engine, log, create(log, "a", r#"{"n":1}"#).once(key)).await.unwrap();
    assert_eq!(repeat, Written { replayed: true, ..first });
    assert_eq!(log.head(), count);
}

/// Epochs, positions, states and counts are those from before.
pub(super) async fn a_restart_changes_nothing(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let seen = |engine: &Engine| {
        let logs = engine.logs().iter();
        logs.map(|log| {
            let view = engine.store().view();
            let position = view.position(log.id()).unwrap();
            let resources: Vec<_> = view.resources(log.id(), None).map(Result::unwrap).collect();
            let events: Vec<_> = view.events(log.id(), Offset::ZERO).map(Result::unwrap).collect();
            (log.origin().clone(), log.id(), log.head(), position, resources, events)
        })
        .collect::<Vec<_>>()
    };
    let log = engine.log("orders").unwrap();
    for n in 0..300 {
        one(&engine, log, put(log, &format!("r{}", n % 7), &format!(r#"{{"n":{n}}}"#)))
            .await
            .unwrap();
    }
    let topic = engine.log("news").unwrap();
    one(&engine, topic, publish("[1]")).await.unwrap();
    let before = seen(&engine);
    assert_eq!(before[0].3.events, 300);
    assert_eq!(before[0].3.resources, 7);
    drop(engine);
    let engine = fixture.open();
    assert_eq!(seen(&engine), before);
    let log = engine.log("orders").unwrap();
    assert_eq!(read(log, Offset::ZERO).await, before[0].5);
    let next = one(&engine, log, create(log, "new", "{}")).await.unwrap();
    assert_eq!(next.offset, before[0].2.next());
}

/// What a tail no longer holds is read from the log, and both agree.
pub(super) async fn tail_and_pages_agree(open: Open) {
    let mut fixture = Fixture::new(open);
    fixture.settings.tail_bytes = 64 << 10;
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    for n in 0..700_u32 {
        let writes = (0..=n % 5).map(|m| publish(&format!("[{n},{m}]"))).collect();
        engine.append(log, writes).await.unwrap();
    }
    assert!(log.tail(Offset::ZERO).is_none(), "the tail is bounded");
    let kept = engine.store().view().events(log.id(), Offset::ZERO);
    let kept: Vec<_> = kept.map(Result::unwrap).collect();
    assert_eq!(kept.len() as u64, log.head().0);
    for after in [0, 1, 255, 256, 257, 1000, log.head().0 - 1, log.head().0] {
        assert_eq!(read(log, Offset(after)).await, kept[after as usize..], "after {after}");
    }
    let newest = log.tail(Offset(log.head().0 - 3)).unwrap();
    assert_eq!(newest.last().unwrap().end(), log.head());
    assert!(log.tail(log.head()).unwrap().is_empty());
}

/// Counts and bytes are kept exactly, the floor stands below what is left.
pub(super) async fn retention_keeps_the_newest(open: Open) {
    let by_events = Retention { events: 10, ..Retention::default() };
    let by_bytes = Retention { bytes: 2_000, ..Retention::default() };
    for retention in [by_events, by_bytes] {
        let fixture = Fixture::new(open).keeping(retention);
        let engine = fixture.open();
        let log = engine.log("orders").unwrap();
        for n in 0..100 {
            let writes = (0..=n % 17).map(|m| put(log, &format!("r{m}"), r#"{"x":"yyyyy"}"#));
            engine.append(log, writes.collect()).await.unwrap();
            let view = engine.store().view();
            let position = view.position(log.id()).unwrap();
            let kept = offsets(
                &view.events(log.id(), Offset::ZERO).map(Result::unwrap).collect::<Vec<_>>(),
            );
            assert!(retention.events == 0 || position.events <= retention.events);
            assert!(retention.bytes == 0 || position.bytes <= retention.bytes);
            assert_eq!(kept, (position.floor.0 + 1..=position.head.0).collect::<Vec<_>>());
            assert_eq!((log.floor(), position.events), (position.floor, kept.len() as u64));
        }
        let full = engine.store().view().position(log.id()).unwrap();
        assert!(retention.events == 0 || full.events == retention.events);
        assert!(retention.bytes == 0 || full.bytes > retention.bytes - 100);
        assert_eq!(full.resources, 17, "retention trims events, not resources");
        assert!(read_of(log, "r0", Offset::ZERO).await.iter().all(|it| it.offset > full.floor));
    }
}

/// Old events go by themselves.
pub(super) async fn retention_by_age_trims_in_time(open: Open) {
    let age = Duration::from_millis(300);
    let fixture = Fixture::new(open).keeping(Retention { age, ..Retention::default() });
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    let written = one(&engine, log, publish("1")).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while log.floor() < written.offset {
        assert!(tokio::time::Instant::now() < deadline, "it is never trimmed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(Timestamp::now().0 - written.time.0 >= age.as_millis() as i64);
    // The floor moves just before the events go.
    while engine.store().view().events(log.id(), Offset::ZERO).next().is_some() {
        assert!(tokio::time::Instant::now() < deadline, "it is never trimmed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let position = engine.store().view().position(log.id()).unwrap();
    assert_eq!((position.events, position.bytes), (0, 0));
    assert_eq!((position.floor, position.floor_time), (written.offset, written.time));
    assert_eq!(log.page(Offset::ZERO).await.unwrap().upto, written.offset);
    let next = one(&engine, log, publish("2")).await.unwrap();
    assert_eq!(next.offset, written.offset.next());
}

/// A time is found without a scan, trimmed events or not.
pub(super) async fn times_are_found(open: Open) {
    let fixture = Fixture::new(open).keeping(Retention { events: 20, ..Retention::default() });
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    for _ in 0..30 {
        one(&engine, log, publish("1")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let view = engine.store().view();
    let events: Vec<_> = view.events(log.id(), Offset::ZERO).map(Result::unwrap).collect();
    for time in events.iter().flat_map(|it| [it.time.0 - 1, it.time.0, it.time.0 + 1]) {
        let later = events.iter().filter(|it| it.time.0 >= time).count();
        let found = view.before(log.id(), Timestamp(time)).unwrap();
        assert_eq!(events.iter().filter(|it| it.offset > found).count(), later);
    }
}

/// A reader that follows, by whatever way is open to it, while others write
/// sees each event once and in order.
pub(super) async fn a_follower_misses_and_repeats_nothing(open: Open) {
    const WRITERS: usize = 8;
    const WRITES: usize = 100;
    for tail_bytes in [0, 4 << 10, 16 << 20] {
        let mut fixture = Fixture::new(open);
        fixture.settings.tail_bytes = tail_bytes;
        let engine = Arc::new(fixture.open());
        let log = engine.log("news").unwrap().clone();
        let observer = Arc::new(Notify::new());
        engine.observe(observer.clone());
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
        let log = engine.log("news").unwrap().clone();
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

/// Observers hear of a commit once it can be read; a closed engine refuses.
pub(super) async fn observers_are_told_and_closing_refuses(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = engine.log("news").unwrap();
    let observer = Arc::new(Notify::new());
    engine.observe(observer.clone());
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

/// Runs the suite against the engine that `$open` opens.
macro_rules! conformance {
    ($open:expr; $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::log::conformance::$name($open).await;
            }
        )*
    };
    ($open:expr) => {
        conformance!($open;
            writes_become_events_and_states
            writes_of_one_call_see_each_other
            one_of_many_rivals_wins
            a_repeat_is_answered_and_not_done
            a_restart_changes_nothing
            tail_and_pages_agree
            retention_keeps_the_newest
            retention_by_age_trims_in_time
            times_are_found
            a_follower_misses_and_repeats_nothing
            observers_are_told_and_closing_refuses
        );
    };
}

mod embedded {
    use crate::log::Engine;

    conformance!(Engine::open);
}
