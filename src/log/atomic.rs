//! Appends to several logs in one commit.

use std::fmt;
use std::sync::Arc;

use super::{AppendRejection, Error, Log, StorageKind, Write};
use crate::event::{EventId, Offset};
use crate::store::{Cursor, CursorName};

/// The memory that a cursor change takes in the queue, approximately, in bytes.
const CURSOR_BYTES: usize = 256;

/// Writes to several logs that are committed together or not at all.
#[derive(Default)]
pub struct AtomicBatch {
    /// The logs, each with its writes. A log may occur more than once.
    pub appends: Vec<(Arc<Log>, Vec<Write>)>,
    /// The changes of cursors. If a cursor is changed twice, the later change
    /// applies.
    pub cursors: Vec<CursorUpdate>,
}

/// A change of a durable cursor.
pub enum CursorUpdate {
    /// Adds or replaces the cursor.
    Set {
        /// The name of the cursor.
        name: CursorName,
        /// The log that the cursor belongs to, on disk.
        log: Arc<Log>,
        /// The offset of the last event that the reader has processed, at most
        /// the head of the log after the appends of the batch.
        offset: Offset,
    },
    /// Removes the cursor, if it exists.
    Remove {
        /// The name of the cursor.
        name: CursorName,
    },
}

/// The result of a comparison of a durable cursor with a log: whether the cursor
/// belongs to the log, and its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorPosition {
    /// The cursor belongs to the log and has this offset. Retention may have
    /// trimmed the events after it.
    At(Offset),
    /// The cursor belongs to a log of another epoch. Its offset has no meaning
    /// in this log.
    OtherEpoch(EventId),
}

impl CursorPosition {
    pub(in crate::log) fn of(cursor: Cursor, log: &Log) -> CursorPosition {
        let Cursor { epoch, offset, .. } = cursor;
        if epoch == log.identity().epoch {
            CursorPosition::At(offset)
        } else {
            CursorPosition::OtherEpoch(EventId { epoch, offset })
        }
    }
}

impl AtomicBatch {
    /// Returns the number of writes and cursor changes in the batch.
    pub(in crate::log) fn writes(&self) -> usize {
        let writes: usize = self.appends.iter().map(|(_, writes)| writes.len()).sum();
        writes + self.cursors.len()
    }

    /// Returns a log of the batch that is kept only in memory, if there is one.
    pub(in crate::log) fn memory_log(&self) -> Option<&Arc<Log>> {
        fn of_cursor(update: &CursorUpdate) -> Option<&Arc<Log>> {
            match update {
                CursorUpdate::Set { log, .. } => Some(log),
                CursorUpdate::Remove { .. } => None,
            }
        }
        let logs = self.appends.iter().map(|(log, _)| log);
        let mut logs = logs.chain(self.cursors.iter().filter_map(of_cursor));
        logs.find(|log| log.storage() == StorageKind::Memory)
    }

    /// Returns the memory that the writes and cursor changes take, approximately, in
    /// bytes.
    pub(in crate::log) fn bytes(&self) -> usize {
        let writes = self.appends.iter().flat_map(|(_, writes)| writes);
        writes.map(Write::bytes).sum::<usize>() + self.cursors.len() * CURSOR_BYTES
    }
}

/// The reason why an [`AtomicBatch`] was not committed.
#[derive(Debug)]
pub enum AtomicError {
    /// One write was rejected. No write of the batch was committed.
    Rejected {
        /// The index of the rejecting log in [`AtomicBatch::appends`].
        append: usize,
        /// The name of the log that rejected the write.
        log: String,
        /// The index of the rejected write among the writes to that log.
        write: usize,
        /// The reason for the rejection.
        rejection: AppendRejection,
    },
    /// The batch names this topic, which keeps its events only in memory.
    /// Nothing was committed.
    MemoryTopic(String),
    /// The offset of this cursor is beyond the head of its log. Nothing was
    /// committed.
    CursorAhead(CursorName),
    /// The batch has more writes or bytes than one commit takes. Nothing was
    /// committed.
    TooLarge,
    /// The engine accepts no writes, or the store could not be read.
    Engine(Error),
}

impl fmt::Display for AtomicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtomicError::Rejected { log, write, rejection, .. } => write!(
                f,
                "write {} to {log} was rejected ({rejection}); no write of the batch was committed",
                write + 1
            ),
            AtomicError::MemoryTopic(name) => write!(
                f,
                "the topic {name} keeps its events in memory; an atomic batch needs logs on disk"
            ),
            AtomicError::CursorAhead(name) => write!(
                f,
                "the offset of the cursor {} is beyond the newest event of its log",
                name.as_str()
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
