//! Appends to several logs in one commit.

use std::sync::Arc;

use super::{Fixture, Open, create, futures_all, id, one, publish, put, read};
use crate::event::Offset;
use crate::log::{
    AppendRejection, AtomicBatch, AtomicError, CursorPosition, CursorUpdate, Engine,
    IdempotencyKey, Log, Precondition, StorageKind, Write,
};
use crate::store::{self, CursorName};

fn batch(appends: Vec<(&Arc<Log>, Vec<Write>)>) -> AtomicBatch {
    let appends = appends.into_iter().map(|(log, writes)| (log.clone(), writes)).collect();
    AtomicBatch { appends, ..AtomicBatch::default() }
}

fn both(engine: &Engine) -> (Arc<Log>, Arc<Log>) {
    (engine.log("orders").unwrap(), engine.log("news").unwrap())
}

pub(super) async fn an_atomic_batch_is_committed_to_every_log(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let (orders, news) = both(&engine);
    one(&engine, &news, publish("0")).await.unwrap();
    let outcomes = engine
        .append_all(batch(vec![
            (&orders, vec![create(&orders, "a", "{}"), create(&orders, "b", "{}")]),
            (&news, vec![publish("1")]),
            (&orders, vec![put(&orders, "a", r#"{"n":1}"#)]),
            (&news, vec![]),
        ]))
        .await
        .unwrap();
    let offsets: Vec<Vec<u64>> =
        outcomes.iter().map(|of| of.iter().map(|outcome| outcome.offset.0).collect()).collect();
    assert_eq!(offsets, [vec![1, 2], vec![2], vec![3], vec![]]);
    assert_eq!((orders.head(), news.head()), (Offset(3), Offset(2)));
    let state = engine.store().resource(orders.id(), &id("a")).unwrap().unwrap();
    assert_eq!(state.revision, Offset(3));
    let subjects: Vec<_> =
        read(&orders, Offset::ZERO).await.into_iter().map(|event| event.subject).collect();
    assert_eq!(subjects, [Some(id("a")), Some(id("b")), Some(id("a"))]);
    assert_eq!(engine.append_all(AtomicBatch::default()).await.unwrap(), Vec::<Vec<_>>::new());
}

pub(super) async fn a_rejected_write_leaves_nothing_of_its_batch(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let (orders, news) = both(&engine);
    one(&engine, &orders, create(&orders, "a", r#"{"n":0}"#)).await.unwrap();
    let stale = || {
        put(&orders, "a", "{}").with_precondition(Precondition::OneOf(vec![Offset(1), Offset(9)]))
    };
    let refused = || {
        engine.append_all(batch(vec![
            (&orders, vec![create(&orders, "b", "{}"), put(&orders, "a", r#"{"n":1}"#)]),
            (&news, vec![publish("1")]),
            (&orders, vec![Write::delete(id("b")), stale()]),
        ]))
    };
    // All of them are decided in one commit, or in a few.
    let before = engine.queue(&orders, vec![create(&orders, "c", "{}")]).await.unwrap();
    let results = futures_all((0..5).map(|_| refused())).await;
    before.answered().await.unwrap().pop().unwrap().unwrap();
    for result in results {
        let Err(AtomicError::Rejected { append: 2, write: 1, rejection, .. }) = result else {
            panic!("{result:?}");
        };
        assert!(matches!(rejection, AppendRejection::Precondition(Some(_))));
    }
    assert_eq!((orders.head(), news.head()), (Offset(2), Offset::ZERO));
    let resource = |name| engine.store().resource(orders.id(), &id(name)).unwrap();
    assert_eq!(resource("b"), None);
    assert_eq!(resource("a").unwrap().revision, Offset(1));
    let next = one(&engine, &orders, create(&orders, "b", "{}")).await.unwrap();
    assert_eq!((next.offset, next.created), (Offset(3), true));
    assert_eq!(one(&engine, &news, publish("2")).await.unwrap().offset, Offset(1));
    assert_eq!(read(&orders, Offset::ZERO).await.len(), 3);
    drop((orders, news, engine));
    let report = store::verify(&fixture.settings.path, |_, _| {}).unwrap();
    assert_eq!(report.damage, Vec::<String>::new());
}

/// Runs random batches among other writes, many in one commit. An engine that
/// gets only the accepted writes, one call after another, has the same events.
pub(super) async fn rejected_batches_leave_no_trace_in_a_commit(open: Open) {
    let (fixture, model) = (Fixture::new(open), Fixture::new(open));
    let (engine, model) = (fixture.open(), model.open());
    let random = std::cell::Cell::new(7_u32);
    let below = |bound: u32| {
        random.set(random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        (random.get() >> 16) % bound
    };
    let write = |log: &Log, n: u32| match (&*log.identity().name, n % 4) {
        ("news", _) => publish(&n.to_string()),
        (_, 0) => Write::delete(id(&format!("r{}", n % 7))),
        (_, 1) => create(log, &format!("r{}", n % 7), &format!(r#"{{"n":{n}}}"#)),
        _ => put(log, &format!("r{}", n % 7), &format!(r#"{{"n":{n}}}"#)),
    };
    let logs = |engine: &Engine| [engine.log("orders").unwrap(), engine.log("news").unwrap()];
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..20 {
        let plan = |_| -> Vec<(usize, Vec<u32>)> {
            let part = |_| (below(2) as usize, (0..below(4)).map(|_| below(1000)).collect());
            (0..below(4)).map(part).collect()
        };
        let plans: Vec<_> = (0..30).map(plan).collect();
        let batch_of = |engine: &Engine, plan: &[(usize, Vec<u32>)]| AtomicBatch {
            appends: plan
                .iter()
                .map(|(log, writes)| {
                    let log = logs(engine)[*log].clone();
                    let writes = writes.iter().map(|&n| write(&log, n)).collect();
                    (log, writes)
                })
                .collect(),
            ..AtomicBatch::default()
        };
        let batches = plans.iter().map(|plan| engine.append_all(batch_of(&engine, plan)));
        for (plan, result) in plans.iter().zip(futures_all(batches).await) {
            match result {
                Ok(_) => {
                    accepted += 1;
                    model.append_all(batch_of(&model, plan)).await.unwrap();
                }
                Err(AtomicError::Rejected { .. }) => rejected += 1,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert!(accepted > 100 && rejected > 100, "{accepted} and {rejected}");
    for (log, expected) in logs(&engine).iter().zip(logs(&model)) {
        let facts = |events: Vec<crate::event::Event>| -> Vec<_> {
            events.into_iter().map(|it| (it.offset, it.event_type, it.subject, it.data)).collect()
        };
        let found = facts(read(log, Offset::ZERO).await);
        assert_eq!(found, facts(read(&expected, Offset::ZERO).await));
        let position = |engine: &Engine| engine.store().view().position(log.id()).unwrap();
        assert_eq!(position(&engine), position(&model));
    }
}

pub(super) async fn idempotency_keys_hold_within_an_atomic_batch(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let (orders, news) = both(&engine);
    let key = |n| IdempotencyKey { key: [n; 32], body: [1; 32] };
    let first = || create(&orders, "a", "{}").with_idempotency_key(key(1));
    let refused = batch(vec![(&orders, vec![first()]), (&orders, vec![Write::delete(id("b"))])]);
    let refused = engine.append_all(refused).await;
    assert!(matches!(
        refused,
        Err(AtomicError::Rejected {
            append: 1,
            write: 0,
            rejection: AppendRejection::NotFound,
            ..
        })
    ));
    let outcome = one(&engine, &orders, first()).await.unwrap();
    assert!(!outcome.replayed, "a rejected batch stores no response");
    let second = || publish("1").with_idempotency_key(key(2));
    let whole = || batch(vec![(&orders, vec![first()]), (&news, vec![second()])]);
    let outcomes = engine.append_all(whole()).await.unwrap();
    assert_eq!((outcomes[0][0].replayed, outcomes[1][0].replayed), (true, false));
    let again = engine.append_all(whole()).await.unwrap();
    assert_eq!(again[1][0].offset, outcomes[1][0].offset);
    assert!(again.iter().flatten().all(|outcome| outcome.replayed));
    let other = IdempotencyKey { body: [9; 32], ..key(2) };
    let conflict = publish("2").with_idempotency_key(other);
    let conflict =
        batch(vec![(&orders, vec![create(&orders, "c", "{}")]), (&news, vec![conflict])]);
    let Err(AtomicError::Rejected { append: 1, write: 0, rejection, .. }) =
        engine.append_all(conflict).await
    else {
        panic!("the write was accepted");
    };
    assert_eq!(rejection, AppendRejection::KeyReused);
    assert_eq!((orders.head(), news.head()), (Offset(1), Offset(1)));
}

pub(super) async fn an_atomic_batch_needs_logs_on_disk_and_room_in_a_commit(open: Open) {
    let fixture = Fixture::new(open).on(StorageKind::Memory);
    let engine = fixture.open();
    let (orders, news) = both(&engine);
    let of = |appends| engine.append_all(batch(appends));
    let mixed = vec![(&orders, vec![create(&orders, "a", "{}")]), (&news, vec![publish("1")])];
    let error = of(mixed).await.unwrap_err();
    assert!(error.to_string().starts_with("the topic news keeps its events in memory"), "{error}");
    let writes = |count| (0..count).map(|_| put(&orders, "a", "{}")).collect::<Vec<_>>();
    let many = of(vec![(&orders, writes(2048)), (&orders, writes(2049))]).await;
    assert!(matches!(many, Err(AtomicError::TooLarge)));
    let text = format!("{{\"a\":{:?}}}", "x".repeat(900 << 10));
    let large = (0..5).map(|_| put(&orders, "a", &text)).collect();
    assert!(matches!(of(vec![(&orders, large)]).await, Err(AtomicError::TooLarge)));
    assert_eq!((orders.head(), news.head()), (Offset::ZERO, Offset::ZERO));
    let most = of(vec![(&orders, writes(4096))]).await.unwrap();
    assert_eq!(most[0].len(), 4096);
    engine.close();
    assert!(matches!(of(vec![]).await, Err(AtomicError::Engine(crate::log::Error::Closed))));
}

pub(super) async fn a_log_of_another_engine_refuses_the_atomic_batch(open: Open) {
    let (fixture, mut other) = (Fixture::new(open), Fixture::new(open));
    other.configs.push(crate::log::LogConfig::topic("alerts", StorageKind::Disk));
    let (engine, others) = (fixture.open(), other.open());
    let (orders, alerts) = (engine.log("orders").unwrap(), others.log("alerts").unwrap());
    let appends = vec![(&orders, vec![create(&orders, "a", "{}")]), (&alerts, vec![publish("1")])];
    let error = engine.append_all(batch(appends)).await.unwrap_err();
    assert!(matches!(error, AtomicError::Engine(crate::log::Error::Store(_))), "{error:?}");
    assert_eq!(one(&engine, &orders, create(&orders, "a", "{}")).await.unwrap().offset, Offset(1));
}

pub(super) async fn a_cursor_is_durable_and_belongs_to_an_epoch(open: Open) {
    let fixture = Fixture::new(open);
    let (hook, batched) = (CursorName::new("hook").unwrap(), CursorName::new("batched").unwrap());
    let at = |offset| Some(CursorPosition::At(Offset(offset)));
    let other_id = {
        let engine = fixture.open();
        let (orders, news) = both(&engine);
        assert_eq!(engine.cursor(&hook, &news).unwrap(), None);
        one(&engine, &news, publish("1")).await.unwrap();
        engine.set_cursor(hook.clone(), news.clone(), Offset::ZERO).await.unwrap();
        engine.set_cursor(hook.clone(), news.clone(), Offset(1)).await.unwrap();
        let ahead = engine.set_cursor(hook.clone(), news.clone(), Offset(2)).await;
        assert!(matches!(ahead, Err(AtomicError::CursorAhead(name)) if name == hook));
        let set = |offset| CursorUpdate::Set {
            name: batched.clone(),
            log: news.clone(),
            offset: Offset(offset),
        };
        let with = |write, offset| AtomicBatch {
            appends: vec![(orders.clone(), vec![write]), (news.clone(), vec![publish("2")])],
            cursors: vec![set(1), set(offset)],
        };
        for refused in [with(Write::delete(id("a")), 2), with(create(&orders, "a", "{}"), 3)] {
            engine.append_all(refused).await.unwrap_err();
            assert_eq!(engine.cursor(&batched, &news).unwrap(), None);
            assert_eq!((orders.head(), news.head()), (Offset::ZERO, Offset(1)));
        }
        engine.append_all(with(create(&orders, "a", "{}"), 2)).await.unwrap();
        assert_eq!(engine.cursor(&batched, &news).unwrap(), at(2));
        news.identity().id(Offset(1))
    };
    assert_eq!(
        store::verify(&fixture.settings.path, |_, _| {}).unwrap().damage,
        Vec::<String>::new()
    );
    let engine = fixture.open();
    let (orders, news) = both(&engine);
    assert_eq!(engine.cursor(&hook, &news).unwrap(), at(1));
    assert_eq!(engine.cursor(&batched, &news).unwrap(), at(2));
    let found = engine.cursor(&hook, &orders).unwrap();
    assert_eq!(found, Some(CursorPosition::OtherEpoch(other_id)));
    engine.remove_cursor(hook.clone()).await.unwrap();
    engine.remove_cursor(hook.clone()).await.unwrap();
    assert_eq!(engine.cursor(&hook, &news).unwrap(), None);
}

pub(super) async fn a_topic_in_memory_has_no_durable_cursor(open: Open) {
    let fixture = Fixture::new(open).on(StorageKind::Memory);
    let engine = fixture.open();
    let (_, news) = both(&engine);
    let name = CursorName::new("hook").unwrap();
    let refused = engine.set_cursor(name, news, Offset::ZERO).await;
    assert!(matches!(refused, Err(AtomicError::MemoryTopic(topic)) if topic == "news"));
}
