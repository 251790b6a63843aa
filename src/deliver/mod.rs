//! After the head: frames to sockets. What fails here is an event or a close
//! code, never a status.

mod body;
mod token_bucket;
mod end;
mod h2_send;
mod gap;
mod notices;
mod socket_writer;
mod pace;
mod tcp;
mod source;
mod source_reads;
mod catch_up;
mod scratch;
mod stream;
mod takeover;
#[cfg(test)]
mod tests;
mod transport;
mod websocket;

use std::ops::Range;
use std::time::Duration;

pub use body::StreamBody;
pub use end::End;
pub use gap::{Gap, Reason};
pub use h2_send::{H2SendTracker, StallDetector, TrackedBytes};
pub use notices::Notices;
pub use pace::Pace;
pub use scratch::with_scratch;
#[cfg(all(test, feature = "shuttle"))]
pub use source::Filled;
pub use source::StreamSource;
pub use stream::Stream;
pub use takeover::{SpawnSession, Takeover, TakeoverBody, TakeoverSlot};
pub use tcp::TcpTransport;
pub use token_bucket::TokenBucket;
pub use transport::Transport;
pub use websocket::{CommandFuture, CommandHandler, CommandReply, Session};

/// The burst of control frames that a connection may send, as the time in which
/// the bucket refills: a client that opens a hundred streams at once and leaves
/// them at once is no flood.
pub const CONTROL_SAVED: Duration = Duration::from_secs(10);

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
    /// How fast a connection is sent events.
    pub pace: Pace,
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
