use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::event::EventType;
use crate::store::open::check_newest;
use crate::store::{
    Cursor, CursorName, Durability, EncodedEvent, Opened, Resource, Store, Transaction, codec,
};

const EVENTS: u64 = 20;

fn subject(n: u64) -> ResourceId {
    ResourceId::new(&format!("r{}", n % 3)).unwrap()
}

fn time(offset: u64) -> Timestamp {
    Timestamp(offset.try_into().unwrap())
}

fn event(offset: u64) -> Event {
    Event {
        offset: Offset(offset),
        time: time(offset),
        event_type: EventType::new("order-updated").unwrap(),
        subject: Some(subject(offset)),
        merge: true,
        data: Bytes::from(format!("{{\"n\":{offset}}}")),
    }
}

/// Creates a sound store with one log.
fn sound(path: &Path) -> (Opened, LogMetadata) {
    let mut opened = Store::open(path).unwrap();
    let mut meta = LogMetadata::new(LogId(1), "orders".to_owned(), false, Epoch::from_bits(7));
    let mut changes = opened.writer.begin();
    for offset in 1..=EVENTS {
        let stored = EncodedEvent::new(meta.id, offset, event(offset));
        meta.position.bytes += stored.bytes();
        changes.put_event(meta.id, stored);
        let document = Bytes::from_static(b"{}");
        let state = Resource { revision: Offset(offset), document };
        changes.put_resource(meta.id, &subject(offset), &state);
    }
    meta.position.events = EVENTS;
    meta.position.resources = 3;
    meta.position.head = Offset(EVENTS);
    (meta.number, meta.time) = (EVENTS, time(EVENTS));
    changes.put_meta(&meta);
    opened.writer.commit(changes, Durability::Synced).unwrap();
    (opened, meta)
}

/// Returns the damage that [`verify`] reports after `harm`.
fn damage(harm: impl FnOnce(&mut Transaction, &LogMetadata)) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let (mut opened, meta) = sound(folder.path());
    let mut changes = opened.writer.begin();
    harm(&mut changes, &meta);
    opened.writer.commit(changes, Durability::Synced).unwrap();
    drop(opened);
    let mut calls = 0;
    let report = verify(folder.path(), |_, _| calls += 1).unwrap();
    assert!(calls > 0);
    assert_eq!(report.logs.len(), 1);
    report.damage
}

fn check(harm: impl FnOnce(&mut Transaction, &LogMetadata), words: &[&str]) {
    let damage = damage(harm);
    assert!(!damage.is_empty(), "{words:?}");
    let named = |word: &&str| damage.iter().any(|line| line.contains(*word));
    assert!(words.iter().all(named), "{words:?} in {damage:#?}");
}

#[test]
fn a_sound_store_has_no_damage() {
    assert_eq!(damage(|_, _| {}), Vec::<String>::new());
}

#[test]
fn each_damage_is_named() {
    let all = |offset| event(offset);
    check(
        |it, meta| it.trim_event(meta.id, Offset(5), Some(&subject(5))),
        &["missing between offsets 4 and 6", "19 events, but the metadata has 20"],
    );
    check(
        |it, meta| it.trim_event(meta.id, Offset(EVENTS), None),
        &["the last event has offset 19"],
    );
    check(
        |it, meta| {
            let wrong = EncodedEvent::new(meta.id, 9, all(5));
            it.put_event(meta.id, wrong);
        },
        &["missing between offsets 4 and 5"],
    );
    check(
        |it, meta| it.put_event(meta.id, EncodedEvent::new(meta.id, 21, all(21))),
        &["offset 21 is outside the bounds"],
    );
    check(
        |it, meta| it.remove_resource(meta.id, &subject(0)),
        &["r0 does not agree with its newest event"],
    );
    check(
        |it, meta| {
            let state = Resource { revision: Offset(2), document: Bytes::new() };
            it.put_resource(meta.id, &subject(0), &state);
        },
        &["r0 does not agree with its newest event, at offset 18", "r0 has the revision 2"],
    );
    check(
        |it, meta| {
            let other = Event { time: Timestamp(1), ..all(7) };
            it.put_event(meta.id, EncodedEvent::new(meta.id, 7, other));
        },
        &["time decreases at offset 7"],
    );
    check(
        |it, _| it.put_event(LogId(9), EncodedEvent::new(LogId(9), 1, all(1))),
        &["offset 1 has the log number 9, which no collection"],
    );
    check(
        |it, meta| {
            let unindexed = Event { subject: Some(ResourceId::new("other").unwrap()), ..all(7) };
            let mut stored = EncodedEvent::new(meta.id, 7, unindexed);
            stored.event.subject = None;
            it.put_event(meta.id, stored);
        },
        &["offset 7 is not in the index"],
    );
}

