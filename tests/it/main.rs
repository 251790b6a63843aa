//! Tests of the gateway from the outside. They use real sockets on free ports
//! and a real disk, and compare bytes. All tests are in one binary, so that the
//! gateway is linked only once.

mod commands;
mod deadlines;
mod delivery;
mod floods;
mod http2;
mod hyper_internals;
mod in_flight;
mod limits;
mod overflow;
mod panics;
mod process;
mod proxies;
mod readiness;
mod memory_topics;
mod stalls;
mod store_fixture;
mod streams;
mod tidy;
mod support;
mod websocket;
