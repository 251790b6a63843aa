//! One HTTP/2 stream: its response body, and its task. The task enforces the stall
//! timeout, which hyper does not have.

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
    /// The values that the task of an HTTP/2 stream has registered during its
    /// current poll. It is `None` while this thread polls no such task. So a task
    /// never gets the values of another task.
    static REGISTERED: Cell<Option<Registered>> = const { Cell::new(None) };
}

/// The values that the task of an HTTP/2 stream registers during one poll.
#[derive(Default)]
struct Registered {
    /// The tracker that counts the unsent bytes of the stream's response.
    tracker: Option<Arc<H2SendTracker>>,
    /// The signal for the end of the WebSocket session whose writer task hyper is
    /// about to start. The session has ended when the sender of this channel is
    /// dropped.
    session_end: Option<oneshot::Receiver<()>>,
}

/// Runs the tasks that hyper creates for the HTTP/2 streams of one connection.
///
/// The executor relies on three facts about hyper that its documentation does not
/// state. `tests/it/hyper_internals.rs` has a test for each fact.
/// 1. hyper gives this executor one task for each stream. Within this task, hyper
///    calls the service and polls the response body.
/// 2. The future of this task lives as long as bytes of the response body wait for
///    the flow-control window.
/// 3. hyper starts the writer task of a WebSocket session within the poll that
///    returns the response to the CONNECT.
///
/// If a version of hyper behaves differently, a stalled stream is still closed, but
/// its whole connection is closed with it.
#[derive(Clone)]
pub(super) struct H2Executor(Arc<State>);

struct State {
    /// The tasks that the gateway waits for when it shuts down gracefully.
    tasks: TaskTracker,
    stall_timeout: Duration,
    /// The token that is cancelled when the whole connection must be closed, because
    /// a stalled stream cannot be closed alone.
    abort: CancellationToken,
}

impl H2Executor {
    pub(super) fn new(tasks: TaskTracker, stall_timeout: Duration) -> H2Executor {
        H2Executor(Arc::new(State { tasks, stall_timeout, abort: CancellationToken::new() }))
    }

    /// Registers, for the task of the current stream, the tracker that counts the
    /// unsent bytes of the response. The service future must call this function
    /// before it does anything else.
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

    /// Registers the signal for the end of a WebSocket session. The service future
    /// must call this function before it returns the response to the CONNECT,
    /// because after this response hyper starts the writer task of the session. The
    /// session has ended when the sender of `session_end` is dropped.
    pub(super) fn watch_session(&self, session_end: oneshot::Receiver<()>) {
        match REGISTERED.take() {
            Some(registered) => {
                let session_end = Some(session_end);
                REGISTERED.set(Some(Registered { session_end, ..registered }));
            }
            None => self.abort_after(session_end),
        }
    }

    /// Resolves when the whole connection must be closed because of a stalled
    /// stream.
    pub(super) async fn aborted(&self) {
        self.0.abort.cancelled().await;
    }

    /// Closes the whole connection if the stream of `tracker` stalls. The executor
    /// does not know the task of this stream, so it cannot close the stream alone.
    fn watch_without_task(&self, tracker: &Arc<H2SendTracker>) {
        tracing::warn!(
            "the task of an HTTP/2 stream was not found; if the stream stalls, its whole connection is closed"
        );
        let (state, tracker) = (self.0.clone(), Arc::downgrade(tracker));
        self.0.tasks.spawn(async move {
            if H2SendTracker::stalls(tracker, state.stall_timeout).await {
                state.abort.cancel();
            }
        });
    }

    /// Closes the whole connection one stall timeout after the end of a WebSocket
    /// session. The executor does not know the writer task of the session, so it
    /// cannot end this task alone.
    fn abort_after(&self, session_end: oneshot::Receiver<()>) {
        tracing::warn!(
            "the task that writes for a session was not found; the whole connection is closed when the session ends"
        );
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

/// Polls the task of a stream until the task ends, or until the client has accepted
/// no byte of the response for the stall timeout. After such a stall the function
/// drops the task, and h2 resets the stream with the error code CANCEL.
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
        // If another task sends the rest of the response, that task now checks the
        // tracker for a stall.
        tracker.set_watched(false);
    }
}

/// Runs the writer task of a WebSocket session. If the task still runs one stall
/// timeout after the session has ended, drops it. The writer of hyper waits for the
/// flow-control window and does not check whether the session has ended. So it could
/// keep the stream open for ever.
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

/// Resolves one stall timeout after the end of a WebSocket session.
async fn writer_deadline(session_end: oneshot::Receiver<()>, stall_timeout: Duration) {
    let _ = session_end.await;
    tokio::time::sleep(stall_timeout).await;
}

/// A response body that wraps each of its frames, so that a tracker counts the
/// unsent bytes.
pub(super) struct TrackedBody {
    body: Body,
    tracker: Arc<H2SendTracker>,
    executor: H2Executor,
    /// The last byte of a body whose end is known in advance. It is sent as a
    /// separate frame.
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

/// hyper must not see the end of the body while bytes of the body wait for the
/// flow-control window. After the end of the body, hyper can no longer reset the
/// stream, and h2 would keep the waiting bytes until the connection ends.
///
/// hyper gives a frame to h2 when the window has room for the first byte of this
/// frame. So the last byte of a body whose end is known in advance is a separate
/// frame: hyper gives it to h2 when the window has room for all bytes before it. A
/// body whose end is not known in advance ends when all its bytes are written.
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
                // The responses of the gateway have no trailers.
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
