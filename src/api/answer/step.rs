//! A response body that is produced step by step.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;

/// The error of a response body that cannot be completed. The gateway then ends the
/// response without a regular end of the body, so that the client does not mistake
/// the body for complete.
#[derive(Clone, Debug)]
pub struct BodyAborted(
    /// The reason, as text for the log of the gateway.
    pub String,
);

impl fmt::Display for BodyAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response body was aborted: {}", self.0)
    }
}

impl std::error::Error for BodyAborted {}

/// A source that produces a response body, one data frame per step. A frame has up
/// to 64 KiB, so the cost of the dynamic dispatch does not matter.
pub trait StepSource: Send {
    /// Returns the next data frame, or `None` at the end of the body.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyAborted>>>;
}
