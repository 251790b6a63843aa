use super::*;
use crate::event::{Epoch, EventType};
use crate::store::codec::seal_version;
use crate::store::{Durability, EncodedEvent, Opened};

/// Creates a store with the collection `orders` and the topic `news`, each with one
/// event.
fn opened(path: &Path) -> (Opened, [LogMetadata; 2]) {
    let mut opened = Store::open(path).unwrap();
    let mut changes = opened.writer.begin();
    let metas = [(1, "orders", false), (2, "news", true)].map(|(id, name, topic)| {
        let mut meta = LogMetadata::new(LogId(id), name.to_owned(), topic, Epoch::from_bits(7));
        let event = Event {
            offset: Offset(1),
            time: Timestamp(1),
            event_type: EventType::new("said").unwrap(),
            subject: Some(subject()),
            merge: true,
            data: "{}".into(),
        };
        let stored = EncodedEvent::new(meta.id, 1, event);
        (meta.number, meta.time) = (1, Timestamp(1));
        (meta.position.head, meta.position.events) = (Offset(1), 1);
        meta.position.bytes = stored.bytes();
        changes.put_event(meta.id, stored);
        changes.put_meta(&meta);
        meta
    });
    opened.writer.commit(changes, Durability::Synced).unwrap();
    (opened, metas)
}

fn subject() -> ResourceId {
    ResourceId::new("r1").unwrap()
}

/// Returns the text of an error without its advice.
fn text<T>(result: Result<T, Error>) -> String {
    let text = result.err().expect("the record is damaged").to_string();
    assert!(text.contains("streamgate verify"), "{text}");
    text.split("; ").next().unwrap().to_owned()
}

#[test]
fn an_error_names_the_collection_or_topic() {
    let folder = tempfile::tempdir().unwrap();
    let (opened, metas) = opened(folder.path());
    let files = opened.store.files();
    for (meta, name) in metas.iter().zip(["the collection orders", "the topic news"]) {
        let log = meta.id;
        files.log.insert(key::event(log, Offset(1)), "damaged").unwrap();
        files.state.insert(key::resource(log, &subject()), "damaged").unwrap();
        let view = opened.store.view();
        let event = format!("the store is damaged: the event at offset 1 of {name} cannot be read");
        assert_eq!(text(view.events(log, Offset::ZERO).next().unwrap()), event);
        assert_eq!(text(view.events_of(log, &subject(), Offset::ZERO).next().unwrap()), event);
        assert_eq!(text(view.before(log, Timestamp(1))), event);
        let resource = format!("the store is damaged: the resource r1 of {name} cannot be read");
        assert_eq!(text(view.resource(log, &subject())), resource);
        assert_eq!(text(opened.store.resource(log, &subject())), resource);
        assert_eq!(text(view.resources(log, None).next().unwrap()), resource);
        let key = [&key::log_prefix(key::RESOURCES, log)[..], b"\xff"].concat();
        let state = Resource { revision: Offset(1), document: "{}".into() };
        files.state.insert(&key, record::encode_state(&key, &state)).unwrap();
        files.state.remove(key::resource(log, &subject())).unwrap();
        let view = opened.store.view();
        let found = view.resources(log, None).next().unwrap().unwrap();
        let resource =
            format!("the store is damaged: the key of a resource of {name} cannot be read");
        assert_eq!(text(view.id_of(&found)), resource);
    }
}

#[test]
fn an_error_names_no_log_where_none_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let (opened, _) = opened(folder.path());
    let state = &opened.store.files().state;
    let answer = key::answer(&[1; 32]);
    state.insert(answer, "damaged").unwrap();
    state.insert(key::COMMIT, "damaged").unwrap();
    assert_eq!(
        text(opened.store.answer(&[1; 32])),
        "the store is damaged: the answer to an idempotent write cannot be read"
    );
    let commit = "the store is damaged: the number of the last commit cannot be read";
    assert_eq!(text(opened.store.view().commit()), commit);
    let meta = key::meta(LogId(2));
    state.insert(meta, "damaged").unwrap();
    let unnamed = "the store is damaged: the metadata of the log with number 2 cannot be read";
    assert_eq!(text(opened.store.view().position(LogId(2))), unnamed);
    assert_eq!(text(opened.store.view().metas()), unnamed);
    let later = seal_version(&meta, 3, 1, |out| out.push(2));
    state.insert(meta, later).unwrap();
    let newer = opened.store.view().metas().unwrap_err();
    assert!(matches!(newer, Error::Newer(_)), "{newer}");
    let newer = newer.to_string();
    assert!(newer.starts_with("a later version of streamgate wrote the store: "), "{newer}");
}
