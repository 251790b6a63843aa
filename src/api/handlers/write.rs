//! Writes: made from the body of a request, and appended to a log.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use uuid::Uuid;

use crate::api::answer::problem;
use crate::api::authorize::Permit;
use crate::api::context::{Caller, RequestContext};
use crate::api::request::{body_reader::BodyReader, condition, idempotency};
use crate::api::state::Api;
use crate::event::{EventType, ResourceId};
use crate::log::{AppendOutcome, BadWrite, Log, Write};
use crate::wire::LogIdentity;
use crate::wire::json::{self, Json};
use crate::wire::problem::Problem;

/// Appends the write of a `POST` or `PATCH` with its precondition and its
/// `Idempotency-Key`. `path` is the path of the request without its prefix. `meaning` is
/// the part of the query that determines the write.
///
/// # Errors
/// 400, 408, 413, 409 for a key in progress, and the errors of [`append`].
///
/// # Cancel safety
/// Not safe: a queued write is committed, and the client gets no response.
pub async fn post(
    api: &Arc<Api>,
    context: &RequestContext,
    permit: Permit,
    body: Incoming,
    log: &Arc<Log>,
    (path, meaning): (&str, &str),
    write: impl FnOnce(&LogIdentity, &Bytes) -> Result<Write, Problem>,
) -> Result<AppendOutcome, Problem> {
    let condition = condition::precondition(&context.head.headers, log.origin().epoch)?;
    let key = idempotency::header(&context.head.headers)?;
    let body = read(api, body).await?;
    let mut write = write(log.origin(), &body)?.with_precondition(condition);
    let _held = match key {
        None => None,
        Some(key) => {
            let scope = [context.caller.principal.scope(), context.head.method.as_str(), path];
            let digest = idempotency::digest(scope, key, meaning, &body);
            let held = api.keys.hold(&digest)?;
            write = write.with_idempotency_key(digest);
            Some(held)
        }
    };
    append(api, &context.caller, &permit, log, write).await
}

/// Appends one write.
///
/// # Errors
/// 429, the rejection of the write, or the error of the log.
///
/// # Cancel safety
/// Not safe: a queued write is committed, and the client gets no response.
pub async fn append(
    api: &Arc<Api>,
    caller: &Caller,
    _permit: &Permit,
    log: &Arc<Log>,
    write: Write,
) -> Result<AppendOutcome, Problem> {
    api.may_publish(caller.client)?;
    let answers = api.engine.append(log, vec![write]).await;
    let answer = answers.map_err(|error| problem::unavailable(&error))?.pop();
    answer
        .expect("an append returns one result per write")
        .map_err(|refusal| problem::refused(&refusal, log.origin()))
}

/// Reads a whole body.
///
/// # Errors
/// 408, 413, and 400 for a body that breaks off.
///
/// # Cancel safety
/// Not safe: the bytes that were read are lost.
pub async fn read(api: &Api, body: Incoming) -> Result<Bytes, Problem> {
    BodyReader::new(&api.settings, &api.metrics, body).whole(api.settings.body_bytes_max).await
}

/// Parses a body as JSON.
///
/// # Errors
/// 400 with the position of the first wrong byte.
pub fn parse(body: &[u8]) -> Result<Json, Problem> {
    Ok(Json::parse(body)?)
}

/// Returns the write that creates a resource from a document. A document without `id`
/// gets a UUID (version 7).
///
/// # Errors
/// 400 for a document that is not an object, and for an invalid id.
pub fn creation(origin: &LogIdentity, document: &Json) -> Result<Write, Problem> {
    if !document.is_object() {
        return Err(problem::bad_write(&BadWrite::NotAnObject));
    }
    let subject = match json::member(document.as_bytes(), "id") {
        None => ResourceId::new(&Uuid::now_v7().to_string()).expect("a UUID is a resource id"),
        Some(value) => {
            let text = json::string(value)
                .ok_or_else(|| problem::bad_body("the member \"id\" must be a string"))?;
            ResourceId::new(&text).map_err(|why| problem::bad_name("the member \"id\"", why))?
        }
    };
    Write::create(origin, subject, document).map_err(|bad| problem::bad_write(&bad))
}

/// Returns the write that publishes a posted event.
///
/// # Errors
/// 400 for a body that is not an event.
pub fn publication(body: &Json) -> Result<Write, Problem> {
    let Posted { kind, data, subject } = Posted::read(body)?;
    Ok(Write::publish(subject, kind, data))
}

/// A posted event.
pub struct Posted {
    /// The event type.
    pub kind: EventType,
    /// The data.
    pub data: Json,
    /// The resource that the event is about.
    pub subject: Option<ResourceId>,
}

impl Posted {
    /// Reads a posted event.
    ///
    /// # Errors
    /// 400 for a body that is not an event.
    pub fn read(body: &Json) -> Result<Posted, Problem> {
        if !body.is_object() {
            return Err(problem::bad_body(
                "an event must be an object with the members \"type\" and \"data\"",
            ));
        }
        let bytes = body.clone().into_bytes();
        let (mut kind, mut data, mut subject) = (None, None, None);
        for (key, value) in json::members(&bytes) {
            match json::string(key).unwrap_or_default().as_ref() {
                "type" => kind = Some(named("type", value, EventType::new)?),
                "subject" => subject = Some(named("subject", value, ResourceId::new)?),
                "data" => data = Some(Json::from_trusted(bytes.slice_ref(value))),
                other => {
                    return Err(problem::bad_body(format!(
                        "an event has no member {other:?}; it has type, subject and data"
                    )));
                }
            }
        }
        let missing = |name| problem::bad_body(format!("the member {name:?} is missing"));
        Ok(Posted {
            kind: kind.ok_or_else(|| missing("type"))?,
            data: data.ok_or_else(|| missing("data"))?,
            subject,
        })
    }
}

fn named<T>(
    member: &str,
    value: &[u8],
    name: impl Fn(&str) -> Result<T, crate::event::InvalidName>,
) -> Result<T, Problem> {
    let text = json::string(value)
        .ok_or_else(|| problem::bad_body(format!("the member {member:?} must be a string")))?;
    name(&text).map_err(|why| problem::bad_name(&format!("the member {member:?}"), why))
}
