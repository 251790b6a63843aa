//! From a path and a method to what is asked for.

use std::borrow::Cow;

use hyper::Method;

use super::catalog::{Catalog, Collection, Topic};
use super::error;
use super::query::decode;
use crate::event::ResourceId;
use crate::wire::problem::Problem;

/// What a path names (`docs/protocol.md#paths`).
pub enum Route {
    /// `/{c}`
    Collection(Collection),
    /// `/{c}/stream`
    Snapshot(Collection),
    /// `/{c}/events`
    CollectionEvents(Collection),
    /// `/{c}/ws`
    CollectionSocket(Collection),
    /// `/{c}/{id}`
    Resource(Collection, ResourceId),
    /// `/{c}/{id}/events`
    ResourceEvents(Collection, ResourceId),
    /// `/{c}/{id}/ws`
    ResourceSocket(Collection, ResourceId),
    /// `/events/{topic}`
    Topic(Topic),
    /// `/events/{topic}/ws`
    TopicSocket(Topic),
    /// `/ws`
    Socket,
}

/// A route that was found.
pub struct Found {
    /// What it is.
    pub route: Route,
    /// What stood before it, `/v1` or nothing: `Location` and `Link` answer
    /// with the same.
    pub prefix: &'static str,
}

/// Why a request goes no further.
pub enum Miss {
    /// There is no such thing, or it cannot be named so.
    Problem(Problem),
    /// It is there, but not for this method. The allowed ones.
    Method(&'static str),
    /// `OPTIONS`: the allowed methods are the answer.
    Options(&'static str),
}

impl From<Problem> for Miss {
    fn from(problem: Problem) -> Miss {
        Miss::Problem(problem)
    }
}

impl Route {
    /// The methods it takes, as an `Allow` header has them.
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

    /// Its name in metrics.
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

/// Finds what `path` names and checks that it takes `method`. `extended` is
/// whether the request is an extended CONNECT for a WebSocket (RFC 8441).
///
/// # Errors
/// [`Miss`], with the answer to give.
pub fn route(
    catalog: &Catalog,
    method: &Method,
    extended: bool,
    path: &str,
) -> Result<Found, Miss> {
    let rest = path.strip_prefix('/').ok_or_else(|| error::not_found("there is no such path"))?;
    let (prefix, rest) = match rest.strip_prefix("v1/") {
        Some(rest) => ("/v1", rest),
        None => ("", rest),
    };
    let route = find(catalog, rest)?;
    let allow = route.allow();
    let allowed = match *method {
        Method::OPTIONS => return Err(Miss::Options(allow)),
        Method::CONNECT => extended && route.is_socket(),
        _ => allow.split(',').any(|allowed| allowed.trim_ascii_start() == method.as_str()),
    };
    if allowed { Ok(Found { route, prefix }) } else { Err(Miss::Method(allow)) }
}

fn find(catalog: &Catalog, rest: &str) -> Result<Route, Problem> {
    let mut segments: [Cow<'_, str>; 4] = Default::default();
    let mut count = 0;
    for raw in rest.split('/') {
        let slot = segments.get_mut(count).ok_or_else(unknown_path)?;
        *slot = decode(raw, false).map_err(|why| error::malformed(format!("the path: {why}")))?;
        count += 1;
    }
    let segments: [&str; 4] = std::array::from_fn(|i| segments[i].as_ref());
    match segments[..count] {
        ["ws"] => Ok(Route::Socket),
        ["operations", ..] => Err(unknown_path()),
        ["events", name] => Ok(Route::Topic(topic(catalog, name)?)),
        ["events", name, "ws"] => Ok(Route::TopicSocket(topic(catalog, name)?)),
        [name] => Ok(Route::Collection(collection(catalog, name)?)),
        [name, second] => {
            let collection = collection(catalog, name)?;
            match second {
                "stream" => Ok(Route::Snapshot(collection)),
                "events" => Ok(Route::CollectionEvents(collection)),
                "ws" => Ok(Route::CollectionSocket(collection)),
                id => Ok(Route::Resource(collection, resource_id(id)?)),
            }
        }
        [name, id, third] => {
            let collection = collection(catalog, name)?;
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
    error::not_found("there is no such path")
}

fn collection(catalog: &Catalog, name: &str) -> Result<Collection, Problem> {
    catalog
        .collection(name)
        .cloned()
        .ok_or_else(|| error::unknown(format!("there is no collection {name:?}")))
}

fn topic(catalog: &Catalog, name: &str) -> Result<Topic, Problem> {
    catalog
        .topic(name)
        .cloned()
        .ok_or_else(|| error::unknown(format!("there is no topic {name:?}")))
}

fn resource_id(text: &str) -> Result<ResourceId, Problem> {
    ResourceId::new(text).map_err(|why| error::bad_name(&format!("the id {text:?}"), why))
}
