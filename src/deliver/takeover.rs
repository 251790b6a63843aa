//! The takeover of an HTTP/1.1 connection once the response head is sent.
//!
//! hyper keeps an 8 KiB read buffer and an 8 KiB write buffer for each
//! connection. A stream or a session needs neither. So the handler leaves a
//! [`Takeover`] in the connection's [`TakeoverSlot`].
//!
//! A stream's handler answers with a body that stays pending. hyper writes the
//! head and nothing else, and the connection's I/O reports the flush behind the
//! head. A WebSocket's handler answers 101, and hyper's connection ends with it.
//! Then the connection's task takes the transport out of hyper and executes the
//! takeover.

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

/// Spawns a session on its transport. The slice holds the bytes that the client
/// has sent behind the handshake. The last argument makes the connection count
/// as open; the session keeps it to its end.
pub type SpawnSession =
    Box<dyn FnOnce(Transport, StreamSource, &[u8], Arc<dyn Send + Sync>) + Send>;

/// What takes a connection over from hyper.
pub enum Takeover {
    /// An SSE or NDJSON stream.
    Stream {
        /// The source of the stream's frames.
        source: StreamSource,
        /// Whether the body is chunked.
        chunked: bool,
    },
    /// A WebSocket session.
    WebSocket {
        /// The source of the session's frames.
        source: StreamSource,
        /// Starts the session.
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

/// The place where a handler leaves a takeover for the connection's task.
pub struct TakeoverSlot {
    stage: AtomicU8,
    takeover: Mutex<Option<Takeover>>,
    /// Whether hyper has written bytes since the last check of a planned takeover.
    has_written: AtomicBool,
}

/// The handler has answered with a takeover.
const PLANNED: u8 = 1;
/// hyper has encoded the head: it asked the body for its first frame.
const ENCODED: u8 = 2;
/// hyper has flushed all of its bytes, the head last.
const FLUSHED: u8 = 3;

impl TakeoverSlot {
    /// Creates an empty slot.
    pub fn new() -> Arc<TakeoverSlot> {
        let (stage, takeover) = (AtomicU8::new(0), Mutex::new(None));
        Arc::new(TakeoverSlot { stage, takeover, has_written: AtomicBool::new(false) })
    }

    /// Stores a takeover for the connection's task and returns the body of a
    /// stream's response. A WebSocket's response has no body.
    pub fn plan(self: &Arc<Self>, takeover: Takeover) -> TakeoverBody {
        *self.takeover.lock() = Some(takeover);
        self.stage.store(PLANNED, Ordering::Release);
        TakeoverBody(self.clone())
    }

    /// Takes the takeover out, whether its head is sent or not.
    pub fn take_planned(&self) -> Option<Takeover> {
        self.takeover.lock().take()
    }

    /// Takes a WebSocket's takeover out. hyper's connection ends with a 101 and
    /// without a shutdown of its I/O. If the connection of a stream ends, its client
    /// has disconnected.
    pub fn take_switched(&self) -> Option<Takeover> {
        self.takeover.lock().take_if(|takeover| matches!(takeover, Takeover::WebSocket { .. }))
    }

    /// Takes the takeover out once hyper has no byte left to write.
    pub fn take_flushed(&self) -> Option<Takeover> {
        (self.stage.load(Ordering::Acquire) == FLUSHED).then(|| self.take_planned())?
    }

    /// Notes that hyper has written bytes.
    pub fn note_write(&self) {
        if self.is_planned() {
            self.has_written.store(true, Ordering::Release);
        }
    }

    /// Notes that hyper has flushed its I/O.
    ///
    /// hyper flushes its I/O only when its own buffer is empty. So the first
    /// flush after the head was encoded comes behind the head.
    /// `tests/it/hyper_internals.rs` pins that. A head that is not flushed has a
    /// deadline ([`TakeoverSlot::poll_unflushed`]).
    pub fn note_flush(&self) {
        self.advance(ENCODED, FLUSHED);
    }

    /// Ready once hyper has written no byte of a planned takeover's head, and
    /// of the responses before the head, for `stall_timeout`; at most a second
    /// `stall_timeout` later. That holds whether the socket is full or hyper
    /// does not flush. `timer` belongs to the caller and is `None` at first.
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

/// The body of a stream whose connection will be taken over.
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
