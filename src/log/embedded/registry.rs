//! The logs that exist: the logs of the store, and the logs in memory.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::writer::LogWriter;
use crate::event::{Epoch, LogId};
use crate::log::read::PageCache;
use crate::log::{Log, LogConfig, StorageKind};
use crate::store::{self, Durability, LogMetadata, Store, Writer};
use crate::wire::LogIdentity;

/// The ids of the logs in memory are above this number. The ids of the logs in
/// the store start at 1 and do not reach it.
const IN_MEMORY: u32 = 1 << 31;

/// Opens existing logs and creates new ones.
pub(in crate::log) struct LogRegistry {
    store: Store,
    pages: Arc<PageCache>,
    /// The logs of the store that are not open, by name. The first map has the
    /// logs of collections, the second one those of topics.
    closed: [HashMap<Arc<str>, LogMetadata>; 2],
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
        let mut registry =
            LogRegistry { store, pages, closed: Default::default(), last: 0, in_memory: 0 };
        for metadata in known {
            registry.last = registry.last.max(metadata.id.0);
            registry.put_back(metadata);
        }
        registry
    }

    fn put_back(&mut self, metadata: LogMetadata) {
        self.closed[usize::from(metadata.topic)].insert(metadata.name.clone(), metadata);
    }

    /// Opens a log for each of `configs`, and creates the logs that do not exist.
    /// The caller must write the result to the store before it shows the logs.
    pub(in crate::log) fn open<'a>(
        &mut self,
        configs: impl Iterator<Item = &'a LogConfig>,
    ) -> Opened {
        let mut opened =
            Opened { writers: Vec::with_capacity(configs.size_hint().0), created: Vec::new() };
        for config in configs {
            let topic = config.is_topic();
            // A log in memory is not the log of the same name in the store. That
            // log stays closed.
            let closed = match config.medium() {
                StorageKind::Disk => self.closed[usize::from(topic)].remove(&*config.name),
                StorageKind::Memory => None,
            };
            let metadata = closed.unwrap_or_else(|| {
                let id = match config.medium() {
                    StorageKind::Disk => {
                        opened.created.push(opened.writers.len());
                        self.last += 1;
                        LogId(self.last)
                    }
                    StorageKind::Memory => {
                        self.in_memory += 1;
                        LogId(IN_MEMORY + self.in_memory)
                    }
                };
                LogMetadata::new(id, config.name.as_str(), topic, new_epoch())
            });
            let identity =
                LogIdentity::new(metadata.name.clone(), metadata.epoch, config.kind.clone());
            let (store, pages) = (self.store.clone(), self.pages.clone());
            let log = Log::new(&metadata, Arc::new(identity), config.medium(), store, pages);
            opened.writers.push(LogWriter::new(Arc::new(log), metadata, config.retention));
        }
        for closed in &mut self.closed {
            closed.shrink_to_fit();
        }
        opened
    }

    /// Undoes [`LogRegistry::open`]. The store does not have the new logs of
    /// `opened`.
    pub(in crate::log) fn close(&mut self, opened: Opened) {
        let Opened { writers, created } = opened;
        for (index, writer) in writers.into_iter().enumerate() {
            let is_stored = writer.log().medium() == StorageKind::Disk;
            if is_stored && created.binary_search(&index).is_err() {
                self.put_back(writer.into_meta());
            }
        }
    }
}

/// Logs that no reader and no caller can see yet.
pub(in crate::log) struct Opened {
    pub(in crate::log) writers: Vec<LogWriter>,
    /// The indexes of the logs that the store does not have yet, in ascending
    /// order.
    created: Vec<usize>,
}

impl Opened {
    /// Returns whether the store lacks some of the logs.
    pub(in crate::log) fn has_new(&self) -> bool {
        !self.created.is_empty()
    }

    /// Writes the metadata of the new logs and syncs it.
    ///
    /// # Errors
    /// [`store::Error`]. Every later commit fails then too.
    pub(in crate::log) fn write(&self, writer: &mut Writer) -> Result<(), store::Error> {
        if !self.has_new() {
            return Ok(());
        }
        let mut changes = writer.begin();
        for &index in &self.created {
            changes.put_meta(self.writers[index].meta());
        }
        writer.commit(changes, Durability::Synced)?;
        writer.sync_mark()
    }
}

/// Returns a random epoch. The keys of the hasher and the UUID are both new.
fn new_epoch() -> Epoch {
    Epoch::from_bits(RandomState::new().hash_one(uuid::Uuid::now_v7()))
}
