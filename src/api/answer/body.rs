//! What an answer's bytes come from.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

pub use crate::api::answer::step::BodyAborted;
use crate::api::answer::{step::StepSource, streamed_body::StreamedBody};
use crate::deliver::{StreamBody, TakeoverBody};

/// The body of an answer.
pub enum Body {
    /// Nothing.
    Empty,
    /// All of it, known before the head.
    Full(Bytes),
    /// Read from the store piece by piece, as the client takes it.
    Pull(StreamedBody),
    /// Produced step by step, as the source has it.
    Steps(Box<dyn StepSource>),
    /// A live stream.
    Live(Box<StreamBody>),
    /// A live stream whose socket is taken over after the head.
    Taken(TakeoverBody),
}

impl Body {
    /// Whether there is much of it, as fast as the client takes it, and none of
    /// it is lost or late where the kernel holds it.
    pub fn is_bulk(&self) -> bool {
        matches!(self, Body::Pull(_))
    }

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
    type Error = BodyAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        let body = self.get_mut();
        match body {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *body = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Body::Pull(pull) => pull.poll_next(cx).map(|next| next.map(|r| r.map(Frame::data))),
            Body::Steps(steps) => steps.poll_next(cx).map(|next| next.map(|r| r.map(Frame::data))),
            Body::Live(stream) => Pin::new(stream.as_mut()).poll_frame(cx).map(|next| {
                next.map(|frame| frame.map_err(|end| BodyAborted(end.reason().to_owned())))
            }),
            Body::Taken(pending) => {
                // Its error has no value, so this is a change of type alone.
                Pin::new(pending).poll_frame(cx).map_err(|never| match never {})
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) | Body::Pull(_) | Body::Steps(_) | Body::Live(_) | Body::Taken(_) => {
                false
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Pull(_) | Body::Steps(_) | Body::Live(_) | Body::Taken(_) => SizeHint::default(),
        }
    }
}
