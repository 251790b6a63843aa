//! The encoding of events for each protocol, and the parsing of client input.
//!
//! This module does no I/O, reads no clock and does not use tokio, so all of
//! it can be fuzzed. The central type is [`Batch`]: consecutive events of one
//! log. A batch is encoded at most once in each wire format, for any number of
//! subscribers.

pub mod close;
pub mod forwarded;
pub mod http2;
pub mod json;
pub mod lines;
pub mod problem;
pub mod proxy;
pub mod websocket;

mod batch;
mod encode;
mod filter;
mod identity;
mod notice;

pub use batch::{Batch, Encoded, Selection};
pub use encode::{WireFormat, chunk};
pub use filter::{FieldEquals, Filter};
pub use identity::{CollectionNames, LogIdentity, LogKind};
pub use notice::ControlMessage;
