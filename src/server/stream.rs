//! One HTTP/2 stream: the body of its response, and its task with the stall deadline
//! that hyper lacks.

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

use super::requests::RequestGuard;
use crate::api::body::{Body, BodyAborted};
use crate::deliver::{H2SendTracker, StallDetector, TrackedBytes};

thread_local! {
    /// The values that the polled task of a stream has registered. It is `None` while
    /// this thread polls no task of a stream, so a task never gets the values of
    /// another task.
    static REGISTERED: Cell<Option<Registered>> = const { Cell::new(None) };
}

/// The values that a poll of a stream's task has registered.
#[derive(Default)]
struct Registered {
    /// The send tracker of the response.
    tracker: Option<Arc<H2SendTracker>>,
    /// The end of the session whose writer hyper is about to start. The session has
    /// ended when the sender is dropped.
    session_end: Option<oneshot::Receiver<()>>,
}

/// Runs the tasks that hyper creates for the streams of one connection.
///
/// The executor relies on three facts that are not in hyper's documentation.
/// `tests/it/hyper_internals.rs` has a test for each.
/// 1. hyper calls the service of a stream, and reads the body of its response, within a
///    task that hyper gives to this executor.
/// 2. The future of this task lives as long as bytes of the body wait for window.
/// 3. hyper starts the writer of a session within the poll that answers the CONNECT.
///
/// If a version of hyper behaves differently, a stalled stream still ends, but the whole
/// connection ends with it.
#[derive(Clone)]
pub(super) struct H2Executor(Arc<State>);

struct State {
    /// The tasks that a drain waits for.
    tasks: TaskTracker,
    stall_timeout: Duration,
    /// Is cancelled when the connection must end, because a stalled stream cannot end
    /// alone.
    abort: CancellationToken,
}

impl H2Executor {
    pub(super) fn new(tasks: TaskTracker, stall_timeout: Duration) -> H2Executor {
        H2Executor(Arc::new(State { tasks, stall_timeout, abort: CancellationToken::new() }))
    }

    /// Registers the send tracker of a response with the task of the stream. The future of
    /// the service must call this function first.
    pub(super) fn watch(&self, tracker: &Arc<H2SendTracker>) {
        if tracker.is_watched() {
            return;
        }
        tracker.set_watched(true);
        match REGISTERED.take() {
            Some(registered) => {
                let tracker = Some(tracker.clone());
                REGISTERED.set(Some(Registered { tracker, ..registered }));
            }
            None => self.watch_without_task(tracker),
        }
    }

    /// Registers the end of a session before the future of the service returns the
    /// response to a CONNECT. After this response hyper starts the writer of the session.
    /// The session has ended when the sender of `session_end` is dropped.
    pub(super) fn watch_session(&self, session_end: oneshot::Receiver<()>) {
        match REGISTERED.take() {
            Some(registered) => {
                let session_end = Some(session_end);
                REGISTERED.set(Some(Registered { session_end, ..registered }));
            }
            None => self.abort_after(session_end),
        }
    }

    /// Resolves when the connection must end because of a stalled stream.
    pub(super) async fn aborted(&self) {
        self.0.abort.cancelled().await;
    }

    /// Ends the connection if the stream stalls. The task of the stream is unknown, so the
    /// stream cannot end alone.
    fn watch_without_task(&self, tracker: &Arc<H2SendTracker>) {
        tracing::warn!("the task of an HTTP/2 stream was not found; if the stream stalls, its whole connection is closed");
        let (state, tracker) = (self.0.clone(), Arc::downgrade(tracker));
        self.0.tasks.spawn(async move {
            if H2SendTracker::stalls(tracker, state.stall_timeout).await {
                state.abort.cancel();
            }
        });
    }

