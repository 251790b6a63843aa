//! One resource: read, created, replaced, patched, deleted.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{HeaderMap, Response};

use crate::api::answer::{body::Body, problem, response};
use crate::api::catalog::Collection;
use crate::api::context::RequestContext;
use crate::api::handlers::{
    batch,
    write::{append, creation, parse, post, read},
};
use crate::api::request::{
    condition::{self, ConditionResult},
    negotiate,
    query::Query,
};
use crate::api::state::Api;
use crate::event::ResourceId;
use crate::log::{AppendOutcome, Log, Write};
use crate::wire::problem::Problem;

/// JSON as every body is sent.
const JSON: &str = "application/json";
/// A batch.
const NDJSON: &str = "application/x-ndjson";
/// RFC 7396.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// `GET /{c}/{id}`, asked at `begun`.
///
/// # Errors
/// 404 where there is none, 412 by `If-Match`, 406, 500.
///
/// # Cancel safety
/// Safe.
pub async fn get(
    api: &Arc<Api>,
    begun: Instant,
    headers: &HeaderMap,
    query: Query,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    query.finish()?;
    negotiate::accept(headers, &negotiate::RESOURCE)?;
    let (store, log) = (api.engine.store(), collection.log.id());
    let state = if let Some(read) = api.inline.run(begun, || store.resource(log, &id)) {
        problem::joined(read)?.map_err(problem::store)?
    } else {
        let state = collection.log.resource(&id).await;
        state.map_err(|error| problem::unavailable(&error))?
    };
    let state = state.ok_or_else(|| problem::not_found("there is no such resource"))?;
    let origin = collection.log.origin();
    let mut response = match condition::read(headers, origin.epoch, state.revision)? {
        ConditionResult::Send => response::json(200, Body::Full(state.document)),
        ConditionResult::Unchanged => response::empty(304),
        ConditionResult::Failed => {
            return Err(problem::precondition_failed(Some(origin.id(state.revision))));
        }
    };
    response::set_etag(&mut response, origin.id(state.revision));
    Ok(response)
}

/// `POST /{c}`: one resource, or a batch of them.
///
/// # Errors
/// The statuses of `docs/protocol.md#paths`; then nothing was written.
///
/// # Cancel safety
/// Not safe: a write that was queued is committed, unanswered.
pub async fn create(
    api: &Arc<Api>,
    ask: &mut RequestContext,
    body: Incoming,
    collection: &Collection,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut ask.query).finish()?;
    let log = &collection.log;
    if negotiate::content_type(&ask.head.headers, &[JSON, NDJSON])? == NDJSON {
        return batch::batch(api, ask, body, log).await;
    }
    let path = format!("/{}", log.origin().name);
    let written =
        post(api, ask, body, log, &path, "", |origin, body| creation(origin, &parse(body)?))
            .await?;
    let mut response = answer(log, 201, &written);
    if let Some(subject) = &written.subject {
        response::set_location(&mut response, &format!("{}{path}/{subject}", ask.prefix));
    }
    Ok(response)
}

/// `PUT /{c}/{id}`.
///
/// # Errors
/// The statuses of `docs/protocol.md#paths`; then nothing was written.
///
/// # Cancel safety
/// Not safe: a write that was queued is committed, unanswered.
pub async fn put(
    api: &Arc<Api>,
    ask: &mut RequestContext,
    body: Incoming,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut ask.query).finish()?;
    negotiate::content_type(&ask.head.headers, &[JSON])?;
    let log = &collection.log;
    let condition = condition::precondition(&ask.head.headers, log.origin().epoch)?;
    let body = read(api, body).await?;
    let path = format!("{}/{}/{id}", ask.prefix, log.origin().name);
    let write = Write::put(log.origin(), id, &parse(&body)?).map_err(|b| problem::bad_write(&b))?;
    let written = append(api, ask, log, write.with_precondition(condition)).await?;
    let mut response = answer(log, if written.created { 201 } else { 200 }, &written);
    if written.created {
        response::set_location(&mut response, &path);
    }
    Ok(response)
}

/// `PATCH /{c}/{id}` (RFC 7396).
///
/// # Errors
/// The statuses of `docs/protocol.md#paths`; then nothing was written.
///
/// # Cancel safety
/// Not safe: a write that was queued is committed, unanswered.
pub async fn patch(
    api: &Arc<Api>,
    ask: &mut RequestContext,
    body: Incoming,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut ask.query).finish()?;
    negotiate::content_type(&ask.head.headers, &[MERGE_PATCH, JSON])?;
    let log = &collection.log;
    let path = format!("/{}/{id}", log.origin().name);
    let written = post(api, ask, body, log, &path, "", |origin, body| {
        Write::patch(origin, id, &parse(body)?).map_err(|bad| problem::bad_write(&bad))
    })
    .await?;
    Ok(answer(log, 200, &written))
}

/// `DELETE /{c}/{id}`.
///
/// # Errors
/// 404, 412, and those of the log.
///
/// # Cancel safety
/// Not safe: a write that was queued is committed, unanswered.
pub async fn delete(
    api: &Arc<Api>,
    ask: &mut RequestContext,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    std::mem::take(&mut ask.query).finish()?;
    let log = &collection.log;
    let condition = condition::precondition(&ask.head.headers, log.origin().epoch)?;
    append(api, ask, log, Write::delete(id).with_precondition(condition)).await?;
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
