//! The records of the store. Each record begins with a checksum (`codec`).
//!
//! - event: `number u64, time i64, flags u8, lengths of type and subject u8,
//!   type, subject, data`; the events of a log have consecutive numbers
//! - resource: `revision u64, document`
//! - metadata of a log, version 1: `epoch [8], topic u8`, then `head, floor,
//!   events, bytes, resources u64, floor time i64, number u64, time i64,
//!   reserved u64`, then the name; version 2: the same up to `reserved`, then
//!   `count u8`, `count` times a step `u64`, then the name
//! - response to an idempotent write: `body [32], offset u64, time i64, flags u8,
//!   length of subject u8, subject, document`
//! - commit: `number u64`
//!
//! Events, resources, responses and commits have version 1. The metadata of a log
//! has version 1 if the time of the log never stepped back, which means that no
//! event has an earlier time than the event before it. Older builds can then open
//! the store. Otherwise the metadata has version 2. A change to the fields of a
//! record kind raises the version of the kind and `format::FORMAT`. The older
//! versions stay readable.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::{CHECKSUM_BYTES, Fields, Unreadable, read, seal, seal_version};
use super::{LogBounds, Resource, key};
use crate::event::{Epoch, Event, EventType, LogId, Offset, ResourceId, Timestamp};

/// The newest version of an event that this build reads.
const EVENT_VERSION: u8 = 1;
const RESOURCE_VERSION: u8 = 1;
const ANSWER_VERSION: u8 = 1;
const COMMIT_VERSION: u8 = 1;
const META_VERSION: u8 = 2;
/// The version of a log's metadata if the log's time never stepped back.
const META_WITHOUT_STEPS: u8 = 1;

const MERGE: u8 = 1;
const SUBJECT: u8 = 2;
const CREATED: u8 = 4;
const DOCUMENT: u8 = 8;

/// The maximum number of steps back of the log's time in the metadata of a log. Each
/// commit to the log writes all of these steps.
const STEPS_MAX: usize = 32;

/// An event with its number. The events of a log have consecutive numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) event: Event,
}

pub(super) fn encode_event(key: &[u8], number: u64, event: &Event) -> Bytes {
    let kind = event.event_type.as_bytes();
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

/// Returns the length of the record of an event in bytes.
pub(super) fn event_bytes(event: &Event) -> usize {
    let subject = event.subject.as_ref().map_or(0, |subject| subject.as_bytes().len());
    CHECKSUM_BYTES + 19 + event.event_type.as_bytes().len() + subject + event.data.len()
}

/// Returns `event` with fields that are slices of `record`, the encoded event. The
/// caller has just encoded `record` from `event`, so the content is not checked
/// again.
///
/// # Panics
/// If `record` is the record of another event.
pub(super) fn slices_of(event: Event, record: &Bytes) -> Event {
    let kind_at = CHECKSUM_BYTES + 19;
    let subject_at = kind_at + event.event_type.as_bytes().len();
    let data_at = record.len() - event.data.len();
    let same = "the record was encoded from this event";
    Event {
        event_type: event.event_type.within(record, kind_at).expect(same),
        subject: event.subject.map(|it| it.within(record, subject_at).expect(same)),
        data: record.slice(data_at..),
        ..event
    }
}

/// Decodes an event. The fields of the event are slices of the record.
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
    let event = Event { offset, time, event_type: kind, subject, merge, data: fields.rest() };
    Some(Numbered { number, event })
}

pub(super) fn encode_state(key: &[u8], state: &Resource) -> Bytes {
    seal(key, 8 + state.document.len(), |out| {
        out.extend_from_slice(&state.revision.0.to_be_bytes());
        out.extend_from_slice(&state.document);
    })
}

pub(super) fn decode_state(key: &[u8], record: Bytes) -> Result<Resource, Unreadable> {
    read(key, record, RESOURCE_VERSION, |_, mut fields| {
        Some(Resource { revision: Offset(fields.u64()?), document: fields.rest() })
    })
}

/// The metadata of a log after its last commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogMetadata {
    /// The number of the log in the store.
    pub id: LogId,
    /// The collection's or topic's name.
    pub name: Arc<str>,
    /// Whether the log belongs to a topic.
    pub topic: bool,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The bounds (head and floor) and the sizes of the log.
    pub position: LogBounds,
    /// The number of the newest event. The first event has number 1, and the
    /// numbers are consecutive.
    pub number: u64,
    /// The time of the newest event.
    pub time: Timestamp,
    /// The last reserved offset. After an unclean stop, offsets up to this one may
    /// have been issued for events that were lost because they were not synced.
    /// After a clean stop, and if every commit is synced, the value is at most
    /// `head`.
    pub reserved: Offset,
    /// The steps back of the log's time, oldest first. At a step, an event has an
    /// earlier time than the event before it. Each step is the offset of the last
    /// event before the step. The times of the events between two steps never
    /// decrease.
    pub steps: Vec<Offset>,
}

