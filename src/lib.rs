//! streamgate puts collections of JSON resources and streams of events on the
//! web: REST pages, NDJSON, Server-Sent Events and WebSocket, live and
//! resumable from a durable log.
//!
//! A request goes down these modules, an event comes up, nothing turns back;
//! imports point down the order below (`docs/architecture.md`, law 7, held
//! by `tests/it/tidy.rs`).

pub mod cli;
pub mod config;
pub mod server;
pub mod api;
pub mod deliver;
pub mod hub;
pub mod log;
pub mod store;
pub mod wire;
pub mod event;
pub mod supervisor;
pub mod metrics;
mod random;
mod sync;
