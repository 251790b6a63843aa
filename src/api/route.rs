//! Routing: from the path and the method of a request to a [`Route`].

use std::borrow::Cow;

use hyper::Method;

use super::catalog::{Catalog, Collection, Topic};
use super::error;
use super::query::decode;
use crate::event::{NAME_BYTES_MAX, ResourceId};
use crate::wire::problem::Problem;

/// The largest number of names that are compared for a suggestion.
const SUGGESTED_FROM_MAX: usize = 1000;

/// The target of a path (`docs/protocol.md#paths`).
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

/// The result of a successful routing.
pub struct RouteMatch {
    /// The route.
    pub route: Route,
    /// The prefix of the path, `/v1` or nothing. `Location` and `Link` in the
    /// response have the same prefix.
    pub prefix: &'static str,
}

/// The reason why routing does not continue.
pub enum RouteError {
    /// The path does not exist or is invalid.
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

    /// Returns the value of the label in metrics.
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

/// Returns the route of `path`, if the route allows `method`. `extended` is true
/// for an extended CONNECT that opens a WebSocket (RFC 8441).
///
/// # Errors
/// [`RouteError`], which determines the response.
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
    error::not_found("the path does not exist")
}

/// Returns the collection `name`.
///
/// # Errors
/// 404, with the nearest name of a collection if one is similar.
pub(super) fn collection(catalog: &Catalog, name: &str) -> Result<Collection, Problem> {
    let found = catalog.collection(name).cloned();
    found.ok_or_else(|| unknown("collection", name, catalog.collection_names()))
}

/// Returns the topic `name`.
///
/// # Errors
/// 404, with the nearest name of a topic if one is similar.
pub(super) fn topic(catalog: &Catalog, name: &str) -> Result<Topic, Problem> {
    let found = catalog.topic(name).cloned();
    found.ok_or_else(|| unknown("topic", name, catalog.topic_names()))
}

fn unknown<'a>(kind: &str, name: &str, known: impl ExactSizeIterator<Item = &'a str>) -> Problem {
    let detail = format!("no {kind} named {name:?}");
    error::unknown(match nearest(name, known) {
        Some(nearest) => format!("{detail}; did you mean {nearest:?}?"),
        None => detail,
    })
}

/// Returns the name in `known` that is nearest to `name`, if at most a third
/// of the characters of `name` differ.
///
/// Every request for an unknown name runs this search. Two limits keep the
/// search cheaper than the rest of the request: a name longer than any valid
/// name has no suggestion, and neither has a catalog with more than
/// [`SUGGESTED_FROM_MAX`] names.
fn nearest<'a>(name: &str, known: impl ExactSizeIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX || known.len() > SUGGESTED_FROM_MAX {
        return None;
    }
    let most = name.chars().count() / 3;
    known
        .filter(|known| known.len().abs_diff(name.len()) <= 4 * most)
        .map(|known| (strsim::levenshtein(name, known), known))
        .filter(|&(distance, _)| distance <= most)
        .min()
        .map(|(_, known)| known)
}

fn resource_id(text: &str) -> Result<ResourceId, Problem> {
    ResourceId::new(text).map_err(|why| error::bad_name(&format!("the id {text:?}"), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_the_nearest_similar_name() {
        let known = ["orders", "order-updates", "carts", "a"];
        for (name, expected) in [
            ("orderz", Some("orders")),
            ("Orders", Some("orders")),
            ("order", Some("orders")),
            ("cart", Some("carts")),
            ("order_update", Some("order-updates")),
            ("örders", Some("orders")),
            ("b", None),
            ("", None),
            ("invoices", None),
            (&"x".repeat(NAME_BYTES_MAX + 1), None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), expected, "{name}");
        }
        let many: Vec<String> = (0..=SUGGESTED_FROM_MAX).map(|n| format!("orders-{n}")).collect();
        assert_eq!(nearest("orders-x", many.iter().map(String::as_str)), None);
    }
}
