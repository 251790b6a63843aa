//! The handlers of one resource: read, create, replace, patch and delete.

use std::sync::Arc;
use std::time::Instant;

use hyper::Response;
use hyper::body::Incoming;

use crate::api::answer::{body::Body, problem, response};
use crate::api::authorize::Permit;
use crate::api::catalog::Collection;
use crate::api::context::RequestContext;
use crate::api::handlers::{
    batch,
    write::{append, creation, parse, post, read},
};
use crate::api::request::{
    condition::{self, ConditionResult},
    negotiate,
};
use crate::api::state::Api;
use crate::event::ResourceId;
use crate::log::{AppendOutcome, Log, Write};
use crate::wire::problem::Problem;

/// The media type of a document.
const JSON: &str = "application/json";
/// The media type of a batch.
const NDJSON: &str = "application/x-ndjson";
/// The media type of a merge patch (RFC 7396).
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Handles `GET /{c}/{id}`. `begun` is the time at which the request began.
///
/// # Errors
/// 404 if the resource does not exist, 412 by `If-Match`, 406, 500.
///
/// # Cancel safety
/// Safe.
pub async fn get(
    api: &Arc<Api>,
    begun: Instant,
    context: &mut RequestContext,
    _permit: Permit,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut context.query).finish()?;
    let head = &context.head;
    negotiate::accept(&head.headers, &negotiate::RESOURCE)?;
    let (store, log) = (api.engine.store(), collection.log.id());
    let state = if let Some(read) = api.inline.run(begun, || store.resource(log, &id)) {
        problem::joined(read)?.map_err(problem::store)?
    } else {
        let state = collection.log.resource(&id).await;
        state.map_err(|error| problem::unavailable(&error))?
    };
    let state = state.ok_or_else(|| problem::not_found("the resource does not exist"))?;
    let origin = collection.log.origin();
    let mut response = match condition::read(&head.headers, origin.epoch, state.revision)? {
        ConditionResult::Send => response::json(200, Body::Full(state.document)),
        ConditionResult::Unchanged => response::empty(304),
        ConditionResult::Failed => {
            return Err(problem::precondition_failed(Some(origin.id(state.revision))));
        }
    };
    response::set_etag(&mut response, origin.id(state.revision));
    Ok(response)
}

/// Handles `POST /{c}`: creates one resource, or a batch of resources.
///
/// # Errors
/// The statuses of `docs/protocol.md#paths`. After an error nothing was written.
///
/// # Cancel safety
/// Not safe: a queued write is committed, and the client gets no response.
pub async fn create(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    body: Incoming,
    collection: &Collection,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut context.query).finish()?;
    let log = &collection.log;
    if negotiate::content_type(&context.head.headers, &[JSON, NDJSON])? == NDJSON {
        return batch::batch(api, context, permit, body, log).await;
    }
    let path = format!("/{}", log.origin().name);
    let written = post(api, context, permit, body, log, (&path, ""), |origin, body| {
        creation(origin, &parse(body)?)
    })
    .await?;
    let mut response = answer(log, 201, &written);
    if let Some(subject) = &written.subject {
        response::set_location(&mut response, &format!("{}{path}/{subject}", context.prefix));
    }
    Ok(response)
}

/// Handles `PUT /{c}/{id}`.
///
/// # Errors
/// The statuses of `docs/protocol.md#paths`. After an error nothing was written.
///
/// # Cancel safety
/// Not safe: a queued write is committed, and the client gets no response.
pub async fn put(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    body: Incoming,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut context.query).finish()?;
    negotiate::content_type(&context.head.headers, &[JSON])?;
    let log = &collection.log;
    let condition = condition::precondition(&context.head.headers, log.origin().epoch)?;
    let body = read(api, body).await?;
    let path = format!("{}/{}/{id}", context.prefix, log.origin().name);
    let write = Write::put(log.origin(), id, &parse(&body)?).map_err(|b| problem::bad_write(&b))?;
    let written =
        append(api, &context.caller, &permit, log, write.with_precondition(condition)).await?;
    let mut response = answer(log, if written.created { 201 } else { 200 }, &written);
    if written.created {
        response::set_location(&mut response, &path);
    }
    Ok(response)
}

/// Handles `PATCH /{c}/{id}` (RFC 7396).
///
/// # Errors
/// The statuses of `docs/protocol.md#paths`. After an error nothing was written.
///
/// # Cancel safety
/// Not safe: a queued write is committed, and the client gets no response.
pub async fn patch(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    body: Incoming,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut context.query).finish()?;
    negotiate::content_type(&context.head.headers, &[MERGE_PATCH, JSON])?;
    let log = &collection.log;
    let path = format!("/{}/{id}", log.origin().name);
    let written = post(api, context, permit, body, log, (&path, ""), |origin, body| {
        Write::patch(origin, id, &parse(body)?).map_err(|bad| problem::bad_write(&bad))
    })
    .await?;
    Ok(answer(log, 200, &written))
}

/// Handles `DELETE /{c}/{id}`.
///
/// # Errors
/// 404, 412, and the errors of the log.
///
/// # Cancel safety
/// Not safe: a queued write is committed, and the client gets no response.
pub async fn delete(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut context.query).finish()?;
    let log = &collection.log;
    let condition = condition::precondition(&context.head.headers, log.origin().epoch)?;
    append(api, &context.caller, &permit, log, Write::delete(id).with_precondition(condition))
        .await?;
    Ok(response::empty(204))
}

fn answer(log: &Log, status: u16, written: &AppendOutcome) -> Response<Body> {
    let document = written.document.clone().unwrap_or_default();
    let mut response = response::json(status, Body::Full(document));
    response::set_etag(&mut response, log.origin().id(written.offset));
    if written.replayed {
        response::set_replayed(&mut response);
    }
    response
}
