//! Values: what stands under the keys. Each begins with a checksum (`codec`).
//!
//! - event: `number u64, time i64, flags u8, lengths of type and subject u8,
//!   type, subject, data`; the number counts a log's events without a hole
//! - resource: `revision u64, document`
//! - meta: see [`Meta`]
//! - answer: `body [32], offset u64, time i64, flags u8, length of subject u8,
//!   subject, document`
//! - commit: `number u64`
//!
//! Each kind is of version 1. Who changes the fields of a kind raises its
//! version, keeps reading the older ones, and raises `format::FORMAT`.

use bytes::Bytes;

use super::codec::{CHECKSUM_BYTES, Fields, Unreadable, read, seal, unseal};
use super::{Position, State, key};
use crate::event::{Epoch, Event, EventType, LogId, Offset, ResourceId, Timestamp};

/// The newest version of each kind that this build reads.
const EVENT_VERSION: u8 = 1;
const RESOURCE_VERSION: u8 = 1;
const ANSWER_VERSION: u8 = 1;
const COMMIT_VERSION: u8 = 1;

const MERGE: u8 = 1;
const SUBJECT: u8 = 2;
const CREATED: u8 = 4;
const DOCUMENT: u8 = 8;

/// An event with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) event: Event,
}

pub(super) fn encode_event(key: &[u8], number: u64, event: &Event) -> Bytes {
    let kind = event.kind.as_bytes();
    let subject = event.subject.as_ref().map(ResourceId::as_bytes);
    seal(key, event_bytes(event) - CHECKSUM_BYTES, |out| {
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&event.time.0.to_be_bytes());
        out.push(flag(MERGE, event.merge) | flag(SUBJECT, subject.is_some()));
        out.push(kind.len() as u8);
        out.push(subject.map_or(0, <[u8]>::len) as u8);
        out.extend_from_slice(kind);
        out.extend_from_slice(subject.unwrap_or_default());
        out.extend_from_slice(&event.data);
    })
}

/// How long the record of an event is.
pub(super) fn event_bytes(event: &Event) -> usize {
    let subject = event.subject.as_ref().map_or(0, |subject| subject.as_bytes().len());
    CHECKSUM_BYTES + 19 + event.kind.as_bytes().len() + subject + event.data.len()
}

/// The event that `record` was just made of, as slices of it: nothing is
/// checked that was written this moment.
///
/// # Panics
/// When it is another's record.
pub(super) fn slices_of(event: Event, record: &Bytes) -> Event {
    let kind_at = CHECKSUM_BYTES + 19;
    let subject_at = kind_at + event.kind.as_bytes().len();
    let data_at = record.len() - event.data.len();
    let same = "the record is the event's";
    Event {
        kind: event.kind.within(record, kind_at).expect(same),
        subject: event.subject.map(|it| it.within(record, subject_at).expect(same)),
        data: record.slice(data_at..),
        ..event
    }
}

/// Returns the event of a record, as slices of the record.
pub(super) fn decode_event(key: &[u8], record: Bytes) -> Result<Numbered, Unreadable> {
    read(key, record, EVENT_VERSION, |_, fields| event_fields(key, fields))
}

fn event_fields(key: &[u8], mut fields: Fields) -> Option<Numbered> {
    let (_, offset) = key::event_of(key)?;
    let number = fields.u64()?;
    let time = Timestamp(fields.i64()?);
    let flags = fields.u8()?;
    let (kind, subject) = (fields.u8()?, fields.u8()?);
    let kind = EventType::from_stored(fields.bytes(kind.into())?).ok()?;
    let subject = fields.bytes(subject.into())?;
    let subject = match flags & SUBJECT {
        0 => None,
        _ => Some(ResourceId::from_stored(subject).ok()?),
    };
    let merge = flags & MERGE != 0;
    let event = Event { offset, time, kind, subject, merge, data: fields.rest() };
    Some(Numbered { number, event })
}

pub(super) fn encode_state(key: &[u8], state: &State) -> Bytes {
    seal(key, 8 + state.document.len(), |out| {
        out.extend_from_slice(&state.revision.0.to_be_bytes());
        out.extend_from_slice(&state.document);
    })
}

