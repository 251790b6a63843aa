//! The transport of a stream or of a WebSocket session: a TCP socket or an HTTP/2
//! stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::socket_writer::Socket;
use super::tcp::TcpTransport;
use crate::hub::DirectWriter;

/// The largest number of bytes of one write to an HTTP/2 stream: the size of one
/// DATA frame (RFC 9113 §6.5.2). hyper accepts each write as a whole. It accepts the
/// next write when the client's flow-control window has room for the previous one.
/// So a slow client must read this many bytes within one stall timeout.
const STREAM_WRITE_BYTES: usize = 16 * 1024;

/// The transport that a stream or a WebSocket session reads from and writes to.
pub enum Transport {
    /// A TCP socket.
    Tcp(TcpTransport),
    /// An HTTP/2 stream that carries a WebSocket (extended CONNECT, RFC 8441).
    H2(Box<TokioIo<Upgraded>>),
}

impl Transport {
    /// Wraps the HTTP/2 stream that hyper returns for an extended CONNECT request.
    pub fn h2(upgraded: Upgraded) -> Transport {
        Transport::H2(Box::new(TokioIo::new(upgraded)))
    }

    /// Sets how many unsent bytes the kernel accepts for the socket: more for a bulk
    /// response, fewer for a stream of events. Has no effect on an HTTP/2 stream.
    pub fn set_bulk(&self, bulk: bool) {
        if let Transport::Tcp(socket) = self {
            socket.set_bulk(bulk);
        }
    }

    /// Returns the socket if the fan-out task may write to it directly. Returns
    /// `None` for an HTTP/2 stream, because only the task of that stream may write
    /// to it.
    pub(super) fn direct_writer(&self) -> Option<Arc<dyn DirectWriter>> {
        match self {
            Transport::Tcp(socket) => Some(socket.direct_writer()),
            Transport::H2(_) => None,
        }
    }
}

impl Socket for Transport {
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Tcp(socket) => socket.poll_writable(cx),
            // The flush of an HTTP/2 stream in hyper is ready when hyper would
            // accept a write.
            Transport::H2(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Transport::H2(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Transport::H2(stream) => {
                Pin::new(stream).poll_write(cx, &bytes[..bytes.len().min(STREAM_WRITE_BYTES)])
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Transport::Tcp(socket) = this {
            return Pin::new(socket).poll_write_vectored(cx, slices);
        }
        // hyper accepts one slice per write to an HTTP/2 stream.
        let first = slices.iter().find(|slice| !slice.is_empty());
        Pin::new(this).poll_write(cx, first.map_or(&[], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Transport::Tcp(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Transport::H2(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::H2(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