    /// Ends the connection after a session. The task of the session's writer is unknown,
    /// so it is unknown whether the writer ends.
    fn abort_after(&self, session_end: oneshot::Receiver<()>) {
        tracing::warn!("the task that writes for a session was not found; the whole connection is closed when the session ends");
        let state = self.0.clone();
        self.0.tasks.spawn(async move {
            writer_deadline(session_end, state.stall_timeout).await;
            state.abort.cancel();
        });
    }
}

impl<F> Executor<F> for H2Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let state = &self.0;
        let mut registered = REGISTERED.take();
        let session_end = registered.as_mut().and_then(|values| values.session_end.take());
        REGISTERED.set(registered);
        match session_end {
            Some(end) => state.tasks.spawn(run_writer(task, end, state.stall_timeout)),
            None => state.tasks.spawn(run_stream(task, self.clone())),
        };
    }
}

/// Polls the task of a stream until the task ends, or until the client accepts no byte of
/// the response for the stall timeout. After a stall the task is dropped, and h2 resets
/// the stream with CANCEL.
async fn run_stream(task: impl Future<Output = ()>, executor: H2Executor) {
    let mut task = pin!(task);
    let mut stall = StallDetector::new(executor.0.stall_timeout);
    let mut tracker: Option<Arc<H2SendTracker>> = None;
    poll_fn(|cx| {
        REGISTERED.set(Some(Registered::default()));
        let polled = task.as_mut().poll(cx);
        let registered = REGISTERED.take().unwrap_or_default();
        if registered.tracker.is_some() {
            tracker = registered.tracker;
        }
        if let Some(session_end) = registered.session_end {
            executor.abort_after(session_end);
        }
        match &tracker {
            _ if polled.is_ready() => polled,
            Some(tracker) => stall.poll_stalled(cx, tracker),
            None => Poll::Pending,
        }
    })
    .await;
    if let Some(tracker) = tracker {
        // If another task sends the rest of the response, that task watches the tracker.
        tracker.set_watched(false);
    }
}

/// Runs the writer of a session, and drops the writer a stall timeout after the session.
/// hyper's writer waits for window and does not check whether the session has ended, so
/// the writer could hold the stream for ever.
async fn run_writer(
    task: impl Future<Output = ()>,
    session_end: oneshot::Receiver<()>,
    stall_timeout: Duration,
) {
    tokio::select! {
        () = task => {}
        () = writer_deadline(session_end, stall_timeout) => {}
    }
}

/// Resolves a stall timeout after the end of a session.
async fn writer_deadline(session_end: oneshot::Receiver<()>, stall_timeout: Duration) {
    let _ = session_end.await;
    tokio::time::sleep(stall_timeout).await;
}

/// A response body whose unsent bytes are counted by a send tracker.
pub(super) struct TrackedBody {
    body: Body,
    tracker: Arc<H2SendTracker>,
    executor: H2Executor,
    /// The last byte of a body with a known end.
    last: Option<Bytes>,
    _guard: Arc<RequestGuard>,
}

impl TrackedBody {
    pub(super) fn new(
        body: Body,
        tracker: Arc<H2SendTracker>,
        executor: H2Executor,
        guard: Arc<RequestGuard>,
    ) -> TrackedBody {
        TrackedBody { body, tracker, executor, last: None, _guard: guard }
    }
}

