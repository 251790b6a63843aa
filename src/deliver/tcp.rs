//! A plain TCP socket that its writer and the fan-out share.

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

/// A socket under a stream or a session.
pub struct TcpTransport(Arc<TcpStream>);

impl TcpTransport {
    pub(super) fn new(socket: TcpStream) -> TcpTransport {
        TcpTransport(Arc::new(socket))
    }

    /// The same socket for the fan-out.
    pub(super) fn port(&self) -> Arc<dyn DirectWriter> {
        self.0.clone()
    }
}

impl DirectWriter for TcpStream {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        // Past tokio's note of whether the socket is writable, which lies in
        // memory that is cold here: one that is full answers the same.
        SockRef::from(self).send(bytes)
    }
}

/// Sends what the socket takes of `length` bytes. A socket that takes a part
/// is full: noted right away, this spares the next write a call in vain.
fn send(
    socket: &TcpStream,
    length: usize,
    how: impl Fn(SockRef<'_>) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut taken = 0;
    let all = socket.try_io(Interest::WRITABLE, || {
        taken = how(SockRef::from(socket))?;
        let is_part = 0 < taken && taken < length;
        if is_part { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if taken > 0 { Ok(taken) } else { all.map(|()| 0) }
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

/// Reads what there is. Where that is less than there is room for the socket
/// is empty: noted right away, as in [`send`].
fn receive(socket: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    let all = socket.try_io(Interest::READABLE, || {
        read = socket.try_read(room)?;
        let is_part = 0 < read && read < room.len();
        if is_part { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if read > 0 { Ok(read) } else { all.map(|()| 0) }
}

impl AsyncRead for TcpTransport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match receive(&self.0, buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
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

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}
