//! The router: finds the handler of each request and calls it.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::{Method, Request, Response, Version};
use tokio_util::either::Either;

use crate::api::answer::{body::Body, media_type::MediaType, problem, response};
use crate::api::authorize::{Permit, authorize};
use crate::api::context::{Caller, ConnectionContext, RequestContext};
use crate::api::handlers::{
    admin::{self, Admin},
    events::{self, Events},
    page, resource, session, snapshot,
    write::WriteRequest,
};
use crate::api::request::{head, negotiate, query::Query};
use crate::api::route::{self, Route, RouteError, RouteMatch};
use crate::api::state::{Api, InFlightGuard};
use crate::wire::problem::Problem;

/// The routes of a listener.
#[derive(Clone)]
pub enum Routes {
    /// The routes for clients: collections, topics and streams.
    Api,
    /// The routes for operators: metrics and health.
    Admin(Arc<Admin>),
}

/// Returns the response to one request on a listener with `routes`.
///
/// # Cancel safety
/// Not safe: if the future is dropped, a write that is already queued is still
/// committed, and the client gets no response.
pub fn handle(
    routes: &Routes,
    api: &Arc<Api>,
    request: Request<Incoming>,
    connection: ConnectionContext,
) -> impl Future<Output = Response<Body>> {
    match routes {
        Routes::Api => Either::Left(respond(api, request, connection)),
        // Boxed, so that the future of a client's request stays small.
        Routes::Admin(admin) => {
            Either::Right(Box::pin(admin::handle(admin, connection.peer, request)))
        }
    }
}

/// Returns the response to a request for one of the client routes ([`Routes::Api`]).
async fn respond(
    api: &Arc<Api>,
    request: Request<Incoming>,
    connection: ConnectionContext,
) -> Response<Body> {
    let _in_flight = InFlightGuard::new(api);
    let begun = Instant::now();
    let uri = request.uri().clone();
    let reads = is_read(request.method());
    let head = *request.method() == Method::HEAD;
    let version = request.version();
    let mut label = "unknown";
    let client = api.settings.proxies.client(request.headers(), connection.peer);
    let token = api.buckets.as_ref().map_or(Ok(()), |buckets| buckets.take(client.address));
    let result = match token.map(|()| find(api, &request, &mut label)) {
        Err(limited) => Ok(api.refuse_request(&request, limited)),
        Ok(Err(error)) => Err(error),
        Ok(Ok((RouteMatch { route, prefix }, query))) => {
            let (head, body) = request.into_parts();
            let caller = Caller::anonymous(client);
            let (action, target) = route.access(&head.method);
            let permit = authorize(&caller, action, target);
            let context = RequestContext { caller, connection, head, prefix, query };
            let response = match (permit, route) {
                (Err(problem), _) => Err(problem),
                // Most requests read one resource. The future for such a read is small. The
                // future of `dispatch` is large, so it is boxed.
                (Ok(permit), Route::Resource(collection, id)) if reads => {
                    resource::get(api, begun, &context, permit, &collection, id).await
                }
                (Ok(permit), route) => Box::pin(dispatch(api, route, context, body, permit)).await,
            };
            response.map_err(RouteError::Problem)
        }
    };
    let mut response = match result {
        Ok(response) => response,
        Err(RouteError::Problem(problem)) => response::problem(&problem, uri.path()),
        Err(RouteError::Method(allow)) => response::method_not_allowed(allow, uri.path()),
        Err(RouteError::Options(allow)) => {
            let mut response = response::empty(204);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            response
        }
    };
    if reads {
        response::set_vary(&mut response);
    }
    if api.is_draining() && version == Version::HTTP_11 && response.status() != 101 {
        // During a drain, the client must send its next request to another gateway.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    api.metrics.answered(label, response.status().as_u16(), begun.elapsed());
    if head { response::head_only(response) } else { response }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Returns the route and the query of a request. As soon as the route is known, sets
/// `label` to the label of the route in metrics.
fn find(
    api: &Api,
    request: &Request<Incoming>,
    label: &mut &'static str,
) -> Result<(RouteMatch, Query), RouteError> {
    head::check(request)?;
    if *request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Err(RouteError::Options("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    let protocol = request.extensions().get::<Protocol>();
    if protocol.is_some_and(|protocol| protocol.as_str() != "websocket") {
        // For an unknown `:protocol`, RFC 9220 §3 requires 501; RFC 8441 does not
        // name a status.
        return Err(problem::no_such_protocol().into());
    }
    let path = request.uri().path();
    let found = route::route(&api.catalog, request.method(), protocol.is_some(), path)?;
    *label = found.route.label();
    Ok((found, Query::parse(request.uri().query())?))
}

async fn dispatch(
    api: &Arc<Api>,
    route: Route,
    mut context: RequestContext,
    body: Incoming,
    permit: Permit,
) -> Result<Response<Body>, Problem> {
    let method = context.head.method.clone();
    if matches!(method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return dispatch_write(api, route, context, body, permit).await;
    }
    match route {
        Route::Collection(collection) => {
            match negotiate::accept(&context.head.headers, &negotiate::COLLECTION)? {
                MediaType::Json => page::page(api, &mut context, permit, &collection).await,
                media_type => {
                    snapshot::snapshot(api, &mut context, permit, &collection, media_type).await
                }
            }
        }
        Route::Snapshot(collection) => {
            let media_type = negotiate::accept(&context.head.headers, &negotiate::SNAPSHOT)?;
            snapshot::snapshot(api, &mut context, permit, &collection, media_type).await
        }
        Route::Resource(..) => unreachable!("handle() calls resource::get() itself"),
        Route::ResourceEvents(collection, id) => {
            events::read(api, &mut context, permit, Events::of_collection(&collection, Some(id)))
                .await
        }
        Route::CollectionEvents(collection) => {
            events::read(api, &mut context, permit, Events::of_collection(&collection, None)).await
        }
        Route::Topic(topic) => {
            events::read(api, &mut context, permit, Events::of_topic(&topic)).await
        }
        Route::ResourceSocket(collection, id) => {
            socket(api, context, permit, Events::of_collection(&collection, Some(id))).await
        }
        Route::CollectionSocket(collection) => {
            socket(api, context, permit, Events::of_collection(&collection, None)).await
        }
        Route::TopicSocket(topic) => socket(api, context, permit, Events::of_topic(&topic)).await,
        Route::Socket => {
            context.query.finish()?;
            session::upgrade(api, context, permit, None).await
        }
    }
}

async fn dispatch_write(
    api: &Arc<Api>,
    route: Route,
    mut context: RequestContext,
    body: Incoming,
    permit: Permit,
) -> Result<Response<Body>, Problem> {
    let method = context.head.method.clone();
    let request = WriteRequest { api, context: &mut context, permit, body };
    match route {
        Route::Collection(collection) => resource::create(request, &collection).await,
        Route::Resource(collection, id) => match method {
            Method::PUT => resource::put(request, &collection, id).await,
            Method::PATCH => resource::patch(request, &collection, id).await,
            _ => resource::delete(request, &collection, id).await,
        },
        Route::ResourceEvents(collection, id) => {
            events::post_to_resource(request, &collection, id).await
        }
        Route::Topic(topic) => events::post_to_topic(request, &topic).await,
        _ => unreachable!("no other route allows a method that writes"),
    }
}

async fn socket(
    api: &Arc<Api>,
    mut context: RequestContext,
    permit: Permit,
    events: Events<'_>,
) -> Result<Response<Body>, Problem> {
    context.query.refuse(&["batchSize"])?;
    let target = events.target(api, &mut context)?;
    session::upgrade(api, context, permit, Some(target)).await
}
