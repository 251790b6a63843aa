//! The body of a response.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

pub use crate::api::answer::step::BodyAborted;
use crate::api::answer::{step::StepSource, streamed_body::StreamedBody};
use crate::deliver::{StreamBody, TakeoverBody};

/// The body of a response.
pub enum Body {
    /// An empty body.
    Empty,
    /// A complete body in memory.
    Full(Bytes),
    /// A body that the gateway reads from the store as fast as the client reads the
    /// response.
    Pull(StreamedBody),
    /// A body that a source produces step by step.
    Steps(Box<dyn StepSource>),
    /// A live stream that hyper sends to the client.
    Live(Box<StreamBody>),
    /// A live stream that writes to the socket itself after the response head.
    Taken(TakeoverBody),
}

impl Body {
    /// Returns whether the body is large and not a live stream. For such a body, the
    /// socket buffer of the kernel may be large, because the delay in this buffer
    /// does no harm.
    pub fn is_bulk(&self) -> bool {
        matches!(self, Body::Pull(_))
    }

    /// Tells a live stream that the client has read nothing for too long. The caller
    /// drops the body after this call.
    pub fn stalled(&mut self) {
        if let Body::Live(stream) = self {
            stream.stalled();
        }
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
                // The error type has no values; this only converts the type.
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
