//! The delivery layer: after the response head is sent, it writes the frames of SSE,
//! NDJSON and WebSocket streams to the client. The HTTP status is already sent then.
//! So this layer reports a failure as a control message or as a WebSocket close
//! code.

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

/// The burst of control frames that a client may send on one connection. The burst
/// is given as a duration: the number of control frames that the configured rate
/// permits in this time. It permits a client that opens a hundred HTTP/2 streams at
/// once and closes them at once.
pub const CONTROL_SAVED: Duration = Duration::from_secs(10);

/// The settings of SSE, NDJSON and WebSocket streams.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The range of reconnection delays. The gateway draws the `retry` value of each
    /// stream from it at random (`streams.retry`).
    pub retry: Range<Duration>,
    /// The format of heartbeats on SSE (`streams.heartbeat_format`).
    pub heartbeat_format: HeartbeatFormat,
    /// The largest size of a WebSocket message from a client, in bytes
    /// (`limits.message_bytes`).
    pub message_bytes_max: usize,
    /// The limits of events and bytes per second that the gateway sends on each
    /// connection (`streams.pace_events`, `streams.pace_bytes`).
    pub pace: Pace,
    /// The longest time between the first and the last byte of a WebSocket message
    /// from a client (`limits.body_timeout`).
    pub message_timeout: Duration,
    /// The largest number of pings, pongs and empty fragments per second that a
    /// WebSocket client may send. Zero means no limit (`limits.control_rate`).
    pub control_rate: u32,
}

/// The format of a heartbeat on SSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatFormat {
    /// An SSE event of the type `heartbeat`, whose `id` is the position of the
    /// client in the log.
    Event,
    /// An SSE comment line. It is shorter than the event, but does not contain the
    /// position of the client.
    Comment,
}
