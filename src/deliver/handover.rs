//! Taking an HTTP/1 stream's socket over from hyper once its head is out.
//!
//! hyper keeps an 8 KiB read and an 8 KiB write buffer a connection. A stream
//! needs neither, so its handler leaves the [`StreamSource`] here and answers with a
//! body that stays pending; hyper writes the head and nothing else; the I/O
//! below sees the flush behind that head; and the connection's task takes
//! the socket out of hyper and spawns the writer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::CONTROL_SAVED;
use super::end::End;
use super::scratch::with_scratch;
use super::source::StreamSource;
use super::token_bucket::TokenBucket;
use super::transport::Transport;
use crate::hub::EndReason;
use crate::metrics::Metrics;
use crate::wire::http2::ControlFrameCounter;

/// A stream that waits for its socket.
pub struct PendingTakeover {
    /// What to write.
    pub pump: StreamSource,
    /// Whether the body is chunked.
    pub chunked: bool,
}

/// Between a connection's handler, its I/O and its task.
pub struct ConnectionState {
    stage: AtomicU8,
    departure: Mutex<Option<PendingTakeover>>,
    requests: Requests,
    /// hyper has written something since the last look, with a stream planned.
    wrote: AtomicBool,
    /// What is being answered is bulk.
    bulk: AtomicBool,
    /// Makes the connection count as open; goes with whoever has the socket.
    open: Arc<dyn Send + Sync>,
}

/// The handler has answered with a stream.
const PLANNED: u8 = 1;
/// hyper has encoded the head: it asked the body for its first frame.
const ENCODED: u8 = 2;
/// hyper has flushed all that it had, the head last.
const FLUSHED: u8 = 3;

impl ConnectionState {
    /// For a connection that counts as open as long as `open` lives.
    pub fn new(open: Arc<dyn Send + Sync>) -> Arc<ConnectionState> {
        let (stage, departure) = (AtomicU8::new(0), Mutex::new(None));
        let requests = Requests::default();
        let (wrote, bulk) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(ConnectionState { stage, departure, requests, wrote, bulk, open })
    }

    /// Makes the connection count as open, for who has its socket from here on.
    pub fn open(&self) -> Arc<dyn Send + Sync> {
        self.open.clone()
    }

    /// A request's head is whole: it is being answered as long as what this
    /// gives lives.
    pub fn begin(self: &Arc<Self>) -> Answering {
        self.requests.begun.fetch_add(1, Ordering::AcqRel);
        Answering(self.clone())
    }

    /// Whether a request's head has been whole yet.
    pub fn has_begun(&self) -> bool {
        self.requests.seen().0 > 0
    }

    /// Ends once no request has been answered for `idle_timeout`. It looks so
    /// many times in that, so it may end one such part later. A timer that is
    /// set anew for each request would cost each of them a tenth.
    ///
    /// # Cancel safety
    /// Safe: it then begins anew.
    pub async fn idle(&self, idle_timeout: Duration, looks: u32) {
        let mut before = self.requests.seen();
        let mut quiet = 0;
        while quiet < looks {
            tokio::time::sleep(idle_timeout / looks).await;
            let now = self.requests.seen();
            quiet = if now == before && now.0 == now.1 { quiet + 1 } else { 0 };
            before = now;
        }
    }

    /// Leaves a stream for the connection's task, and gives the body to answer with.
    pub fn plan(self: &Arc<Self>, departure: PendingTakeover) -> TakeoverBody {
        *self.departure.lock() = Some(departure);
        self.stage.store(PLANNED, Ordering::Release);
        TakeoverBody(self.clone())
    }

    /// The stream, once hyper has nothing left to write.
    pub fn take(&self) -> Option<PendingTakeover> {
        (self.stage.load(Ordering::Acquire) == FLUSHED).then(|| self.departure.lock().take())?
    }

    /// Ready once hyper has written nothing of a planned stream's head, and of
    /// what comes before it, for `stall_timeout`, by up to as long again later.
    /// That holds whether hyper's socket is full or hyper does not flush.
    /// `timer` is the caller's, and none at first.
    pub fn poll_unflushed(
        &self,
        cx: &mut Context<'_>,
        timer: &mut Option<Pin<Box<Sleep>>>,
        stall_timeout: Duration,
    ) -> Poll<()> {
        if !self.is_planned() {
            return Poll::Pending;
        }
        loop {
            let due = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_timeout)));
            ready!(due.as_mut().poll(cx));
            *timer = None;
            if !self.wrote.swap(false, Ordering::AcqRel) {
                break;
            }
        }
        if let Some(departure) = &mut *self.departure.lock() {
            departure.pump.ends(End::Ending(EndReason::Stalled).reason());
        }
        Poll::Ready(())
    }

    fn is_planned(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= PLANNED
    }

    fn advance(&self, from: u8, to: u8) {
        let _ = self.stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// How many requests a connection has seen the head of, and how many of these
/// the answer's end.
#[derive(Default)]
struct Requests {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Requests {
    fn seen(&self) -> (usize, usize) {
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire), ended)
    }
}

/// A request that is being answered.
pub struct Answering(Arc<ConnectionState>);

