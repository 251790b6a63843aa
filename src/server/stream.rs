//! One HTTP/2 stream: its answer's body, and the task that it runs in, with
//! the deadline that hyper does not have.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::requests::Answering;
use crate::api::body::{Body, BodyAborted};
use crate::deliver::{H2SendTracker, StallDetector, TrackedBytes};

thread_local! {
    /// What the task finds out that is polled on this thread; none while no
    /// task of a stream is. So nothing that is left here by one task can be
    /// taken for another's.
    static POLLED: Cell<Option<Found>> = const { Cell::new(None) };
}

/// What a poll of a stream's task has shown.
#[derive(Default)]
struct Found {
    /// What the stream's answer goes through.
    flow: Option<Arc<H2SendTracker>>,
    /// The session whose writer hyper is about to start: over once the other
    /// end is dropped.
    over: Option<oneshot::Receiver<()>>,
}

/// Runs hyper's tasks for one connection's streams as the gateway's own.
///
/// Three things about hyper are not in its documentation;
/// `tests/it/hyper_internals.rs` pins each. A stream's service is called and its answer's body is read
/// within a task that hyper gives to this executor. That task's future lives
/// as long as anything of the body waits for window. A session's writer is
/// started within the poll that answers its CONNECT. Should a hyper behave
/// otherwise, what stalls still ends, but with its whole connection.
#[derive(Clone)]
pub(super) struct H2Executor(Arc<Guard>);

struct Guard {
    /// What a drain waits for.
    tasks: TaskTracker,
    stall_timeout: Duration,
    /// Ends the connection: a stream stalls that cannot be ended by itself.
    cut: CancellationToken,
}

impl H2Executor {
    pub(super) fn new(tasks: TaskTracker, stall_timeout: Duration) -> H2Executor {
        H2Executor(Arc::new(Guard { tasks, stall_timeout, cut: CancellationToken::new() }))
    }

    /// Tells the task of a stream that its answer goes through `flow`. To be
    /// called first thing within the service's future.
    pub(super) fn begins(&self, flow: &Arc<H2SendTracker>) {
        if flow.is_watched() {
            return;
        }
        flow.set_watched(true);
        match POLLED.take() {
            Some(found) => POLLED.set(Some(Found { flow: Some(flow.clone()), ..found })),
            None => self.watch_from_outside(flow),
        }
    }

    /// Tells that the service's future is about to end with an answer behind
    /// which hyper starts a writer for a session. The session is over once the
    /// other end of `over` is dropped.
    pub(super) fn upgrades(&self, over: oneshot::Receiver<()>) {
        match POLLED.take() {
            Some(found) => POLLED.set(Some(Found { over: Some(over), ..found })),
            None => self.end_behind(over),
        }
    }

    /// Ready once the connection must end for a stream that stalls.
    pub(super) async fn cut(&self) {
        self.0.cut.cancelled().await;
    }

    /// No task of the stream is known that could be dropped.
    fn watch_from_outside(&self, flow: &Arc<H2SendTracker>) {
        tracing::warn!("a stream is served outside of its task; it ends with its connection");
        let (guard, flow) = (self.0.clone(), Arc::downgrade(flow));
        self.0.tasks.spawn(async move {
            if H2SendTracker::stalls(flow, guard.stall_timeout).await {
                guard.cut.cancel();
            }
        });
    }

    /// The session's writer is not known, nor whether it ends with the session.
    fn end_behind(&self, over: oneshot::Receiver<()>) {
        tracing::warn!("a session's writer is not known; its connection ends with it");
        let guard = self.0.clone();
        self.0.tasks.spawn(async move {
            left_alone(over, guard.stall_timeout).await;
            guard.cut.cancel();
        });
    }
}

impl<F> Executor<F> for H2Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let guard = &self.0;
        let mut polled = POLLED.take();
        let over = polled.as_mut().and_then(|found| found.over.take());
        POLLED.set(polled);
        match over {
            Some(over) => guard.tasks.spawn(while_it_lives(task, over, guard.stall_timeout)),
            None => guard.tasks.spawn(while_it_moves(task, self.clone())),
        };
    }
}

/// Polls a stream to its end, or until its client takes nothing of the answer
/// for the stall timeout. Dropped before its end, h2 resets it with CANCEL.
async fn while_it_moves(task: impl Future<Output = ()>, streams: H2Executor) {
    let mut task = pin!(task);
    let mut patience = StallDetector::new(streams.0.stall_timeout);
    let mut flow: Option<Arc<H2SendTracker>> = None;
    poll_fn(|cx| {
        POLLED.set(Some(Found::default()));
        let polled = task.as_mut().poll(cx);
        let found = POLLED.take().unwrap_or_default();
        if let Some(found) = found.flow {
            flow = Some(found);
        }
        if let Some(over) = found.over {
            streams.end_behind(over);
        }
        match &flow {
            _ if polled.is_ready() => polled,
            Some(flow) => patience.poll_stalled(cx, flow),
            None => Poll::Pending,
        }
    })
    .await;
    if let Some(flow) = flow {
        // What of the answer is left is another task's, which will find it.
        flow.set_watched(false);
    }
}

/// hyper's writer for a session waits for window without looking whether the
/// session is still there: left alone it would hold the stream.
async fn while_it_lives(
    task: impl Future<Output = ()>,
    over: oneshot::Receiver<()>,
    stall_timeout: Duration,
) {
    tokio::select! {
        () = task => {}
        () = left_alone(over, stall_timeout) => {}
    }
}

