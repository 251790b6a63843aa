//! Routing: finds the [`Route`] for the path and the method of a request.

use std::borrow::Cow;

use hyper::Method;

use crate::api::answer::problem;
use crate::api::authorize::{Action, Target};
use crate::api::catalog::{Catalog, Collection, Topic};
use crate::api::request::query::decode;
use crate::event::ResourceId;
use crate::wire::problem::Problem;

/// A path of the API, with the collection, resource or topic that the path names
/// (`docs/protocol.md#paths`).
pub enum Route {
    /// `/{c}`: the resources of a collection.
    Collection(Collection),
    /// `/{c}/stream`: a snapshot of a collection.
    Snapshot(Collection),
    /// `/{c}/events`: the events of a collection.
    CollectionEvents(Collection),
    /// `/{c}/ws`: a WebSocket for a collection.
    CollectionSocket(Collection),
    /// `/{c}/{id}`: one resource.
    Resource(Collection, ResourceId),
    /// `/{c}/{id}/events`: the events of one resource.
    ResourceEvents(Collection, ResourceId),
    /// `/{c}/{id}/ws`: a WebSocket for one resource.
    ResourceSocket(Collection, ResourceId),
    /// `/events/{topic}`: the events of a topic or a view.
    Topic(Topic),
    /// `/events/{topic}/ws`: a WebSocket for a topic or a view.
    TopicSocket(Topic),
    /// `/ws`: a WebSocket without a target; each command names its target.
    Socket,
}

/// The route of a request, and the version prefix of its path.
pub struct RouteMatch {
    /// The route.
    pub route: Route,
    /// The version prefix of the path: `/v1`, or empty. The headers `Location` and
    /// `Link` in the response use the same prefix.
    pub prefix: &'static str,
}

/// The reason why the router calls no handler for a request.
pub enum RouteError {
    /// The request is invalid, or its path does not exist.
    Problem(Problem),
    /// The path does not support the method. The text lists the allowed methods.
    Method(&'static str),
    /// The method is `OPTIONS`. The text lists the allowed methods.
    Options(&'static str),
}

impl From<Problem> for RouteError {
    fn from(problem: Problem) -> RouteError {
        RouteError::Problem(problem)
    }
}

impl Route {
    /// Returns the allowed methods in the format of the `Allow` header.
    pub fn allow(&self) -> &'static str {
        match self {
            Route::Topic(topic) if topic.view => "GET, HEAD, OPTIONS",
            Route::Snapshot(_) | Route::CollectionEvents(_) => "GET, HEAD, OPTIONS",
            Route::Collection(_) | Route::ResourceEvents(..) | Route::Topic(_) => {
                "GET, HEAD, POST, OPTIONS"
            }
            Route::Resource(..) => "GET, HEAD, PUT, PATCH, DELETE, OPTIONS",
            Route::CollectionSocket(_)
            | Route::ResourceSocket(..)
            | Route::TopicSocket(_)
            | Route::Socket => "GET, OPTIONS",
        }
    }

    /// Returns the value of the metrics label `route` for this route.
    pub fn label(&self) -> &'static str {
        match self {
            Route::Collection(_) => "/{c}",
            Route::Snapshot(_) => "/{c}/stream",
            Route::CollectionEvents(_) => "/{c}/events",
            Route::CollectionSocket(_) => "/{c}/ws",
            Route::Resource(..) => "/{c}/{id}",
            Route::ResourceEvents(..) => "/{c}/{id}/events",
            Route::ResourceSocket(..) => "/{c}/{id}/ws",
            Route::Topic(_) => "/events/{topic}",
            Route::TopicSocket(_) => "/events/{topic}/ws",
            Route::Socket => "/ws",
        }
    }

