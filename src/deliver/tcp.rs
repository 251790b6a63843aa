//! A TCP socket of a client. Both the task of the connection and the fan-out task
//! can write to the socket.

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

/// The largest number of unsent bytes that the kernel accepts for one client
/// (`TCP_NOTSENT_LOWAT`). A slow client's events above this limit stay in the log
/// and do not use kernel memory. The memory figures of a process do not include this
/// kernel memory (`docs/architecture.md#delivery`).
const NOTSENT_LOWAT: u32 = 16 * 1024;

/// The largest number of unsent bytes that the kernel accepts for a bulk response.
/// With a limit of 16 KiB, a fast client of a bulk response costs one wake-up of the
/// task for every 16 KiB.
const NOTSENT_LOWAT_BULK: u32 = 256 * 1024;

/// A client's TCP socket.
pub struct TcpTransport(Arc<TcpStream>);

impl TcpTransport {
    /// Wraps an accepted socket.
    pub fn new(socket: TcpStream) -> TcpTransport {
        TcpTransport(Arc::new(socket))
    }

    /// Sets `TCP_NODELAY`, so that the kernel sends small writes at once, and limits
    /// the unsent bytes in the kernel.
    pub fn tune(&self) {
        let _ = self.0.set_nodelay(true);
        self.set_bulk(false);
    }

    /// Sets how many unsent bytes the kernel accepts for the socket: more for a bulk
    /// response, fewer for a stream of events.
    pub(super) fn set_bulk(&self, bulk: bool) {
        let bytes = if bulk { NOTSENT_LOWAT_BULK } else { NOTSENT_LOWAT };
        let _ = SockRef::from(&*self.0).set_tcp_notsent_lowat(bytes);
    }

    /// Waits until the socket has bytes to read or is closed.
    ///
    /// # Errors
    /// The I/O errors of the socket.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Copies received bytes to `buffer`, but does not remove them from the socket.
    /// Returns the number of copied bytes. Returns 0 if the client has closed its
    /// side of the connection.
    ///
    /// # Errors
    /// The I/O errors of the socket.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.peek(buffer).await
    }

    /// Returns a shared handle of the socket, with which the fan-out task writes
    /// directly.
    pub(super) fn direct_writer(&self) -> Arc<dyn DirectWriter> {
        self.0.clone()
    }
}

impl DirectWriter for TcpStream {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        // This call does not read or clear tokio's readiness flag. The memory of
        // that flag is usually not in the CPU cache here. If the socket is full,
        // `send` returns `WouldBlock` without the flag too.
        SockRef::from(self).send(bytes)
    }
}

/// Calls `how`, which sends up to `length` bytes, and returns the number of sent
/// bytes. If the socket accepts only a part of the bytes, it is full. Then the
/// function clears tokio's readiness flag at once. Otherwise the next write would
/// need a system call to find that the socket is full.
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

/// Reads the available bytes into `buffer`. If they do not fill `buffer`, the socket
/// has no more bytes. Then the function clears tokio's readiness flag at once, as
/// [`send`] does.
fn receive(socket: &TcpStream, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
    let (capacity, mut read) = (buffer.remaining(), 0);
    let all = socket.try_io(Interest::READABLE, || {
        // `try_read_buf` does not zero the buffer first. hyper uses a buffer of 8
        // KiB for each request head.
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
