use super::*;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Bytes> {
    "[A-Za-z0-9._~:-]{1,128}".prop_map(Bytes::from)
}

fn subject() -> impl Strategy<Value = Option<ResourceId>> {
    proptest::option::of(name().prop_map(|id| ResourceId::from_stored(id).unwrap()))
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

prop_compose! {
    fn numbered()(number: u64, offset: u64, time: i64, kind in name(), subject in subject(),
        merge: bool, data in bytes()) -> Numbered {
        let kind = EventType::from_stored(kind).unwrap();
        let (offset, time) = (Offset(offset), Timestamp(time));
        Numbered { number, event: Event { offset, time, event_type: kind, subject, merge, data } }
    }
}

prop_compose! {
    fn meta()(id: u32, name in "[a-z-]{0,40}", topic: bool, epoch: u64, n: [u64; 7],
        times: [i64; 2], steps in proptest::collection::vec(any::<u64>(), 0..=STEPS_MAX))
        -> LogMetadata {
        let position = LogBounds {
            head: Offset(n[0]), floor: Offset(n[1]), floor_time: Timestamp(times[0]),
            events: n[2], bytes: n[3], resources: n[4],
        };
        LogMetadata { id: LogId(id), name: name.into(), topic, epoch: Epoch::from_bits(epoch), position,
            number: n[5], time: Timestamp(times[1]), reserved: Offset(n[6]),
            steps: steps.into_iter().map(Offset).collect() }
    }
}

prop_compose! {
    fn answer()(body: [u8; 32], offset: u64, time: i64, subject in subject(), created: bool,
        document in proptest::option::of(bytes())) -> IdempotentResponse {
        IdempotentResponse { body, offset: Offset(offset), time: Timestamp(time), subject, created, document }
    }
}

/// If this fails, records are written in another format: raise the version
/// of the kind and `format::FORMAT`, and keep reading the old version.
#[test]
fn records_have_the_bytes_of_format_1() {
    let subject = Some(ResourceId::new("order-1").unwrap());
    let key = key::event(LogId(1), Offset(2));
    let event = Event {
        offset: Offset(2),
        time: Timestamp(3),
        event_type: EventType::new("order-paid").unwrap(),
        subject: subject.clone(),
        merge: true,
        data: Bytes::from_static(b"{}"),
    };
    let document = Bytes::from_static(b"[4]");
    let state = Resource { revision: Offset(5), document: document.clone() };
    let (offset, time, created) = (Offset(6), Timestamp(7), true);
    let document = Some(document);
    let answer = IdempotentResponse { body: [8; 32], offset, time, subject, created, document };
    let records = [
        encode_event(&key, 9, &event),
        encode_state(&key, &state),
        encode_answer(&key, &answer),
        encode_commit(10),
    ];
    let bytes = |hex: &str| {
        let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect::<Bytes>()
    };
    let due = [
        concat!(
            "28a0dcc600000000000000090000000000000003030a076f726465722d706169",
            "646f726465722d317b7d"
        ),
        "023b6e4000000000000000055b345d",
        concat!(
            "6b62c02508080808080808080808080808080808080808080808080808080808",
            "08080808000000000000000600000000000000070e076f726465722d315b345d"
        ),
        "06dcfdb0000000000000000a",
    ];
    assert_eq!(records, due.map(bytes));
}

/// The metadata of a log in version 1, which has no steps.
const VERSION_1: &str = "95238dff\
    3030303030303037\
    01\
    0000000000000009000000000000000400000000000000050000000000000123\
    0000000000000002\
    0000019b76daa800\
    0000000000000008\
    0000019b76daabe8\
    000000000001000a\
    6f7264657273";

fn bytes_of(hex: &str) -> Bytes {
    let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn without_steps() -> LogMetadata {
    let mut meta = LogMetadata::new(LogId(3), "orders".to_owned(), true, Epoch::from_bits(7));
    meta.position = LogBounds {
        head: Offset(9),
        floor: Offset(4),
        floor_time: Timestamp(1_767_225_600_000),
        events: 5,
        bytes: 0x123,
        resources: 2,
    };
    (meta.number, meta.time) = (8, Timestamp(1_767_225_601_000));
    meta.reserved = Offset(65_546);
    meta
}

#[test]
fn metadata_without_steps_is_written_as_in_version_1() {
    let key = key::meta(LogId(3));
    assert_eq!(decode_meta(&key, bytes_of(VERSION_1)), Ok(without_steps()));
    assert_eq!(encode_meta(&key, &without_steps()), bytes_of(VERSION_1));
    let stepped = LogMetadata { steps: vec![Offset(6)], ..without_steps() };
    let record = encode_meta(&key, &stepped);
    assert_eq!(record[CHECKSUM_BYTES], META_VERSION);
    assert_eq!(decode_meta(&key, record), Ok(stepped));
}

#[test]
fn metadata_of_a_later_version_is_not_reported_as_damaged() {
    let key = key::meta(LogId(3));
    let later = seal_version(&key, META_VERSION + 1, 0, |out| out.extend_from_slice(&[1, 2]));
    assert_eq!(decode_meta(&key, later), Err(Unreadable::Newer(META_VERSION + 1)));
    let damaged = seal_version(&key, META_VERSION, 0, |out| out.extend_from_slice(&[1, 2]));
    assert_eq!(decode_meta(&key, damaged), Err(Unreadable::Damaged));
}

#[test]
fn a_meta_keeps_the_newest_steps_above_the_floor() {
    let mut meta = without_steps();
    for head in 10..100 {
        meta.position.head = Offset(head);
        meta.step();
    }
    let newest: Vec<Offset> = (68..100).map(Offset).collect();
    assert_eq!((meta.steps.as_slice(), meta.last_step()), (&newest[..], Offset(99)));
    assert!(meta.may_step(Offset(20), Offset(21)), "it may have been forgotten");
    meta.raise_floor(Offset(98), Timestamp(1));
    assert_eq!(meta.steps, [Offset(98), Offset(99)]);
    assert!(meta.may_step(Offset(97), Offset(99)) && meta.may_step(Offset(99), Offset(105)));
    assert!(!meta.may_step(Offset(20), Offset(21)) && !meta.may_step(Offset(100), Offset(101)));
    meta.raise_floor(Offset(100), Timestamp(1));
    assert_eq!((meta.steps.len(), meta.last_step()), (0, Offset::ZERO));
}

proptest! {
    #[test]
    fn an_event_reads_back_as_slices_of_its_record(log: u32, it in numbered()) {
        let key = key::event(LogId(log), it.event.offset);
        let record = encode_event(&key, it.number, &it.event);
        prop_assert_eq!(record.len(), event_bytes(&it.event));
        let slices = slices_of(it.event.clone(), &record);
        prop_assert!(record.as_ptr_range().contains(&slices.event_type.as_bytes().as_ptr()));
        prop_assert_eq!(&slices, &it.event);
        let read = decode_event(&key, record.clone()).unwrap();
        prop_assert!(record.as_ptr_range().contains(&read.event.event_type.as_bytes().as_ptr()));
        prop_assert_eq!(read, it);
    }

    #[test]
    fn other_records_read_back(meta in meta(), answer in answer(), hash: [u8; 32],
        commit: u64, document in bytes()) {
        let under = key::meta(meta.id);
        prop_assert_eq!(decode_meta(&under, encode_meta(&under, &meta)), Ok(meta));
        let under = key::answer(&hash);
        prop_assert_eq!(decode_answer(&under, encode_answer(&under, &answer)), Ok(answer));
        prop_assert_eq!(decode_commit(encode_commit(commit)), Ok(commit));
        let state = Resource { revision: Offset(commit), document };
        prop_assert_eq!(decode_state(&under, encode_state(&under, &state)), Ok(state));
    }

    #[test]
    fn a_changed_byte_or_another_key_is_damage(it in numbered(), at: prop::sample::Index,
        change in 1u8..) {
        let key = key::event(LogId(1), it.event.offset);
        let record = encode_event(&key, it.number, &it.event);
        let other = key::event(LogId(2), it.event.offset);
        prop_assert_eq!(decode_event(&other, record.clone()), Err(Unreadable::Damaged));
        let mut changed = record.to_vec();
        *at.get_mut(&mut changed) ^= change;
        prop_assert_eq!(decode_event(&key, changed.into()), Err(Unreadable::Damaged));
    }

    #[test]
    fn no_bytes_make_the_readers_panic(key: Vec<u8>, value in bytes()) {
        for record in [value.clone(), seal(&key, 0, |out| out.extend_from_slice(&value))] {
            let _ = (decode_event(&key, record.clone()), decode_state(&key, record.clone()));
            let _ = (decode_meta(&key, record.clone()), decode_answer(&key, record.clone()));
            let _ = decode_commit(record);
        }
    }
}