    /// Returns the action that a request with `method` asks for, and the target of
    /// this action, for authorization.
    pub fn access(&self, method: &Method) -> (Action, Target<'_>) {
        let log = |log, resource| Target::Log { log, topic: None, resource };
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match self {
            Route::Collection(it) if is_read => (Action::Read, log(&it.log, None)),
            Route::Collection(it) => (Action::Create, log(&it.log, None)),
            Route::Snapshot(it) | Route::CollectionEvents(it) => (Action::Read, log(&it.log, None)),
            Route::CollectionSocket(it) => (Action::Session, log(&it.log, None)),
            Route::Resource(it, id) => {
                let action = match *method {
                    Method::PUT => Action::Replace,
                    Method::PATCH => Action::Patch,
                    Method::DELETE => Action::Delete,
                    _ => Action::Read,
                };
                (action, log(&it.log, Some(id)))
            }
            Route::ResourceEvents(it, id) => {
                let action = if is_read { Action::Read } else { Action::Publish };
                (action, log(&it.log, Some(id)))
            }
            Route::ResourceSocket(it, id) => (Action::Session, log(&it.log, Some(id))),
            Route::Topic(it) => (if is_read { Action::Read } else { Action::Publish }, it.target()),
            Route::TopicSocket(it) => (Action::Session, it.target()),
            Route::Socket => (Action::Session, Target::Gateway),
        }
    }

    fn is_socket(&self) -> bool {
        matches!(
            self,
            Route::CollectionSocket(_)
                | Route::ResourceSocket(..)
                | Route::TopicSocket(_)
                | Route::Socket
        )
    }
}

/// Returns the route of `path`, if the route allows `method`. `extended` is true
/// for an extended CONNECT that opens a WebSocket (RFC 8441).
///
/// # Errors
/// [`RouteError`], from which the router creates the response.
pub fn route(
    catalog: &Catalog,
    method: &Method,
    extended: bool,
    path: &str,
) -> Result<RouteMatch, RouteError> {
    let rest = path.strip_prefix('/').ok_or_else(unknown_path)?;
    let (prefix, rest) = match rest.strip_prefix("v1/") {
        Some(rest) => ("/v1", rest),
        None => ("", rest),
    };
    let route = find(catalog, rest)?;
    let allow = route.allow();
    let allowed = match *method {
        Method::OPTIONS => return Err(RouteError::Options(allow)),
        Method::CONNECT => extended && route.is_socket(),
        _ => allow.split(',').any(|allowed| allowed.trim_ascii_start() == method.as_str()),
    };
    if allowed { Ok(RouteMatch { route, prefix }) } else { Err(RouteError::Method(allow)) }
}

fn find(catalog: &Catalog, rest: &str) -> Result<Route, Problem> {
    let mut segments: [Cow<'_, str>; 4] = Default::default();
    let mut count = 0;
    for raw in rest.split('/') {
        let slot = segments.get_mut(count).ok_or_else(unknown_path)?;
        *slot = decode(raw, false).map_err(|why| problem::malformed(format!("the path: {why}")))?;
        count += 1;
    }
    let segments: [&str; 4] = std::array::from_fn(|i| segments[i].as_ref());
    match segments[..count] {
        ["ws"] => Ok(Route::Socket),
        ["operations", ..] => Err(unknown_path()),
        ["events", name] => Ok(Route::Topic(catalog.topic(name)?)),
        ["events", name, "ws"] => Ok(Route::TopicSocket(catalog.topic(name)?)),
        [name] => Ok(Route::Collection(catalog.collection(name)?)),
        [name, second] => {
            let collection = catalog.collection(name)?;
            match second {
                "stream" => Ok(Route::Snapshot(collection)),
                "events" => Ok(Route::CollectionEvents(collection)),
                "ws" => Ok(Route::CollectionSocket(collection)),
                id => Ok(Route::Resource(collection, resource_id(id)?)),
            }
        }
        [name, id, third] => {
            let collection = catalog.collection(name)?;
            match third {
                "events" => Ok(Route::ResourceEvents(collection, resource_id(id)?)),
                "ws" => Ok(Route::ResourceSocket(collection, resource_id(id)?)),
                _ => Err(unknown_path()),
            }
        }
        _ => Err(unknown_path()),
    }
}

fn unknown_path() -> Problem {
    problem::not_found("the path does not exist")
}

fn resource_id(text: &str) -> Result<ResourceId, Problem> {
    ResourceId::new(text).map_err(|why| problem::bad_name(&format!("the id {text:?}"), why))
}
