//! Detects an HTTP/2 stream whose client does not read the response.
//!
//! hyper asks a body for its next frame, and h2 keeps the frame until the client
//! has opened its window, without a deadline (RFC 9113 §5.2). So each frame is a
//! [`TrackedBytes`] that reports its written bytes to the stream's
//! [`H2SendTracker`]. The stream's task asks the tracker whether the stream
//! stalls.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::time::Sleep;

/// The number of checks in one stall timeout of a stream that waits for window.
/// The stream ends at most one such part late, and no write reads the clock.
const LOOKS: u32 = 4;

/// Tracks the bytes of one stream's response that are not written yet.
#[derive(Debug, Default)]
pub struct H2SendTracker {
    waiting_bytes: AtomicUsize,
    /// Bytes were sent or received since the last check.
    moved: AtomicBool,
    stalled: AtomicBool,
    /// A task checks whether the stream stalls.
    watched: AtomicBool,
    /// The waker of the task that waits until all bytes are written.
    writer: Mutex<Option<Waker>>,
}

impl H2SendTracker {
    /// Returns `bytes` as tracked bytes.
    pub fn piece(self: &Arc<Self>, bytes: Bytes) -> TrackedBytes {
        self.waiting_bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        TrackedBytes { bytes, flow: self.clone() }
    }

    /// Notes that the client is alive: it still sends a batch, whose responses it
    /// need not read before the end.
    pub fn moved(&self) {
        self.moved.store(true, Ordering::Release);
    }

    /// Watches a stream from outside of its task. Returns true once no waiting
    /// byte has moved for `stall_timeout`, at most a quarter late, and false once
    /// the stream has ended.
    ///
    /// # Cancel safety
    /// Safe: the next call starts again.
    pub async fn stalls(flow: Weak<H2SendTracker>, stall_timeout: Duration) -> bool {
        let mut patience = StallDetector::new(stall_timeout);
        loop {
            tokio::time::sleep(stall_timeout / LOOKS).await;
            let Some(flow) = flow.upgrade() else { return false };
            if patience.look(&flow) {
                flow.stalled.store(true, Ordering::Release);
                return true;
            }
        }
    }

    /// Returns whether the stream was ended as stalled.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Returns whether a task checks whether the stream stalls.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Sets whether a task checks whether the stream stalls.
    pub fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }

    /// Ready once all bytes are written.
    pub fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waits() {
            return Poll::Ready(());
        }
        *self.writer.lock() = Some(cx.waker().clone());
        // The last bytes may have gone between the check and the waker.
        if self.waits() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn waits(&self) -> bool {
        self.waiting_bytes.load(Ordering::Acquire) > 0
    }

    fn wrote(&self, count: usize) {
        self.moved();
        if self.waiting_bytes.fetch_sub(count, Ordering::AcqRel) == count
            && let Some(writer) = self.writer.lock().take()
        {
            writer.wake();
        }
    }
}

/// Bytes on their way through h2 to the transport.
#[derive(Debug)]
pub struct TrackedBytes {
    bytes: Bytes,
    flow: Arc<H2SendTracker>,
}

impl Buf for TrackedBytes {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.flow.wrote(count);
    }
}

/// The stall deadline of one stream. Its timer is created when bytes wait and
/// kept until a check finds that none do. So a stream that keeps up costs a few
/// timers a minute, and an idle one none.
#[derive(Debug)]
pub struct StallDetector {
    stall_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The number of checks in a row without a moved byte.
    still: u32,
}

impl StallDetector {
    /// Creates the detector of a stream that may stall for `stall_timeout`.
    pub fn new(stall_timeout: Duration) -> StallDetector {
        StallDetector { stall_timeout, timer: None, still: 0 }
    }

