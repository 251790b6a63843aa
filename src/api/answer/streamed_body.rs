//! A response body that is read from the store step by step.

use std::collections::VecDeque;
use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::api::answer::{inline_reads::InlineReads, step::BodyAborted};

/// The size in bytes of one step of a body: about 200 resources. Reading a step from
/// memory takes a tenth of a millisecond. The bytes of a step of this size are still
/// in the processor's cache when they are written to the socket.
pub const STEP_BYTES: usize = 64 * 1024;

/// A function that returns the next data frames of a response body, with about
/// [`STEP_BYTES`] bytes in total. The list can be empty. Returns `None` at the end
/// of the body. The function can read from the disk.
pub type Source = Box<dyn FnMut() -> Result<Option<Vec<Bytes>>, BodyAborted> + Send>;

type Step = (Source, Result<Option<Vec<Bytes>>, BodyAborted>);

/// Schedules the reads for response bodies that are read step by step. Decides
/// whether a step is read on the task that writes the response or on a blocking
/// thread, and limits the number of concurrent reads.
pub struct ReadScheduler {
    inline: Arc<InlineReads>,
    /// The permits of bodies whose steps are read on the task that writes the
    /// response. A few such bodies need no second thread each. A thousand such
    /// bodies would fill the queues of the runtime, and all other tasks would have
    /// to wait. A body keeps its permit until it ends or stalls. A permit per step
    /// would not limit the number of bodies, because the number of runtime threads
    /// already limits the steps that run at once. While a slow client holds a
    /// permit, the steps of other bodies are read on blocking threads. This takes
    /// longer, but does not block these bodies.
    inline_bodies: Arc<Semaphore>,
    /// The permits for concurrent reads on blocking threads, for the steps of all
    /// other bodies. A thousand clients that read a collection must not start a
    /// thousand threads, which would compete with all other tasks for the
    /// processors.
    threads: Arc<Semaphore>,
}

impl ReadScheduler {
    /// Creates the scheduler for a machine with `processors` processors.
    pub fn new(inline: Arc<InlineReads>, processors: usize) -> ReadScheduler {
        let inline_bodies = Arc::new(Semaphore::new((processors / 2).max(1)));
        ReadScheduler { inline, inline_bodies, threads: Arc::new(Semaphore::new(processors)) }
    }
}

/// A response body that is read from the store at most one step before the client
/// reads it. The body holds at most two steps in memory.
pub struct StreamedBody {
    steps: Arc<ReadScheduler>,
    ready: VecDeque<Bytes>,
    next: Next,
    /// The permit to read steps on the task that writes the response. The body keeps
    /// this permit until the body is dropped.
    inline_permit: Option<OwnedSemaphorePermit>,
    /// Whether the task has read a step since it last yielded to the runtime.
    has_read: bool,
}

enum Next {
    Begin(Source),
    Reading(JoinHandle<Step>),
    Ended,
}

impl StreamedBody {
    /// Creates a body that contains the frames `first` and then the frames of
    /// `source`. The steps of `source` are read on blocking threads.
    pub fn new(first: Vec<Bytes>, source: Source, steps: Arc<ReadScheduler>) -> StreamedBody {
        StreamedBody::begun(first, source, steps, None)
    }

    /// Creates a body that contains the frames of `source`, whose steps must all be
    /// short. If a permit is free, the steps are read on the task that writes the
    /// response.
    pub fn inline(source: Source, steps: Arc<ReadScheduler>) -> StreamedBody {
        let permit = steps.inline_bodies.clone().try_acquire_owned().ok();
        StreamedBody::begun(Vec::new(), source, steps, permit)
    }

    fn begun(
        first: Vec<Bytes>,
        source: Source,
        steps: Arc<ReadScheduler>,
        inline_permit: Option<OwnedSemaphorePermit>,
    ) -> StreamedBody {
        let ready = first.into();
        let mut body =
            StreamedBody { steps, ready, next: Next::Ended, inline_permit, has_read: false };
        body.begin(source);
        body
    }

    fn begin(&mut self, source: Source) {
        self.next = match self.inline_permit {
            Some(_) => Next::Begin(source),
            None => Next::Reading(queue(source, self.steps.threads.clone())),
        };
    }

