//! A TCP socket that its writer and the fan-out share.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::socket_writer::Socket;
use crate::hub::DirectWriter;

/// Bytes that the kernel takes ahead of the bytes it has sent, per client. Past
/// this limit a slow reader's events stay in the log instead of kernel memory,
/// which a process's own figures never show (`docs/architecture.md#delivery`).
const NOTSENT_LOWAT: u32 = 16 * 1024;

/// The same limit for bulk answers. With 16 KiB a fast reader of a bulk answer
/// costs a wake-up every 16 KiB.
const NOTSENT_LOWAT_BULK: u32 = 256 * 1024;

/// A client's TCP socket.
pub struct TcpTransport(Arc<TcpStream>);

impl TcpTransport {
    /// Wraps an accepted socket.
    pub fn new(socket: TcpStream) -> TcpTransport {
        TcpTransport(Arc::new(socket))
    }

    /// Sends small writes at once and limits the unsent bytes in the kernel.
    pub fn tune(&self) {
        let _ = self.0.set_nodelay(true);
        self.set_bulk(false);
    }

    /// Sets the limit of unsent bytes for bulk answers or for events.
    pub(super) fn set_bulk(&self, bulk: bool) {
        let bytes = if bulk { NOTSENT_LOWAT_BULK } else { NOTSENT_LOWAT };
        let _ = SockRef::from(&*self.0).set_tcp_notsent_lowat(bytes);
    }

    /// Waits until the socket has bytes to read or is closed.
    ///
    /// # Errors
    /// Those of the socket.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Copies received bytes to `buffer` and leaves them in the socket. Returns
    /// the number of bytes; 0 if the client has closed its side.
    ///
    /// # Errors
    /// Those of the socket.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.peek(buffer).await
    }

    /// Returns the same socket for the fan-out.
    pub(super) fn direct_writer(&self) -> Arc<dyn DirectWriter> {
        self.0.clone()
    }
}

impl DirectWriter for TcpStream {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        // This call bypasses tokio's readiness flag, which is in memory that is cold
        // here. A full socket returns the same error.
        SockRef::from(self).send(bytes)
    }
}

/// Calls `how`, which sends up to `length` bytes. If the socket accepts only a
/// part, it is full. The readiness flag is cleared at once then, which saves the
/// system call of the next write.
fn send(
    socket: &TcpStream,
    length: usize,
    how: impl Fn(SockRef<'_>) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut sent = 0;
    let all = socket.try_io(Interest::WRITABLE, || {
        sent = how(SockRef::from(socket))?;
        let is_part = 0 < sent && sent < length;
        if is_part { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if sent > 0 { Ok(sent) } else { all.map(|()| 0) }
}

impl TcpTransport {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        how: impl Fn(SockRef<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match send(&self.0, length, &how) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl Socket for TcpTransport {
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_write_ready(cx)
    }
}

/// Reads the available bytes. If they do not fill `buffer`, the socket is empty, and
/// the readiness flag is cleared at once, as in [`send`].
fn receive(socket: &TcpStream, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
    let (capacity, mut read) = (buffer.remaining(), 0);
    let all = socket.try_io(Interest::READABLE, || {
        // The buffer is not zeroed first: hyper uses 8 KiB for each head.
        read = socket.try_read_buf(buffer)?;
        let is_part = 0 < read && read < capacity;
        if is_part { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if read > 0 { Ok(()) } else { all }
}

impl AsyncRead for TcpTransport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match receive(&self.0, buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl AsyncWrite for TcpTransport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes.len(), |socket| socket.send(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_send(cx, length, |socket| socket.send_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}
