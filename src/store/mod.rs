//! The data on disk: events, resources, indexes and the commit watermark. The
//! database is fjall.
//!
//! The folder of a store contains the database `db/`, the commit watermark
//! `mark` and the header `format`. The database has two keyspaces. `log`
//! contains the events, and `state` contains everything else. The files `key`
//! and `record` define the keys and values. One [`Writer`] changes the store, by
//! one [`Transaction`] at a time. A transaction is atomic and has a number. Any
//! number of threads can read: through a [`Store`], or through a
//! [`ReadSnapshot`] for several reads at one commit.
//!
//! fjall removes the damaged end of a journal without an error. Therefore the
//! store checks what fjall returns. Each record has a checksum. The events of a
//! log have consecutive numbers. The metadata of a log counts its events and
//! resources. The commit watermark is the least number of commits that the store
//! must have. [`Store::open`] checks the end of each log, and [`verify`] checks
//! every record.

mod codec;
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

pub use open::Opened;
pub use record::{IdempotentResponse, LogMetadata};
pub use verify::{LogReport, Report, verify};
pub use view::{ReadSnapshot, ResourceEntry, Store};
pub use writer::{Durability, EncodedEvent, Transaction, Writer};

/// The retention of a log. A bound of zero is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The number of newest events to keep.
    pub events: u64,
    /// The number of bytes of newest events to keep. Keys and encoded records
    /// count.
    pub bytes: u64,
    /// The age up to which events are kept.
    pub age: Duration,
}

/// The current state of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The offset of the newest event of the resource. With the epoch of the
    /// log, it is the `ETag`.
    pub revision: Offset,
    /// The resource as compact JSON.
    pub document: Bytes,
}

/// The ends of a log and its totals, at one commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// The offset of the newest event.
    pub head: Offset,
    /// The offset of the last trimmed event.
    pub floor: Offset,
    /// The time of the last trimmed event.
    pub floor_time: Timestamp,
    /// The number of stored events.
    pub events: u64,
    /// The number of bytes of the stored events, keys included.
    pub bytes: u64,
    /// The number of resources of the collection.
    pub resources: u64,
}

impl LogBounds {
    /// Returns whether the log still has every event after `step` whose time is
    /// `time` or later. After the offset `step`, the time of events must not
    /// decrease.
    pub fn keeps_since(&self, step: Offset, time: Timestamp) -> bool {
        self.floor <= step || time > self.floor_time
    }
}

/// The reason why the store cannot be opened or read. Every message says what to
/// do.
#[derive(Debug)]
pub enum Error {
    /// Another process uses the store in this folder.
    Locked(PathBuf),
    /// An error of the file system.
    Io(std::io::Error),
    /// An acknowledged write is missing, or the checksum of a record is wrong.
    Damaged(String),
    /// A later version of streamgate wrote the store, in a format that this
    /// version does not know.
    Newer(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Locked(path) => write!(f, "{} is in use by another process", path.display()),
            Error::Io(_) => write!(f, "the files of the store cannot be read or written"),
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

/// The advice at the end of each error about damage.
const ADVICE: &str = "run `streamgate verify` to list all damage, then restore a copy of the store";

/// Returns the text for the metadata with this key, for an error. The name of a
/// log is in its metadata, so damaged metadata is identified by the number of
/// the log.
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
