//! The embedded engine as its callers see it. It opens the store, starts the
//! committer, and queues writes for the committer.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::metrics::Histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::clock::Clock;
use super::committer::Committer;
use super::messages::{
    Answer, AtomicAnswer, COMMIT_BYTES, COMMIT_WRITES, Directory, PendingAppend, Reconfiguration,
    Request, RequestKind, Shared,
};
use super::registry::LogRegistry;
use super::writer::LogWriter;
use crate::log::read::PageCache;
use crate::log::{
    AtomicBatch, AtomicError, Error, Log, LogConfig, Settings, StorageKind, Write, WriteState,
};
use crate::store::{self, Store};
use crate::supervisor::{Cause, Thread};

/// The maximum number of requests in the queue of the committer.
const QUEUE_REQUESTS: usize = 16 * 1024;
/// The maximum number of bytes of the writes in the queue of the committer.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// The maximum number of reconfigurations in the queue of the committer.
const QUEUE_CHANGES: usize = 4;

/// The engine that stores the logs on the disk of this machine.
pub struct Embedded {
    store: Store,
    queue: mpsc::Sender<Request>,
    changes: mpsc::Sender<Reconfiguration>,
    permits: Arc<Semaphore>,
    pub(in crate::log) shared: Arc<Shared>,
    committer: Thread,
}

impl Embedded {
    pub(in crate::log) fn open(
        settings: &Settings,
        configs: &[LogConfig],
        clock: Clock,
    ) -> Result<Embedded, store::Error> {
        let store::Opened { store, mut writer, metas } = Store::open(&settings.path)?;
        let pages =
            Arc::new(PageCache::new(settings.page_cache_bytes, settings.catchup_concurrency));
        let mut registry = LogRegistry::new(store.clone(), pages, metas);
        let opened = registry.open(configs.iter());
        opened.write(&mut writer)?;
        let writers = opened.writers;
        let shared = Arc::new(Shared::default());
        *shared.logs.write() = Directory::new(writers.iter().map(LogWriter::log).cloned());
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS);
        let (changes, reconfigurations) = mpsc::channel(QUEUE_CHANGES);
        let committer = Committer::new(settings, writer, registry, writers, shared.clone(), clock);
        let committer =
            Thread::spawn("committer", move || committer.run(requests, reconfigurations))?;
        let permits = Arc::new(Semaphore::new(QUEUE_BYTES));
        Ok(Embedded { store, queue, changes, permits, shared, committer })
    }

    pub(in crate::log) fn logs(&self) -> Arc<[Arc<Log>]> {
        self.shared.logs.read().logs.clone()
    }

    pub(in crate::log) fn log(&self, name: &str) -> Option<Arc<Log>> {
        self.shared.logs.read().find(name).cloned()
    }

    pub(in crate::log) fn store(&self) -> &Store {
        &self.store
    }

    pub(in crate::log) async fn queue(
        &self,
        log: &Log,
        writes: Vec<Write>,
    ) -> Result<PendingAppend, Error> {
        let mut answers = Vec::new();
        for (writes, bytes) in portions(writes) {
            answers.push(self.send(log, writes, bytes).await?);
        }
        Ok(PendingAppend { answers, shared: self.shared.clone() })
    }

    async fn send(
        &self,
        log: &Log,
        writes: Vec<Write>,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Answer>, Error> {
        let permit = self.permit(log.storage(), bytes).await?;
        let (answer, answered) = oneshot::channel();
        let identity = log.identity().clone();
        let kind = RequestKind::Append { log: log.id(), identity, writes, answer };
        let request = Request { kind, storage: log.storage(), bytes, permit };
        self.queue.send(request).await.map_err(|_| self.shared.ended())?;
        Ok(answered)
    }

    /// Waits until the queue of the committer has room for writes of `bytes` bytes.
    /// The returned permit reserves this room.
    ///
    /// # Errors
    /// [`Error`] if the engine accepts no writes to this kind of storage.
    async fn permit(
        &self,
        storage: StorageKind,
        bytes: usize,
    ) -> Result<OwnedSemaphorePermit, Error> {
        if self.shared.closing.is_cancelled() {
            return Err(Error::Closed);
        }
        if storage == StorageKind::Disk && self.shared.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        let permit = self.permits.clone().acquire_many_owned(bytes.min(QUEUE_BYTES) as u32);
        permit.await.map_err(|_| Error::Closed)
    }

    pub(in crate::log) async fn append_all(&self, batch: AtomicBatch) -> AtomicAnswer {
        if let Some(log) = batch.memory_log() {
            return Err(AtomicError::MemoryTopic(log.identity().name.to_string()));
        }
        let bytes = batch.bytes();
        if batch.writes() > COMMIT_WRITES || bytes > COMMIT_BYTES {
            return Err(AtomicError::TooLarge);
        }
        let permit = self.permit(StorageKind::Disk, bytes).await?;
        let (answer, answered) = oneshot::channel();
        let kind = RequestKind::Atomic(Box::new((batch, answer)));
        let request = Request { kind, storage: StorageKind::Disk, bytes, permit };
        self.queue.send(request).await.map_err(|_| self.shared.ended())?;
        answered.await.map_err(|_| self.shared.ended())?
    }

    pub(in crate::log) async fn reconfigure(
        &self,
        configs: &[LogConfig],
        resource_bytes_max: usize,
    ) -> Result<Vec<String>, Error> {
        if self.shared.closing.is_cancelled() {
            return Err(Error::Closed);
        }
        let (answer, answered) = oneshot::channel();
        let change = Reconfiguration { configs: configs.to_vec(), resource_bytes_max, answer };
        self.changes.send(change).await.map_err(|_| self.shared.ended())?;
        answered.await.map_err(|_| self.shared.ended())?
    }

    pub(in crate::log) fn time_commits(&self, histogram: Histogram) {
        self.shared.commits.get_or_init(|| histogram);
    }

    pub(in crate::log) fn write_state(&self) -> WriteState {
        if self.committer.has_ended() {
            WriteState::Ended
        } else if self.shared.poisoned.load(Ordering::Acquire) {
            WriteState::SyncFailed
        } else if self.shared.full.load(Ordering::Relaxed) {
            WriteState::DiskFull
        } else {
            WriteState::Writable
        }
    }

    pub(in crate::log) fn failed(&self) -> impl Future<Output = Cause> + Send + use<> {
        let (ended, closing) = (self.committer.ended(), self.shared.closing.clone());
        async move {
            let cause = ended.await;
            if cause == Cause::Returned && closing.is_cancelled() {
                std::future::pending::<()>().await;
            }
            cause
        }
    }

    pub(in crate::log) fn close(&self) {
        self.shared.closing.cancel();
        self.committer.join();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

/// Divides writes into portions that each fit into one commit. Returns each portion
/// with its size in bytes.
fn portions(writes: Vec<Write>) -> Vec<(Vec<Write>, usize)> {
    let bytes = writes.iter().map(Write::bytes).sum();
    if !writes.is_empty() && writes.len() <= COMMIT_WRITES && bytes <= COMMIT_BYTES {
        return vec![(writes, bytes)];
    }
    let mut portions: Vec<(Vec<Write>, usize)> = Vec::new();
    for write in writes {
        let bytes = write.bytes();
        match portions.last_mut() {
            Some((run, sum)) if run.len() < COMMIT_WRITES && *sum + bytes <= COMMIT_BYTES => {
                run.push(write);
                *sum += bytes;
            }
            _ => portions.push((vec![write], bytes)),
        }
    }
    portions
}
