//! The gateway from outside: real sockets on free ports, a real disk, bytes
//! asserted. One binary, so that it is linked once.

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