/// Ends a stall timeout behind a session.
async fn left_alone(over: oneshot::Receiver<()>, stall_timeout: Duration) {
    let _ = over.await;
    tokio::time::sleep(stall_timeout).await;
}

/// An answer's body on its way through `flow`.
pub(super) struct TrackedBody {
    body: Body,
    flow: Arc<H2SendTracker>,
    streams: H2Executor,
    /// The last byte of a body whose end is known before.
    last: Option<Bytes>,
    _answering: Arc<Answering>,
}

impl TrackedBody {
    pub(super) fn new(
        body: Body,
        flow: Arc<H2SendTracker>,
        streams: H2Executor,
        answering: Arc<Answering>,
    ) -> TrackedBody {
        TrackedBody { body, flow, streams, last: None, _answering: answering }
    }
}

/// The stream must not be over for hyper while anything waits for window:
/// nobody could reset it then, and h2 would keep the rest for as long as the
/// connection lasts. hyper gives a frame to h2 once there is window for its
/// first byte. So the last byte of a whole body is a frame of its own, which
/// goes once there is window for all before it; and a body whose end shows
/// only when it comes, ends when all before it is written.
impl HttpBody for TrackedBody {
    type Data = TrackedBytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<TrackedBytes>, BodyAborted>>> {
        let this = &mut *self;
        this.streams.begins(&this.flow);
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(this.flow.piece(last)))));
        }
        match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                // Answers have no trailers.
                let mut bytes = frame.into_data().unwrap_or_default();
                if this.body.is_end_stream() && bytes.len() > 1 {
                    this.last = Some(bytes.split_off(bytes.len() - 1));
                }
                Poll::Ready(Some(Ok(Frame::data(this.flow.piece(bytes)))))
            }
            Some(Err(cut)) => Poll::Ready(Some(Err(cut))),
            None => this.flow.poll_written(cx).map(|()| None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        if self.flow.is_stalled() {
            self.body.stalled();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL_TIMEOUT: Duration = Duration::from_millis(40);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn streams() -> H2Executor {
        H2Executor::new(TaskTracker::new(), STALL_TIMEOUT)
    }

    /// Waits until `streams` end their connection.
    async fn is_cut(streams: &H2Executor) {
        tokio::time::timeout(PATIENCE, streams.cut()).await.expect("the connection ends");
    }

    #[tokio::test]
    async fn a_stalled_stream_ends_by_itself() {
        let (streams, flow) = (streams(), Arc::new(H2SendTracker::default()));
        let piece = flow.piece(Bytes::from_static(b"waits"));
        let task = {
            let (streams, flow) = (streams.clone(), flow.clone());
            async move {
                streams.begins(&flow);
                std::future::pending::<()>().await;
            }
        };
        streams.execute(task);
        streams.0.tasks.close();
        tokio::time::timeout(PATIENCE, streams.0.tasks.wait()).await.expect("the task ends");
        assert!(flow.is_stalled());
        assert!(!streams.0.cut.is_cancelled(), "the connection goes on");
        drop(piece);
    }

    #[tokio::test]
    async fn a_stalled_stream_without_a_task_ends_with_its_connection() {
        let (streams, flow) = (streams(), Arc::new(H2SendTracker::default()));
        let piece = flow.piece(Bytes::from_static(b"waits"));
        streams.begins(&flow);
        is_cut(&streams).await;
        assert!(flow.is_stalled());
        drop(piece);
    }

    #[tokio::test]
    async fn a_body_in_a_task_of_its_own_ends_by_itself() {
        let (streams, flow) = (streams(), Arc::new(H2SendTracker::default()));
        let begins = || {
            let (streams, flow) = (streams.clone(), flow.clone());
            async move { streams.begins(&flow) }
        };
        streams.execute(begins());
        while flow.is_watched() || Arc::strong_count(&flow) > 1 {
            tokio::task::yield_now().await;
        }
        let piece = flow.piece(Bytes::from_static(b"waits"));
        let begins = begins();
        streams.execute(async move {
            begins.await;
            std::future::pending::<()>().await;
        });
        streams.0.tasks.close();
        tokio::time::timeout(PATIENCE, streams.0.tasks.wait()).await.expect("the task ends");
        assert!(flow.is_stalled() && !streams.0.cut.is_cancelled());
        drop(piece);
    }

    #[tokio::test]
    async fn a_sessions_writer_ends_a_stall_timeout_behind_the_session() {
        let streams = streams();
        let (session, over) = oneshot::channel::<()>();
        let task = {
            let streams = streams.clone();
            async move {
                streams.upgrades(over);
                streams.execute(std::future::pending());
            }
        };
        streams.execute(task);
        drop(session);
        streams.0.tasks.close();
        tokio::time::timeout(PATIENCE, streams.0.tasks.wait()).await.expect("the writer ends");
        assert!(!streams.0.cut.is_cancelled(), "the connection goes on");
    }

    #[tokio::test]
    async fn a_sessions_writer_that_is_not_known_ends_with_its_connection() {
        let (within, outside) = (streams(), streams());
        let (session, over) = oneshot::channel::<()>();
        drop(session);
        let task = {
            let streams = within.clone();
            async move { streams.upgrades(over) }
        };
        within.execute(task);
        is_cut(&within).await;
        let (session, over) = oneshot::channel::<()>();
        drop(session);
        outside.upgrades(over);
        is_cut(&outside).await;
    }
}
