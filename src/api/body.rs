//! What an answer's bytes come from.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::Unanswered;
use super::batch::Answers;
use crate::deliver::{PendingBody, StreamBody};

/// The body of an answer.
pub enum Body {
    /// Nothing.
    Empty,
    /// All of it, known before the head.
    Full(Bytes),
    /// Read from the store piece by piece, as the client takes it.
    Pull(Pull),
    /// The answers to an NDJSON batch, as its lines become durable.
    Answers(Answers, Unanswered),
    /// A live stream.
    Live(Box<StreamBody>),
    /// A live stream whose socket is taken over after the head.
    Taken(PendingBody),
}

/// An answer that cannot be finished: the connection ends without the body's
/// own end, so that the client cannot take it for whole.
#[derive(Clone, Debug)]
pub struct Cut(
    /// Why, for the log.
    pub String,
);

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer was cut: {}", self.0)
    }
}

impl std::error::Error for Cut {}

impl Body {
    /// Its client took nothing of it for too long: it will be dropped.
    pub fn stalled(&mut self) {
        if let Body::Live(stream) = self {
            stream.stalled();
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let body = self.get_mut();
        match body {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *body = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Body::Pull(pull) => pull.poll_next(cx).map(|next| next.map(|r| r.map(Frame::data))),
            Body::Answers(answers, _) => {
                answers.poll_next(cx).map(|next| next.map(|r| r.map(Frame::data)))
            }
            Body::Live(stream) => Pin::new(stream.as_mut())
                .poll_frame(cx)
                .map(|next| next.map(|frame| frame.map_err(|end| Cut(end.reason().to_owned())))),
            Body::Taken(pending) => {
                // Its error has no value, so this is a change of type alone.
                Pin::new(pending).poll_frame(cx).map_err(|never| match never {})
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) | Body::Pull(_) | Body::Answers(..) | Body::Live(_) | Body::Taken(_) => {
                false
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Pull(_) | Body::Answers(..) | Body::Live(_) | Body::Taken(_) => {
                SizeHint::default()
            }
        }
    }
}

/// Gives the next data frames of a body, possibly none yet, and `None` at its
/// end. Runs on a blocking thread, so it may read from the disk.
pub type Source = Box<dyn FnMut() -> Result<Option<Vec<Bytes>>, Cut> + Send>;

type Step = (Source, Result<Option<Vec<Bytes>>, Cut>);

/// A body that reads one step ahead of its client and no further: what it
/// holds is two steps, however much there is to send.
pub struct Pull {
    ready: VecDeque<Bytes>,
    reading: Option<JoinHandle<Step>>,
    /// One for each step that is read at a time.
    permits: Arc<Semaphore>,
}

impl Pull {
    /// Sends `first`, then what `source` gives; starts to read at once, with
    /// one of the `permits` for each step: a thousand clients that ask for a
    /// collection at once must not put a thousand threads between everybody
    /// else and the processors.
    pub fn new(first: Vec<Bytes>, source: Source, permits: Arc<Semaphore>) -> Pull {
        let reading = Some(step(source, permits.clone()));
        Pull { ready: first.into(), reading, permits }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
            let joined = ready!(Pin::new(reading).poll(cx));
            self.reading = None;
            match joined {
                Ok((_, Ok(None))) => {}
                Ok((source, Ok(Some(frames)))) => {
                    self.ready = frames.into();
                    self.reading = Some(step(source, self.permits.clone()));
                }
                Ok((_, Err(cut))) => return Poll::Ready(Some(Err(cut))),
                Err(join) => return Poll::Ready(Some(Err(Cut(join.to_string())))),
            }
        }
    }
}

impl Drop for Pull {
    /// A step that has not begun is not read for nobody.
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

fn step(mut source: Source, permits: Arc<Semaphore>) -> JoinHandle<Step> {
    tokio::spawn(async move {
        let permit = permits.acquire_owned().await;
        let read = tokio::task::spawn_blocking(move || {
            // With it goes whoever reads, although nobody may wait any more.
            let _permit = permit;
            let frames = source();
            (source, frames)
        });
        read.await.unwrap_or_else(|join| {
            let ended: Source = Box::new(|| Ok(None));
            (ended, Err(Cut(join.to_string())))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    fn counting(steps: u8, end: Result<Option<Vec<Bytes>>, Cut>) -> Body {
        let mut left = steps;
        Body::Pull(Pull::new(
            vec![Bytes::from_static(b"first")],
            Box::new(move || match left {
                0 => end.clone(),
                n => {
                    left = n - 1;
                    // Every other step finds nothing to send.
                    Ok(Some(if n % 2 == 0 { vec![] } else { vec![Bytes::from(vec![n; 2])] }))
                }
            }),
            Arc::new(Semaphore::new(1)),
        ))
    }

    #[tokio::test]
    async fn a_pulled_body_is_all_its_steps_in_order() {
        let whole = counting(3, Ok(None)).collect().await.unwrap().to_bytes();
        assert_eq!(whole, &b"first\x03\x03\x01\x01"[..]);
    }

    #[tokio::test]
    async fn a_step_that_fails_cuts_the_body() {
        let mut body = counting(1, Err(Cut("damaged".to_owned())));
        for expected in [&b"first"[..], &[1, 1]] {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), expected);
        }
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_step_that_panics_cuts_the_body() {
        let mut body = Body::Pull(Pull::new(
            Vec::new(),
            Box::new(|| panic!("a defect")),
            Arc::new(Semaphore::new(1)),
        ));
        assert!(body.frame().await.unwrap().is_err());
    }
}
