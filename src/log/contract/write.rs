//! A write, which becomes an event, and the outcome of a write.

use std::fmt;

use bytes::Bytes;

use crate::event::{EventType, Offset, ResourceId, Timestamp};
use crate::wire::json::{self, Json};
use crate::wire::{LogIdentity, LogKind};

/// A write to a log. All checks that do not need the current state of the resource
/// have passed.
#[derive(Clone, Debug)]
pub struct Write {
    /// The id of the resource. `None` for an event of a topic without a subject.
    pub subject: Option<ResourceId>,
    /// The change that the write makes.
    pub change: Mutation,
    /// The condition for the write.
    pub precondition: Precondition,
    /// The key of an idempotent write. A repeat with the same key gets the response
    /// to the first write.
    pub idempotency: Option<IdempotencyKey>,
}

/// The change that a write makes. `data` is the data of the event. The caller
/// encodes the data, because the committer is a single thread for all logs.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Creates a resource. Rejected if the resource exists.
    Create {
        /// The resource with its member `id`.
        document: Bytes,
        /// The data of the event: the member `<resource>Id` (for example `orderId`),
        /// then the other members of the resource without `id`.
        data: Bytes,
    },
    /// Creates or replaces a resource.
    Put {
        /// The resource with its member `id`.
        document: Bytes,
        /// The data of the event: the member `<resource>Id` (for example `orderId`),
        /// then the other members of the resource without `id`.
        data: Bytes,
    },
    /// Merges a patch into the resource (RFC 7396). Rejected if the resource does
    /// not exist.
    Patch {
        /// The merge patch, a JSON object.
        patch: Bytes,
    },
    /// Removes the resource. Rejected if the resource does not exist.
    Delete,
    /// Adds an event with a type that the user chose to a resource. Rejected if
    /// the resource does not exist.
    Event {
        /// The type of the event.
        kind: EventType,
        /// The data of the event: the member `<resource>Id` (for example `orderId`),
        /// then the posted members.
        data: Bytes,
        /// The patch to merge into the resource. `None` if the request has
        /// `merge=false`.
        patch: Option<Bytes>,
    },
    /// Adds an event to a topic.
    Publish {
        /// The type of the event.
        kind: EventType,
        /// The posted data.
        data: Bytes,
    },
}

/// The condition on a resource for a write (RFC 9110 §13.1). The revision of a
/// resource is the offset of its newest event. An entity tag from another epoch (the
/// identity of a log) never matches, so the parser of the header omits it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// No condition.
    #[default]
    None,
    /// `If-Match: *`: the resource exists.
    Present,
    /// `If-None-Match: *`: the resource does not exist.
    Absent,
    /// `If-Match`: the revision of the resource is one of these.
    OneOf(Vec<Offset>),
    /// `If-None-Match`: the resource does not exist, or its revision is none of
    /// these.
    NoneOf(Vec<Offset>),
}

/// The digest of an `Idempotency-Key` with its principal, method and path, and the
/// digest of the request body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// SHA-256 of the principal, the method, the path and the `Idempotency-Key`.
    pub key: [u8; 32],
    /// SHA-256 of the request body.
    pub body: [u8; 32],
}

/// The outcome of an accepted write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendOutcome {
    /// The offset of the event, which is the new revision of the resource.
    pub offset: Offset,
    /// The time of the event.
    pub time: Timestamp,
    /// The id of the resource. `None` for an event of a topic without a subject.
    pub subject: Option<ResourceId>,
    /// Whether the write created the resource.
    pub created: bool,
    /// The resource after the write. `None` for a deletion, for an event that was
    /// not merged, and for a topic.
    pub document: Option<Bytes>,
    /// Whether this is the outcome of an earlier write with the same idempotency
    /// key.
    pub replayed: bool,
}

/// The reason why a write was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendRejection {
    /// A resource with this id exists.
    Exists,
    /// No resource has this id.
    NotFound,
    /// The precondition does not hold. The value is the revision of the resource,
    /// or `None` if the resource does not exist.
    Precondition(Option<Offset>),
    /// The resource would be larger than `resource_bytes_max`.
    TooLarge,
    /// The idempotency key was used for an earlier write with another request body.
    KeyReused,
    /// The log is in memory, and responses are stored only for logs on disk.
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

