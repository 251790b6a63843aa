//! The store on disk, built on fjall: events, resources, indexes and cursors.
//!
//! The folder of a store contains fjall's files in `db/`, the file `mark` and the
//! header `format`. fjall has two keyspaces: `log` contains the events, and `state`
//! contains everything else. The modules `key`, `record` and `cursor` define the
//! keys and the values. One [`Writer`] changes the store in numbered, atomic
//! [`Transaction`]s. Any thread can read, through a [`Store`], or through a
//! [`ReadSnapshot`] if several reads must see the same state.
//!
//! fjall drops a damaged end of its journal without an error, so the store checks
//! fjall's data. Each record has a checksum. The events of a log have consecutive
//! numbers. The metadata of a log counts its events. The file `mark` contains the
//! number of commits that must exist. Opening a store compares the newest event of
//! each log with these numbers, and [`verify`] compares every record.

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
use std::path::{Path, PathBuf};
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

/// The limits for the events that a log keeps. Events that exceed a limit are
/// trimmed, oldest first. Zero means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The maximum number of events.
    pub events: u64,
    /// The maximum number of stored bytes of all events together.
    pub bytes: u64,
    /// The age at which an event is trimmed.
    pub age: Duration,
}

/// The latest state of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The offset of the newest event of the resource. The epoch of the log and
    /// this offset are the entity tag.
    pub revision: Offset,
    /// The JSON document, without white space.
    pub document: Bytes,
}

/// The bounds (head and floor) and the sizes of a log at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// The offset of the newest event.
    pub head: Offset,
    /// The offset of the last trimmed event.
    pub floor: Offset,
    /// The time of the last trimmed event.
    pub floor_time: Timestamp,
    /// The number of events in the log.
    pub events: u64,
    /// The stored bytes of the events.
    pub bytes: u64,
    /// The number of resources of the collection.
    pub resources: u64,
}

impl LogBounds {
    /// Returns whether the log still has every event after the offset `step`
    /// whose time is `time` or later. After `step`, the times of the events never
    /// decrease.
    pub fn keeps_since(&self, step: Offset, time: Timestamp) -> bool {
        self.floor <= step || time > self.floor_time
    }
}

/// The error for a store that cannot be opened or read.
#[derive(Debug)]
pub enum Error {
    /// Another process has opened the store in this folder.
    Locked(PathBuf),
    /// The store in this folder cannot be opened or verified, because an operation of
    /// the file system failed.
    Unusable(PathBuf, std::io::Error),
    /// An operation of the file system on an open store failed.
    Io(std::io::Error),
    /// An acknowledged commit is missing, or a record fails its checksum.
    Damaged(String),
    /// A later version of streamgate wrote the store or a record, in a format
    /// that this version cannot read.
    Newer(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Locked(path) => write!(f, "{} is in use by another process", path.display()),
            Error::Unusable(path, _) => {
                write!(f, "the store in {} cannot be used", path.display())
            }
            Error::Io(_) => write!(f, "an operation on the files of the store failed"),
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
            Error::Unusable(_, error) | Error::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl Error {
    /// Adds the folder of the store to an error of the file system.
    fn at(self, path: &Path) -> Error {
        match self {
            Error::Io(error) => Error::Unusable(path.to_owned(), error),
            other => other,
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
            fjall::Error::Poisoned => {
                Error::Io(io::Error::other("an earlier write failed; restart the gateway"))
            }
            other => Error::Damaged(format!("{other:?}; {ADVICE}")),
        }
    }
}

/// The advice in an error about damage.
const ADVICE: &str = "run `streamgate verify` to list all damage, then restore a copy of the store";

/// Returns the description of a log's metadata for an error. The description
/// has the number of the log, because the name is in the metadata itself.
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
