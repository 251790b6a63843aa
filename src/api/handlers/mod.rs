//! The HTTP handlers, one file for each kind of route. A handler reads the request,
//! uses the log or the hub, and returns the response.

pub mod admin;
pub mod batch;
pub mod event_page;
pub mod events;
pub mod page;
pub mod resource;
pub mod session;
pub mod snapshot;
pub mod stream;
pub mod write;