impl Answering {
    /// Says whether the answer is bulk: much of it, and nothing that would be
    /// fresher if it had waited.
    pub fn set_bulk(&self, bulk: bool) {
        if self.0.bulk.load(Ordering::Relaxed) != bulk {
            self.0.bulk.store(bulk, Ordering::Relaxed);
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.requests.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// The body of an answer whose socket will be taken over.
pub struct TakeoverBody(Arc<ConnectionState>);

impl Body for TakeoverBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.advance(PLANNED, ENCODED);
        Poll::Pending
    }
}

/// The I/O of a connection, with the deadlines that hyper does not have: it
/// ends when the client takes nothing of an answer, and sends nothing, for the
/// stall timeout; when a request's head is not whole in its time; and when
/// an HTTP/2 client sends more control frames than it may.
pub struct ConnectionIo {
    inner: TokioIo<Transport>,
    handover: Arc<ConnectionState>,
    stall_timeout: Duration,
    head_timeout: Option<Duration>,
    /// When the first head is due; none once it is whole.
    first_head_due: Option<Instant>,
    /// Runs while the socket takes nothing; made only then.
    stall: Option<Pin<Box<Sleep>>>,
    head: Option<Head>,
    /// The socket is set for bulk.
    bulk: bool,
    control: Option<Box<Control>>,
}

/// The control frames of an HTTP/2 client.
struct Control {
    frames: ControlFrameCounter,
    bucket: TokenBucket,
    begun: Instant,
    metrics: Arc<Metrics>,
}

/// A head of which a part is here.
struct Head {
    /// How many requests there were before.
    begun: usize,
    /// Made once the client pauses within the head, the due moment with it:
    /// most heads come whole, and need no look at the clock.
    timer: Option<Pin<Box<Sleep>>>,
}

impl ConnectionIo {
    /// Wraps a fresh socket. Without a `head_timeout`, heads are not looked
    /// for: the bytes between requests are then not those of a next one.
    pub fn new(
        transport: Transport,
        handover: Arc<ConnectionState>,
        stall_timeout: Duration,
        head_timeout: Option<Duration>,
    ) -> ConnectionIo {
        ConnectionIo {
            inner: TokioIo::new(transport),
            handover,
            stall_timeout,
            head_timeout,
            first_head_due: None,
            stall: None,
            head: None,
            bulk: false,
            control: None,
        }
    }

    /// The first head has been waited for already, and is due then.
    #[must_use]
    pub fn first_head_due(mut self, due: Instant) -> ConnectionIo {
        self.first_head_due = Some(due);
        self
    }

    /// What is read is HTTP/2, from its preface on, and may hold so many
    /// control frames a second; zero is no limit. Past it the connection ends,
    /// counted in `metrics`.
    #[must_use]
    pub fn control_rate(mut self, rate: u32, metrics: &Arc<Metrics>) -> ConnectionIo {
        let (frames, bucket, metrics) =
            (ControlFrameCounter::default(), TokenBucket::new(rate.into()), metrics.clone());
        let control = Control { frames, bucket, begun: Instant::now(), metrics };
        self.control = (rate > 0).then(|| Box::new(control));
        self
    }

    /// Bytes while nothing is answered are a head's, until the service is
    /// called. Those that came with the request before are not seen; the
    /// idle timeout is for them.
    fn watch_head(
        &mut self,
        cx: &mut Context<'_>,
        read: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let Some(head_timeout) = self.head_timeout else { return read };
        let (begun, ended) = self.handover.requests.seen();
        if self.head.as_ref().is_some_and(|head| head.begun != begun) {
            self.head = None;
        }
        if begun > 0 {
            self.first_head_due = None;
        }
        if begun != ended {
            return read;
        }
        match (&read, &mut self.head) {
            (Poll::Ready(Ok(())), head) => {
                head.get_or_insert(Head { begun, timer: None });
            }
            (Poll::Pending, Some(Head { timer, .. })) => {
                let first = self.first_head_due.take();
                let timer = timer.get_or_insert_with(|| {
                    let due = first.unwrap_or_else(|| Instant::now() + head_timeout);
                    Box::pin(tokio::time::sleep_until(due))
                });
                return timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
            }
            _ => {}
        }
        read
    }

    /// Reads, and counts the control frames in what was read.
    fn poll_read_counted(
        &mut self,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(control) = &mut self.control else {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        };
        // What hyper lends cannot be looked at behind the read.
        with_scratch(|scratch| {
            let room = scratch.len().min(buffer.remaining());
            let mut read = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(self.inner.inner_mut()).poll_read(cx, &mut read))?;
            let count = control.frames.feed(read.filled());
            let Control { bucket, begun, .. } = &mut **control;
            if count > 0 && !bucket.take(count.into(), CONTROL_SAVED, begun.elapsed()) {
                control.metrics.refused("control-rate");
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            buffer.put_slice(read.filled());
            Poll::Ready(Ok(()))
        })
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            if self.handover.is_planned() {
                self.handover.wrote.store(true, Ordering::Release);
            }
            self.stall = None;
            return wrote;
        }
        let deadline = || Box::pin(tokio::time::sleep(self.stall_timeout));
        let stall = self.stall.get_or_insert_with(deadline);
        stall.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Sets the socket for what is being written.
    fn fit(&mut self) {
        let bulk = self.handover.bulk.load(Ordering::Relaxed);
        if bulk != self.bulk {
            self.bulk = bulk;
            self.inner.inner().set_bulk(bulk);
        }
    }

    /// Returns the transport.
    pub fn into_inner(self) -> Transport {
        self.inner.into_inner()
    }
}

impl Read for ConnectionIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_read_counted(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            // A client may send all of a batch before it reads: it is alive.
            self.stall = None;
        }
        self.watch_head(cx, read)
    }
}

impl Write for ConnectionIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.fit();
        let wrote = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(cx, wrote)
    }

    /// hyper flushes its I/O only when its own buffer is empty, so the first
    /// flush after the head was encoded comes behind the head.
    /// `tests/it/hyper_internals.rs` pins that; a head that is not flushed has
    /// a deadline ([`ConnectionState::poll_unflushed`]).
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.handover.advance(ENCODED, FLUSHED);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.fit();
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.watch(cx, wrote)
    }
}
