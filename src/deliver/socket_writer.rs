//! The writer of a socket. A slice is a part of a block of encoded events, which
//! many connections share. The writer writes many slices with one vectored write. If
//! the socket accepts no more bytes, the writer keeps the unwritten rest of at most
//! one slice.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::end::End;
use super::source::{Filled, StreamSource};
use crate::hub::Slice;

/// A socket that can report whether it accepts bytes before the caller has any bytes
/// to write.
pub(super) trait Socket: AsyncWrite + Unpin {
    /// Becomes ready when the socket may accept bytes.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The largest number of slices in one vectored write, as in
/// [`crate::hub::WriteBudget`].
const SLICES_MAX: usize = 64;

thread_local! {
    /// The slices that one poll of a connection's task collects and writes. The
    /// vector belongs to the thread, so that an idle connection needs no vector.
    static SLICES: Cell<Vec<Slice>> = const { Cell::new(Vec::new()) };
}

/// Calls `with` with this thread's vector of slices, which is empty.
pub(super) fn with_slices<T>(with: impl FnOnce(&mut Vec<Slice>) -> T) -> T {
    let mut slices = SLICES.take();
    let result = with(&mut slices);
    slices.clear();
    SLICES.set(slices);
    result
}

/// Writes the slices of a stream source to a socket.
#[derive(Default)]
pub(super) struct SocketWriter {
    /// The bytes that remain from a slice that the socket accepted only partly. The
    /// writer writes them before any other bytes.
    rest: Bytes,
    /// Whether the writer has reported to the hub that the socket accepts no bytes.
    is_blocked: bool,
}

impl SocketWriter {
    /// Writes the slices of `source` until the stream ends or `is_done` returns
    /// true. The writer calls `is_done` each time the socket accepts bytes. Returns
    /// the reason why the stream ended, or `None` if `is_done` returned true.
    pub(super) fn poll_stream<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        source: &mut StreamSource,
        is_done: impl Fn(&StreamSource) -> bool,
    ) -> Poll<io::Result<Option<End>>> {
        with_slices(|slices| {
            loop {
                ready!(self.poll_writable(cx, socket, source))?;
                if is_done(source) {
                    return Poll::Ready(Ok(None));
                }
                match ready!(source.poll_fill(cx, slices)) {
                    Filled::Slices => ready!(self.poll_write(cx, socket, source, slices))?,
                    Filled::PartialWrite(rest) => self.set_rest(rest),
                    Filled::End(end) => return Poll::Ready(Ok(Some(end))),
                }
            }
        })
    }

