//! A stream as a response body, for HTTP/2, where hyper keeps the socket.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::end::End;
use super::socket_writer::{count_delivered, with_hand};
use super::source::{Filled, StreamSource};
use crate::hub::EndReason;

/// The frames of a stream. What it has given counts as written: hyper sends
/// it before anything else of this stream, and holds no more than its send
/// buffer's limit.
pub struct StreamBody {
    pump: StreamSource,
    ready: VecDeque<Bytes>,
    end: Option<End>,
}

impl StreamBody {
    /// The body of a stream whose head is about to be written.
    pub fn new(pump: StreamSource) -> StreamBody {
        StreamBody { pump, ready: VecDeque::new(), end: None }
    }

    /// The client took nothing for too long: it will be dropped.
    pub fn stalled(&mut self) {
        self.pump.ends(End::Ending(EndReason::Stalled).reason());
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    /// A stream that the client must not take for whole.
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
            let filled = with_hand(|hand| {
                let filled = this.pump.poll_fill(cx, hand);
                if !hand.is_empty() {
                    let bytes = hand.iter().map(|slice| slice.bytes.len() as u64).sum();
                    count_delivered(&this.pump, hand, bytes);
                    this.pump.wrote(hand);
                    this.ready.extend(hand.drain(..).map(|slice| slice.bytes));
                }
                filled
            });
            match filled {
                Poll::Ready(Filled::Write) => {}
                Poll::Ready(Filled::Rest(rest)) => this.ready.push_back(rest),
                Poll::Ready(Filled::End(end)) => {
                    this.pump.ends(end.reason());
                    this.end = Some(end);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
