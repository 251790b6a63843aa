//! The way out of a socket: one vectored write of shared slices, and at most
//! the rest of one slice kept when the socket takes no more.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::source::StreamSource;
use crate::hub::Slice;

/// A socket that can say, before anything is read for it, whether it would
/// take something.
pub(super) trait Socket: AsyncWrite + Unpin {
    /// Ready when a write may make progress.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// Slices in one vectored write; as many as [`crate::hub::Room`] hands out.
const SLICES_MAX: usize = 64;

thread_local! {
    /// The hand that a writer fills and empties within one poll. One a
    /// thread, so that an idle connection holds none.
    static HAND: Cell<Vec<Slice>> = const { Cell::new(Vec::new()) };
}

/// Lends this thread's empty hand to `with`.
pub(super) fn with_hand<T>(with: impl FnOnce(&mut Vec<Slice>) -> T) -> T {
    let mut hand = HAND.take();
    let result = with(&mut hand);
    hand.clear();
    HAND.set(hand);
    result
}

/// Writes what a pump hands out.
#[derive(Default)]
pub(super) struct SocketWriter {
    /// What of the last slice is not out yet; goes before anything else.
    rest: Bytes,
    /// The hub was told that the socket takes nothing.
    blocked: bool,
}

impl SocketWriter {
    /// Finishes the slice that is half out.
    pub(super) fn poll_rest<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        pump: &mut StreamSource,
    ) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            match Pin::new(&mut *socket).poll_write(cx, &self.rest)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(n) => {
                    self.rest.advance(n);
                    let streams = pump.metrics().streams(pump.subscriber().protocol());
                    streams.sent_bytes.increment(n as u64);
                    pump.subscriber().note_sent();
                }
                Poll::Pending => {
                    self.block(pump);
                    return Poll::Pending;
                }
            }
        }
        // A Bytes that was emptied still pins its block.
        self.rest = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Finishes what is half out, and waits until the socket takes more: only
    /// then is it worth reading a page (`docs/architecture.md#delivery`).
    pub(super) fn poll_open<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        pump: &mut StreamSource,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx, socket, pump))?;
        let writable = socket.poll_writable(cx);
        if writable.is_pending() {
            self.block(pump);
        } else if std::mem::take(&mut self.blocked) {
            // There may be nothing to write that would show it.
            pump.subscriber().unblocked();
        }
        writable
    }

    /// The socket takes nothing, or the task has had its turn, which tokio
    /// tells in the same way: then it is asked again at once.
    fn block(&mut self, pump: &mut StreamSource) {
        if !tokio::task::coop::has_budget_remaining() {
            return;
        }
        self.blocked = true;
        pump.subscriber().blocked();
        pump.release();
    }

    /// Writes `hand` with one call. What the socket did not begin
    /// stays with the pump.
    pub(super) fn poll_hand<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        pump: &mut StreamSource,
        hand: &mut Vec<Slice>,
    ) -> Poll<io::Result<()>> {
        // One slice is the usual case of a live stream, and send(2) costs the
        // kernel less than writev(2) of one: 8.8 against 10.0 µs a delivery in
        // one interleaved run (docs/tuning.md, fanout-1000x100).
        let wrote = if let [only] = hand.as_slice() {
            Pin::new(socket).poll_write(cx, &only.bytes)
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            for (slice, out) in hand.iter().zip(&mut slices) {
                *out = IoSlice::new(&slice.bytes);
            }
            Pin::new(socket).poll_write_vectored(cx, &slices[..hand.len().min(SLICES_MAX)])
        };
        match wrote? {
            Poll::Ready(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(n) => {
                self.account(pump, hand, n);
                hand.clear();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                hand.clear();
                self.block(pump);
                Poll::Pending
            }
        }
    }

    /// Tells the pump which slices are out, keeping the rest of a half one.
    fn account(&mut self, pump: &mut StreamSource, hand: &[Slice], written: usize) {
        let mut left = written;
        let mut count = 0;
        for slice in hand {
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
        count_delivered(pump, &hand[..count], written as u64);
        pump.wrote(&hand[..count]);
    }

    /// Writes what is half out, then the end of the stream.
    pub(super) fn poll_finish<S: Socket>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut S,
        pump: &mut StreamSource,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx, socket, pump))?;
        let shut = Pin::new(socket).poll_shutdown(cx);
        if shut.is_pending() {
            // On HTTP/2 it waits for the client's window.
            self.block(pump);
        }
        shut
    }

    /// Takes over what another has put out half, to be written before anything
    /// else. Nothing may be half out here.
    pub(super) fn take_over(&mut self, rest: Bytes) {
        self.rest = rest;
    }

    /// Puts `frame` after what is half out.
    pub(super) fn append(&mut self, frame: Bytes) {
        if self.rest.is_empty() {
            self.rest = frame;
        } else {
            self.rest = [&self.rest[..], &frame[..]].concat().into();
        }
    }
}

/// Counts what is on its way to a client. One look at the clock a write.
pub(super) fn count_delivered(pump: &StreamSource, hand: &[Slice], bytes: u64) {
    let streams = pump.metrics().streams(pump.subscriber().protocol());
    streams.sent_bytes.increment(bytes);
    let events: u64 = hand.iter().map(|slice| u64::from(slice.events)).sum();
    if events == 0 {
        return;
    }
    streams.delivered.increment(events);
    let live = || hand.iter().filter(|slice| slice.committed.is_some());
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