/// The reason why a request is not a valid write, independent of the state of the
/// resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadWrite {
    /// The resource, the patch, or the data of an event in a collection is not a
    /// JSON object.
    NotAnObject,
    /// The member `id` of the body is not the id of the resource.
    IdDiffers,
    /// The member `<resource>Id` of the body is not the id of the resource. The
    /// value is the name of the member.
    KeyDiffers(String),
    /// The event type is reserved for the writes of the gateway. Clients rebuild
    /// resources from events with this type, so no client may post such an event.
    OwnType(EventType),
}

impl fmt::Display for BadWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadWrite::NotAnObject => write!(f, "the body must be a JSON object"),
            BadWrite::OwnType(kind) => {
                write!(
                    f,
                    "the event type {kind} is reserved for the gateway; use PUT, PATCH or DELETE"
                )
            }
            BadWrite::IdDiffers => write!(
                f,
                "the member \"id\" must be the id of the resource; correct or omit the member"
            ),
            BadWrite::KeyDiffers(key) => {
                write!(
                    f,
                    "the member {key:?} must be the id of the resource; correct or omit the member"
                )
            }
        }
    }
}

impl std::error::Error for BadWrite {}

impl Write {
    /// Returns a write that creates a resource. If the document has no member
    /// `id`, the id becomes its first member.
    ///
    /// # Errors
    /// [`BadWrite`] if the document is not an object, has another id, or names
    /// another resource in `<resource>Id`.
    pub fn create(
        identity: &LogIdentity,
        subject: ResourceId,
        document: &Json,
    ) -> Result<Write, BadWrite> {
        let (document, data) = resource(identity, &subject, document)?;
        Ok(Write::on(subject, Mutation::Create { document, data }))
    }

    /// Returns a write that creates or replaces a resource. The rules for `document`
    /// are the same as in [`Write::create`].
    ///
    /// # Errors
    /// As for [`Write::create`].
    pub fn put(
        identity: &LogIdentity,
        subject: ResourceId,
        document: &Json,
    ) -> Result<Write, BadWrite> {
        let (document, data) = resource(identity, &subject, document)?;
        Ok(Write::on(subject, Mutation::Put { document, data }))
    }

    /// Returns a write that merges a patch into a resource (RFC 7396).
    ///
    /// # Errors
    /// [`BadWrite`] if the patch is not an object, would change or remove the id,
    /// or names another resource in `<resource>Id`.
    pub fn patch(
        identity: &LogIdentity,
        subject: ResourceId,
        patch: &Json,
    ) -> Result<Write, BadWrite> {
        let has_key = check(identity, &subject, patch)?;
        check_id(&subject, patch)?;
        let patch = unkeyed(identity, patch, has_key);
        Ok(Write::on(subject, Mutation::Patch { patch }))
    }

    /// Returns a write that removes a resource.
    pub fn delete(subject: ResourceId) -> Write {
        Write::on(subject, Mutation::Delete)
    }

    /// Returns a write that adds an event with a type that the user chose to a
    /// resource. If `merge` is true, the data is merged into the resource.
    ///
    /// # Errors
    /// [`BadWrite`] if the data is not an object, names another resource in
    /// `<resource>Id`, has a reserved type, or would change or remove the id by the
    /// merge.
    pub fn event(
        identity: &LogIdentity,
        subject: ResourceId,
        kind: EventType,
        data: &Json,
        merge: bool,
    ) -> Result<Write, BadWrite> {
        let has_key = check(identity, &subject, data)?;
        if let LogKind::Collection(names) = &identity.kind
            && [&names.created, &names.updated, &names.deleted].contains(&&kind)
        {
            return Err(BadWrite::OwnType(kind));
        }
        if merge {
            check_id(&subject, data)?;
        }
        let patch = merge.then(|| unkeyed(identity, data, has_key));
        let data = keyed(identity, &subject, data.as_bytes(), &[]);
        Ok(Write::on(subject, Mutation::Event { kind, data, patch }))
    }

    /// Returns a write that adds an event to a topic. The data is any JSON.
    pub fn publish(subject: Option<ResourceId>, kind: EventType, data: Json) -> Write {
        let change = Mutation::Publish { kind, data: data.into_bytes() };
        Write { subject, change, precondition: Precondition::None, idempotency: None }
    }

