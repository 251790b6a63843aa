//! Which logs there are: those of the store, and those in memory.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::writer::LogWriter;
use crate::event::{Epoch, LogId};
use crate::log::read::PageCache;
use crate::log::{Log, LogConfig, StorageKind};
use crate::store::{self, Durability, LogMetadata, Store, Writer};
use crate::wire::LogIdentity;

/// Logs in memory are numbered from here on; those of the store, which count
/// from 1, do not come so far.
const IN_MEMORY: u32 = 1 << 31;

/// Finds and makes logs.
pub(in crate::log) struct LogRegistry {
    store: Store,
    pages: Arc<PageCache>,
    /// The logs of the store that are not open, by name and whether they belong
    /// to a topic.
    closed: HashMap<(String, bool), LogMetadata>,
    /// The highest number of a log in the store.
    last: u32,
    /// How many were made in memory.
    in_memory: u32,
}

impl LogRegistry {
    /// Of a store that has the logs `known`.
    pub(in crate::log) fn new(
        store: Store,
        pages: Arc<PageCache>,
        known: Vec<LogMetadata>,
    ) -> LogRegistry {
        let last = known.iter().map(|meta| meta.id.0).max().unwrap_or(0);
        let closed = known.into_iter().map(|meta| ((meta.name.clone(), meta.topic), meta));
        LogRegistry { store, pages, closed: closed.collect(), last, in_memory: 0 }
    }

    /// Opens a log for each of `specs`. Some of the logs may be new to the store:
    /// they have to be written before anybody sees the logs.
    pub(in crate::log) fn open<'a>(
        &mut self,
        specs: impl Iterator<Item = &'a LogConfig>,
    ) -> Opened {
        let mut opened =
            Opened { writers: Vec::with_capacity(specs.size_hint().0), made: Vec::new() };
        for spec in specs {
            let key = (spec.name.clone(), spec.is_topic());
            let meta = match spec.medium() {
                StorageKind::Disk => self.closed.remove(&key).unwrap_or_else(|| {
                    opened.made.push(opened.writers.len());
                    self.last += 1;
                    LogMetadata::new(LogId(self.last), key.0, key.1, new_epoch())
                }),
                // A log on disk of the same name is another log, and stays there.
                StorageKind::Memory => {
                    self.in_memory += 1;
                    LogMetadata::new(LogId(IN_MEMORY + self.in_memory), key.0, key.1, new_epoch())
                }
            };
            let origin = LogIdentity::new(meta.name.clone(), meta.epoch, spec.kind.clone());
            let (store, pages) = (self.store.clone(), self.pages.clone());
            let log = Log::new(&meta, Arc::new(origin), spec.medium(), store, pages);
            opened.writers.push(LogWriter::new(Arc::new(log), meta, spec.retention));
        }
        self.closed.shrink_to_fit();
        opened
    }

    /// Takes back logs that nobody has seen. The store does not have the new
    /// ones among them.
    pub(in crate::log) fn close(&mut self, opened: Opened) {
        let Opened { writers, made } = opened;
        for (index, writer) in writers.into_iter().enumerate() {
            if writer.log().medium() == StorageKind::Disk && made.binary_search(&index).is_err() {
                let meta = writer.into_meta();
                self.closed.insert((meta.name.clone(), meta.topic), meta);
            }
        }
    }
}

/// Logs that nobody has seen yet.
pub(in crate::log) struct Opened {
    pub(in crate::log) writers: Vec<LogWriter>,
    /// The indexes of the logs that the store does not have yet.
    made: Vec<usize>,
}

impl Opened {
    /// Whether the store has to be written.
    pub(in crate::log) fn has_new(&self) -> bool {
        !self.made.is_empty()
    }

    /// Writes the metadata of the new logs, durably.
    ///
    /// # Errors
    /// [`store::Error`]; then every later commit fails too.
    pub(in crate::log) fn write(&self, writer: &mut Writer) -> Result<(), store::Error> {
        if self.made.is_empty() {
            return Ok(());
        }
        let mut changes = writer.begin();
        for &index in &self.made {
            changes.put_meta(self.writers[index].meta());
        }
        writer.commit(changes, Durability::Synced)?;
        writer.sync_mark()
    }
}

/// Random bits: the hasher's keys and the identifier are both drawn anew.
fn new_epoch() -> Epoch {
    Epoch::from_bits(RandomState::new().hash_one(uuid::Uuid::now_v7()))
}
