//! The effect of a write on a resource: a pure function that every engine uses.

use bytes::Bytes;

use super::write::{AppendRejection, Mutation, Precondition, Write, keyed};
use crate::event::{EventType, Offset, ResourceId};
use crate::store::Resource;
use crate::wire::{LogIdentity, LogKind, json};

/// The effect of an accepted write: its event, and the change of its resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) struct Effect {
    /// The type of the event.
    pub(in crate::log) kind: EventType,
    /// The data of the event.
    pub(in crate::log) data: Bytes,
    /// Whether a client that rebuilds the resource from its events merges the data
    /// into it.
    pub(in crate::log) merge: bool,
    /// The change of the resource.
    pub(in crate::log) next: ResourceChange,
    /// Whether the write creates the resource.
    pub(in crate::log) created: bool,
}

/// The change of a resource by a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) enum ResourceChange {
    /// The resource keeps its document and gets the revision of the event.
    Keep,
    /// The resource gets this document.
    Set(Bytes),
    /// The resource is removed.
    Remove,
}

/// Decides whether `write` is accepted, from the newest state of its resource, and
/// returns its effect. `bytes_max` is the maximum size of the resource after a
/// merge.
///
/// # Errors
/// [`AppendRejection`]. A missing resource is reported before any precondition is
/// evaluated (RFC 9110 §13.2.1).
pub(in crate::log) fn apply(
    identity: &LogIdentity,
    current: Option<&Resource>,
    write: &Write,
    bytes_max: usize,
) -> Result<Effect, AppendRejection> {
    let needs_one =
        matches!(write.change, Mutation::Patch { .. } | Mutation::Delete | Mutation::Event { .. });
    if needs_one && current.is_none() {
        return Err(AppendRejection::NotFound);
    }
    check(&write.precondition, current.map(|state| state.revision))?;
    if let Mutation::Publish { kind, data } = &write.change {
        return Ok(outcome(kind, data.clone(), ResourceChange::Keep));
    }
    let (LogKind::Collection(names), Some(subject)) = (&identity.kind, &write.subject) else {
        // A topic has no resources.
        return Err(AppendRejection::NotFound);
    };
    match &write.change {
        Mutation::Create { .. } if current.is_some() => Err(AppendRejection::Exists),
        Mutation::Create { document, data } | Mutation::Put { document, data } => {
            let is_new = current.is_none();
            let kind = if is_new { &names.created } else { &names.updated };
            let next = ResourceChange::Set(document.clone());
            Ok(Effect { created: is_new, ..outcome(kind, data.clone(), next) })
        }
        Mutation::Patch { patch } => {
            let document = merged(current, patch, bytes_max)?;
            let data = keyed(identity, subject, &document, &["id"]);
            Ok(outcome(&names.updated, data, ResourceChange::Set(document)))
        }
        Mutation::Delete => {
            Ok(outcome(&names.deleted, key_alone(identity, subject), ResourceChange::Remove))
        }
        Mutation::Event { kind, data, patch: Some(patch) } => {
            let next = ResourceChange::Set(merged(current, patch, bytes_max)?);
            Ok(outcome(kind, data.clone(), next))
        }
        Mutation::Event { kind, data, patch: None } => {
            Ok(Effect { merge: false, ..outcome(kind, data.clone(), ResourceChange::Keep) })
        }
        Mutation::Publish { .. } => unreachable!("answered above"),
    }
}

fn outcome(kind: &EventType, data: Bytes, next: ResourceChange) -> Effect {
    Effect { kind: kind.clone(), data, merge: true, next, created: false }
}

fn key_alone(identity: &LogIdentity, subject: &ResourceId) -> Bytes {
    keyed(identity, subject, b"{}", &[])
}

fn merged(
    current: Option<&Resource>,
    patch: &[u8],
    bytes_max: usize,
) -> Result<Bytes, AppendRejection> {
    let document = &current.ok_or(AppendRejection::NotFound)?.document;
    let mut out = Vec::with_capacity(document.len() + patch.len());
    json::merge_patch(document, patch, &mut out);
    if out.len() > bytes_max {
        return Err(AppendRejection::TooLarge);
    }
    Ok(out.into())
}

