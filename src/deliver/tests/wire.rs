//! A socket in memory that its writer and the fan-out share, and a parser of the
//! bytes that its client receives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::AsyncWrite;

use crate::deliver::socket_writer::Socket;
use crate::hub::DirectWriter;

/// A socket in memory. The writer and the fan-out hold clones of it. The test reads
/// the written bytes with [`Wire::taken`].
#[derive(Clone, Default)]
pub(super) struct Wire(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    taken: Vec<u8>,
    /// The number of bytes that the socket accepts before its client has to read.
    capacity: usize,
    is_broken: bool,
    /// Whether the writer knows that the socket is full. Like tokio's readiness flag,
    /// it is not read or set by a direct write of the fan-out.
    is_known_full: bool,
    writer: Option<Waker>,
}

impl State {
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(self.capacity);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.taken.extend_from_slice(&bytes[..count]);
        self.capacity -= count;
        Ok(count)
    }
}

impl Wire {
    /// Lets the client read: the socket accepts `capacity` more bytes.
    pub(super) fn give(&self, capacity: usize) {
        let mut state = self.0.lock();
        state.capacity += capacity;
        state.is_known_full = false;
        wake(&mut state);
    }

    /// Breaks the connection.
    pub(super) fn cut(&self) {
        let mut state = self.0.lock();
        state.is_broken = true;
        wake(&mut state);
    }

    /// Returns all bytes that were written.
    pub(super) fn taken(&self) -> Vec<u8> {
        self.0.lock().taken.clone()
    }
}

fn wake(state: &mut State) {
    if let Some(writer) = state.writer.take() {
        writer.wake();
    }
}

impl DirectWriter for Wire {
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().take(bytes)
    }
}

impl Socket for Wire {
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if !state.is_known_full || state.is_broken {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        let taken = state.take(bytes);
        state.is_known_full = !matches!(taken, Ok(all) if all == bytes.len());
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                state.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            taken => Poll::Ready(taken),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Parses the text frames in `bytes` (RFC 6455 §5.2) and returns their JSON messages.
/// A frame at the end that is incomplete is left out.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<serde_json::Value> {
    let mut found = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert_eq!(*first, 0x81, "a text frame begins where the last one ended");
        let (length, rest) = match (*second, rest) {
            (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            (126, _) => break,
            (length, rest) => (usize::from(length), rest),
        };
        let Some((payload, behind)) = rest.split_at_checked(length) else { break };
        found.push(serde_json::from_slice(payload).expect("a frame is whole JSON"));
        bytes = behind;
    }
    found
}