    /// Ready once no waiting byte in `flow` has moved for the stall timeout, at
    /// most a quarter late. Never ready while no bytes wait. Call this whenever
    /// the stream's task was polled.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>, flow: &H2SendTracker) -> Poll<()> {
        let until_look = self.stall_timeout / LOOKS;
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                if self.look(flow) {
                    flow.stalled.store(true, Ordering::Release);
                    return Poll::Ready(());
                }
            } else {
                self.still = 0;
                flow.moved.store(false, Ordering::Release);
            }
            if !flow.waits() {
                self.timer = None;
                return Poll::Pending;
            }
            self.timer = Some(Box::pin(tokio::time::sleep(until_look)));
        }
    }

    /// Checks the stream and returns whether it has stalled.
    fn look(&mut self, flow: &H2SendTracker) -> bool {
        let still = flow.waits() && !flow.moved.swap(false, Ordering::AcqRel);
        self.still = if still { self.still + 1 } else { 0 };
        self.still >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// The look of so many that ends a stream whose client does what `act`
    /// does before each.
    fn ends_at(flow: &H2SendTracker, mut act: impl FnMut(u32)) -> Option<u32> {
        let mut patience = StallDetector::new(Duration::from_secs(8));
        (1..40).find(|&n| {
            act(n);
            patience.look(flow)
        })
    }

    #[test]
    fn what_nobody_takes_is_stalled() {
        let flow = Arc::new(H2SendTracker::default());
        let _piece = flow.piece(Bytes::from_static(b"waits"));
        assert_eq!(ends_at(&flow, |_| ()), Some(LOOKS));
    }

    #[test]
    fn a_byte_now_and_then_is_enough() {
        let flow = Arc::new(H2SendTracker::default());
        let mut piece = flow.piece(Bytes::from_static(&[0; 60]));
        let every = |n, piece: &mut TrackedBytes, look: u32| {
            if look.is_multiple_of(n) {
                piece.advance(1);
            }
        };
        assert_eq!(ends_at(&flow, |look| every(LOOKS, &mut piece, look)), None);
        assert_eq!(ends_at(&flow, |look| every(9, &mut piece, look)), Some(LOOKS));
    }

    #[test]
    fn a_client_that_sends_is_alive() {
        let flow = Arc::new(H2SendTracker::default());
        let _piece = flow.piece(Bytes::from_static(b"waits"));
        assert_eq!(ends_at(&flow, |_| flow.moved()), None);
    }

    #[tokio::test]
    async fn a_timer_runs_while_something_waits() {
        let flow = Arc::new(H2SendTracker::default());
        let mut patience = StallDetector::new(Duration::from_millis(20));
        let mut ask = async |flow: &H2SendTracker| {
            let asked = poll_fn(|cx| Poll::Ready(patience.poll_stalled(cx, flow))).await;
            (asked.is_ready(), patience.timer.is_some())
        };
        assert_eq!(ask(&flow).await, (false, false));
        let mut piece = flow.piece(Bytes::from_static(b"waits"));
        assert_eq!(ask(&flow).await, (false, true));
        piece.advance(5);
        while ask(&flow).await.1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ends_at(&flow, |_| ()), None);
        let _piece = flow.piece(Bytes::from_static(b"waits"));
        poll_fn(|cx| patience.poll_stalled(cx, &flow)).await;
        assert!(flow.is_stalled());
    }

    #[tokio::test]
    async fn a_stream_is_watched_from_outside_until_it_is_over() {
        let flow = Arc::new(H2SendTracker::default());
        let stall_timeout = Duration::from_millis(20);
        let piece = flow.piece(Bytes::from_static(b"waits"));
        assert!(H2SendTracker::stalls(Arc::downgrade(&flow), stall_timeout).await);
        assert!(flow.is_stalled());
        let weak = Arc::downgrade(&flow);
        drop((piece, flow));
        assert!(!H2SendTracker::stalls(weak, stall_timeout).await);
    }

    #[tokio::test]
    async fn the_end_waits_for_the_last_byte() {
        let flow = Arc::new(H2SendTracker::default());
        poll_fn(|cx| flow.poll_written(cx)).await;
        let mut piece = flow.piece(Bytes::from_static(b"waits"));
        let written = tokio::spawn({
            let flow = flow.clone();
            async move { poll_fn(|cx| flow.poll_written(cx)).await }
        });
        while flow.writer.lock().is_none() {
            tokio::task::yield_now().await;
        }
        piece.advance(3);
        assert!(flow.writer.lock().is_some(), "two bytes are to come");
        piece.advance(2);
        written.await.unwrap();
    }
}
