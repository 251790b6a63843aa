//! The registry of all logs: the logs in the store, and the logs in memory.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::writer::LogWriter;
use crate::event::{Epoch, LogId};
use crate::log::read::PageCache;
use crate::log::{Log, LogConfig, StorageKind};
use crate::store::{self, Durability, LogMetadata, Store, Writer};
use crate::wire::LogIdentity;

/// The ids of the logs in memory are larger than this number. The ids of the logs in
/// the store start at 1 and stay below this number.
const IN_MEMORY: u32 = 1 << 31;
/// A commit creates at most this number of logs, so that its changes take little
/// memory.
const COMMIT_LOGS: usize = 1024;

/// The registry of all logs. It opens existing logs and creates new ones.
pub(in crate::log) struct LogRegistry {
    store: Store,
    pages: Arc<PageCache>,
    /// The metadata of the logs in the store that are not open, in ascending order
    /// of [`key`]. A map instead of this list would need 19 MB more for 100,000 logs
    /// while the store opens.
    closed: Vec<LogMetadata>,
    /// The highest id of a log in the store.
    last: u32,
    /// The number of logs that were created in memory.
    in_memory: u32,
}

impl LogRegistry {
    /// Returns the registry of a store that has the logs `known`.
    pub(in crate::log) fn new(
        store: Store,
        pages: Arc<PageCache>,
        known: Vec<LogMetadata>,
    ) -> LogRegistry {
        let last = known.iter().map(|metadata| metadata.id.0).max().unwrap_or(0);
        let mut closed = known;
        closed.sort_unstable_by(|one, other| key(one).cmp(&key(other)));
        LogRegistry { store, pages, closed, last, in_memory: 0 }
    }

    /// Opens a log for each of `configs`, and creates the logs that do not exist.
    /// The caller must call [`Opened::write`] before readers can see the logs.
    pub(in crate::log) fn open<'a>(
        &mut self,
        configs: impl Iterator<Item = &'a LogConfig>,
    ) -> Opened {
        let mut opened =
            Opened { writers: Vec::with_capacity(configs.size_hint().0), created: Vec::new() };
        let mut is_open = vec![false; self.closed.len()];
        for config in configs {
            let metadata = match (config.storage(), self.find(config)) {
                (StorageKind::Disk, Some(index)) if !is_open[index] => {
                    is_open[index] = true;
                    self.closed[index].clone()
                }
                (StorageKind::Disk, _) => {
                    opened.created.push(opened.writers.len());
                    self.last += 1;
                    new_metadata(LogId(self.last), config)
                }
                // A log of the same name in the store is another log. It stays
                // closed.
                (StorageKind::Memory, _) => {
                    self.in_memory += 1;
                    new_metadata(LogId(IN_MEMORY + self.in_memory), config)
                }
            };
            let identity =
                LogIdentity::new(metadata.name.clone(), metadata.epoch, config.kind.clone());
            let (store, pages) = (self.store.clone(), self.pages.clone());
            let log = Log::new(&metadata, Arc::new(identity), config.storage(), store, pages);
            opened.writers.push(LogWriter::new(Arc::new(log), metadata, config.retention));
        }
        let mut is_open = is_open.into_iter();
        self.closed.retain(|_| is_open.next() == Some(false));
        self.closed.shrink_to_fit();
        opened
    }

    /// Returns the index in `closed` of the log that `config` names.
    fn find(&self, config: &LogConfig) -> Option<usize> {
        let wanted = (&*config.name, config.is_topic());
        self.closed.binary_search_by(|metadata| key(metadata).cmp(&wanted)).ok()
    }

    /// Undoes [`LogRegistry::open`] after an error. The logs that are new in
    /// `opened` are not in the store.
    pub(in crate::log) fn close(&mut self, opened: Opened) {
        let Opened { writers, created } = opened;
        for (index, writer) in writers.into_iter().enumerate() {
            let is_stored = writer.log().storage() == StorageKind::Disk;
            if is_stored && created.binary_search(&index).is_err() {
                self.closed.push(writer.into_metadata());
            }
        }
        self.closed.sort_unstable_by(|one, other| key(one).cmp(&key(other)));
    }
}

/// Newly opened logs that no reader and no caller of the engine can see yet.
pub(in crate::log) struct Opened {
    pub(in crate::log) writers: Vec<LogWriter>,
    /// The indexes in `writers` of the logs that the store does not have yet, in
    /// ascending order.
    created: Vec<usize>,
}

impl Opened {
    /// Returns whether some of the logs are not in the store yet.
    pub(in crate::log) fn has_new(&self) -> bool {
        !self.created.is_empty()
    }

    /// Writes the metadata of the new logs to the store and syncs the store. After a
    /// crash during this call, the store may have only some of the new logs. They
    /// have no events, and the next start opens them.
    ///
    /// # Errors
    /// [`store::Error`] if the store cannot be written. Every later commit then
    /// fails too.
    pub(in crate::log) fn write(&self, writer: &mut Writer) -> Result<(), store::Error> {
        for created in self.created.chunks(COMMIT_LOGS) {
            let mut changes = writer.begin();
            for &index in created {
                changes.put_meta(self.writers[index].metadata());
            }
            writer.commit(changes, Durability::Buffered)?;
        }
        writer.sync()?;
        writer.sync_mark()
    }
}

/// Returns the sort key of a log: its name, and whether it belongs to a topic. A
/// collection and a topic with the same name have separate logs.
fn key(metadata: &LogMetadata) -> (&str, bool) {
    (&metadata.name, metadata.topic)
}

/// Returns the metadata of a new log with a random epoch.
fn new_metadata(id: LogId, config: &LogConfig) -> LogMetadata {
    LogMetadata::new(id, config.name.as_str(), config.is_topic(), new_epoch())
}

/// Returns a random epoch, the identity of a new log. It is the hash of a new UUID,
/// with a hasher that has new random keys.
fn new_epoch() -> Epoch {
    Epoch::from_bits(RandomState::new().hash_one(uuid::Uuid::now_v7()))
}
