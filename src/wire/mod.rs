//! Bytes: how events look on each protocol, and how what clients send is read.
//!
//! Nothing here does I/O, asks a clock or knows tokio, so all of it can be
//! fuzzed. The centre is [`Batch`]: a run of events that makes each wire form
//! of itself at most once, however many subscribers ask for it.

pub mod close;
pub mod forwarded;
pub mod http2;
pub mod json;
pub mod problem;
pub mod proxy;
pub mod websocket;

mod batch;
mod encode;
mod filter;
mod notice;
mod origin;

pub use batch::{Batch, Encoded, Selection};
pub use encode::{Form, chunk};
pub use filter::{Field, Filter};
pub use notice::Notice;
pub use origin::{Kind, Origin};
