//! A log without a committer, for tests under shuttle. The committer has a thread
//! and channels of tokio, which shuttle cannot schedule.

use std::sync::Arc;

use super::read::PageCache;
use super::{Log, StorageKind};
use crate::event::Offset;
use crate::store::{LogMetadata, Store};
use crate::wire::{Batch, LogIdentity};

impl Log {
    /// Creates a log whose head is the head in `metadata`. `store` may already have
    /// events after this head.
    pub(crate) fn scheduled(
        metadata: &LogMetadata,
        identity: Arc<LogIdentity>,
        store: Store,
    ) -> Arc<Log> {
        let pages = Arc::new(PageCache::new(1 << 20, 8));
        Arc::new(Log::new(metadata, identity, StorageKind::Disk, store, pages))
    }

    /// Publishes a batch, as the committer does after its commit.
    pub(crate) fn show(&self, batch: Arc<Batch>) {
        self.publish(batch, Offset::ZERO);
    }

    /// Evicts the oldest batch from the tail, as the committer does if the tails
    /// take too much memory. The newest batch is not evicted.
    pub(crate) fn evict_oldest(&self) {
        if let Some((_, count)) = self.oldest(std::time::Duration::MAX) {
            self.evict(count);
        }
    }
}