pub(super) fn decode_state(key: &[u8], record: Bytes) -> Result<State, Unreadable> {
    read(key, record, RESOURCE_VERSION, |_, mut fields| {
        Some(State { revision: Offset(fields.u64()?), document: fields.rest() })
    })
}

/// A log as its last commit left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its number in the store.
    pub id: LogId,
    /// The collection's or topic's name.
    pub name: String,
    /// Whether it is a topic's.
    pub topic: bool,
    /// Its identity.
    pub epoch: Epoch,
    /// Its place.
    pub position: Position,
    /// The newest event's number, counted without a hole from 1.
    pub number: u64,
    /// The newest event's time.
    pub time: Timestamp,
    /// Offsets up to here may have been issued although the store does not
    /// show it, since they were not synced. No more than `head` after a clean
    /// stop, and always so when every commit is synced.
    pub reserved: Offset,
}

impl Meta {
    /// A log without events.
    pub fn new(id: LogId, name: String, topic: bool, epoch: Epoch) -> Meta {
        let (position, time, reserved) = Default::default();
        Meta { id, name, topic, epoch, position, number: 0, time, reserved }
    }
}

pub(super) fn encode_meta(key: &[u8], meta: &Meta) -> Bytes {
    let at = &meta.position;
    seal(key, 90 + meta.name.len(), |out| {
        out.extend_from_slice(meta.epoch.as_str().as_bytes());
        out.push(u8::from(meta.topic));
        for number in [at.head.0, at.floor.0, at.events, at.bytes, at.resources] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&at.floor_time.0.to_be_bytes());
        out.extend_from_slice(&meta.number.to_be_bytes());
        out.extend_from_slice(&meta.time.0.to_be_bytes());
        out.extend_from_slice(&meta.reserved.0.to_be_bytes());
        out.extend_from_slice(meta.name.as_bytes());
    })
}

pub(super) fn decode_meta(key: &[u8], record: Bytes) -> Option<Meta> {
    let id = LogId(u32::from_be_bytes(key.get(1..)?.try_into().ok()?));
    let mut fields = unseal(key, record)?;
    let epoch = str::from_utf8(&fields.array::<8>()?).ok()?.parse().ok()?;
    let topic = fields.u8()? != 0;
    let position = Position {
        head: Offset(fields.u64()?),
        floor: Offset(fields.u64()?),
        events: fields.u64()?,
        bytes: fields.u64()?,
        resources: fields.u64()?,
        floor_time: Timestamp(fields.i64()?),
    };
    let number = fields.u64()?;
    let time = Timestamp(fields.i64()?);
    let reserved = Offset(fields.u64()?);
    let name = String::from_utf8(fields.rest().into()).ok()?;
    Some(Meta { id, name, topic, epoch, position, number, time, reserved })
}

/// What an idempotent write was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Digest of the body that the key came with.
    pub body: [u8; 32],
    /// The event's offset.
    pub offset: Offset,
    /// The event's time.
    pub time: Timestamp,
    /// The resource.
    pub subject: Option<ResourceId>,
    /// Whether the resource was made.
    pub created: bool,
    /// The resource after the write.
    pub document: Option<Bytes>,
}

pub(super) fn encode_answer(key: &[u8], answer: &Answer) -> Bytes {
    let subject = answer.subject.as_ref().map(ResourceId::as_bytes);
    let document = answer.document.as_deref();
    let capacity = 50 + subject.map_or(0, <[u8]>::len) + document.map_or(0, <[u8]>::len);
    seal(key, capacity, |out| {
        out.extend_from_slice(&answer.body);
        out.extend_from_slice(&answer.offset.0.to_be_bytes());
        out.extend_from_slice(&answer.time.0.to_be_bytes());
        out.push(
            flag(SUBJECT, subject.is_some())
                | flag(CREATED, answer.created)
                | flag(DOCUMENT, document.is_some()),
        );
        out.push(subject.map_or(0, <[u8]>::len) as u8);
        out.extend_from_slice(subject.unwrap_or_default());
        out.extend_from_slice(document.unwrap_or_default());
    })
}

pub(super) fn decode_answer(key: &[u8], record: Bytes) -> Result<Answer, Unreadable> {
    read(key, record, ANSWER_VERSION, |_, fields| answer_fields(fields))
}

