//! A write: what a client asks to become an event, and what came of it.

use std::fmt;

use bytes::Bytes;

use crate::event::{EventType, Offset, ResourceId, Timestamp};
use crate::wire::json::{self, Json};
use crate::wire::{LogIdentity, LogKind};

/// One write, checked as far as it can be without the resource's state.
#[derive(Clone, Debug)]
pub struct Write {
    /// The resource; none for an event of a topic that names none.
    pub subject: Option<ResourceId>,
    /// What to do with it.
    pub change: Mutation,
    /// What must hold for it to be done.
    pub precondition: Precondition,
    /// Makes a repeat of the write answer as the first one did.
    pub idempotency: Option<IdempotencyKey>,
}

/// What a write does. `data` is the event's data, made ahead of the
/// committer, which is one thread for all.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// A new resource; refused where there is one.
    Create {
        /// The resource, `id` included.
        document: Bytes,
        /// Key and resource without `id`.
        data: Bytes,
    },
    /// Create or replace.
    Put {
        /// The resource, `id` included.
        document: Bytes,
        /// Key and resource without `id`.
        data: Bytes,
    },
    /// Merge into the resource (RFC 7396); refused where there is none.
    Patch {
        /// The merge patch, an object.
        patch: Bytes,
    },
    /// Remove the resource; refused where there is none.
    Delete,
    /// An event of the user's own type on a resource; refused where there is none.
    Event {
        /// Its type.
        kind: EventType,
        /// Key and what was posted.
        data: Bytes,
        /// What to merge into the resource; none with `merge=false`.
        patch: Option<Bytes>,
    },
    /// An event of a topic.
    Publish {
        /// Its type.
        kind: EventType,
        /// As posted.
        data: Bytes,
    },
}

/// What must hold of a resource for a write to be done (RFC 9110 §13.1).
/// Revisions are offsets of the resource's newest event in this log's epoch;
/// tags of another epoch never match and are left out by who parses them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// `If-Match: *`: there is one.
    Present,
    /// `If-None-Match: *`: there is none.
    Absent,
    /// `If-Match`: its revision is one of these.
    OneOf(Vec<Offset>),
    /// `If-None-Match`: its revision is none of these, or there is none.
    NoneOf(Vec<Offset>),
}

/// The digest of a principal's `Idempotency-Key` for one method and path, and
/// of the body it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// SHA-256 of principal, method, path and key.
    pub key: [u8; 32],
    /// SHA-256 of the body.
    pub body: [u8; 32],
}

/// What a write came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendOutcome {
    /// The event's offset, and for a resource its new revision.
    pub offset: Offset,
    /// The event's time.
    pub time: Timestamp,
    /// The resource; none for an event of a topic that names none.
    pub subject: Option<ResourceId>,
    /// Whether the resource was not there before.
    pub created: bool,
    /// The resource after the write; none for deletions, events that were not
    /// merged, and topics.
    pub document: Option<Bytes>,
    /// Whether this is the answer to an earlier write with the same key.
    pub replayed: bool,
}

/// Why one write was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendRejection {
    /// The id is in use.
    Exists,
    /// There is no such resource.
    NotFound,
    /// The precondition does not hold; the revision it has, if it is there.
    Precondition(Option<Offset>),
    /// The resource would grow beyond `resource_bytes_max`.
    TooLarge,
    /// The idempotency key was used with another body.
    KeyReused,
    /// The log is in memory, where no answer lasts as long as a key has to be
    /// remembered.
    KeyNotKept,
}

impl fmt::Display for AppendRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AppendRejection::Exists => "a resource with this id exists",
            AppendRejection::NotFound => "no resource has this id",
            AppendRejection::Precondition(_) => "the precondition does not hold",
            AppendRejection::TooLarge => "the resource would be larger than resource_bytes_max",
            AppendRejection::KeyReused => "the idempotency key belongs to another body",
            AppendRejection::KeyNotKept => "a topic in memory keeps no idempotency keys",
        })
    }
}

/// Why a text cannot become a write, whatever the state of the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadWrite {
    /// A resource, a patch or an event's data of a collection is not an object.
    NotAnObject,
    /// The body's `id` is not a string or not the resource's.
    IdDiffers,
    /// The body's `<resource>Id` (named here) is not the resource's id.
    KeyDiffers(String),
    /// The type tells of the gateway's own writes: followers rebuild state
    /// from it, so nobody else may say it.
    OwnType(EventType),
}

impl fmt::Display for BadWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadWrite::NotAnObject => write!(f, "a JSON object is needed here"),
            BadWrite::OwnType(kind) => {
                write!(f, "{kind} tells of the gateway's own writes; use PUT, PATCH or DELETE")
            }
            BadWrite::IdDiffers => write!(
                f,
                "the member \"id\" must be the resource's id; leave it out or make it equal"
            ),
            BadWrite::KeyDiffers(key) => {
                write!(
                    f,
                    "the member {key:?} must be the resource's id; leave it out or make it equal"
                )
            }
        }
    }
}

impl std::error::Error for BadWrite {}