#[test]
fn damaged_cursors_are_named() {
    let name = |name: &str| CursorName::new(name).unwrap();
    let found = damage(|changes, meta| {
        let at = |log, offset| Cursor { log, epoch: meta.epoch, offset: Offset(offset) };
        changes.put_cursor(&name("sound"), &at(meta.id, EVENTS));
        changes.put_cursor(&name("ahead"), &at(meta.id, EVENTS + 1));
        changes.put_cursor(&name("stray"), &at(LogId(9), 1));
        let other = Cursor { epoch: Epoch::from_bits(8), ..at(meta.id, EVENTS + 1) };
        changes.put_cursor(&name("other-epoch"), &other);
    });
    let due = [
        "the cursor ahead has offset 21, but the last event of orders has offset 20",
        "the cursor stray names the log number 9, which does not exist",
    ];
    assert_eq!(found, due);
}

#[test]
fn a_hole_in_what_journals_held_is_refused() {
    let refused = |harm: &dyn Fn(&mut Transaction, &LogMetadata), bytes| {
        let folder = tempfile::tempdir().unwrap();
        let (mut opened, meta) = sound(folder.path());
        let mut changes = opened.writer.begin();
        harm(&mut changes, &meta);
        opened.writer.commit(changes, Durability::Synced).unwrap();
        check_newest(&opened.store.view(), &meta, bytes).err().map(|error| error.to_string())
    };
    assert_eq!(refused(&|_, _| {}, u64::MAX), None);
    let hole = |it: &mut Transaction, meta: &LogMetadata| it.trim_event(meta.id, Offset(5), None);
    assert!(refused(&hole, u64::MAX).unwrap().contains("missing after offset 4"));
    assert_eq!(refused(&hole, 100), None, "no journal held it");
    let stale = |it: &mut Transaction, meta: &LogMetadata| it.remove_resource(meta.id, &subject(1));
    assert!(refused(&stale, u64::MAX).unwrap().contains("at offset 19"));
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let error = verify(folder.path(), |_, _| {}).unwrap_err();
    let path = folder.path().display();
    assert_eq!(error.to_string(), format!("the store in {path} cannot be used"));
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), "no store found; check storage.path");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_error_of_the_file_system_names_the_folder_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let text = format!("the store in {} cannot be used", file.display());
    assert_eq!(Store::open(&file).err().unwrap().to_string(), text);
}

#[test]
fn damage_that_prevents_opening_is_a_line_of_the_report_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    drop(sound(folder.path()));
    std::fs::write(folder.path().join("db/keyspaces/0/current"), "damaged").unwrap();
    let report = verify(folder.path(), |_, _| {}).unwrap();
    assert_eq!(report.damage.len(), 1, "{report:?}");
    let line = &report.damage[0];
    assert!(line.ends_with("; restore a copy of the store"), "{line}");
    assert!(!line.contains("streamgate verify"), "{line}");

    let error = Store::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("run `streamgate verify`"), "{error}");
}

#[test]
fn a_record_of_a_later_version_is_no_damage_but_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (opened, meta) = sound(folder.path());
    let (key, state) = (key::event(meta.id, Offset(4)), key::resource(meta.id, &subject(1)));
    let later = |key: &[u8]| codec::seal_version(key, 2, 4, |out| out.extend_from_slice(b"what"));
    let why = |error: Option<Error>| match error {
        Some(Error::Newer(why)) => why,
        other => panic!("{other:?}"),
    };

    let files = opened.store.files();
    let was = files.state.get(&state).unwrap().unwrap();
    files.state.insert(&state, later(&state)).unwrap();
    let resource = "the resource r1 of the collection orders has version 2";
    let read = opened.store.resource(meta.id, &subject(1));
    assert_eq!(why(read.err()), resource);
    let read = opened.store.view().resources(meta.id, None).find_map(Result::err);
    assert_eq!(why(read), resource);
    files.state.insert(&state, was).unwrap();

    files.log.insert(key, later(&key)).unwrap();
    let event = "the event at offset 4 of the collection orders has version 2";
    let read = opened.store.view().events(meta.id, Offset::ZERO).find_map(Result::err);
    assert_eq!(why(read), event);
    drop(opened);
    let event = "the event at offset 4 of orders has version 2";
    assert_eq!(why(verify(folder.path(), |_, _| {}).err()), event);
}
