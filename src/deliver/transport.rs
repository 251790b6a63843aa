//! The socket under a WebSocket, as hyper gives it back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::socket_writer::Socket;
use super::tcp::TcpTransport;
use crate::hub::DirectWriter;

/// Bytes given to an HTTP/2 stream at a time. hyper takes a write whole and
/// the next one once this is through the client's window: what a slow reader
/// must take in one stall timeout to be seen reading, and one DATA frame
/// (RFC 9113 §6.5.2).
const STREAM_WRITE_BYTES: usize = 16 * 1024;

/// The socket under a WebSocket.
pub enum Transport {
    /// A plain one, given back by hyper.
    Tcp(TcpTransport),
    /// A stream of an HTTP/2 connection (RFC 8441).
    Stream(Box<TokioIo<Upgraded>>),
}

impl Transport {
    /// A plain socket.
    pub fn plain(socket: TcpStream) -> Transport {
        Transport::Tcp(TcpTransport::new(socket))
    }

    /// A stream of an HTTP/2 connection.
    pub fn stream(upgraded: Upgraded) -> Transport {
        Transport::Stream(Box::new(TokioIo::new(upgraded)))
    }

    /// The socket for the fan-out, where it can be written to from there.
    pub(super) fn port(&self) -> Option<Arc<dyn DirectWriter>> {
        match self {
            Transport::Tcp(socket) => Some(socket.port()),
            Transport::Stream(_) => None,
        }
    }
}

impl Socket for Transport {
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Tcp(socket) => socket.poll_writable(cx),
            // hyper's flush of a stream waits until it would take a write, and
            // for nothing else.
            Transport::Stream(stream) => Pin::new(&mut **stream).poll_flush(cx),
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
            Transport::Stream(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
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
            Transport::Stream(stream) => {
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
        // A stream takes one slice at a time.
        let first = slices.iter().find(|slice| !slice.is_empty());
        Pin::new(this).poll_write(cx, first.map_or(&[], |slice| slice))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Stream(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Stream(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
