//! A response body that is produced step by step.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;

/// A body that cannot be completed. The connection ends without the end of the body, so
/// that the client cannot mistake the body for complete.
#[derive(Clone, Debug)]
pub struct BodyAborted(
    /// The reason, for the log.
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
