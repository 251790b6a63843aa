//! Detects an HTTP/2 stream whose client does not read the response.
//!
//! hyper asks a response body for its next frame, and the library h2 keeps this
//! frame until the client's flow-control window has room for it (RFC 9113 §5.2). h2
//! has no deadline for this wait. So the body wraps each frame in [`TrackedBytes`],
//! which report to the stream's [`H2SendTracker`] how many bytes are written. The
//! stream's task asks the tracker whether the stream has stalled: no byte was
//! written for the stall timeout.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::time::Sleep;

/// The number of checks in one stall timeout, for a stream whose bytes wait for the
/// flow-control window. A stalled stream ends at most one check interval late.
/// Because of the checks, no write has to read the clock.
const CHECKS: u32 = 4;

/// Counts the bytes of one stream's response that are not written to the transport
/// yet.
#[derive(Debug, Default)]
pub struct H2SendTracker {
    waiting_bytes: AtomicUsize,
    /// Whether bytes of the stream were sent or received since the last check.
    moved: AtomicBool,
    stalled: AtomicBool,
    /// Whether a task checks the stream for a stall.
    watched: AtomicBool,
    /// The waker of the task that waits until all bytes are written.
    writer: Mutex<Option<Waker>>,
}

impl H2SendTracker {
    /// Wraps `bytes` so that the tracker counts them until they are written.
    pub fn piece(self: &Arc<Self>, bytes: Bytes) -> TrackedBytes {
        self.waiting_bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        TrackedBytes { bytes, tracker: self.clone() }
    }

    /// Records that the stream makes progress although no byte was written. The
    /// caller uses this when the client has sent a part of a batch request: a client
    /// does not have to read the responses before it has sent the whole batch.
    pub fn moved(&self) {
        self.moved.store(true, Ordering::Release);
    }

    /// Waits until a stream stalls. For a caller that is not the task of the stream.
    /// Returns true when no byte was written or received for `stall_timeout`
    /// although bytes wait to be written. It returns at most a quarter of
    /// `stall_timeout` late. Returns false when the stream has ended.
    ///
    /// # Cancel safety
    /// Safe: the next call starts a new stall timeout.
    pub async fn stalls(tracker: Weak<H2SendTracker>, stall_timeout: Duration) -> bool {
        let mut detector = StallDetector::new(stall_timeout);
        loop {
            tokio::time::sleep(stall_timeout / CHECKS).await;
            let Some(tracker) = tracker.upgrade() else { return false };
            if detector.check(&tracker) {
                tracker.stalled.store(true, Ordering::Release);
                return true;
            }
        }
    }

    /// Returns whether the stream was ended because it had stalled.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Returns whether a task checks the stream for a stall.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Sets whether a task checks the stream for a stall.
    pub fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }

    /// Becomes ready when all bytes of the response so far are written.
    pub fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_waiting_bytes() {
            return Poll::Ready(());
        }
        *self.writer.lock() = Some(cx.waker().clone());
        // The last bytes may have been written after the first check and before the
        // waker was stored. So check again.
        if self.has_waiting_bytes() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn has_waiting_bytes(&self) -> bool {
        self.waiting_bytes.load(Ordering::Acquire) > 0
    }

    fn note_written(&self, count: usize) {
        self.moved();
        if self.waiting_bytes.fetch_sub(count, Ordering::AcqRel) == count
            && let Some(writer) = self.writer.lock().take()
        {
            writer.wake();
        }
    }
}

/// Bytes of a response that h2 has not written yet. When h2 advances over bytes, the
/// tracker of the stream counts them as written.
#[derive(Debug)]
pub struct TrackedBytes {
    bytes: Bytes,
    tracker: Arc<H2SendTracker>,
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
        self.tracker.note_written(count);
    }
}

/// Detects that one stream has stalled. The detector creates its timer when bytes
/// wait to be written, and keeps the timer until a check finds no waiting bytes. So
/// a stream whose client reads at once needs a few timers per minute, and an idle
/// stream needs none.
#[derive(Debug)]
pub struct StallDetector {
    stall_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The number of consecutive checks that found waiting bytes and no progress.
    idle_checks: u32,
}

impl StallDetector {
    /// Creates a detector that reports a stall when the stream makes no progress for
    /// `stall_timeout`.
    pub fn new(stall_timeout: Duration) -> StallDetector {
        StallDetector { stall_timeout, timer: None, idle_checks: 0 }
    }

