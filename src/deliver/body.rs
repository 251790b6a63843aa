//! An SSE or NDJSON stream as a response body of hyper. It is used for HTTP/2, where
//! hyper owns the socket.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::end::End;
use super::socket_writer::{count_delivered, with_slices};
use super::source::{Filled, StreamSource};
use crate::hub::EndReason;

/// The response body that yields the frames of a stream to hyper. A frame that hyper
/// has accepted counts as written: hyper sends it before any later frame of the
/// stream, and buffers at most `max_send_buf_size` unsent bytes.
pub struct StreamBody {
    source: StreamSource,
    /// Frames that hyper has not accepted yet.
    ready: VecDeque<Bytes>,
    end: Option<End>,
}

impl StreamBody {
    /// Creates the body of a stream before its response head is sent.
    pub fn new(source: StreamSource) -> StreamBody {
        StreamBody { source, ready: VecDeque::new(), end: None }
    }

    /// Records in the metrics that the stream ends because the client has not read
    /// any bytes for the stall timeout. The caller then drops the body.
    pub fn stalled(&mut self) {
        self.source.set_end_label(End::Ending(EndReason::Stalled).reason());
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    /// The reason why a stream ends incompletely. hyper resets the HTTP/2 stream
    /// after this error.
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
