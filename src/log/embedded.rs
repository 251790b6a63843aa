//! The embedded engine: one committer for all logs, group commit.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use ::metrics::Histogram;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::committer::Committer;
use super::page_cache::PageCache;
use super::registry::LogRegistry;
use super::writer::LogWriter;
use super::{
    AppendOutcome, AppendRejection, Error, Log, LogConfig, Settings, StorageKind, Write, WriteState,
};
use crate::event::LogId;
use crate::store::{self, Store};
use crate::supervisor::{Cause, Thread};
use crate::wire::LogIdentity;

/// Requests that wait for the committer.
const QUEUE_REQUESTS: usize = 16 * 1024;
/// Bytes of writes that wait for the committer.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Reconfigurations that wait for it; more wait to be queued.
const QUEUE_CHANGES: usize = 4;
/// Writes and bytes of one commit; what it costs to wait for the one before.
pub(super) const COMMIT_WRITES: usize = 4096;
pub(super) const COMMIT_BYTES: usize = 8 * 1024 * 1024;

/// The log on this machine's disk.
pub struct Embedded {
    store: Store,
    queue: mpsc::Sender<Request>,
    changes: mpsc::Sender<Reconfiguration>,
    room: Arc<Semaphore>,
    pub(super) shared: Arc<Shared>,
    committer: Thread,
}

pub(super) type Answer = Result<Vec<Result<AppendOutcome, AppendRejection>>, Error>;

/// Writes on their way to the committer.
pub(super) struct Request {
    pub(super) log: LogId,
    /// Its name, for an error.
    pub(super) origin: Arc<LogIdentity>,
    pub(super) medium: StorageKind,
    pub(super) writes: Vec<Write>,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Gives the bytes back once the request is answered.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Logs to have from now on.
pub(super) struct Reconfiguration {
    pub(super) specs: Vec<LogConfig>,
    pub(super) resource_bytes_max: usize,
    pub(super) answer: oneshot::Sender<Result<Vec<String>, Error>>,
}

/// What the committer and those who call it share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) logs: RwLock<Directory>,
    pub(super) observers: Mutex<Vec<Arc<Notify>>>,
    pub(super) closing: CancellationToken,
    pub(super) poisoned: AtomicBool,
    /// The disk has less free space than the reserve: writes are refused.
    pub(super) full: AtomicBool,
    pub(super) commits: OnceLock<Histogram>,
    /// The number of times that the committer visited a writer.
    #[cfg(test)]
    pub(super) visits: Arc<std::sync::atomic::AtomicU64>,
}

/// All logs, to be found by name.
#[derive(Default)]
pub(super) struct Directory {
    logs: Arc<[Arc<Log>]>,
    /// Indexes into `logs`, by name. Logs of one name are in the order of
    /// `logs`.
    by_name: Vec<u32>,
}

impl Directory {
    pub(super) fn new(logs: impl Iterator<Item = Arc<Log>>) -> Directory {
        let logs: Arc<[Arc<Log>]> = logs.collect();
        let mut by_name: Vec<u32> = (0..logs.len() as u32).collect();
        by_name.sort_by_key(|&index| &logs[index as usize].origin().name);
        Directory { logs, by_name }
    }

    /// Returns the first log of this name.
    fn find(&self, name: &str) -> Option<&Arc<Log>> {
        let log = |index: u32| &self.logs[index as usize];
        let first = self.by_name.partition_point(|&index| *log(index).origin().name < *name);
        let found = log(*self.by_name.get(first)?);
        (found.origin().name == name).then_some(found)
    }
}

impl Shared {
    /// Why the committer does not answer: without being told to, it only ends
    /// by a panic.
    fn ended(&self) -> Error {
        if self.closing.is_cancelled() { Error::Closed } else { Error::Poisoned }
    }
}

/// Writes that have their place in the log and are not durable yet.
#[must_use = "without an answer nobody knows what was written"]
pub struct PendingAppend {
    answers: Vec<oneshot::Receiver<Answer>>,
    shared: Arc<Shared>,
}

