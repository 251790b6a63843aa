//! Whether the answer on an HTTP/2 stream gets anywhere.
//!
//! hyper asks a body for its next frame, and h2 keeps it until the client has
//! given window for it, without any deadline (RFC 9113 §5.2). So each frame
//! goes out as a [`TrackedBytes`] that tells the stream's [`H2SendTracker`] what of it was
//! written, and the stream's task asks the flow whether its client takes
//! nothing.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::time::Sleep;

/// Looks at a stream that waits for window, in one stall timeout: it is cut
/// that late at most, and no write asks for the clock.
const LOOKS: u32 = 4;

/// What of one stream's answer is not written.
#[derive(Debug, Default)]
pub struct H2SendTracker {
    waiting_bytes: AtomicUsize,
    /// Something went out, or came in, since the last look.
    moved: AtomicBool,
    stalled: AtomicBool,
    /// A task looks whether it stalls.
    watched: AtomicBool,
    /// Who waits until all is written.
    writer: Mutex<Option<Waker>>,
}

impl H2SendTracker {
    /// Gives bytes to be written.
    pub fn piece(self: &Arc<Self>, bytes: Bytes) -> TrackedBytes {
        self.waiting_bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        TrackedBytes { bytes, flow: self.clone() }
    }

    /// The client is alive in another way: a batch is still being sent, whose
    /// answers it need not read before.
    pub fn moved(&self) {
        self.moved.store(true, Ordering::Release);
    }

    /// Watches a stream from outside of its task. Returns true once nothing of
    /// what waits has moved for `stall_timeout`, by up to a quarter later, and
    /// false once the stream is over.
    ///
    /// # Cancel safety
    /// Safe: it then begins anew.
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

    /// Whether the stream was cut for taking nothing.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    /// Whether a task looks whether the stream stalls.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Sets whether a task looks whether the stream stalls.
    pub fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }

    /// Ready once every piece is written.
    pub fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waits() {
            return Poll::Ready(());
        }
        *self.writer.lock() = Some(cx.waker().clone());
        // The last piece may have gone between the look and the waker.
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

/// Bytes on their way through h2 to the socket.
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

/// The deadline of one stream. Its timer is made when something waits and
/// kept until a look finds that nothing does, so a stream that keeps up costs
/// a few timers a minute and an idle one none.
#[derive(Debug)]
pub struct StallDetector {
    stall_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Looks in a row that found nothing moved.
    still: u32,
}

impl StallDetector {
    /// For a stream whose client may take nothing for `stall_timeout`.
    pub fn new(stall_timeout: Duration) -> StallDetector {
        StallDetector { stall_timeout, timer: None, still: 0 }
    }

    /// Ready once nothing of what waits in `flow` has moved for the stall
    /// timeout; by up to a quarter later, and never where nothing waits. To
    /// be asked whenever the stream's task was polled.
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

    /// Whether this was the last look that a client is given.
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
