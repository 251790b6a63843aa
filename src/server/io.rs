//! The I/O of one connection below hyper, with the deadlines that hyper does not
//! have.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::requests::RequestCounter;
use crate::deliver::{CONTROL_SAVED, TakeoverSlot, TokenBucket, Transport, with_scratch};
use crate::metrics::Metrics;
use crate::wire::http2::ControlFrameCounter;

/// The transport of a connection, which hyper reads from and writes to. It returns
/// an I/O error in three cases that hyper does not detect:
/// - The client neither reads its response nor sends bytes for the stall timeout.
/// - A request head is still incomplete at its deadline.
/// - An HTTP/2 client sends more control frames than the rate permits.
pub(super) struct ConnectionIo {
    inner: TokioIo<Transport>,
    requests: Arc<RequestCounter>,
    /// The slot in which a request handler can store a takeover (the switch of the
    /// connection from hyper to a stream or a WebSocket session).
    takeover: Option<Arc<TakeoverSlot>>,
    stall_timeout: Duration,
    head_timeout: Option<Duration>,
    /// The deadline of the first request head. It is `None` after this head is
    /// complete.
    first_head_due: Option<Instant>,
    /// The timer of the stall timeout. It exists only while a write waits because
    /// the transport accepts no bytes.
    stall: Option<Pin<Box<Sleep>>>,
    head: Option<Head>,
    /// Whether the kernel's limit of unsent bytes is set for a bulk response.
    bulk: bool,
    control: Option<Box<Control>>,
}

/// Limits the control frames that an HTTP/2 client sends.
struct Control {
    frames: ControlFrameCounter,
    bucket: TokenBucket,
    begun: Instant,
    metrics: Arc<Metrics>,
}

/// A request head that is only partly received.
struct Head {
    /// The number of requests of the connection before this one.
    begun: usize,
    /// The timer of the head's deadline. It is created when the client pauses within
    /// the head. Most heads arrive complete and need no timer.
    timer: Option<Pin<Box<Sleep>>>,
}

impl ConnectionIo {
    /// Wraps the transport of a new connection. Request heads have no deadline until
    /// [`head_timeout`](Self::head_timeout()) is called.
    pub(super) fn new(
        transport: Transport,
        requests: Arc<RequestCounter>,
        stall_timeout: Duration,
    ) -> ConnectionIo {
        ConnectionIo {
            inner: TokioIo::new(transport),
            requests,
            takeover: None,
            stall_timeout,
            head_timeout: None,
            first_head_due: None,
            stall: None,
            head: None,
            bulk: false,
            control: None,
        }
    }

    /// Sets the deadlines of HTTP/1 request heads. The first head is due at
    /// `first_due`. Each later head is due `timeout` after its first byte.
    pub(super) fn head_timeout(mut self, first_due: Instant, timeout: Duration) -> ConnectionIo {
        (self.first_head_due, self.head_timeout) = (Some(first_due), Some(timeout));
        self
    }

    /// Reports the writes and flushes of hyper to `slot`.
    pub(super) fn takeover(mut self, slot: Arc<TakeoverSlot>) -> ConnectionIo {
        self.takeover = Some(slot);
        self
    }

    /// Limits the control frames of an HTTP/2 client to `rate` per second; zero
    /// means no limit. The first bytes that the client sends must be the HTTP/2
    /// connection preface. If a client exceeds the limit, its connection fails, and
    /// the refusal is counted in `metrics`.
    pub(super) fn control_rate(mut self, rate: u32, metrics: &Arc<Metrics>) -> ConnectionIo {
        let (frames, bucket, metrics) =
            (ControlFrameCounter::default(), TokenBucket::new(rate.into()), metrics.clone());
        let control = Control { frames, bucket, begun: Instant::now(), metrics };
        self.control = (rate > 0).then(|| Box::new(control));
        self
    }

    /// Returns an error if a request head is incomplete at its deadline; otherwise
    /// returns `read`, the result of a read. If no request is in progress, received
    /// bytes belong to a request head until hyper calls the service. This function
    /// does not see the bytes of a head that arrived together with the previous
    /// request. The idle timeout limits such a head.
    fn watch_head(
        &mut self,
        cx: &mut Context<'_>,
        read: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let Some(head_timeout) = self.head_timeout else { return read };
        let (begun, ended) = self.requests.counts();
        if self.head.as_ref().is_some_and(|head| head.begun != begun) {
            self.head = None;
        }
        if begun > 0 {
            self.first_head_due = None;
        }
        if begun != ended {
            return read;
        }
        match (&read, &mut self.head) {
            (Poll::Ready(Ok(())), head) => {
                head.get_or_insert(Head { begun, timer: None });
            }
            (Poll::Pending, Some(Head { timer, .. })) => {
                let first = self.first_head_due.take();
                let timer = timer.get_or_insert_with(|| {
                    let due = first.unwrap_or_else(|| Instant::now() + head_timeout);
                    Box::pin(tokio::time::sleep_until(due))
                });
                return timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
            }
            _ => {}
        }
        read
    }

    /// Reads bytes into `buffer`, and counts the HTTP/2 control frames in these
    /// bytes.
    fn poll_read_counted(
        &mut self,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(control) = &mut self.control else {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        };
        // The buffer of hyper is write-only. So the bytes are first read into a
        // scratch buffer, where their control frames can be counted.
        with_scratch(|scratch| {
            let length = scratch.len().min(buffer.remaining());
            let mut read = ReadBuf::new(&mut scratch[..length]);
            ready!(Pin::new(self.inner.inner_mut()).poll_read(cx, &mut read))?;
            let count = control.frames.feed(read.filled());
            let Control { bucket, begun, .. } = &mut **control;
            if count > 0 && !bucket.take(count.into(), CONTROL_SAVED, begun.elapsed()) {
                control.metrics.refused("control-rate");
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            buffer.put_slice(read.filled());
            Poll::Ready(Ok(()))
        })
    }

    /// Returns an error if the transport has accepted no bytes for the stall
    /// timeout; otherwise returns `wrote`, the result of a write.
    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            if let Some(takeover) = &self.takeover {
                takeover.note_write();
            }
            self.stall = None;
            return wrote;
        }
        let deadline = || Box::pin(tokio::time::sleep(self.stall_timeout));
        let stall = self.stall.get_or_insert_with(deadline);
        stall.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sets the kernel's limit of unsent bytes for the current response: a bulk
    /// response, or other responses.
    fn set_bulk(&mut self) {
        let bulk = self.requests.is_bulk();
        if bulk != self.bulk {
            self.bulk = bulk;
            self.inner.inner().set_bulk(bulk);
        }
    }

    /// Returns the wrapped transport.
    pub(super) fn into_inner(self) -> Transport {
        self.inner.into_inner()
    }
}

impl Read for ConnectionIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_read_counted(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            // A client that sends bytes has not stalled: it may send a whole batch
            // before it reads the responses.
            self.stall = None;
        }
        self.watch_head(cx, read)
    }
}

impl Write for ConnectionIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.set_bulk();
        let wrote = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch_write(cx, wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if let (Poll::Ready(Ok(())), Some(takeover)) = (&flushed, &self.takeover) {
            takeover.note_flush();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.set_bulk();
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.watch_write(cx, wrote)
    }
}