impl PendingAppend {
    /// The second half of [`Engine::append`](super::Engine::append): the
    /// answer to each write, once all of them are durable.
    ///
    /// # Errors
    /// [`Error`] when the log could not take them; none is acknowledged then.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the writes back: they are committed,
    /// unanswered.
    pub async fn answered(self) -> Result<Vec<Result<AppendOutcome, AppendRejection>>, Error> {
        let mut results = Vec::new();
        for answer in self.answers {
            results.extend(answer.await.map_err(|_| self.shared.ended())??);
        }
        Ok(results)
    }
}

impl Embedded {
    pub(super) fn open(
        settings: &Settings,
        specs: &[LogConfig],
        clock: Clock,
    ) -> Result<Embedded, store::Error> {
        let store::Opened { store, mut writer, metas } = Store::open(&settings.path)?;
        let pages =
            Arc::new(PageCache::new(settings.page_cache_bytes, settings.catchup_concurrency));
        let mut roster = LogRegistry::new(store.clone(), pages, metas);
        let opened = roster.open(specs.iter());
        opened.write(&mut writer)?;
        let writers = opened.writers;
        let shared = Arc::new(Shared::default());
        *shared.logs.write() = Directory::new(writers.iter().map(LogWriter::log).cloned());
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS);
        let (changes, reconfigurations) = mpsc::channel(QUEUE_CHANGES);
        let committer = Committer::new(settings, writer, roster, writers, shared.clone(), clock);
        let committer =
            Thread::spawn("committer", move || committer.run(requests, reconfigurations))?;
        let room = Arc::new(Semaphore::new(QUEUE_BYTES));
        Ok(Embedded { store, queue, changes, room, shared, committer })
    }

    pub(super) fn logs(&self) -> Arc<[Arc<Log>]> {
        self.shared.logs.read().logs.clone()
    }

    pub(super) fn log(&self, name: &str) -> Option<Arc<Log>> {
        self.shared.logs.read().find(name).cloned()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) async fn queue(
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
        if self.shared.closing.is_cancelled() {
            return Err(Error::Closed);
        }
        let (origin, log, medium) = (log.origin().clone(), log.id(), log.medium());
        if medium == StorageKind::Disk && self.shared.poisoned.load(Ordering::Acquire) {
            return Err(Error::Poisoned);
        }
        let room = self.room.clone().acquire_many_owned(bytes.min(QUEUE_BYTES) as u32);
        let room = room.await.map_err(|_| Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { log, origin, medium, writes, bytes, answer, _room: room };
        self.queue.send(request).await.map_err(|_| self.shared.ended())?;
        Ok(answered)
    }

    pub(super) async fn reconfigure(
        &self,
        specs: &[LogConfig],
        resource_bytes_max: usize,
    ) -> Result<Vec<String>, Error> {
        if self.shared.closing.is_cancelled() {
            return Err(Error::Closed);
        }
        let (answer, answered) = oneshot::channel();
        let change = Reconfiguration { specs: specs.to_vec(), resource_bytes_max, answer };
        self.changes.send(change).await.map_err(|_| self.shared.ended())?;
        answered.await.map_err(|_| self.shared.ended())?
    }

    pub(super) fn observe(&self, observer: Arc<Notify>) {
        self.shared.observers.lock().push(observer);
    }

    pub(super) fn time_commits(&self, histogram: Histogram) {
        self.shared.commits.get_or_init(|| histogram);
    }

    pub(super) fn write_state(&self) -> WriteState {
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

    pub(super) fn failed(&self) -> impl Future<Output = Cause> + Send + use<> {
        let (ended, closing) = (self.committer.ended(), self.shared.closing.clone());
        async move {
            let cause = ended.await;
            if cause == Cause::Returned && closing.is_cancelled() {
                std::future::pending::<()>().await;
            }
            cause
        }
    }

    pub(super) fn close(&self) {
        self.shared.closing.cancel();
        self.committer.join();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writes in runs that one commit can take, each with its bytes.
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
