//! Appends to several logs in one commit.

use std::fmt;
use std::sync::Arc;

use super::{AppendRejection, Error, Log, Write};

/// Writes to several logs that are committed together or not at all.
#[derive(Default)]
pub struct AtomicBatch {
    /// The logs, each with its writes. A log may occur more than once.
    pub appends: Vec<(Arc<Log>, Vec<Write>)>,
}

impl AtomicBatch {
    /// The number of writes.
    pub(in crate::log) fn writes(&self) -> usize {
        self.appends.iter().map(|(_, writes)| writes.len()).sum()
    }

    /// The bytes that the writes take in memory, approximately.
    pub(in crate::log) fn bytes(&self) -> usize {
        self.appends.iter().flat_map(|(_, writes)| writes).map(Write::bytes).sum()
    }
}

/// The reason why an [`AtomicBatch`] was not committed.
#[derive(Debug)]
pub enum AtomicError {
    /// One write was rejected. No write of the batch was committed.
    Rejected {
        /// The index in [`AtomicBatch::appends`].
        append: usize,
        /// The index of the rejected write among the writes to that log.
        write: usize,
        /// The reason for the rejection.
        rejection: AppendRejection,
    },
    /// The batch names this topic, which keeps its events only in memory.
    /// Nothing was committed.
    MemoryTopic(String),
    /// The batch has more writes or bytes than one commit takes. Nothing was
    /// committed.
    TooLarge,
    /// The engine accepts no writes, or the store could not be read.
    Engine(Error),
}

impl fmt::Display for AtomicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtomicError::Rejected { append, write, rejection } => write!(
                f,
                "no write was committed: write {write} to log {append} of the batch was rejected \
                 ({rejection})"
            ),
            AtomicError::MemoryTopic(name) => write!(
                f,
                "the topic {name} keeps its events in memory; an atomic batch needs logs on disk"
            ),
            AtomicError::TooLarge => {
                write!(f, "the batch is too large for one commit; divide it into smaller batches")
            }
            AtomicError::Engine(_) => write!(f, "the engine did not commit the batch"),
        }
    }
}

impl std::error::Error for AtomicError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AtomicError::Engine(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for AtomicError {
    fn from(error: Error) -> AtomicError {
        AtomicError::Engine(error)
    }
}
