//! A response body that is produced step by step.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;

/// The error of a body that cannot be completed. The connection then ends without the end of the
/// body, so that the client does not mistake the body for complete.
#[derive(Clone, Debug)]
pub struct BodyAborted(
    /// The reason, for the log.
    pub String,
);

impl fmt::Display for BodyAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response body was aborted: {}", self.0)
    }
}

impl std::error::Error for BodyAborted {}

/// Produces a response body, one data frame per step. A step has up to 64 KiB, so the cost of
/// the dynamic call does not matter.
pub trait StepSource: Send {
    /// Returns the next data frame, or `None` at the end of the body.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyAborted>>>;
}
