//! Before the head: a request becomes a status, or a stream begins.

pub mod admin;
pub mod body;
pub mod catalog;
pub mod negotiate;
pub mod query;
pub mod session;
pub mod start;
pub mod subscribe;

mod address;
mod batch;
mod body_reader;
mod condition;
mod context;
mod error;
mod event;
mod event_page;
mod gate;
mod head;
mod idempotency;
mod inline_reads;
mod limit;
mod media_type;
mod page;
mod resource;
mod respond;
mod route;
mod router;
mod settings;
mod snapshot;
mod state;
mod step;
mod streamed_body;
#[cfg(test)]
mod tests;
mod write;

pub use address::{Client, Peer, Proxies, client_key};
pub use catalog::NoLog;
pub use context::{ConnectionContext, RequestContext};
pub use gate::CapacityError;
pub use router::handle;
pub use settings::{CollectionSettings, Settings, SseOverload, TopicSettings};
pub use state::{Api, ApiHandle, InFlightGuard};
