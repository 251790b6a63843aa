//! An SSE or NDJSON stream on a socket that was taken over from hyper after
//! the head: no buffers of hyper's, one vectored write of shared chunks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};

use super::end::End;
use super::socket_writer::{SocketWriter, with_hand};
use super::source::{Filled, StreamSource};
use super::transport::Transport;

/// The chunk that ends a chunked body (RFC 9112 §7.1).
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// Writes one stream to its end. To be spawned as a task of its own, and by
/// itself: inside the connection's it would keep hyper's struct alive, and an
/// `async` block around it holds it twice, before and while it runs.
///
/// # Cancel safety
/// Dropping it cuts the stream and frees everything; the client resumes.
pub struct Stream<G> {
    transport: Transport,
    source: StreamSource,
    outlet: SocketWriter,
    /// Whether the body is chunked; without, it ends with the connection.
    chunked: bool,
    /// The farewell is said; what is left is to get it out.
    ending: bool,
    /// Makes the connection count as open.
    _open: G,
}

impl<G: Unpin> Stream<G> {
    /// Creates a stream on a transport that has the response head and nothing
    /// behind the head. The connection counts as open as long as `open` lives.
    pub fn new(transport: Transport, source: StreamSource, chunked: bool, open: G) -> Stream<G> {
        if let Some(port) = transport.port() {
            source.open_port(port);
        }
        let outlet = SocketWriter::default();
        Stream { transport, source, outlet, chunked, ending: false, _open: open }
    }

    /// Whether the client has gone. What it sends after its request is
    /// dropped: a stream that never ends has no answer to it.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; 512];
        loop {
            let mut read = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut self.transport).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<End>> {
        let Stream { transport, source, outlet, .. } = self;
        with_hand(|hand| {
            loop {
                ready!(outlet.poll_open(cx, transport, source))?;
                match ready!(source.poll_fill(cx, hand)) {
                    Filled::Write => ready!(outlet.poll_hand(cx, transport, source, hand))?,
                    Filled::Rest(rest) => outlet.take_over(rest),
                    Filled::End(end) => return Poll::Ready(Ok(end)),
                }
            }
        })
    }

    /// Ends at once where the hub asks for it although a frame may be half
    /// out; otherwise the task is woken by whatever comes.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.source.subscriber().watch(cx, false) {
            Some(ending) => {
                self.source.ends(End::Ending(ending).reason());
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
        if this.poll_gone(cx).is_ready() {
            return Poll::Ready(());
        }
        if !this.ending {
            match this.poll_write(cx) {
                Poll::Ready(Ok(end)) => {
                    this.ending = true;
                    this.source.ends(end.reason());
                    // A body that the client must not take for whole is cut.
                    if this.chunked && end.is_orderly() {
                        this.outlet.append(LAST_CHUNK);
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return this.poll_cut(cx),
            }
        }
        match this.outlet.poll_finish(cx, &mut this.transport, &mut this.source) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => this.poll_cut(cx),
        }
    }
}
