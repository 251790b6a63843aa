//! A stream as a response body, for HTTP/2, where hyper keeps the socket.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::end::End;
use super::socket_writer::{count_delivered, with_slices};
use super::source::{Filled, StreamSource};
use crate::hub::EndReason;

/// The frames of a stream. A frame that hyper has taken counts as written: hyper
/// sends it before anything else of this stream, and holds at most its limit of
/// unsent bytes.
pub struct StreamBody {
    source: StreamSource,
    /// Frames that hyper has not taken yet.
    ready: VecDeque<Bytes>,
    end: Option<End>,
}

impl StreamBody {
    /// Returns the body of a stream whose head is about to be written.
    pub fn new(source: StreamSource) -> StreamBody {
        StreamBody { source, ready: VecDeque::new(), end: None }
    }

    /// Records that the client has accepted no bytes for too long. The caller drops
    /// the body then.
    pub fn stalled(&mut self) {
        self.source.set_end_label(End::Ending(EndReason::Stalled).reason());
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    /// The end of a stream that is incomplete. hyper then resets the stream.
    type Error = End;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, End>>> {
        let this = &mut *self;
        loop {
            if let Some(bytes) = this.ready.pop_front() {
                if this.ready.is_empty() {
                    this.ready = VecDeque::new();
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match this.end {
                Some(end) if end.is_orderly() => return Poll::Ready(None),
                Some(end) => return Poll::Ready(Some(Err(end))),
                None => {}
            }
            let filled = with_slices(|slices| {
                let filled = this.source.poll_fill(cx, slices);
                if !slices.is_empty() {
                    let bytes = slices.iter().map(|slice| slice.bytes.len()).sum();
                    count_delivered(&this.source, slices, bytes);
                    this.source.note_written(slices);
                    this.ready.extend(slices.drain(..).map(|slice| slice.bytes));
                }
                filled
            });
            match filled {
                Poll::Ready(Filled::Slices) => {}
                Poll::Ready(Filled::PartialWrite(rest)) => this.ready.push_back(rest),
                Poll::Ready(Filled::End(end)) => {
                    this.source.set_end_label(end.reason());
                    this.end = Some(end);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