    fn on(subject: ResourceId, change: Mutation) -> Write {
        let precondition = Precondition::None;
        Write { subject: Some(subject), change, precondition, idempotency: None }
    }

    /// Returns the number of bytes that the write takes in memory until the commit,
    /// approximately.
    pub(in crate::log) fn bytes(&self) -> usize {
        /// The memory of a write, its answer and its entry in the queue, without the
        /// data.
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

    /// Returns the write with a precondition.
    #[must_use]
    pub fn with_precondition(mut self, precondition: Precondition) -> Write {
        self.precondition = precondition;
        self
    }

    /// Returns the write with an idempotency key.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: IdempotencyKey) -> Write {
        self.idempotency = Some(key);
        self
    }
}

/// Returns the name of the member that has the resource id in the events of a
/// collection, for example `orderId`. `None` for a topic.
fn key(identity: &LogIdentity) -> Option<&str> {
    match &identity.kind {
        LogKind::Collection(names) => Some(&names.key),
        LogKind::Topic => None,
    }
}

/// Returns the data of an event: the member `<resource>Id` (for example `orderId`),
/// then the members of the JSON object `fields` except those with a name in `drop`.
/// For a topic, returns `fields`.
pub(in crate::log) fn keyed(
    identity: &LogIdentity,
    subject: &ResourceId,
    fields: &[u8],
    drop: &[&str],
) -> Bytes {
    let Some(key) = key(identity) else { return Bytes::copy_from_slice(fields) };
    let mut out = Vec::with_capacity(fields.len() + key.len() + subject.as_bytes().len() + 6);
    json::with_first(fields, key, &quoted(subject), drop, &mut out);
    out.into()
}

fn resource(
    identity: &LogIdentity,
    subject: &ResourceId,
    document: &Json,
) -> Result<(Bytes, Bytes), BadWrite> {
    let has_key = check(identity, subject, document)?;
    let has_id = check_id(subject, document)?;
    let text = unkeyed(identity, document, has_key);
    let data = keyed(identity, subject, &text, &["id"]);
    if has_id {
        return Ok((text, data));
    }
    let mut named = Vec::with_capacity(text.len() + subject.as_bytes().len() + 8);
    json::with_first(&text, "id", &quoted(subject), &[], &mut named);
    Ok((named.into(), data))
}

/// Returns `object` without the member `<resource>Id`. `has_key` is whether `object`
/// has this member. Events have the member, and resources never have it. If a
/// resource could have it, a client that rebuilds the resource from events could not
/// know whether it has it.
fn unkeyed(identity: &LogIdentity, object: &Json, has_key: bool) -> Bytes {
    match key(identity).filter(|_| has_key) {
        Some(key) => without(object.as_bytes(), key),
        None => object.clone().into_bytes(),
    }
}

/// Checks that `object` is a JSON object, and that its member `<resource>Id`, if
/// there is one, is the id `subject`. Returns whether there is one.
fn check(identity: &LogIdentity, subject: &ResourceId, object: &Json) -> Result<bool, BadWrite> {
    if !object.is_object() {
        return Err(BadWrite::NotAnObject);
    }
    let Some(key) = key(identity) else { return Ok(false) };
    match json::member(object.as_bytes(), key) {
        Some(value) if !is(value, subject) => Err(BadWrite::KeyDiffers(key.to_owned())),
        found => Ok(found.is_some()),
    }
}

/// Checks that the member `id` of `object`, if there is one, is the id `subject`.
/// Returns whether there is one.
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

/// Returns the JSON object `object` without the member `name`.
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

    fn identity() -> LogIdentity {
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
        let write = Write::create(&identity(), id("7"), &parsed(text))?;
        let Mutation::Create { document, data } = write.change else { unreachable!() };
        let text = |bytes: Bytes| String::from_utf8(bytes.into()).unwrap();
        Ok((text(document), text(data)))
    }

    fn merged(text: &str, merge: bool) -> Result<(String, Option<String>), BadWrite> {
        let kind = EventType::new("order-shipped").unwrap();
        let write = Write::event(&identity(), id("7"), kind, &parsed(text), merge)?;
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
            let patch = Write::patch(&identity(), id("7"), &parsed(other));
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
