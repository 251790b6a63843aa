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
    /// When a commit reaches the disk.
    pub sync: FsyncPolicy,
    /// The memory for the tails of all logs together, in bytes.
    pub tail_bytes: usize,
    /// The memory for the cache of pages, in bytes.
    pub page_cache_bytes: usize,
    /// The largest number of concurrent reads on blocking threads.
    pub catchup_concurrency: usize,
    /// The largest size of a resource after a merge, in bytes.
    pub resource_bytes_max: usize,
}

#[cfg(test)]
impl Settings {
    /// Returns settings for a test with a store in `folder`. No test fills their
    /// memory.
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

/// When a commit reaches the disk. This is the configuration key `storage.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Before writers get an answer and subscribers get the events. All writes that
    /// wait share one sync.
    Always,
    /// At most this time after the answer.
    Interval(Duration),
    /// When the operating system decides.
    Never,
}

/// The storage of a log. It decides whether the log survives the end of the process.
/// [`Durability`](crate::store::Durability) is about a single commit: whether the
/// commit is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageKind {
    /// In the store. The log survives the end of the process, and with
    /// [`FsyncPolicy::Always`] also a power failure.
    #[default]
    Disk,
    /// Only in the tail, in the memory of [`Settings::tail_bytes`]. The log is never
    /// written to the store, writes wait for no sync, and the epoch ends with the
    /// process.
    Memory,
}

/// The configuration of a log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The name of the collection or topic.
    pub name: String,
    /// Whether the log belongs to a collection or a topic.
    pub kind: LogKind,
    /// How many events the log keeps.
    pub retention: Retention,
    /// Where the log of a topic is kept. The log of a collection is always on disk,
    /// because it has the resources.
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

    /// Returns where the log is kept.
    pub(in crate::log) fn medium(&self) -> StorageKind {
        if self.is_topic() { self.durability } else { StorageKind::Disk }
    }
}