impl LogMetadata {
    /// Returns the metadata of a log without events.
    pub fn new(id: LogId, name: impl Into<Arc<str>>, topic: bool, epoch: Epoch) -> LogMetadata {
        let (position, time, reserved, steps) = Default::default();
        let name = name.into();
        LogMetadata { id, name, topic, epoch, position, number: 0, time, reserved, steps }
    }

    /// Returns the offset of the last event before the newest step back of the
    /// log's time, or 0 if there was no step. The times of the later events never
    /// decrease.
    pub fn last_step(&self) -> Offset {
        self.steps.last().copied().unwrap_or_default()
    }

    /// Records a step back of the log's time: the next event has an earlier time
    /// than the newest event.
    pub fn step(&mut self) {
        if self.steps.len() == STEPS_MAX {
            self.steps.remove(0);
        }
        self.steps.push(self.position.head);
    }

    /// Raises the floor to a trimmed event, which has this offset and time. Removes
    /// the steps back of the log's time before this event.
    pub fn raise_floor(&mut self, offset: Offset, time: Timestamp) {
        (self.position.floor, self.position.floor_time) = (offset, time);
        self.steps.retain(|&step| step >= offset);
    }

    /// Returns whether the log's time may step back between two consecutive events,
    /// at the offsets `before` and `after`. If there were more than [`STEPS_MAX`]
    /// steps, the oldest steps are unknown.
    pub(super) fn may_step(&self, before: Offset, after: Offset) -> bool {
        let unknown = self.steps.len() == STEPS_MAX && after <= self.steps[0];
        unknown || self.steps.iter().any(|&step| before <= step && step < after)
    }
}

pub(super) fn encode_meta(key: &[u8], meta: &LogMetadata) -> Bytes {
    let at = &meta.position;
    let version = if meta.steps.is_empty() { META_WITHOUT_STEPS } else { META_VERSION };
    seal_version(key, version, 91 + 8 * meta.steps.len() + meta.name.len(), |out| {
        out.extend_from_slice(meta.epoch.as_str().as_bytes());
        out.push(u8::from(meta.topic));
        for number in [at.head.0, at.floor.0, at.events, at.bytes, at.resources] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&at.floor_time.0.to_be_bytes());
        out.extend_from_slice(&meta.number.to_be_bytes());
        out.extend_from_slice(&meta.time.0.to_be_bytes());
        out.extend_from_slice(&meta.reserved.0.to_be_bytes());
        if version > META_WITHOUT_STEPS {
            out.push(meta.steps.len() as u8);
        }
        for step in &meta.steps {
            out.extend_from_slice(&step.0.to_be_bytes());
        }
        out.extend_from_slice(meta.name.as_bytes());
    })
}

pub(super) fn decode_meta(key: &[u8], record: Bytes) -> Result<LogMetadata, Unreadable> {
    read(key, record, META_VERSION, |version, fields| meta_fields(key, version, fields))
}

fn meta_fields(key: &[u8], version: u8, mut fields: Fields) -> Option<LogMetadata> {
    let id = key::meta_of(key)?;
    let epoch = str::from_utf8(&fields.array::<8>()?).ok()?.parse().ok()?;
    let topic = fields.u8()? != 0;
    let position = LogBounds {
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
    let count = if version > META_WITHOUT_STEPS { fields.u8()? } else { 0 };
    let steps = (0..count).map(|_| fields.u64().map(Offset)).collect::<Option<_>>()?;
    let name = str::from_utf8(&fields.rest()).ok()?.into();
    Some(LogMetadata { id, name, topic, epoch, position, number, time, reserved, steps })
}

/// The stored response to an idempotent write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentResponse {
    /// The digest of the request body.
    pub body: [u8; 32],
    /// The offset of the event.
    pub offset: Offset,
    /// The time of the event.
    pub time: Timestamp,
    /// The id of the resource, if the event has one.
    pub subject: Option<ResourceId>,
    /// Whether the write created the resource.
    pub created: bool,
    /// The document of the resource after the write, if there is one.
    pub document: Option<Bytes>,
}

pub(super) fn encode_answer(key: &[u8], answer: &IdempotentResponse) -> Bytes {
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

pub(super) fn decode_answer(key: &[u8], record: Bytes) -> Result<IdempotentResponse, Unreadable> {
    read(key, record, ANSWER_VERSION, |_, fields| answer_fields(fields))
}

fn answer_fields(mut fields: Fields) -> Option<IdempotentResponse> {
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
    Some(IdempotentResponse { body, offset, time, subject, created, document })
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
mod tests;
