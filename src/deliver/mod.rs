//! Everything after the response head: frames to sockets. A failure here is an
//! event or a close code, and never a status.

mod body;
mod catch_up;
mod control_messages;
mod end;
mod gap;
mod h2_send;
mod pace;
mod queue;
mod scratch;
mod socket_writer;
mod source;
mod stream;
mod takeover;
mod tcp;
mod token_bucket;
mod transport;
mod websocket;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::time::Duration;

pub use body::StreamBody;
pub use control_messages::ControlMessages;
pub use end::End;
pub use gap::{Gap, Reason};
pub use h2_send::{H2SendTracker, StallDetector, TrackedBytes};
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
/// the bucket refills. It permits a client that opens a hundred streams at once and
/// closes them at once.
pub const CONTROL_SAVED: Duration = Duration::from_secs(10);

/// The settings of streams.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The range from which the `retry` of a stream is drawn (`streams.retry`).
    pub retry: Range<Duration>,
    /// The format of heartbeats on SSE (`streams.heartbeat_format`).
    pub heartbeat_format: HeartbeatFormat,
    /// The most bytes of a WebSocket message from a client
    /// (`limits.message_bytes`).
    pub message_bytes_max: usize,
    /// The pace of each connection.
    pub pace: Pace,
    /// The longest time from the first byte of a WebSocket message to its last
    /// (`limits.body_timeout`).
    pub message_timeout: Duration,
    /// The most pings, pongs and empty fragments that a WebSocket client may send in
    /// a second. Zero means no limit (`limits.control_rate`).
    pub control_rate: u32,
}

/// The format of a heartbeat on SSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatFormat {
    /// `event: heartbeat` with the position of the client.
    Event,
    /// A comment line. It is shorter, and has no position.
    Comment,
}
