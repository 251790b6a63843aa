//! The takeover: after the response head is sent, a stream or a WebSocket session
//! takes its HTTP/1.1 connection over from hyper.
//!
//! hyper keeps an 8 KiB read buffer and an 8 KiB write buffer for each connection. A
//! stream or a session needs neither buffer. So the request handler stores a
//! [`Takeover`] in the [`TakeoverSlot`] of the connection.
//!
//! The handler of a stream returns a response whose body stays pending. hyper writes
//! the response head and no byte of the body. The I/O type of the connection reports
//! to the slot that hyper has flushed the head. The handler of a WebSocket returns
//! 101, after which the future of hyper's connection ends. Then the connection's
//! task takes the transport out of hyper and starts the stream or the session.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio::time::Sleep;

use super::end::End;
use super::source::StreamSource;
use super::transport::Transport;
use crate::hub::EndReason;

/// A function that spawns a WebSocket session as a task. The slice contains the
/// bytes that the client has sent after its handshake. The last argument is a guard:
/// the connection counts as open until the session drops the guard.
pub type SpawnSession =
    Box<dyn FnOnce(Transport, StreamSource, &[u8], Arc<dyn Send + Sync>) + Send>;

/// The stream or session that takes a connection over from hyper.
pub enum Takeover {
    /// An SSE or NDJSON stream.
    Stream {
        /// The source of the stream's frames.
        source: StreamSource,
        /// Whether the response body uses chunked transfer coding.
        chunked: bool,
    },
    /// A WebSocket session.
    WebSocket {
        /// The source of the session's frames.
        source: StreamSource,
        /// The function that starts the session.
        spawn: SpawnSession,
    },
}

impl Takeover {
    fn end(&mut self, end: End) {
        match self {
            Takeover::Stream { source, .. } | Takeover::WebSocket { source, .. } => {
                source.set_end_label(end.reason());
            }
        }
    }
}

/// The slot in which a request handler stores a takeover for the connection's task.
/// Each HTTP/1.1 connection, and each extended CONNECT of HTTP/2, has one slot.
pub struct TakeoverSlot {
    stage: AtomicU8,
    takeover: Mutex<Option<Takeover>>,
    /// Whether hyper has written bytes since the last check for a stall of a planned
    /// takeover.
    has_written: AtomicBool,
}

/// The stage after the handler has stored a takeover.
const PLANNED: u8 = 1;
/// The stage after hyper has encoded the response head. hyper has then asked the
/// body for its first frame.
const ENCODED: u8 = 2;
/// The stage after hyper has flushed all bytes that it had to write. The response
/// head was the last of these bytes.
const FLUSHED: u8 = 3;

impl TakeoverSlot {
    /// Creates an empty slot.
    pub fn new() -> Arc<TakeoverSlot> {
        let (stage, takeover) = (AtomicU8::new(0), Mutex::new(None));
        Arc::new(TakeoverSlot { stage, takeover, has_written: AtomicBool::new(false) })
    }

    /// Stores a takeover for the connection's task. Returns the body for the
    /// response of a stream. The response of a WebSocket has no body, so its handler
    /// drops the result.
    pub fn plan(self: &Arc<Self>, takeover: Takeover) -> TakeoverBody {
        *self.takeover.lock() = Some(takeover);
        self.stage.store(PLANNED, Ordering::Release);
        TakeoverBody(self.clone())
    }

    /// Removes the takeover from the slot and returns it, even if the response head
    /// is not sent yet. Returns `None` if the slot is empty.
    pub fn take_planned(&self) -> Option<Takeover> {
        self.takeover.lock().take()
    }

    /// Removes the takeover of a WebSocket from the slot and returns it. Call this
    /// when the future of hyper's connection has ended: after a 101, hyper ends this
    /// future without a shutdown of the I/O. Returns `None` for the takeover of a
    /// stream: if hyper ends the connection of a stream, the client has
    /// disconnected.
    pub fn take_switched(&self) -> Option<Takeover> {
        self.takeover.lock().take_if(|takeover| matches!(takeover, Takeover::WebSocket { .. }))
    }

    /// Removes the takeover from the slot and returns it, if hyper has flushed the
    /// response head. Returns `None` otherwise.
    pub fn take_flushed(&self) -> Option<Takeover> {
        (self.stage.load(Ordering::Acquire) == FLUSHED).then(|| self.take_planned())?
    }

    /// Records that hyper has written bytes.
    pub fn note_write(&self) {
        if self.is_planned() {
            self.has_written.store(true, Ordering::Release);
        }
    }

    /// Records that hyper has flushed its I/O.
    ///
    /// hyper flushes its I/O only when its own buffer is empty. So at the first
    /// flush after hyper has encoded the response head, the head is written.
    /// `tests/it/hyper_internals.rs` tests this behaviour of hyper. If hyper never
    /// flushes the head, the deadline of [`TakeoverSlot::poll_unflushed`] ends the
    /// connection.
    pub fn note_flush(&self) {
        self.advance(ENCODED, FLUSHED);
    }

    /// Becomes ready when a takeover is planned but hyper has written no byte for
    /// `stall_timeout`. This can happen because the socket accepts no bytes, or
    /// because hyper does not flush the response head or an earlier response.
    /// Becomes ready at most one further `stall_timeout` late. The caller stores
    /// `timer`, which is `None` before the first call.
    pub fn poll_unflushed(
        &self,
        cx: &mut Context<'_>,
        timer: &mut Option<Pin<Box<Sleep>>>,
        stall_timeout: Duration,
    ) -> Poll<()> {
        if !self.is_planned() {
            return Poll::Pending;
        }
        loop {
            let due = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_timeout)));
            ready!(due.as_mut().poll(cx));
            *timer = None;
            if !self.has_written.swap(false, Ordering::AcqRel) {
                break;
            }
        }
        if let Some(takeover) = &mut *self.takeover.lock() {
            takeover.end(End::Ending(EndReason::Stalled));
        }
        Poll::Ready(())
    }

    fn is_planned(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= PLANNED
    }

    fn advance(&self, from: u8, to: u8) {
        let _ = self.stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// The response body of a stream that will take its connection over. The body is
/// always pending, so hyper sends the response head and no body. The first poll
/// shows that hyper has encoded the head.
pub struct TakeoverBody(Arc<TakeoverSlot>);

impl Body for TakeoverBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.advance(PLANNED, ENCODED);
        Poll::Pending
    }
}
