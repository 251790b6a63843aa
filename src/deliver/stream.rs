//! The task of an SSE or NDJSON stream on an HTTP/1.1 connection. hyper sends the
//! response head; then this task takes the socket over from hyper. The task does not
//! have the read and write buffers of hyper. It sends the encoded events, which all
//! connections share, in one vectored write.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::end::End;
use super::socket_writer::SocketWriter;
use super::source::StreamSource;
use super::transport::Transport;

/// The last chunk, which ends a body with chunked transfer coding (RFC 9112 §7.1).
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// The future that writes one SSE or NDJSON stream until the stream ends. Pass the
/// future itself to `tokio::spawn`. If the task of the HTTP connection polled the
/// future, hyper's connection struct would stay in memory. If an `async` block
/// wrapped the future, the task would contain the future twice: once as captured
/// value and once as the value that is awaited.
///
/// # Cancel safety
/// Dropping the future closes the connection at once and frees all its memory. The
/// client can reconnect and resume.
pub struct Stream<G> {
    transport: Transport,
    source: StreamSource,
    writer: SocketWriter,
    /// Whether the response body uses chunked transfer coding. Otherwise the body
    /// ends when the connection is closed.
    chunked: bool,
    /// Whether the last frame of the stream is in `writer`. If so, only the bytes in
    /// `writer` remain to be written.
    ending: bool,
    /// A guard. The connection counts as open until the guard is dropped.
    _open: G,
}

impl<G: Unpin> Stream<G> {
    /// Creates a stream on a transport to which the response head, and no byte of
    /// the body, is written. The connection counts as open until `open` is dropped.
    pub fn new(transport: Transport, source: StreamSource, chunked: bool, open: G) -> Stream<G> {
        if let Some(direct_writer) = transport.direct_writer() {
            source.allow_direct_writes(direct_writer);
        }
        let writer = SocketWriter::default();
        Stream { transport, source, writer, chunked, ending: false, _open: open }
    }

    /// Becomes ready when the client has closed the connection. All bytes that the
    /// client sends after its request are dropped: the response to its first request
    /// does not end, so a second request cannot be answered.
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

    /// Becomes ready when the hub ends the stream, even if a frame is only partly
    /// written. Otherwise the task of `cx` is woken when the state of the connection
    /// changes in the hub.
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
                    // A body without the last chunk is incomplete for the client.
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
