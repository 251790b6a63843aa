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
use tokio_util::task::TaskTracker;

use crate::api::body::{Body, Cut};
use crate::deliver::{Answering, Flow, Patience, Piece};

thread_local! {
    /// Whose task hyper is about to start. It calls the service, or takes a
    /// session's answer from it, and within the same call hands the task to
    /// its executor; so what stands here is that task's, whatever other
    /// threads do.
    static NEXT: Cell<Option<Life>> = const { Cell::new(None) };
}

/// How long a task of hyper's may go on.
enum Life {
    /// A request and its answer: while the answer moves.
    Answer(Arc<Flow>),
    /// What a WebSocket has said, on its way out: while the session lives,
    /// and a stall timeout longer.
    Session(oneshot::Receiver<()>),
}

/// Says that the next task is the stream's whose answer goes through `flow`.
pub(super) fn begins(flow: Arc<Flow>) {
    NEXT.set(Some(Life::Answer(flow)));
}

/// Says that the next task writes for a session, which is over once the other
/// end of `over` is dropped.
pub(super) fn upgrades(over: oneshot::Receiver<()>) {
    NEXT.set(Some(Life::Session(over)));
}

/// Runs hyper's tasks for one connection's streams as the gateway's own.
#[derive(Clone)]
pub(super) struct Streams {
    /// What a drain waits for.
    pub(super) tasks: TaskTracker,
    pub(super) stall_timeout: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let stall_timeout = self.stall_timeout;
        match NEXT.take() {
            Some(Life::Answer(flow)) => {
                self.tasks.spawn(while_it_moves(task, flow, stall_timeout));
            }
            Some(Life::Session(over)) => {
                self.tasks.spawn(while_it_lives(task, over, stall_timeout));
            }
            None => {
                self.tasks.spawn(task);
            }
        }
    }
}

/// Polls a stream to its end, or until its client takes nothing of the answer
/// for `stall_timeout`. Dropped before its end, h2 resets it with CANCEL.
async fn while_it_moves(task: impl Future<Output = ()>, flow: Arc<Flow>, stall_timeout: Duration) {
    let mut task = pin!(task);
    let mut patience = Patience::new(stall_timeout);
    poll_fn(|cx| match task.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => patience.poll_stalled(cx, &flow),
    })
    .await;
}

/// hyper's writer for a session waits for window without looking whether the
/// session is still there: left alone it would hold the stream.
async fn while_it_lives(
    task: impl Future<Output = ()>,
    over: oneshot::Receiver<()>,
    stall_timeout: Duration,
) {
    let left_alone = async {
        let _ = over.await;
        tokio::time::sleep(stall_timeout).await;
    };
    tokio::select! {
        () = task => {}
        () = left_alone => {}
    }
}

/// An answer's body on its way through `flow`.
pub(super) struct Outgoing {
    body: Body,
    flow: Arc<Flow>,
    /// The last byte of a body whose end is known before.
    last: Option<Bytes>,
    _answering: Arc<Answering>,
}

impl Outgoing {
    pub(super) fn new(body: Body, flow: Arc<Flow>, answering: Arc<Answering>) -> Outgoing {
        Outgoing { body, flow, last: None, _answering: answering }
    }
}

/// The stream must not be over for hyper while anything waits for window:
/// nobody could reset it then, and h2 would keep the rest for as long as the
/// connection lasts. hyper gives a frame to h2 once there is window for its
/// first byte. So the last byte of a whole body is a frame of its own, which
/// goes once there is window for all before it; and a body whose end shows
/// only when it comes, ends when all before it is written.
impl HttpBody for Outgoing {
    type Data = Piece;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Cut>>> {
        let this = &mut *self;
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

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.flow.is_stalled() {
            self.body.stalled();
        }
    }
}
