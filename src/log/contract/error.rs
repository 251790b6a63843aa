//! The errors of an engine, and the type that says whether it accepts writes.

use std::fmt;

use crate::store;

/// Whether the logs on disk accept writes. Topics in memory accept events in each
/// state except [`WriteState::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteState {
    /// The logs accept writes.
    Writable,
    /// The disk has too little free space. Reads continue. The logs accept writes
    /// again when the disk has enough free space.
    DiskFull,
    /// A sync or a commit failed. Writes fail with [`Error::Poisoned`] until the
    /// process restarts.
    SyncFailed,
    /// The thread of the committer has ended.
    Ended,
}

impl WriteState {
    /// Returns the text for the state in the answer of `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            WriteState::Writable => "writable",
            WriteState::DiskFull => "disk full",
            WriteState::SyncFailed => "read-only after a failed sync",
            WriteState::Ended => "read-only after the committer ended",
        }
    }
}

/// The reason why a log rejects all writes, or why a read failed.
#[derive(Debug)]
pub enum Error {
    /// The disk has too little free space. Nothing was written. Reads continue.
    Full,
    /// The engine was closed, because the process ends.
    Closed,
    /// An earlier write to the disk failed, so the content of the disk is unknown.
    /// The logs on disk reject writes until the process restarts.
    Poisoned,
    /// The store could not be read.
    Store(store::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Full => write!(f, "the disk of the gateway is full; try again later"),
            Error::Closed => write!(f, "the gateway is stopping; try again later"),
            Error::Poisoned => {
                write!(f, "a write to the disk failed; the gateway must be restarted")
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