    /// Becomes ready when bytes wait to be written but the stream has made no
    /// progress for the stall timeout. Becomes ready at most a quarter of the stall
    /// timeout late. Stays pending while no bytes wait. Call this method each time
    /// after the stream's task was polled.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>, tracker: &H2SendTracker) -> Poll<()> {
        let interval = self.stall_timeout / CHECKS;
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                if self.check(tracker) {
                    tracker.stalled.store(true, Ordering::Release);
                    return Poll::Ready(());
                }
            } else {
                self.idle_checks = 0;
                tracker.moved.store(false, Ordering::Release);
            }
            if !tracker.has_waiting_bytes() {
                self.timer = None;
                return Poll::Pending;
            }
            self.timer = Some(Box::pin(tokio::time::sleep(interval)));
        }
    }

    /// Checks once whether the stream makes progress. Returns whether it has
    /// stalled.
    fn check(&mut self, tracker: &H2SendTracker) -> bool {
        let is_idle = tracker.has_waiting_bytes() && !tracker.moved.swap(false, Ordering::AcqRel);
        self.idle_checks = if is_idle { self.idle_checks + 1 } else { 0 };
        self.idle_checks >= CHECKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// Checks `tracker` up to 39 times, and calls `act` before each check. Returns the
    /// number of the check that finds a stall.
    fn ends_at(tracker: &H2SendTracker, mut act: impl FnMut(u32)) -> Option<u32> {
        let mut detector = StallDetector::new(Duration::from_secs(8));
        (1..40).find(|&n| {
            act(n);
            detector.check(tracker)
        })
    }

    #[test]
    fn a_stream_that_writes_no_byte_stalls() {
        let tracker = Arc::new(H2SendTracker::default());
        let _piece = tracker.piece(Bytes::from_static(b"waits"));
        assert_eq!(ends_at(&tracker, |_| ()), Some(CHECKS));
    }

    #[test]
    fn one_byte_in_each_stall_timeout_prevents_a_stall() {
        let tracker = Arc::new(H2SendTracker::default());
        let mut piece = tracker.piece(Bytes::from_static(&[0; 60]));
        let every = |n, piece: &mut TrackedBytes, check: u32| {
            if check.is_multiple_of(n) {
                piece.advance(1);
            }
        };
        assert_eq!(ends_at(&tracker, |check| every(CHECKS, &mut piece, check)), None);
        assert_eq!(ends_at(&tracker, |check| every(9, &mut piece, check)), Some(CHECKS));
    }

    #[test]
    fn a_client_that_sends_does_not_stall() {
        let tracker = Arc::new(H2SendTracker::default());
        let _piece = tracker.piece(Bytes::from_static(b"waits"));
        assert_eq!(ends_at(&tracker, |_| tracker.moved()), None);
    }

    #[tokio::test]
    async fn a_timer_runs_while_bytes_wait() {
        let tracker = Arc::new(H2SendTracker::default());
        let mut detector = StallDetector::new(Duration::from_millis(20));
        let mut poll = async |tracker: &H2SendTracker| {
            let polled = poll_fn(|cx| Poll::Ready(detector.poll_stalled(cx, tracker))).await;
            (polled.is_ready(), detector.timer.is_some())
        };
        assert_eq!(poll(&tracker).await, (false, false));
        let mut piece = tracker.piece(Bytes::from_static(b"waits"));
        assert_eq!(poll(&tracker).await, (false, true));
        piece.advance(5);
        while poll(&tracker).await.1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ends_at(&tracker, |_| ()), None);
        let _piece = tracker.piece(Bytes::from_static(b"waits"));
        poll_fn(|cx| detector.poll_stalled(cx, &tracker)).await;
        assert!(tracker.is_stalled());
    }

    #[tokio::test]
    async fn a_watch_from_outside_ends_with_the_stream() {
        let tracker = Arc::new(H2SendTracker::default());
        let stall_timeout = Duration::from_millis(20);
        let piece = tracker.piece(Bytes::from_static(b"waits"));
        assert!(H2SendTracker::stalls(Arc::downgrade(&tracker), stall_timeout).await);
        assert!(tracker.is_stalled());
        let weak = Arc::downgrade(&tracker);
        drop((piece, tracker));
        assert!(!H2SendTracker::stalls(weak, stall_timeout).await);
    }

    #[tokio::test]
    async fn poll_written_waits_for_the_last_byte() {
        let tracker = Arc::new(H2SendTracker::default());
        poll_fn(|cx| tracker.poll_written(cx)).await;
        let mut piece = tracker.piece(Bytes::from_static(b"waits"));
        let written = tokio::spawn({
            let tracker = tracker.clone();
            async move { poll_fn(|cx| tracker.poll_written(cx)).await }
        });
        while tracker.writer.lock().is_none() {
            tokio::task::yield_now().await;
        }
        piece.advance(3);
        assert!(tracker.writer.lock().is_some(), "two bytes are not written yet");
        piece.advance(2);
        written.await.unwrap();
    }
}
