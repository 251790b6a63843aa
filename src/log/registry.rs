//! Which logs there are: those of the store, and those in memory.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::page_cache::PageCache;
use super::writer::LogWriter;
use super::{Log, LogConfig, StorageKind};
use crate::event::{Epoch, LogId};
use crate::store::{self, Durability, LogMetadata, Store, Writer};
use crate::wire::LogIdentity;

/// Logs in memory are numbered from here on; those of the store, which count
/// from 1, do not come so far.
const IN_MEMORY: u32 = 1 << 31;

/// Finds and makes logs.
pub(super) struct LogRegistry {
    store: Store,
    pages: Arc<PageCache>,
    /// The logs that the store has, each as it was when this was told of it:
    /// up to date for those that were not opened since.
    known: Vec<LogMetadata>,
    /// How many were made in memory.
    in_memory: u32,
}

impl LogRegistry {
    /// Of a store that has the logs `known`.
    pub(super) fn new(store: Store, pages: Arc<PageCache>, known: Vec<LogMetadata>) -> LogRegistry {
        LogRegistry { store, pages, known, in_memory: 0 }
    }

    /// Opens a log for each of `specs`. Those that the store does not have yet
    /// come back as metas too: they are to be written, and told by
    /// [`LogRegistry::add`], before anybody sees the logs.
    ///
    /// # Errors
    /// [`store::Error`] when a log's newest events cannot be read.
    pub(super) fn open(
        &mut self,
        specs: &[&LogConfig],
    ) -> Result<(Vec<LogWriter>, Vec<LogMetadata>), store::Error> {
        let mut courses = Vec::with_capacity(specs.len());
        let mut made: Vec<LogMetadata> = Vec::new();
        for spec in specs {
            let (name, topic) = (spec.name.clone(), spec.is_topic());
            let known = self.known.iter().find(|meta| meta.name == name && meta.topic == topic);
            let meta = match (spec.medium(), known) {
                (StorageKind::Disk, Some(meta)) => meta.clone(),
                (StorageKind::Disk, None) => {
                    let last = self.known.iter().chain(&made).map(|meta| meta.id.0).max();
                    let id = LogId(last.unwrap_or(0) + 1);
                    made.push(LogMetadata::new(id, name, topic, new_epoch()));
                    made[made.len() - 1].clone()
                }
                // One on disk of the same name is another log, and stays there.
                (StorageKind::Memory, _) => {
                    self.in_memory += 1;
                    LogMetadata::new(LogId(IN_MEMORY + self.in_memory), name, topic, new_epoch())
                }
            };
            let origin = LogIdentity::new(meta.name.clone(), meta.epoch, spec.kind.clone());
            let (store, pages) = (self.store.clone(), self.pages.clone());
            let log = Log::new(&meta, Arc::new(origin), spec.medium(), store, pages);
            courses.push(LogWriter::new(Arc::new(log), meta, spec.retention)?);
        }
        Ok((courses, made))
    }

    /// Takes note of logs that are in the store now.
    pub(super) fn add(&mut self, made: Vec<LogMetadata>) {
        self.known.extend(made);
    }
}

/// Writes the metas of new logs, durably.
///
/// # Errors
/// [`store::Error`]; then every later commit fails too.
pub(super) fn write(writer: &mut Writer, made: &[LogMetadata]) -> Result<(), store::Error> {
    if made.is_empty() {
        return Ok(());
    }
    let mut changes = writer.begin();
    for meta in made {
        changes.put_meta(meta);
    }
    writer.commit(changes, Durability::Synced)?;
    writer.sync_mark()
}

/// Random bits: the hasher's keys and the identifier are both drawn anew.
fn new_epoch() -> Epoch {
    Epoch::from_bits(RandomState::new().hash_one(uuid::Uuid::now_v7()))
}
