//! The buffer for the answers to a batch that the client has not read yet.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::api::answer::step::{BodyAborted, StepSource};
use crate::api::state::{Api, InFlightGuard};

/// The largest data frame of the response in bytes. The size limit of the answer
/// buffer does not count bytes that are already in a data frame, so the frame must
/// be small.
const FRAME_BYTES: usize = 64 * 1024;

struct Shared {
    api: Arc<Api>,
    state: Mutex<State>,
    /// Notified when the client has read bytes from the answer buffer.
    space: Notify,
}

#[derive(Default)]
struct State {
    unread: BytesMut,
    end: Option<Result<(), BodyAborted>>,
    reader: Option<Waker>,
    is_closed: bool,
    /// Counts the batch as in flight while the client has not read all answers.
    in_flight: Option<InFlightGuard>,
}

/// The reading end of the buffer for the answers to a batch. If this end is dropped,
/// the task that processes the batch is aborted.
pub struct Answers {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// The writing end of the buffer for the answers to a batch. The task that processes
/// the batch owns this end.
pub struct Sender {
    shared: Arc<Shared>,
    bytes_max: usize,
    stall_timeout: Duration,
}

/// The error of [`Sender::send`]: the client has disconnected, or has read nothing for too long.
#[derive(Debug)]
pub struct Stopped;

/// Creates the buffer for the answers to a batch, and returns its reading end.
/// Starts `write` with the writing end in a task of the gateway. The task is aborted
/// when the reading end is dropped. The buffer holds up to `bytes_max` unread bytes.
/// If the client reads nothing for `stall_timeout`, the response body is aborted.
pub fn answers<F>(
    api: &Arc<Api>,
    bytes_max: usize,
    stall_timeout: Duration,
    write: impl FnOnce(Sender) -> F,
) -> Answers
where
    F: Future<Output = ()> + Send + 'static,
{
    let (state, space) = (Mutex::new(State::default()), Notify::new());
    let shared = Arc::new(Shared { api: Arc::clone(api), state, space });
    let sender = Sender { shared: Arc::clone(&shared), bytes_max, stall_timeout };
    Answers { shared, task: api.tasks.spawn(write(sender)) }
}

impl Sender {
    /// Waits until the answer buffer has space for `bytes`, and adds them to this
    /// buffer.
    ///
    /// # Errors
    /// [`Stopped`] if the client has disconnected, or has read nothing for too long.
    ///
    /// # Cancel safety
    /// Safe: either all bytes are added or none.
    pub async fn send(&self, bytes: &[u8]) -> Result<(), Stopped> {
        loop {
            let before = {
                let mut state = self.shared.state.lock();
                if state.is_closed {
                    return Err(Stopped);
                }
                let unread = state.unread.len();
                if unread == 0 || unread + bytes.len() <= self.bytes_max {
                    state.unread.extend_from_slice(bytes);
                    state.in_flight.get_or_insert_with(|| InFlightGuard::new(&self.shared.api));
                    wake(&mut state);
                    return Ok(());
                }
                unread
            };
            let waited = timeout(self.stall_timeout, self.shared.space.notified()).await;
            let mut state = self.shared.state.lock();
            if waited.is_err() && state.unread.len() >= before {
                state.unread.clear();
                state.end = Some(Err(BodyAborted(
                    "the client did not read the answers in time".to_owned(),
                )));
                wake(&mut state);
                return Err(Stopped);
            }
        }
    }
}

impl Drop for Sender {
    /// Ends the response body of the batch. If the task of the batch panicked,
    /// aborts the body, so that the client does not mistake the body for complete.
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let end = if std::thread::panicking() {
            Err(BodyAborted("the task of the batch panicked".to_owned()))
        } else {
            Ok(())
        };
        state.end.get_or_insert(end);
        wake(&mut state);
    }
}

fn wake(state: &mut State) {
    if let Some(reader) = state.reader.take() {
        reader.wake();
    }
}

impl StepSource for Answers {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyAborted>>> {
        let mut state = self.shared.state.lock();
        if !state.unread.is_empty() {
            let length = state.unread.len().min(FRAME_BYTES);
            let bytes = state.unread.split_to(length).freeze();
            self.shared.space.notify_one();
            return Poll::Ready(Some(Ok(bytes)));
        }
        // The connection asks for more bytes, so it has accepted all previous bytes.
        state.in_flight = None;
        match &mut state.end {
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Ok(())) => Poll::Ready(None),
            Some(end) => {
                let aborted = std::mem::replace(end, Ok(()));
                Poll::Ready(aborted.err().map(Err))
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::api::tests::Gateway;

    async fn read(answers: &mut Answers) -> Option<Result<Bytes, BodyAborted>> {
        std::future::poll_fn(|cx| answers.poll_next(cx)).await
    }

    #[tokio::test]
    async fn answers_are_read_in_the_order_in_which_they_were_sent() {
        let gateway = Gateway::start().await;
        let mut answers = answers(&gateway.api, 4, Duration::from_secs(5), |sender| async move {
            for text in ["abc", "def", "a long one"] {
                sender.send(text.as_bytes()).await.unwrap();
            }
        });
        let mut all = Vec::new();
        while let Some(bytes) = read(&mut answers).await {
            all.extend_from_slice(&bytes.unwrap());
        }
        assert_eq!(all, b"abcdefa long one");
    }

    #[tokio::test]
    async fn the_body_is_aborted_if_the_client_does_not_read() {
        let (result, stopped) = tokio::sync::oneshot::channel();
        let gateway = Gateway::start().await;
        let mut answers =
            answers(&gateway.api, 4, Duration::from_millis(20), |sender| async move {
                sender.send(b"abcd").await.unwrap();
                result.send(sender.send(b"e").await.is_err()).unwrap();
            });
        assert!(stopped.await.unwrap());
        assert!(read(&mut answers).await.unwrap().is_err());
        assert!(read(&mut answers).await.is_none());
    }
}
