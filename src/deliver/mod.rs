//! After the head: frames to sockets. What fails here is an event or a close
//! code, never a status.

mod body;
mod bucket;
mod flow;
mod gap;
mod handover;
mod notices;
mod outlet;
mod pump;
mod scratch;
mod stream;
mod transport;
mod websocket;

use std::ops::Range;
use std::time::Duration;

pub use body::StreamBody;
pub use flow::{Flow, Patience, Piece};
pub use gap::{Gap, Reason};
pub use handover::{Answering, Departure, Handover, PendingBody, Wire};
pub use notices::Notices;
pub use pump::{End, Pump};
pub use stream::Stream;
pub use transport::Transport;
pub use websocket::{Commands, Reaction, Say, Session};

/// How streams look.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The range that a client's `retry` is drawn from (`streams.retry`).
    pub retry: Range<Duration>,
    /// How silence is filled (`streams.heartbeat_format`).
    pub heartbeat_format: HeartbeatFormat,
    /// Largest WebSocket message a client may send, in bytes
    /// (`limits.message_bytes`).
    pub message_bytes_max: usize,
    /// Longest time from a message's first byte to its last
    /// (`limits.body_timeout`).
    pub message_timeout: Duration,
    /// Pings, pongs and empty fragments that one WebSocket may send, a
    /// second; zero is no limit (`limits.control_rate`).
    pub control_rate: u32,
}

/// What a heartbeat on SSE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatFormat {
    /// `event: heartbeat` with the position read up to.
    Event,
    /// A comment line: less to parse, no bookmark.
    Comment,
}
