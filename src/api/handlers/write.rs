//! The common part of the handlers that write: parses the write in a request body,
//! and appends the write to the log.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use uuid::Uuid;

use crate::api::answer::problem;
use crate::api::authorize::Permit;
use crate::api::context::{Caller, RequestContext};
use crate::api::request::{body_reader::BodyReader, condition, idempotency, negotiate};
use crate::api::state::{Api, BodyWait};
use crate::event::{EventType, InvalidName, ResourceId};
use crate::log::{AppendOutcome, BadWrite, Log, Write};
use crate::wire::LogIdentity;
use crate::wire::json::{self, Json};
use crate::wire::problem::Problem;

/// The media type of a JSON document.
pub const JSON: &str = "application/json";
/// The media type of a batch.
pub const NDJSON: &str = "application/x-ndjson";

/// A request that writes to a log.
pub struct WriteRequest<'a> {
    /// The API with the settings and the services for this request.
    pub api: &'a Arc<Api>,
    /// The request without its body.
    pub context: &'a mut RequestContext,
    /// The permit that authorization returned for this write.
    pub permit: Permit,
    /// The body of the request.
    pub body: Incoming,
}

impl WriteRequest<'_> {
    /// Checks that the handler has read all query parameters. Returns the media type
    /// of the request body, which is one of `accepted`.
    ///
    /// # Errors
    /// 400 with a problem that names the first parameter that was not read, 415 for
    /// another media type.
    pub fn media_type(&self, accepted: &[&'static str]) -> Result<&'static str, Problem> {
        self.context.query.finish()?;
        negotiate::content_type(&self.context.head.headers, accepted)
    }

    /// Appends the write of a `POST` or `PATCH` request to `log`, with its
    /// precondition and its `Idempotency-Key`. `path` is the path of the request
    /// without the prefix `/v1`. `meaning` is the part of the query that changes the
    /// effect of the write. `write` creates the write from the body.
    ///
    /// # Errors
    /// 400, 408, 413, 409 if a request with the same key is in progress, and the
    /// errors of [`append`].
    ///
    /// # Cancel safety
    /// Not safe: if the future is dropped, a write that is already queued is still
    /// committed, and the client gets no response.
    pub async fn append(
        self,
        log: &Arc<Log>,
        (path, meaning): (&str, &str),
        write: impl FnOnce(&LogIdentity, &Json) -> Result<Write, Problem>,
    ) -> Result<AppendOutcome, Problem> {
        let WriteRequest { api, context, permit, body } = self;
        let headers = &context.head.headers;
        let condition = condition::precondition(headers, log.identity().epoch)?;
        let key = idempotency::header(headers)?;
        let body = read(api, body).await?;
        let mut write = write(log.identity(), &Json::parse(&body)?)?.with_precondition(condition);
        let _guard = match key {
            None => None,
            Some(key) => {
                let scope = [context.caller.principal.scope(), context.head.method.as_str(), path];
                let digest = idempotency::digest(scope, key, meaning, &body);
                let guard = api.keys.hold(&digest)?;
                write = write.with_idempotency_key(digest);
                Some(guard)
            }
        };
        append(api, &context.caller, &permit, log, write).await
    }
}

/// Appends one write to `log`, and returns its outcome after the commit.
///
/// # Errors
/// 429 if the client exceeds its publish rate, the problem for a rejected write, or
/// the problem for a log that cannot be written.
///
/// # Cancel safety
/// Not safe: if the future is dropped, a write that is already queued is still
/// committed, and the client gets no response.
pub async fn append(
    api: &Arc<Api>,
    caller: &Caller,
    _permit: &Permit,
    log: &Arc<Log>,
    write: Write,
) -> Result<AppendOutcome, Problem> {
    api.may_publish(caller.client)?;
    let results = api.engine.append(log, vec![write]).await;
    let result = results.map_err(|error| problem::unavailable(&error))?.pop();
    result.expect("an append returns one result per write").map_err(|rejection| {
        problem::rejected(&rejection, log.identity(), api.settings.body_bytes_max)
    })
}

/// Reads the whole body of a request.
///
/// # Errors
/// 408, 413, and 400 if the connection ends before the end of the body.
///
/// # Cancel safety
/// Not safe: if the future is dropped, the bytes that were already read are lost.
pub async fn read(api: &Api, body: Incoming) -> Result<Bytes, Problem> {
    let _wait = BodyWait::new(api);
    BodyReader::new(&api.settings, &api.metrics, body).whole(api.settings.body_bytes_max).await
}

/// Returns the write that creates a resource from a document. A document without `id`
/// gets a UUID (version 7).
///
/// # Errors
/// 400 for a document that is not an object, and for an invalid id.
pub fn creation(identity: &LogIdentity, document: &Json) -> Result<Write, Problem> {
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
    Write::create(identity, subject, document).map_err(|bad| problem::bad_write(&bad))
}

/// Returns the write that publishes the event in a request body.
///
/// # Errors
/// 400 for a body that is not an event.
pub fn publication(body: &Json) -> Result<Write, Problem> {
    let members = "type, data and subject";
    let Posted { event_type, data, subject } = Posted::read(body, members)?;
    Ok(Write::publish(subject, event_type, data))
}

/// An event in the body of a `POST` request.
pub struct Posted {
    /// The type of the event.
    pub event_type: EventType,
    /// The data of the event.
    pub data: Json,
    /// The resource that the event is about.
    pub subject: Option<ResourceId>,
}

impl Posted {
    /// Parses the event in the body of a `POST` request. `members` lists the members
    /// that the path allows, for the text of the error.
    ///
    /// # Errors
    /// 400 for a body that is not an event.
    pub fn read(body: &Json, members: &str) -> Result<Posted, Problem> {
        if !body.is_object() {
            return Err(problem::bad_body(
                "an event must be an object with the members \"type\" and \"data\"",
            ));
        }
        let bytes = body.clone().into_bytes();
        let (mut event_type, mut data, mut subject) = (None, None, None);
        for (key, value) in json::members(&bytes) {
            match json::string(key).unwrap_or_default().as_ref() {
                "type" => event_type = Some(named("type", value, EventType::new)?),
                "subject" => subject = Some(named("subject", value, ResourceId::new)?),
                "data" => data = Some(Json::from_trusted(bytes.slice_ref(value))),
                other => {
                    return Err(problem::bad_body(format!(
                        "{other:?} is not a member of an event; an event can have the members {members}"
                    )));
                }
            }
        }
        let missing = |name| problem::bad_body(format!("the member {name:?} is missing"));
        Ok(Posted {
            event_type: event_type.ok_or_else(|| missing("type"))?,
            data: data.ok_or_else(|| missing("data"))?,
            subject,
        })
    }
}

fn named<T>(
    member: &str,
    value: &[u8],
    parse: impl Fn(&str) -> Result<T, InvalidName>,
) -> Result<T, Problem> {
    let text = json::string(value)
        .ok_or_else(|| problem::bad_body(format!("the member {member:?} must be a string")))?;
    parse(&text).map_err(|why| problem::bad_name(&format!("the member {member:?}"), why))
}
