//! The handlers of one resource: read, create, replace, patch and delete.

use std::sync::Arc;
use std::time::Instant;

use hyper::Response;

use crate::api::answer::{body::Body, problem, response};
use crate::api::authorize::Permit;
use crate::api::catalog::Collection;
use crate::api::context::RequestContext;
use crate::api::handlers::{
    batch,
    write::{JSON, NDJSON, WriteRequest, append, creation, read},
};
use crate::api::request::{
    condition::{self, ConditionResult},
    negotiate,
};
use crate::api::state::Api;
use crate::event::ResourceId;
use crate::log::{AppendOutcome, Log, Write};
use crate::wire::json::Json;
use crate::wire::problem::Problem;

/// The media type of a merge patch (RFC 7396).
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Handles `GET /{c}/{id}`: returns one resource. `begun` is the time at which the
/// request began.
///
/// # Errors
/// 404 if the resource does not exist, 412 if `If-Match` is false, 406 if the client
/// does not accept JSON, 500 if the store cannot be read.
///
/// # Cancel safety
/// Safe.
pub async fn get(
    api: &Arc<Api>,
    begun: Instant,
    context: &RequestContext,
    _permit: Permit,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    context.query.finish()?;
    let head = &context.head;
    negotiate::accept(&head.headers, &negotiate::RESOURCE)?;
    let (store, log) = (api.engine.store(), collection.log.id());
    let resource = if let Some(read) = api.inline.run(begun, || store.resource(log, &id)) {
        problem::joined(read)?.map_err(problem::store)?
    } else {
        let resource = collection.log.resource(&id).await;
        resource.map_err(|error| problem::unavailable(&error))?
    };
    let resource = resource.ok_or_else(|| problem::not_found("the resource does not exist"))?;
    let identity = collection.log.identity();
    let mut response = match condition::read(&head.headers, identity.epoch, resource.revision)? {
        ConditionResult::Send => response::json(200, Body::Full(resource.document)),
        ConditionResult::Unchanged => response::empty(304),
        ConditionResult::Failed => {
            return Err(problem::precondition_failed(Some(identity.id(resource.revision))));
        }
    };
    response::set_etag(&mut response, identity.id(resource.revision));
    Ok(response)
}

/// Handles `POST /{c}`: creates one resource, or a batch of resources.
///
/// # Errors
/// The error statuses in `docs/protocol.md#paths`. After a 4xx status, nothing was
/// written.
///
/// # Cancel safety
/// Not safe: if the future is dropped, a write that is already queued is still
/// committed, and the client gets no response.
pub async fn create(
    request: WriteRequest<'_>,
    collection: &Collection,
) -> Result<Response<Body>, Problem> {
    let (log, prefix) = (&collection.log, request.context.prefix);
    if request.media_type(&[JSON, NDJSON])? == NDJSON {
        return batch::batch(request, log).await;
    }
    let path = format!("/{}", log.identity().name);
    let written = request.append(log, (&path, ""), creation).await?;
    let mut response = respond(log, 201, &written);
    if let Some(subject) = &written.subject {
        response::set_location(&mut response, &format!("{prefix}{path}/{subject}"));
    }
    Ok(response)
}

/// Handles `PUT /{c}/{id}`: creates or replaces a resource.
///
/// # Errors
/// The error statuses in `docs/protocol.md#paths`. After a 4xx status, nothing was
/// written.
///
/// # Cancel safety
/// Not safe: if the future is dropped, a write that is already queued is still
/// committed, and the client gets no response.
pub async fn put(
    request: WriteRequest<'_>,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    request.media_type(&[JSON])?;
    let WriteRequest { api, context, permit, body } = request;
    let log = &collection.log;
    let condition = condition::precondition(&context.head.headers, log.identity().epoch)?;
    let body = read(api, body).await?;
    let path = format!("{}/{}/{id}", context.prefix, log.identity().name);
    let write = Write::put(log.identity(), id, &Json::parse(&body)?);
    let write = write.map_err(|bad| problem::bad_write(&bad))?.with_precondition(condition);
    let written = append(api, &context.caller, &permit, log, write).await?;
    let mut response = respond(log, if written.created { 201 } else { 200 }, &written);
    if written.created {
        response::set_location(&mut response, &path);
    }
    Ok(response)
}

/// Handles `PATCH /{c}/{id}`: changes a resource with a JSON merge patch (RFC 7396).
///
/// # Errors
/// The error statuses in `docs/protocol.md#paths`. After a 4xx status, nothing was
/// written.
///
/// # Cancel safety
/// Not safe: if the future is dropped, a write that is already queued is still
/// committed, and the client gets no response.
pub async fn patch(
    request: WriteRequest<'_>,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    request.media_type(&[MERGE_PATCH, JSON])?;
    let log = &collection.log;
    let path = format!("/{}/{id}", log.identity().name);
    let written = request.append(log, (&path, ""), |identity, body| {
        Write::patch(identity, id, body).map_err(|bad| problem::bad_write(&bad))
    });
    Ok(respond(log, 200, &written.await?))
}

/// Handles `DELETE /{c}/{id}`: deletes a resource.
///
/// # Errors
/// 404 if the resource does not exist, 412 if a precondition is false, and the
/// problem for a log that cannot be written.
///
/// # Cancel safety
/// Not safe: if the future is dropped, a write that is already queued is still
/// committed, and the client gets no response.
pub async fn delete(
    request: WriteRequest<'_>,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    let WriteRequest { api, context, permit, .. } = request;
    context.query.finish()?;
    let log = &collection.log;
    let condition = condition::precondition(&context.head.headers, log.identity().epoch)?;
    append(api, &context.caller, &permit, log, Write::delete(id).with_precondition(condition))
        .await?;
    Ok(response::empty(204))
}

fn respond(log: &Log, status: u16, written: &AppendOutcome) -> Response<Body> {
    let document = written.document.clone().unwrap_or_default();
    let mut response = response::json(status, Body::Full(document));
    response::set_etag(&mut response, log.identity().id(written.offset));
    if written.replayed {
        response::set_replayed(&mut response);
    }
    response
}