impl Write {
    /// A new resource. `id` is put into the document as its first member
    /// where it has none.
    ///
    /// # Errors
    /// When the document is no object, carries another id, or names another
    /// resource under `<resource>Id`.
    pub fn create(
        origin: &LogIdentity,
        subject: ResourceId,
        document: &Json,
    ) -> Result<Write, BadWrite> {
        let (document, data) = resource(origin, &subject, document)?;
        Ok(Write::on(subject, Mutation::Create { document, data }))
    }

    /// A resource created or replaced; the document as for [`Write::create`].
    ///
    /// # Errors
    /// As for [`Write::create`].
    pub fn put(
        origin: &LogIdentity,
        subject: ResourceId,
        document: &Json,
    ) -> Result<Write, BadWrite> {
        let (document, data) = resource(origin, &subject, document)?;
        Ok(Write::on(subject, Mutation::Put { document, data }))
    }

    /// A merge patch (RFC 7396) on a resource.
    ///
    /// # Errors
    /// When the patch is no object, would change or remove the id, or names
    /// another resource under `<resource>Id`.
    pub fn patch(
        origin: &LogIdentity,
        subject: ResourceId,
        patch: &Json,
    ) -> Result<Write, BadWrite> {
        let has_key = check(origin, &subject, patch)?;
        check_id(&subject, patch)?;
        let patch = unkeyed(origin, patch, has_key);
        Ok(Write::on(subject, Mutation::Patch { patch }))
    }

    /// A deletion.
    pub fn delete(subject: ResourceId) -> Write {
        Write::on(subject, Mutation::Delete)
    }

    /// An event of the user's own type on a resource, merged into it if `merge`.
    ///
    /// # Errors
    /// When the data is no object, names another resource under
    /// `<resource>Id`, or would change or remove the id by its merge.
    pub fn event(
        origin: &LogIdentity,
        subject: ResourceId,
        kind: EventType,
        data: &Json,
        merge: bool,
    ) -> Result<Write, BadWrite> {
        let has_key = check(origin, &subject, data)?;
        if let LogKind::Collection(names) = &origin.kind
            && [&names.created, &names.updated, &names.deleted].contains(&&kind)
        {
            return Err(BadWrite::OwnType(kind));
        }
        if merge {
            check_id(&subject, data)?;
        }
        let patch = merge.then(|| unkeyed(origin, data, has_key));
        let data = keyed(origin, &subject, data.as_bytes(), &[]);
        Ok(Write::on(subject, Mutation::Event { kind, data, patch }))
    }

    /// An event of a topic; any JSON.
    pub fn publish(subject: Option<ResourceId>, kind: EventType, data: Json) -> Write {
        let change = Mutation::Publish { kind, data: data.into_bytes() };
        Write { subject, change, precondition: Precondition::None, idempotency: None }
    }

    fn on(subject: ResourceId, change: Mutation) -> Write {
        let precondition = Precondition::None;
        Write { subject: Some(subject), change, precondition, idempotency: None }
    }

    /// About how many bytes it keeps in memory until it is committed.
    pub(in crate::log) fn bytes(&self) -> usize {
        /// A write, its answer and its place in the queue.
        const FIXED: usize = 512;
        FIXED
            + match &self.change {
                Mutation::Create { document, data } | Mutation::Put { document, data } => {
                    document.len() + data.len()
                }
                Mutation::Patch { patch } => patch.len(),
                Mutation::Delete => 0,
                Mutation::Event { data, patch, .. } => {
                    data.len() + patch.as_ref().map_or(0, Bytes::len)
                }
                Mutation::Publish { data, .. } => data.len(),
            }
    }

    /// The same write under a precondition.
    #[must_use]
    pub fn with_precondition(mut self, precondition: Precondition) -> Write {
        self.precondition = precondition;
        self
    }

    /// The same write with an idempotency key.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: IdempotencyKey) -> Write {
        self.idempotency = Some(key);
        self
    }
}

/// The member that names the resource in a collection's events.
fn key(origin: &LogIdentity) -> Option<&str> {
    match &origin.kind {
        LogKind::Collection(names) => Some(&names.key),
        LogKind::Topic => None,
    }
}

/// An event's data: `fields` without the members `drop`, the key first.
pub(in crate::log) fn keyed(
    origin: &LogIdentity,
    subject: &ResourceId,
    fields: &[u8],
    drop: &[&str],
) -> Bytes {
    let Some(key) = key(origin) else { return Bytes::copy_from_slice(fields) };
    let mut out = Vec::with_capacity(fields.len() + key.len() + subject.as_bytes().len() + 6);
    json::with_first(fields, key, &quoted(subject), drop, &mut out);
    out.into()
}

fn resource(
    origin: &LogIdentity,
    subject: &ResourceId,
    document: &Json,
) -> Result<(Bytes, Bytes), BadWrite> {
    let has_key = check(origin, subject, document)?;
    let has_id = check_id(subject, document)?;
    let text = unkeyed(origin, document, has_key);
    let data = keyed(origin, subject, &text, &["id"]);
    if has_id {
        return Ok((text, data));
    }
    let mut named = Vec::with_capacity(text.len() + subject.as_bytes().len() + 8);
    json::with_first(&text, "id", &quoted(subject), &[], &mut named);
    Ok((named.into(), data))
}

