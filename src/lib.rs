//! streamgate serves collections of JSON resources and streams of events over
//! HTTP: as REST pages, NDJSON, Server-Sent Events and WebSocket. Clients
//! receive events live, and can resume a stream from a durable log.
//!
//! The modules below are layers. A request passes through them from top to bottom.
//! An event passes through them from bottom to top. A module imports only modules
//! that are listed below it (law 7 in `docs/architecture.md`). `tests/it/tidy.rs`
//! checks this.

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
