//! On disk: events, latest states, indexes and marks, on fjall.
//!
//! A folder holds fjall's own `db/`, the file `mark` and the header `format`. There are two
//! keyspaces: `log` with the events, `state` with everything else; which keys
//! and values stands in `key` and `record`. One [`Writer`] changes them, a
//! [`Transaction`] at a time, each atomic and numbered; anybody reads, through
//! a [`Store`] or, where reads belong together, a [`ReadSnapshot`].
//!
//! fjall drops a damaged end of its journal without a word, so nothing here
//! is believed: each record has its own checksum, the events of a log are
//! numbered without a hole, each log's meta counts what it keeps, and the
//! mark tells how many commits there must be. Opening compares the ends of
//! these, [`verify`] all of it.

mod codec;
mod cursor;
mod format;
mod key;
mod watermark;
mod open;
mod record;
mod verify;
mod view;
mod writer;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::event::{Offset, Timestamp};
use codec::Unreadable;

pub use cursor::{Cursor, CursorName, InvalidCursorName};
pub use open::Opened;
pub use record::{IdempotentResponse, LogMetadata};
pub use verify::{LogReport, Report, verify};
pub use view::{ReadSnapshot, ResourceEntry, Store};
pub use writer::{Durability, EncodedEvent, Transaction, Writer};

/// How much of a log is kept; zero is no bound of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Newest events to keep.
    pub events: u64,
    /// Bytes of newest events to keep, counted as stored.
    pub bytes: u64,
    /// Age to keep.
    pub age: Duration,
}

/// A resource as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The offset of its newest event: with the epoch, its `ETag`.
    pub revision: Offset,
    /// The resource, compact JSON.
    pub document: Bytes,
}

/// A log's place at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// Newest event.
    pub head: Offset,
    /// Last trimmed event.
    pub floor: Offset,
    /// Time of the last trimmed event.
    pub floor_time: Timestamp,
    /// How many events it keeps.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many resources the collection has.
    pub resources: u64,
}

impl LogBounds {
    /// Whether every event after `step` that is at or after `time` is still
    /// kept. From `step` on, time never decreases.
    pub fn keeps_since(&self, step: Offset, time: Timestamp) -> bool {
        self.floor <= step || time > self.floor_time
    }
}

/// Why the store cannot be opened or read. Every message says what to do.
#[derive(Debug)]
pub enum Error {
    /// Another process has it open.
    Locked(PathBuf),
    /// The file system refused.
    Io(std::io::Error),
    /// What was acknowledged is missing, or a record fails its checksum.
    Damaged(String),
    /// A later version of streamgate wrote it, in a format that this one does
    /// not know.
    Newer(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Locked(path) => write!(f, "{} is in use by another process", path.display()),
            Error::Io(_) => write!(f, "the store's files cannot be used"),
            Error::Damaged(what) => write!(f, "the store is damaged: {what}"),
            Error::Newer(what) => write!(
                f,
                "a later version of streamgate wrote the store: {what}; run that version, or \
                 restore a copy from before"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<fjall::Error> for Error {
    fn from(error: fjall::Error) -> Error {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                Error::Io(error)
            }
            fjall::Error::Poisoned => Error::Io(io::Error::other("an earlier write failed")),
            other => Error::Damaged(format!("{other:?}; {ADVICE}")),
        }
    }
}

/// What to do about damage.
const ADVICE: &str =
    "run `streamgate verify` to see what is left, then restore a copy of the store";

/// Returns what an error calls the metadata with this key. The name of a log is
/// in its metadata, so damaged metadata has only a number.
fn meta_text(key: &[u8]) -> String {
    match key::meta_of(key) {
        Some(log) => format!("the metadata of the log with number {}", log.0),
        None => "the metadata of a log".to_owned(),
    }
}

/// Returns the error for a record that cannot be read.
fn unreadable(why: Unreadable, what: impl fmt::Display) -> Error {
    match why {
        Unreadable::Damaged => damaged(what),
        Unreadable::Newer(version) => Error::Newer(format!("{what} has version {version}")),
    }
}

fn damaged(what: impl fmt::Display) -> Error {
    Error::Damaged(format!("{what} cannot be read; {ADVICE}"))
}
