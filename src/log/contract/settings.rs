//! The settings of an engine, and the configuration of a log.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::Retention;
use crate::wire::LogKind;

/// The settings of an engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of the store. The engine creates it if it does not exist.
    pub path: PathBuf,
    /// The rule for when a commit reaches the disk.
    pub sync: FsyncPolicy,
    /// The maximum memory for the tails (the newest batches) of all logs together,
    /// in bytes.
    pub tail_bytes: usize,
    /// The maximum memory for the cache of pages, in bytes.
    pub page_cache_bytes: usize,
    /// The largest number of concurrent reads on blocking threads.
    pub catchup_concurrency: usize,
    /// The maximum size of a resource after a merge, in bytes.
    pub resource_bytes_max: usize,
}

#[cfg(test)]
impl Settings {
    /// Returns settings for a test with a store in `folder`. Their memory limits are
    /// larger than a test needs.
    pub(crate) fn within(folder: &std::path::Path) -> Settings {
        Settings {
            path: folder.join("data"),
            sync: FsyncPolicy::Never,
            tail_bytes: 64 << 20,
            page_cache_bytes: 16 << 20,
            catchup_concurrency: 4,
            resource_bytes_max: 1 << 20,
        }
    }
}

/// The rule for when a commit reaches the disk. This is the configuration key
/// `storage.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// A commit is synced before writers get an answer and subscribers get the
    /// events. All writes that wait share one sync.
    Always,
    /// A commit is synced at most this time after the answer.
    Interval(Duration),
    /// The operating system decides when a commit reaches the disk.
    Never,
}

/// The storage of a log: it decides whether the log survives the end of the process.
/// In contrast, [`Durability`](crate::store::Durability) is about a single commit:
/// whether the commit is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageKind {
    /// The log is in the store. It survives the end of the process, and with
    /// [`FsyncPolicy::Always`] also a power failure.
    #[default]
    Disk,
    /// The log is only in its tail, in the memory that [`Settings::tail_bytes`]
    /// limits. The log is never written to the store, writes wait for no sync, and
    /// the epoch ends with the process.
    Memory,
}

/// The configuration of a log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The name of the collection or topic.
    pub name: String,
    /// Whether the log belongs to a collection or a topic.
    pub kind: LogKind,
    /// The limits for the events that the log keeps.
    pub retention: Retention,
    /// The storage for the log of a topic. The log of a collection is always on
    /// disk, because the resources are on disk.
    pub durability: StorageKind,
}

impl LogConfig {
    /// Returns the configuration of a topic that keeps all events.
    #[cfg(test)]
    pub(crate) fn topic(name: &str, durability: StorageKind) -> LogConfig {
        let retention = Retention::default();
        LogConfig { name: name.to_owned(), kind: LogKind::Topic, retention, durability }
    }

    pub(in crate::log) fn is_topic(&self) -> bool {
        matches!(self.kind, LogKind::Topic)
    }

    /// Returns where the log is stored: on disk or only in memory.
    pub(in crate::log) fn storage(&self) -> StorageKind {
        if self.is_topic() { self.durability } else { StorageKind::Disk }
    }
}
