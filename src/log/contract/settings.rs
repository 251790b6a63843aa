//! What an engine is opened with.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::Retention;
use crate::wire::LogKind;

/// What an engine needs to know to open.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the store; made if it is not there.
    pub path: PathBuf,
    /// When a write is answered and shown.
    pub sync: FsyncPolicy,
    /// Memory for the tails of all logs together, in bytes.
    pub tail_bytes: usize,
    /// Memory for encoded pages read back, in bytes.
    pub page_cache_bytes: usize,
    /// How many pages, and other things on blocking threads, are read from disk
    /// at a time.
    pub catchup_concurrency: usize,
    /// Largest resource a merge may grow to, in bytes.
    pub resource_bytes_max: usize,
}

#[cfg(test)]
impl Settings {
    /// Of a store of a test's own in `folder`, with more memory than a test fills.
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

/// When data is on disk relative to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// Before anybody is answered or shown anything; one sync for all that
    /// has queued up.
    Always,
    /// Within this time after the answer.
    Interval(Duration),
    /// When the operating system likes.
    Never,
}

/// Where a log is kept, and so what it survives; not to be taken for
/// [`Durability`](crate::store::Durability), which is how far one commit has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageKind {
    /// In the store: it survives the process, and with [`FsyncPolicy::Always`] a
    /// power cut.
    #[default]
    Disk,
    /// In its tail alone, within [`Settings::tail_bytes`]. Nothing of it is
    /// ever written to the store, a write waits for no sync, and its epoch ends
    /// with the process.
    Memory,
}

/// A log that the configuration asks for.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The collection's or topic's name.
    pub name: String,
    /// Which of the two it is.
    pub kind: LogKind,
    /// How much of it is kept.
    pub retention: Retention,
    /// Where it is kept. A collection's resources are state that has to last:
    /// its log is on disk whatever this says.
    pub durability: StorageKind,
}

impl LogConfig {
    /// A topic that keeps everything.
    #[cfg(test)]
    pub(crate) fn topic(name: &str, durability: StorageKind) -> LogConfig {
        let retention = Retention::default();
        LogConfig { name: name.to_owned(), kind: LogKind::Topic, retention, durability }
    }

    pub(in crate::log) fn is_topic(&self) -> bool {
        matches!(self.kind, LogKind::Topic)
    }

    pub(in crate::log) fn medium(&self) -> StorageKind {
        if self.is_topic() { self.durability } else { StorageKind::Disk }
    }
}
