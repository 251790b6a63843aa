//! An SSE or NDJSON stream on a connection that was taken over from hyper after
//! the head. It has no buffers of hyper's and sends shared chunks in one vectored
//! write.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::end::End;
use super::socket_writer::SocketWriter;
use super::source::StreamSource;
use super::transport::Transport;

/// The chunk that ends a chunked body (RFC 9112 §7.1).
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// Writes one stream to its end. Spawn the future itself as a task of its own:
/// inside the connection's task it would keep hyper's struct alive, and an `async`
/// block around the future holds it twice, before and while it runs.
///
/// # Cancel safety
/// Dropping the future closes the connection at once and frees everything; the
/// client resumes.
pub struct Stream<G> {
    transport: Transport,
    source: StreamSource,
    writer: SocketWriter,
    /// Whether the body is chunked. Without chunks it ends with the connection.
    chunked: bool,
    /// The last frame is appended; only its bytes remain to be written.
    ending: bool,
    /// Makes the connection count as open.
    _open: G,
}

impl<G: Unpin> Stream<G> {
    /// Creates a stream on a transport that has the response head and nothing
    /// behind the head. The connection counts as open as long as `open` lives.
    pub fn new(transport: Transport, source: StreamSource, chunked: bool, open: G) -> Stream<G> {
        if let Some(direct_writer) = transport.direct_writer() {
            source.allow_direct_writes(direct_writer);
        }
        let writer = SocketWriter::default();
        Stream { transport, source, writer, chunked, ending: false, _open: open }
    }

    /// Ready once the client has closed the connection. Bytes that the client sends
    /// after its request are dropped: a stream that never ends has no answer to them.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; 512];
        loop {
            let mut read = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut self.transport).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Ready once the hub ends the stream, even if a frame is written in part.
    /// Registers the task's waker otherwise.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.source.subscriber().watch(cx, false) {
            Some(end_reason) => {
                self.source.set_end_label(End::Ending(end_reason).reason());
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }
}

impl<G: Unpin> Future for Stream<G> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.poll_closed(cx).is_ready() {
            return Poll::Ready(());
        }
        if !this.ending {
            let Stream { transport, source, writer, .. } = this;
            match writer.poll_stream(cx, transport, source, |_| false) {
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(end))) => {
                    this.ending = true;
                    this.source.set_end_label(end.reason());
                    // Without the last chunk the client sees an incomplete body.
                    if this.chunked && end.is_orderly() {
                        this.writer.append(LAST_CHUNK);
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return this.poll_cut(cx),
            }
        }
        match this.writer.poll_finish(cx, &mut this.transport, &mut this.source) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => this.poll_cut(cx),
        }
    }
}
