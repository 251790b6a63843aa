//! Tests of resources: the effects of writes, and idempotency keys.

use super::{
    Fixture, Open, create, futures_all, id, json, kind, one, publish, put, read, read_of, text,
};
use crate::event::Offset;
use crate::log::{AppendOutcome, AppendRejection, Engine, IdempotencyKey, Precondition, Write};

/// Each write to a resource has an outcome, an event and a new state.
pub(super) async fn writes_become_events_and_states(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    let written = one(&engine, log, create(log, "7", r#"{"a":1}"#)).await.unwrap();
    assert!(written.created && !written.replayed);
    assert_eq!(written.document.as_ref().map(text), Some(r#"{"id":"7","a":1}"#));
    let patch = Write::patch(log.identity(), id("7"), &json(r#"{"b":2}"#)).unwrap();
    let written = one(&engine, log, patch).await.unwrap();
    assert!(!written.created);
    let shipped = |data: &str, merge| {
        Write::event(log.identity(), id("7"), kind("order-shipped"), &json(data), merge).unwrap()
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
        events.iter().map(|it| (it.event_type.as_str(), it.merge, text(&it.data))).collect();
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

/// Each write of an append is decided against the state after the earlier writes.
pub(super) async fn writes_of_one_call_see_each_other(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    let first = log.head().next();
    let absent = || put(log, "a", "{}").with_precondition(Precondition::Absent);
    let writes = vec![
        absent(),
        absent(),
        put(log, "a", r#"{"x":1}"#).with_precondition(Precondition::OneOf(vec![first])),
        put(log, "a", r#"{"x":2}"#).with_precondition(Precondition::OneOf(vec![first])),
        create(log, "a", "{}"),
        Write::delete(id("a")).with_precondition(Precondition::Present),
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
        Err(AppendRejection::Precondition(Some(first))),
        Ok(false),
        Err(AppendRejection::Precondition(Some(second))),
        Err(AppendRejection::Exists),
        Ok(false),
        Err(AppendRejection::NotFound),
        Ok(true),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(engine.store().view().position(log.id()).unwrap().resources, 1);
}

/// Of many concurrent writes with a condition on the same revision, one is
/// accepted.
pub(super) async fn one_of_many_rivals_wins(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    let base = one(&engine, log, create(log, "a", r#"{"n":0}"#)).await.unwrap().offset;
    let rivals = (1..=50).map(|n| {
        let write = put(log, "a", &format!(r#"{{"n":{n}}}"#));
        one(&engine, log, write.with_precondition(Precondition::OneOf(vec![base])))
    });
    let results = futures_all(rivals).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(read(log, base).await.len(), 1);
}

/// A repeat gets the response to the first write, also after a restart. A write with
/// the same key and another body is rejected.
pub(super) async fn a_repeat_is_answered_and_not_done(open: Open) {
    let fixture = Fixture::new(open);
    let (first, count) = {
        let engine = fixture.open();
        let log = &engine.log("orders").unwrap();
        let key = IdempotencyKey { key: [1; 32], body: [2; 32] };
        let write = || create(log, "a", r#"{"n":1}"#).with_idempotency_key(key.clone());
        let results = engine.append(log, vec![write(), write()]).await.unwrap();
        let first = results[0].clone().unwrap();
        let again = AppendOutcome { replayed: true, ..first.clone() };
        assert_eq!(results[1], Ok(again.clone()));
        assert_eq!(one(&engine, log, write()).await, Ok(again));
        let other = IdempotencyKey { body: [3; 32], ..key };
        let reused = create(log, "b", "{}").with_idempotency_key(other);
        assert_eq!(one(&engine, log, reused).await, Err(AppendRejection::KeyReused));
        engine.close();
        (first, log.head())
    };
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    let key = IdempotencyKey { key: [1; 32], body: [2; 32] };
    let repeat =
        one(&engine, log, create(log, "a", r#"{"n":1}"#).with_idempotency_key(key)).await.unwrap();
    assert_eq!(repeat, AppendOutcome { replayed: true, ..first });
    assert_eq!(log.head(), count);
}

/// Epochs, offsets, resources and counts survive a restart.
pub(super) async fn a_restart_changes_nothing(open: Open) {
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let seen = |engine: &Engine| {
        engine
            .logs()
            .iter()
            .map(|log| {
                let view = engine.store().view();
                let position = view.position(log.id()).unwrap();
                let resources: Vec<_> = view
                    .resources(log.id(), None)
                    .map(Result::unwrap)
                    .map(|found| (view.id_of(&found).unwrap(), found.state))
                    .collect();
                let events: Vec<_> =
                    view.events(log.id(), Offset::ZERO).map(Result::unwrap).collect();
                (log.identity().clone(), log.id(), log.head(), position, resources, events)
            })
            .collect::<Vec<_>>()
    };
    let log = engine.log("orders").unwrap();
    for n in 0..300 {
        one(&engine, &log, put(&log, &format!("r{}", n % 7), &format!(r#"{{"n":{n}}}"#)))
            .await
            .unwrap();
    }
    let topic = engine.log("news").unwrap();
    one(&engine, &topic, publish("[1]")).await.unwrap();
    let before = seen(&engine);
    assert_eq!(before[0].3.events, 300);
    assert_eq!(before[0].3.resources, 7);
    drop((log, topic, engine));
    let engine = fixture.open();
    assert_eq!(seen(&engine), before);
    let log = &engine.log("orders").unwrap();
    assert_eq!(read(log, Offset::ZERO).await, before[0].5);
    let next = one(&engine, log, create(log, "new", "{}")).await.unwrap();
    assert_eq!(next.offset, before[0].2.next());
}

/// A snapshot is read in chunks of bounded size. A resource that is larger than a
/// chunk is a chunk of its own.
pub(super) async fn what_is_read_at_a_time_is_bounded(open: Open) {
    const BYTES_MAX: usize = 256 * 1024;
    let fixture = Fixture::new(open);
    let engine = fixture.open();
    let log = &engine.log("orders").unwrap();
    let sizes = |n: usize| if n == 25 { 2 * BYTES_MAX } else { 10_000 };
    let write = |n| put(log, &format!("r{n:02}"), &json_of(sizes(n)));
    engine.append(log, (0..50).map(write).collect()).await.unwrap();
    let (mut ids, mut reads) = (Vec::new(), 0);
    loop {
        let some = log.resources(ids.last().cloned()).await.unwrap();
        if some.is_empty() {
            break;
        }
        let bytes: usize = some.iter().map(|(_, state)| state.document.len()).sum();
        assert!(bytes <= BYTES_MAX || some.len() == 1, "{} resources of {bytes} bytes", some.len());
        ids.extend(some.into_iter().map(|(id, _)| id));
        reads += 1;
    }
    assert_eq!(ids, (0..50).map(|n| id(&format!("r{n:02}"))).collect::<Vec<_>>());
    assert_eq!(reads, 3, "25 that fit into one, the large one, and the rest");
}

fn json_of(bytes: usize) -> String {
    format!(r#"{{"note":"{}"}}"#, "x".repeat(bytes))
}
