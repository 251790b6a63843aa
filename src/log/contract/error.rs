//! The errors of an engine, and the states in which it accepts writes.

use std::fmt;

use crate::store;

/// Whether the logs on disk accept writes. Topics in memory accept events in every
/// state except [`WriteState::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteState {
    /// The logs on disk accept writes.
    Writable,
    /// The disk has too little free space. Reads work. Writes are accepted again
    /// once the disk has enough space.
    DiskFull,
    /// A sync or a commit has failed: [`Error::Poisoned`].
    SyncFailed,
    /// The committer has ended.
    Ended,
}

impl WriteState {
    /// Returns the name of the state in the response of `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            WriteState::Writable => "writable",
            WriteState::DiskFull => "disk full",
            WriteState::SyncFailed => "read-only after a failed sync",
            WriteState::Ended => "read-only after the committer ended",
        }
    }
}

/// The error for a log that accepts no writes, or for a read that failed.
#[derive(Debug)]
pub enum Error {
    /// The disk is full, and nothing was written. Reads work. Writes are accepted
    /// again once the disk has enough space.
    Full,
    /// The engine is closed, because the process is ending.
    Closed,
    /// A write to the disk has failed. It is not known which commits are on disk,
    /// so the log accepts no writes until the process is restarted.
    Poisoned,
    /// The store could not be read.
    Store(store::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Full => write!(f, "the disk is full; free some space"),
            Error::Closed => write!(f, "the log is closed"),
            Error::Poisoned => {
                write!(f, "a sync failed; the log accepts no writes until a restart")
            }
            Error::Store(_) => write!(f, "the store could not be read"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        Error::Store(error)
    }
}
