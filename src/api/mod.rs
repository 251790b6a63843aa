//! The HTTP API: turns a request into a response or a stream.
//!
//! The files form four groups. The router ([`handle`]) finds the route of a request
//! and calls a handler in the module `handlers`. A handler reads the request with
//! the module `request` and creates the response with the module `answer`. The
//! router and the handlers use the services, the settings and the catalog.

mod admission;
mod answer;
mod authorize;
mod catalog;
mod context;
mod handlers;
mod limit;
mod request;
mod route;
mod router;
mod settings;
mod state;
#[cfg(test)]
mod tests;

pub use admission::CapacityError;
pub use answer::body;
pub use catalog::NoLog;
pub use context::{Caller, ConnectionContext, Principal, RequestContext};
pub use handlers::admin;
pub use request::address::{Client, Peer, Proxies, client_key};
pub use router::{Routes, handle};
pub use settings::{CollectionSettings, Settings, SseOverload, TopicSettings};
pub use state::{Api, InFlightGuard, Services};
