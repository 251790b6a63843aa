//! Why an engine takes no writes, or cannot answer a read.

use std::fmt;

use crate::store;

/// Whether the logs on disk take writes. Topics in memory take events in every
/// state but [`WriteState::Ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteState {
    /// They do.
    Writable,
    /// The disk has too little free space. Reads go on, and writes do when
    /// there is room.
    DiskFull,
    /// A sync or a commit has failed: [`Error::Poisoned`].
    SyncFailed,
    /// The committer has ended.
    Ended,
}

impl WriteState {
    /// The state as `/readyz` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            WriteState::Writable => "writable",
            WriteState::DiskFull => "disk full",
            WriteState::SyncFailed => "read-only after a failed sync",
            WriteState::Ended => "read-only after the committer ended",
        }
    }
}

/// Why a log takes no writes, or a read has no answer.
#[derive(Debug)]
pub enum Error {
    /// The disk is full and nothing was written; reads go on, and writes do
    /// when there is room.
    Full,
    /// The engine was closed: the process is ending.
    Closed,
    /// A write to disk failed before. The log refuses to guess what is on
    /// disk until the process is started again.
    Poisoned,
    /// The store could not be read.
    Store(store::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Full => write!(f, "the disk is full"),
            Error::Closed => write!(f, "the log is closed"),
            Error::Poisoned => write!(f, "a sync failed; the log takes no writes until a restart"),
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