/// The body must not end for hyper while bytes of the body wait for window: after its
/// end the stream cannot be reset, and h2 would keep the bytes until the connection
/// ends. hyper gives a frame to h2 when there is window for the first byte of the frame.
/// So the last byte of a body with a known end is a separate frame, which hyper gives to
/// h2 when there is window for all bytes before it. A body whose end is not known in
/// advance ends when all its bytes are written.
impl HttpBody for TrackedBody {
    type Data = TrackedBytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<TrackedBytes>, BodyAborted>>> {
        let this = &mut *self;
        this.executor.watch(&this.tracker);
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(Ok(Frame::data(this.tracker.piece(last)))));
        }
        match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                // Responses have no trailers.
                let mut bytes = frame.into_data().unwrap_or_default();
                if this.body.is_end_stream() && bytes.len() > 1 {
                    this.last = Some(bytes.split_off(bytes.len() - 1));
                }
                Poll::Ready(Some(Ok(Frame::data(this.tracker.piece(bytes)))))
            }
            Some(Err(cut)) => Poll::Ready(Some(Err(cut))),
            None => this.tracker.poll_written(cx).map(|()| None),
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
        if self.tracker.is_stalled() {
            self.body.stalled();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL_TIMEOUT: Duration = Duration::from_millis(40);
    const PATIENCE: Duration = Duration::from_secs(20);

    fn executor() -> H2Executor {
        H2Executor::new(TaskTracker::new(), STALL_TIMEOUT)
    }

    /// Waits until the connection must end.
    async fn is_aborted(executor: &H2Executor) {
        tokio::time::timeout(PATIENCE, executor.aborted()).await.expect("the connection ends");
    }

    #[tokio::test]
    async fn a_stalled_stream_ends_alone() {
        let (executor, tracker) = (executor(), Arc::new(H2SendTracker::default()));
        let piece = tracker.piece(Bytes::from_static(b"waits"));
        let task = {
            let (executor, tracker) = (executor.clone(), tracker.clone());
            async move {
                executor.watch(&tracker);
                std::future::pending::<()>().await;
            }
        };
        executor.execute(task);
        executor.0.tasks.close();
        tokio::time::timeout(PATIENCE, executor.0.tasks.wait()).await.expect("the task ends");
        assert!(tracker.is_stalled());
        assert!(!executor.0.abort.is_cancelled(), "the connection goes on");
        drop(piece);
    }

    #[tokio::test]
    async fn a_stalled_stream_without_a_task_ends_with_its_connection() {
        let (executor, tracker) = (executor(), Arc::new(H2SendTracker::default()));
        let piece = tracker.piece(Bytes::from_static(b"waits"));
        executor.watch(&tracker);
        is_aborted(&executor).await;
        assert!(tracker.is_stalled());
        drop(piece);
    }

    #[tokio::test]
    async fn a_stalled_body_in_another_task_ends_alone() {
        let (executor, tracker) = (executor(), Arc::new(H2SendTracker::default()));
        let begin = || {
            let (executor, tracker) = (executor.clone(), tracker.clone());
            async move { executor.watch(&tracker) }
        };
        executor.execute(begin());
        while tracker.is_watched() || Arc::strong_count(&tracker) > 1 {
            tokio::task::yield_now().await;
        }
        let piece = tracker.piece(Bytes::from_static(b"waits"));
        let begin = begin();
        executor.execute(async move {
            begin.await;
            std::future::pending::<()>().await;
        });
        executor.0.tasks.close();
        tokio::time::timeout(PATIENCE, executor.0.tasks.wait()).await.expect("the task ends");
        assert!(tracker.is_stalled() && !executor.0.abort.is_cancelled());
        drop(piece);
    }

    #[tokio::test]
    async fn the_writer_of_a_session_ends_a_stall_timeout_after_the_session() {
        let executor = executor();
        let (session, end) = oneshot::channel::<()>();
        let task = {
            let executor = executor.clone();
            async move {
                executor.watch_session(end);
                executor.execute(std::future::pending());
            }
        };
        executor.execute(task);
        drop(session);
        executor.0.tasks.close();
        tokio::time::timeout(PATIENCE, executor.0.tasks.wait()).await.expect("the writer ends");
        assert!(!executor.0.abort.is_cancelled(), "the connection goes on");
    }

    #[tokio::test]
    async fn an_unknown_writer_of_a_session_ends_with_its_connection() {
        let (within, outside) = (executor(), executor());
        let (session, end) = oneshot::channel::<()>();
        drop(session);
        let task = {
            let executor = within.clone();
            async move { executor.watch_session(end) }
        };
        within.execute(task);
        is_aborted(&within).await;
        let (session, end) = oneshot::channel::<()>();
        drop(session);
        outside.watch_session(end);
        is_aborted(&outside).await;
    }
}