    /// Writes the bytes that remain from a partly written slice.
    fn poll_rest<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        source: &mut StreamSource,
    ) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = Pin::new(&mut *socket).poll_write(cx, &self.rest);
            let count = ready!(self.written(source, written))?;
            self.rest.advance(count);
            count_bytes(source, count);
            source.subscriber().note_sent();
        }
        // An empty `Bytes` that points into a block would keep the block in memory.
        self.rest = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Writes the bytes that remain from a partly written slice, and then waits
    /// until the socket accepts more bytes. The source reads a page of the log only
    /// when the socket accepts bytes (`docs/delivery.md`).
    pub(super) fn poll_writable<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        source: &mut StreamSource,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx, socket, source))?;
        let writable = socket.poll_writable(cx);
        if writable.is_pending() {
            self.block(source);
        } else if std::mem::take(&mut self.is_blocked) {
            // Without this call, the hub would still treat a connection without
            // events as blocked.
            source.subscriber().unblocked();
        }
        writable
    }

    /// Reports to the hub that the socket accepts no bytes. A poll of the socket is
    /// also pending if the task has used up its budget of tokio's cooperative
    /// scheduling. In this case the function reports nothing, because the task runs
    /// again at once.
    fn block(&mut self, source: &mut StreamSource) {
        if !tokio::task::coop::has_budget_remaining() {
            return;
        }
        self.is_blocked = true;
        source.subscriber().blocked();
        source.release_read();
    }

    /// Returns the number of bytes that a write has written, which is not zero. If
    /// the socket accepts no bytes, calls [`block`](Self::block) and is pending.
    fn written(
        &mut self,
        source: &mut StreamSource,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written? {
            Poll::Ready(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(count) => Poll::Ready(Ok(count)),
            Poll::Pending => {
                self.block(source);
                Poll::Pending
            }
        }
    }

    /// Writes `slices` with one system call, and clears the vector. The slices of
    /// which no byte was written stay in the source.
    pub(super) fn poll_write<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        source: &mut StreamSource,
        slices: &mut Vec<Slice>,
    ) -> Poll<io::Result<()>> {
        // A live stream usually has one slice. send(2) costs the kernel less than
        // writev(2) of one slice: 8.8 against 10.0 µs a delivery in one interleaved
        // run (docs/tuning.md, fanout-1000x100).
        let written = if let [only] = slices.as_slice() {
            Pin::new(socket).poll_write(cx, &only.bytes)
        } else {
            let mut parts = [IoSlice::new(&[]); SLICES_MAX];
            for (slice, part) in slices.iter().zip(&mut parts) {
                *part = IoSlice::new(&slice.bytes);
            }
            Pin::new(socket).poll_write_vectored(cx, &parts[..slices.len().min(SLICES_MAX)])
        };
        let written = self.written(source, written);
        if let Poll::Ready(Ok(count)) = written {
            self.note_written(source, slices, count);
        }
        slices.clear();
        written.map_ok(|_| ())
    }

    /// Reports to `source` the slices that are written wholly or partly. If the last
    /// of these slices is written only partly, keeps its remaining bytes.
    fn note_written(&mut self, source: &mut StreamSource, slices: &[Slice], bytes: usize) {
        let mut left = bytes;
        let mut count = 0;
        for slice in slices {
            if left == 0 {
                break;
            }
            count += 1;
            if left < slice.bytes.len() {
                self.rest = slice.bytes.slice(left..);
                break;
            }
            left -= slice.bytes.len();
        }
        count_delivered(source, &slices[..count], bytes);
        source.note_written(&slices[..count]);
    }

    /// Writes the bytes that remain from a partly written slice, and then shuts down
    /// the write side of the socket.
    pub(super) fn poll_finish<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        source: &mut StreamSource,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx, socket, source))?;
        let shut = Pin::new(socket).poll_shutdown(cx);
        if shut.is_pending() {
            // On HTTP/2, the shutdown waits for the client's flow-control window.
            self.block(source);
        }
        shut
    }

    /// Stores the unwritten rest of a partial direct write of the fan-out. The
    /// writer writes this rest before any other bytes. The writer must have no rest
    /// of its own.
    pub(super) fn set_rest(&mut self, rest: Bytes) {
        self.rest = rest;
    }

    /// Appends `frame` to the unwritten bytes of the writer. The next write includes
    /// the frame.
    pub(super) fn append(&mut self, frame: Bytes) {
        if self.rest.is_empty() {
            self.rest = frame;
        } else {
            self.rest = [&self.rest[..], &frame[..]].concat().into();
        }
    }
}

fn count_bytes(source: &StreamSource, bytes: usize) {
    let streams = source.metrics().streams(source.subscriber().protocol());
    streams.sent_bytes.increment(bytes as u64);
}

/// Counts the events and bytes of a write in the metrics, and records the latency of
/// live events. The function reads the clock at most once.
pub(super) fn count_delivered(source: &StreamSource, slices: &[Slice], bytes: usize) {
    count_bytes(source, bytes);
    let streams = source.metrics().streams(source.subscriber().protocol());
    let events: u64 = slices.iter().map(|slice| u64::from(slice.events)).sum();
    if events == 0 {
        return;
    }
    streams.delivered.increment(events);
    let live = || slices.iter().filter(|slice| slice.committed.is_some());
    let live_events: u64 = live().map(|slice| u64::from(slice.events)).sum();
    if live_events < events {
        streams.replayed.increment(events - live_events);
    }
    if live_events > 0 {
        let now = std::time::Instant::now();
        for slice in live() {
            if let Some(committed) = slice.committed {
                streams.latency.record(now.duration_since(committed), u64::from(slice.events));
            }
        }
    }
}