    /// Returns the next data frame of the body, or `None` at its end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyAborted>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            let joined = match &mut self.next {
                Next::Ended => return Poll::Ready(None),
                Next::Reading(reading) => ready!(Pin::new(reading).poll(cx)),
                Next::Begin(_) if std::mem::take(&mut self.has_read) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Next::Begin(_) => match self.step() {
                    Some(step) => Ok(step),
                    None => continue,
                },
            };
            self.next = Next::Ended;
            match joined {
                Ok((_, Ok(None))) => {}
                Ok((source, Ok(Some(frames)))) => {
                    self.ready = frames.into();
                    self.begin(source);
                }
                Ok((_, Err(aborted))) => return Poll::Ready(Some(Err(aborted))),
                Err(join) => return Poll::Ready(Some(Err(BodyAborted(join.to_string())))),
            }
        }
    }

    /// Reads the next step on this task. If the disk is slow, starts the read on a
    /// blocking thread and returns `None`.
    fn step(&mut self) -> Option<Step> {
        let Next::Begin(mut source) = std::mem::replace(&mut self.next, Next::Ended) else {
            return None;
        };
        self.has_read = true;
        match self.steps.inline.run(Instant::now(), &mut source) {
            Some(Ok(frames)) => Some((source, frames)),
            Some(Err(panicked)) => Some(broken(&panicked)),
            None => {
                self.next = Next::Reading(queue(source, self.steps.threads.clone()));
                None
            }
        }
    }
}

impl Drop for StreamedBody {
    /// Cancels the read of a step if this read has not begun.
    fn drop(&mut self) {
        if let Next::Reading(reading) = &self.next {
            reading.abort();
        }
    }
}

fn queue(mut source: Source, threads: Arc<Semaphore>) -> JoinHandle<Step> {
    tokio::spawn(async move {
        let permit = threads.acquire_owned().await;
        let read = tokio::task::spawn_blocking(move || {
            // The read holds the permit to its end, even if the body is dropped.
            let _permit = permit;
            let frames = source();
            (source, frames)
        });
        read.await.unwrap_or_else(|join| broken(&join))
    })
}

/// Returns the result of a step that panicked: the error, and a source without
/// further frames.
fn broken(why: &dyn Display) -> Step {
    (Box::new(|| Ok(None)), Err(BodyAborted(why.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::answer::body::Body;
    use http_body_util::BodyExt as _;

    /// Returns a scheduler with a permit for one inline body.
    fn steps() -> Arc<ReadScheduler> {
        Arc::new(ReadScheduler::new(Arc::new(InlineReads::new()), 1))
    }

    fn counting(steps: u8, end: Result<Option<Vec<Bytes>>, BodyAborted>) -> Source {
        let mut left = steps;
        Box::new(move || match left {
            0 => end.clone(),
            n => {
                left = n - 1;
                // Every other step has no frames.
                Ok(Some(if n % 2 == 0 { vec![] } else { vec![Bytes::from(vec![n; 2])] }))
            }
        })
    }

    /// Returns a body that is read on threads, an inline body, and a body that is read on threads
    /// because another body has the permit.
    fn bodies(source: impl Fn() -> Source) -> [(Body, Option<Body>); 3] {
        let shared = steps();
        let pull = |pull| Body::Pull(pull);
        [
            (pull(StreamedBody::new(Vec::new(), source(), steps())), None),
            (pull(StreamedBody::inline(source(), steps())), None),
            {
                let other = pull(StreamedBody::inline(source(), shared.clone()));
                (pull(StreamedBody::inline(source(), shared)), Some(other))
            },
        ]
    }

    #[tokio::test]
    async fn a_body_has_all_its_steps_in_order() {
        for (body, _other) in bodies(|| counting(3, Ok(None))) {
            let bytes = body.collect().await.unwrap().to_bytes();
            assert_eq!(bytes, &b"\x03\x03\x01\x01"[..]);
        }
        let first = vec![Bytes::from_static(b"first")];
        let body = Body::Pull(StreamedBody::new(first, counting(1, Ok(None)), steps()));
        assert_eq!(body.collect().await.unwrap().to_bytes(), &b"first\x01\x01"[..]);
    }

    #[tokio::test]
    async fn a_failed_step_aborts_the_body() {
        for (mut body, _other) in bodies(|| counting(1, Err(BodyAborted("damaged".to_owned())))) {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), &[1, 1][..]);
            assert!(body.frame().await.unwrap().is_err());
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_step_that_panics_aborts_the_body() {
        for (mut body, _other) in bodies(|| Box::new(|| panic!("a defect"))) {
            assert!(body.frame().await.unwrap().is_err());
            assert!(body.frame().await.is_none());
        }
    }

    #[test]
    fn an_inline_body_yields_after_each_step() {
        let source: Source = Box::new(|| Ok(Some(vec![Bytes::from_static(b"step")])));
        let mut pull = StreamedBody::inline(source, steps());
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        assert!(pull.poll_next(cx).is_ready());
        assert!(pull.poll_next(cx).is_pending());
        assert!(pull.poll_next(cx).is_ready());
    }
}