fn check(precondition: &Precondition, revision: Option<Offset>) -> Result<(), AppendRejection> {
    let holds = match precondition {
        Precondition::None => true,
        Precondition::Present => revision.is_some(),
        Precondition::Absent => revision.is_none(),
        Precondition::OneOf(revisions) => revision.is_some_and(|it| revisions.contains(&it)),
        Precondition::NoneOf(revisions) => revision.is_none_or(|it| !revisions.contains(&it)),
    };
    if holds { Ok(()) } else { Err(AppendRejection::Precondition(revision)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Epoch;
    use crate::wire::json::Json;

    const BYTES_MAX: usize = 64;

    fn identity() -> LogIdentity {
        let kind = LogKind::collection("order").unwrap();
        LogIdentity::new("orders".to_owned(), Epoch::from_bits(1), kind)
    }

    fn state(document: &str) -> Resource {
        Resource { revision: Offset(5), document: Bytes::copy_from_slice(document.as_bytes()) }
    }

    fn id() -> ResourceId {
        ResourceId::new("7").unwrap()
    }

    fn json(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    fn event(text: &str, merge: bool) -> Write {
        let kind = EventType::new("order-shipped").unwrap();
        Write::event(&identity(), id(), kind, &json(text), merge).unwrap()
    }

    fn decide(current: Option<&Resource>, write: &Write) -> Result<Effect, AppendRejection> {
        apply(&identity(), current, write, BYTES_MAX)
    }

    #[test]
    fn each_change_makes_its_event_and_state() {
        let here = state(r#"{"id":"7","a":1,"b":2}"#);
        let document = json(r#"{"id":"7","c":3}"#);
        let create = Write::create(&identity(), id(), &document).unwrap();
        let put = Write::put(&identity(), id(), &document).unwrap();
        let patch = Write::patch(&identity(), id(), &json(r#"{"a":null,"b":9}"#)).unwrap();
        let set = |text: &'static str| ResourceChange::Set(Bytes::from_static(text.as_bytes()));
        let whole = r#"{"orderId":"7","c":3}"#;
        let both = r#"{"id":"7","a":1,"b":2,"d":4}"#;
        let d = r#"{"orderId":"7","d":4}"#;
        let cases = [
            (None, create, "order-created", whole, true, set(r#"{"id":"7","c":3}"#), true),
            (None, put.clone(), "order-created", whole, true, set(r#"{"id":"7","c":3}"#), true),
            (Some(&here), put, "order-updated", whole, true, set(r#"{"id":"7","c":3}"#), false),
            (
                Some(&here),
                patch,
                "order-updated",
                r#"{"orderId":"7","b":9}"#,
                true,
                set(r#"{"id":"7","b":9}"#),
                false,
            ),
            (
                Some(&here),
                Write::delete(id()),
                "order-deleted",
                r#"{"orderId":"7"}"#,
                true,
                ResourceChange::Remove,
                false,
            ),
            (Some(&here), event(r#"{"d":4}"#, true), "order-shipped", d, true, set(both), false),
            (
                Some(&here),
                event(r#"{"d":4}"#, false),
                "order-shipped",
                d,
                false,
                ResourceChange::Keep,
                false,
            ),
        ];
        for (current, write, kind, data, merge, next, created) in cases {
            let kind = EventType::new(kind).unwrap();
            let data = Bytes::from_static(data.as_bytes());
            let expected = Effect { kind, data, merge, next, created };
            assert_eq!(decide(current, &write), Ok(expected), "{write:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let here = state(r#"{"id":"7"}"#);
        let create = Write::create(&identity(), id(), &json("{}")).unwrap();
        assert_eq!(decide(Some(&here), &create), Err(AppendRejection::Exists));
        for write in [Write::delete(id()), event("{}", true), event("{}", false)] {
            assert_eq!(decide(None, &write), Err(AppendRejection::NotFound));
            let write = write.with_precondition(Precondition::Present);
            assert_eq!(decide(None, &write), Err(AppendRejection::NotFound));
        }
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(BYTES_MAX));
        assert_eq!(decide(Some(&here), &event(&large, true)), Err(AppendRejection::TooLarge));
        assert!(decide(Some(&here), &event(&large, false)).is_ok());
    }

    #[test]
    fn preconditions_are_those_of_rfc_9110() {
        let here = state(r#"{"id":"7"}"#);
        let put = Write::put(&identity(), id(), &json("{}")).unwrap();
        let (mine, other) = (vec![Offset(5)], vec![Offset(4), Offset(6)]);
        let cases = [
            (Precondition::None, true, true),
            (Precondition::Present, true, false),
            (Precondition::Absent, false, true),
            (Precondition::OneOf(mine.clone()), true, false),
            (Precondition::OneOf(other.clone()), false, false),
            (Precondition::NoneOf(mine), false, true),
            (Precondition::NoneOf(other), true, true),
        ];
        for (precondition, with, without) in cases {
            let write = put.clone().with_precondition(precondition.clone());
            let refused = |revision| Err(AppendRejection::Precondition(revision));
            let (a, b) = (decide(Some(&here), &write), decide(None, &write));
            assert_eq!(a.is_ok(), with, "{precondition:?}");
            assert!(with || a == refused(Some(Offset(5))), "{precondition:?}");
            assert_eq!(b.is_ok(), without, "{precondition:?}");
            assert!(without || b == refused(None), "{precondition:?}");
        }
    }
}