/// The object without the key, which is the events' and never a member of the
/// resource: state that is rebuilt from events could not tell whether it is.
fn unkeyed(origin: &LogIdentity, object: &Json, has_key: bool) -> Bytes {
    match key(origin).filter(|_| has_key) {
        Some(key) => without(object.as_bytes(), key),
        None => object.clone().into_bytes(),
    }
}

/// An object that names no other resource under the key; tells whether it has
/// the key.
fn check(origin: &LogIdentity, subject: &ResourceId, object: &Json) -> Result<bool, BadWrite> {
    if !object.is_object() {
        return Err(BadWrite::NotAnObject);
    }
    let Some(key) = key(origin) else { return Ok(false) };
    match json::member(object.as_bytes(), key) {
        Some(value) if !is(value, subject) => Err(BadWrite::KeyDiffers(key.to_owned())),
        found => Ok(found.is_some()),
    }
}

/// The same of the id.
fn check_id(subject: &ResourceId, object: &Json) -> Result<bool, BadWrite> {
    match json::member(object.as_bytes(), "id") {
        Some(value) if !is(value, subject) => Err(BadWrite::IdDiffers),
        found => Ok(found.is_some()),
    }
}

fn is(value: &[u8], subject: &ResourceId) -> bool {
    json::string(value).is_some_and(|text| text == subject.as_str())
}

fn quoted(subject: &ResourceId) -> Vec<u8> {
    let mut out = Vec::with_capacity(subject.as_bytes().len() + 2);
    json::quote(subject.as_str(), &mut out);
    out
}

/// The object without the member `name`.
fn without(object: &[u8], name: &str) -> Bytes {
    let mut out = vec![b'{'];
    for (key, value) in json::members(object) {
        if json::string(key).is_some_and(|key| key == name) {
            continue;
        }
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(key);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Epoch;

    fn origin() -> LogIdentity {
        let kind = LogKind::collection("order").unwrap();
        LogIdentity::new("orders".to_owned(), Epoch::from_bits(1), kind)
    }

    fn id(text: &str) -> ResourceId {
        ResourceId::new(text).unwrap()
    }

    fn parsed(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    fn created(text: &str) -> Result<(String, String), BadWrite> {
        let write = Write::create(&origin(), id("7"), &parsed(text))?;
        let Mutation::Create { document, data } = write.change else { unreachable!() };
        let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
        Ok((text(document), text(data)))
    }

    fn merged(text: &str, merge: bool) -> Result<(String, Option<String>), BadWrite> {
        let kind = EventType::new("order-shipped").unwrap();
        let write = Write::event(&origin(), id("7"), kind, &parsed(text), merge)?;
        let Mutation::Event { data, patch, .. } = write.change else { unreachable!() };
        let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
        Ok((text(data), patch.map(text)))
    }

    #[test]
    fn a_document_gets_its_id_and_its_events_the_key() {
        let cases = [
            (r#"{"b":1,"a":2}"#, r#"{"id":"7","b":1,"a":2}"#, r#"{"orderId":"7","b":1,"a":2}"#),
            (r#"{"b":1,"id":"7"}"#, r#"{"b":1,"id":"7"}"#, r#"{"orderId":"7","b":1}"#),
            ("{}", r#"{"id":"7"}"#, r#"{"orderId":"7"}"#),
        ];
        for (posted, document, data) in cases {
            assert_eq!(created(posted), Ok((document.to_owned(), data.to_owned())), "{posted}");
        }
    }

    #[test]
    fn another_id_is_refused() {
        assert_eq!(created("[]"), Err(BadWrite::NotAnObject));
        for other in [r#"{"id":"8"}"#, r#"{"id":7}"#, r#"{"id":null}"#] {
            assert_eq!(created(other), Err(BadWrite::IdDiffers), "{other}");
            let patch = Write::patch(&origin(), id("7"), &parsed(other));
            assert_eq!(patch.err(), Some(BadWrite::IdDiffers), "{other}");
            assert_eq!(merged(other, true), Err(BadWrite::IdDiffers), "{other}");
            assert!(merged(other, false).is_ok(), "{other}");
        }
        let key = BadWrite::KeyDiffers("orderId".to_owned());
        assert_eq!(created(r#"{"orderId":"8"}"#), Err(key.clone()));
        assert_eq!(merged(r#"{"a":1,"orderId":"8"}"#, false), Err(key));
    }

    #[test]
    fn the_key_stands_first_and_is_not_merged() {
        let (data, patch) = merged(r#"{"a":1,"orderId":"7","b":2}"#, true).unwrap();
        assert_eq!(data, r#"{"orderId":"7","a":1,"b":2}"#);
        assert_eq!(patch.unwrap(), r#"{"a":1,"b":2}"#);
        assert_eq!(merged("{}", false), Ok((r#"{"orderId":"7"}"#.to_owned(), None)));
    }
}
