//! Which logs there are: those of the store, and those in memory.

use std::collections::HashMap;
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
    pub(super) fn new(store: Store, pages: Arc<PageCache>, known: Vec<LogMetadata>) -> LogRegistry {
        let last = known.iter().map(|meta| meta.id.0).max().unwrap_or(0);
        let closed = known.into_iter().map(|meta| ((meta.name.clone(), meta.topic), meta));
        LogRegistry { store, pages, closed: closed.collect(), last, in_memory: 0 }
    }

    /// Opens a log for each of `specs`. The logs that the store does not have
    /// yet come back as metadata too. The metadata has to be written, and then
    /// [`LogRegistry::add`] has to be called, before anybody sees the logs.
    pub(super) fn open(&mut self, specs: &[&LogConfig]) -> (Vec<LogWriter>, Vec<LogMetadata>) {
        let mut courses = Vec::with_capacity(specs.len());
        let mut made: Vec<LogMetadata> = Vec::new();
        for spec in specs {
            let (name, topic) = (spec.name.clone(), spec.is_topic());
            let key = (name, topic);
            let closed = self.closed.get(&key);
            let (name, topic) = key;
            let meta = match (spec.medium(), closed) {
                (StorageKind::Disk, Some(meta)) => meta.clone(),
                (StorageKind::Disk, None) => {
                    let id = LogId(self.last + made.len() as u32 + 1);
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
            courses.push(LogWriter::new(Arc::new(log), meta, spec.retention));
        }
        (courses, made)
    }

    /// Takes note that `opened` are open, and that `made` of them are in the
    /// store now.
    pub(super) fn add(&mut self, opened: &[LogWriter], made: &[LogMetadata]) {
        self.last += made.len() as u32;
        for writer in opened.iter().filter(|it| it.log().medium() == StorageKind::Disk) {
            self.closed.remove(&(writer.log().origin().name.clone(), writer.is_topic()));
        }
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
