//! The handlers of events: publish one event, and read events as a stream or a page.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{IF_MATCH, IF_NONE_MATCH};

use crate::api::answer::{body::Body, problem, response};
use crate::api::authorize::Permit;
use crate::api::catalog::{Collection, Topic};
use crate::api::context::RequestContext;
use crate::api::handlers::{
    batch, event_page,
    stream::{self, StreamFormat, StreamTarget},
    write::{JSON, NDJSON, Posted, WriteRequest, publication},
};
use crate::api::request::{
    negotiate,
    start::{StreamParams, take_overflow, take_types},
};
use crate::api::state::Api;
use crate::event::{EventType, ResourceId};
use crate::hub::Overflow;
use crate::log::{AppendOutcome, Log, Write};
use crate::wire::Filter;
use crate::wire::problem::Problem;

/// Handles `POST /{c}/{id}/events`: publishes one event about a resource.
///
/// # Errors
/// The error statuses in `docs/protocol.md#paths`. After a 4xx status, nothing was
/// written.
///
/// # Cancel safety
/// Not safe: if the future is dropped, a write that is already queued is still
/// committed, and the client gets no response.
pub async fn post_to_resource(
    request: WriteRequest<'_>,
    collection: &Collection,
    id: ResourceId,
) -> Result<Response<Body>, Problem> {
    let merge = request.context.query.take_flag("merge")?.unwrap_or(true);
    request.media_type(&[JSON])?;
    let log = &collection.log;
    let path = format!("/{}/{id}/events", log.identity().name);
    let meaning = if merge { "" } else { "merge=false" };
    let written = request.append(log, (&path, meaning), |identity, body| {
        let Posted { event_type, data, subject } = Posted::read(body, "type and data")?;
        if subject.is_some() {
            return Err(problem::bad_body(
                "omit the member \"subject\": the path names the resource",
            ));
        }
        Write::event(identity, id, event_type, &data, merge).map_err(|bad| problem::bad_write(&bad))
    });
    Ok(respond(log, &written.await?))
}

/// Handles `POST /events/{topic}`: publishes one event, or a batch of events.
///
/// # Errors
/// The error statuses in `docs/protocol.md#paths`. After a 4xx status, nothing was
/// written.
///
/// # Cancel safety
/// Not safe: if the future is dropped, a write that is already queued is still
/// committed, and the client gets no response.
pub async fn post_to_topic(
    request: WriteRequest<'_>,
    topic: &Topic,
) -> Result<Response<Body>, Problem> {
    if request.media_type(&[JSON, NDJSON])? == NDJSON {
        return batch::batch(request, &topic.log).await;
    }
    let headers = &request.context.head.headers;
    if headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH) {
        return Err(problem::header("a topic has no resources; omit If-Match and If-None-Match"));
    }
    let path = format!("/events/{}", topic.log.identity().name);
    let written = request.append(&topic.log, (&path, ""), |_, body| publication(body)).await?;
    Ok(respond(&topic.log, &written))
}

fn respond(log: &Log, written: &AppendOutcome) -> Response<Body> {
    let body = format!("{{\"id\":\"{}\"}}", log.identity().id(written.offset));
    let mut response = response::json(201, Body::Full(Bytes::from(body)));
    if written.replayed {
        response::set_replayed(&mut response);
    }
    response
}

/// The events that the path of a request selects.
pub struct Events<'a> {
    /// The log that contains the events.
    pub log: &'a Arc<Log>,
    /// The topic or view in the path. `None` for a path of a collection.
    pub topic: Option<&'a Topic>,
    /// The resource in the path. `None` for the events of all resources.
    pub scope: Option<ResourceId>,
    /// The default overflow policy, which applies to a client that does not keep up.
    pub overflow: Overflow,
}

impl<'a> Events<'a> {
    /// Returns the events of a collection, or of one of its resources.
    pub fn of_collection(collection: &'a Collection, scope: Option<ResourceId>) -> Events<'a> {
        Events { log: &collection.log, topic: None, scope, overflow: collection.overflow }
    }

    /// Returns the events of a topic or a view.
    pub fn of_topic(topic: &'a Topic) -> Events<'a> {
        Events { log: &topic.log, topic: Some(topic), scope: None, overflow: topic.overflow }
    }

    /// Returns the stream that the request asks for: these events, limited by the
    /// event types and field filters in the query. Removes all parameters from the
    /// query.
    ///
    /// # Errors
    /// 400 with a problem that names the wrong parameter.
    pub fn target(self, api: &Api, context: &mut RequestContext) -> Result<StreamTarget, Problem> {
        let max = api.settings.batch_size_max;
        let params = StreamParams::take(&context.head.headers, &mut context.query, max)?;
        let view_types: &[EventType] = self.topic.map_or(&[], |topic| &topic.types);
        let mut types = take_types(&mut context.query, view_types)?;
        if types.is_empty() {
            types = view_types.to_vec();
        }
        let choices = &api.settings.overflow_choices;
        let overflow = take_overflow(&mut context.query, self.overflow, choices)?;
        let fields = std::mem::take(&mut context.query).into_fields()?;
        Ok(StreamTarget {
            log: Arc::clone(self.log),
            topic: self.topic.map(|topic| topic.name.clone()),
            scope: self.scope,
            filter: Filter::shared(types, fields),
            overflow,
            params,
        })
    }
}

/// Handles a `GET` request for events, and returns a stream or a page.
///
/// # Errors
/// 400 for a wrong parameter, 406, and the errors of the stream or page.
///
/// # Cancel safety
/// Safe.
pub async fn read(
    api: &Arc<Api>,
    context: &mut RequestContext,
    permit: Permit,
    events: Events<'_>,
) -> Result<Response<Body>, Problem> {
    let media_type = negotiate::accept(&context.head.headers, &negotiate::EVENTS)?;
    let Some(format) = StreamFormat::of(media_type) else {
        context.query.refuse(&["batchSize", "onGap", "overflow"])?;
        let page = event_page::PageParams::take(&mut context.query)?;
        let target = events.target(api, context)?;
        return event_page::page(permit, target, page).await;
    };
    let target = events.target(api, context)?;
    let start = target.resolve_start(false).await?;
    stream::open(api, context, permit, &target, format, &start)
}
