//! A log for tests under shuttle, which have no committer: its thread and its
//! channels are tokio's.

use std::sync::Arc;

use super::read::PageCache;
use super::{Log, StorageKind};
use crate::event::Offset;
use crate::store::{LogMetadata, Store};
use crate::wire::{Batch, LogIdentity};

impl Log {
    /// Makes a log whose committed end is that of `meta`, on a store that may
    /// hold later events already.
    pub(crate) fn scheduled(
        meta: &LogMetadata,
        origin: Arc<LogIdentity>,
        store: Store,
    ) -> Arc<Log> {
        let pages = Arc::new(PageCache::new(1 << 20, 8));
        Arc::new(Log::new(meta, origin, StorageKind::Disk, store, pages))
    }

    /// Publishes a batch as the committer does after its commit.
    pub(crate) fn show(&self, batch: Arc<Batch>) {
        self.publish(batch, Offset::ZERO);
    }

    /// Evicts the oldest batch from the tail in memory, as the committer does
    /// when memory is short. The newest one stays.
    pub(crate) fn evict_oldest(&self) {
        if let Some((_, count)) = self.oldest(std::time::Duration::MAX) {
            self.evict(count);
        }
    }
}