fn answer_fields(mut fields: Fields) -> Option<Answer> {
    let body = fields.array()?;
    let offset = Offset(fields.u64()?);
    let time = Timestamp(fields.i64()?);
    let flags = fields.u8()?;
    let subject = fields.u8()?;
    let subject = fields.bytes(subject.into())?;
    let subject = match flags & SUBJECT {
        0 => None,
        _ => Some(ResourceId::from_stored(subject).ok()?),
    };
    let created = flags & CREATED != 0;
    let document = (flags & DOCUMENT != 0).then(|| fields.rest());
    Some(Answer { body, offset, time, subject, created, document })
}

pub(super) fn encode_commit(number: u64) -> Bytes {
    seal(&key::COMMIT, 8, |out| out.extend_from_slice(&number.to_be_bytes()))
}

pub(super) fn decode_commit(record: Bytes) -> Result<u64, Unreadable> {
    read(&key::COMMIT, record, COMMIT_VERSION, |_, mut fields| fields.u64())
}

fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

#[cfg(test)]
mod tests {
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
            Numbered { number, event: Event { offset, time, kind, subject, merge, data } }
        }
    }

    prop_compose! {
        fn meta()(id: u32, name in "[a-z-]{0,40}", topic: bool, epoch: u64, n: [u64; 7],
            times: [i64; 2]) -> Meta {
            let position = Position {
                head: Offset(n[0]), floor: Offset(n[1]), floor_time: Timestamp(times[0]),
                events: n[2], bytes: n[3], resources: n[4],
            };
            Meta { id: LogId(id), name, topic, epoch: Epoch::from_bits(epoch), position,
                number: n[5], time: Timestamp(times[1]), reserved: Offset(n[6]) }
        }
    }

    prop_compose! {
        fn answer()(body: [u8; 32], offset: u64, time: i64, subject in subject(), created: bool,
            document in proptest::option::of(bytes())) -> Answer {
            Answer { body, offset: Offset(offset), time: Timestamp(time), subject, created, document }
        }
    }

    /// If this fails, records are written in another format: raise the version
    /// of the kind and `format::FORMAT`, and go on reading the old one.
    #[test]
    fn records_have_the_bytes_of_format_1() {
        let subject = Some(ResourceId::new("order-1").unwrap());
        let key = key::event(LogId(1), Offset(2));
        let event = Event {
            offset: Offset(2),
            time: Timestamp(3),
            kind: EventType::new("order-paid").unwrap(),
            subject: subject.clone(),
            merge: true,
            data: Bytes::from_static(b"{}"),
        };
        let document = Bytes::from_static(b"[4]");
        let state = State { revision: Offset(5), document: document.clone() };
        let (offset, time, created) = (Offset(6), Timestamp(7), true);
        let document = Some(document);
        let answer = Answer { body: [8; 32], offset, time, subject, created, document };
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

    proptest! {
        #[test]
        fn an_event_reads_back_as_slices_of_its_record(log: u32, it in numbered()) {
            let key = key::event(LogId(log), it.event.offset);
            let record = encode_event(&key, it.number, &it.event);
            prop_assert_eq!(record.len(), event_bytes(&it.event));
            let slices = slices_of(it.event.clone(), &record);
            prop_assert!(record.as_ptr_range().contains(&slices.kind.as_bytes().as_ptr()));
            prop_assert_eq!(&slices, &it.event);
            let read = decode_event(&key, record.clone()).unwrap();
            prop_assert!(record.as_ptr_range().contains(&read.event.kind.as_bytes().as_ptr()));
            prop_assert_eq!(read, it);
        }

        #[test]
        fn other_records_read_back(meta in meta(), answer in answer(), hash: [u8; 32],
            commit: u64, document in bytes()) {
            let under = key::meta(meta.id);
            prop_assert_eq!(decode_meta(&under, encode_meta(&under, &meta)), Some(meta));
            let under = key::answer(&hash);
            prop_assert_eq!(decode_answer(&under, encode_answer(&under, &answer)), Ok(answer));
            prop_assert_eq!(decode_commit(encode_commit(commit)), Ok(commit));
            let state = State { revision: Offset(commit), document };
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
}
