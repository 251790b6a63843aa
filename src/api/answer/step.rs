//! A response body that is produced step by step.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;

/// An answer that cannot be finished: the connection ends without the body's
/// own end, so that the client cannot take it for whole.
#[derive(Clone, Debug)]
pub struct BodyAborted(
    /// Why, for the log.
    pub String,
);

impl fmt::Display for BodyAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer was cut: {}", self.0)
    }
}

impl std::error::Error for BodyAborted {}

/// Produces a response body, one data frame a step. A step is up to 64 KiB, so
/// that the cost of the dynamic call does not matter.
pub trait StepSource: Send {
    /// Returns the next data frame, or `None` at the end of the body.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyAborted>>>;
}
