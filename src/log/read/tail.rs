//! A log as the layers above read it: its bounds, its newest batches in memory,
//! and pages of its older events.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::page::{Page, PageRange, footprint, whole};
use super::page_cache::PageCache;
use crate::event::{LogId, Offset, ResourceId, Timestamp};
use crate::log::observers::{LogObserver, Observers};
use crate::log::{Error, StorageKind};
use crate::store::{LogBounds, LogMetadata, Resource, Store};
use crate::sync::{AtomicU64, Mutex};
use crate::wire::{Batch, LogIdentity};

/// A batch of the tail with at least this number of events is returned as a page,
/// because it is often encoded already. Smaller batches are joined to pages.
/// Otherwise a reader of single writes would get one event in each page.
const BATCH_EVENTS_MIN: usize = 64;

/// A log: its identity, its bounds and its tail. Readers and the committer share
/// it.
pub struct Log {
    id: LogId,
    identity: Arc<LogIdentity>,
    storage: StorageKind,
    /// The head when the log was opened.
    opened_at: Offset,
    head: AtomicU64,
    floor: AtomicU64,
    appended: AtomicU64,
    clock_steps: AtomicU64,
    pub(in crate::log) tail: Mutex<Tail>,
    store: Store,
    pub(in crate::log) pages: Arc<PageCache>,
    observers: Observers,
}

/// The newest batches of a log, in memory.
pub(in crate::log) struct Tail {
    /// All committed events after this offset are in `batches`.
    pub(in crate::log) from: Offset,
    pub(in crate::log) batches: VecDeque<TailBatch>,
    /// The bounds of the log after the last published commit.
    pub(in crate::log) bounds: LogBounds,
    /// The newest event before the last step back of the log's time, if the step
    /// was in this process. A search by time in a log in memory starts there.
    pub(in crate::log) step: Offset,
}

pub(in crate::log) struct TailBatch {
    pub(in crate::log) batch: Arc<Batch>,
    /// The memory that the batch takes.
    pub(in crate::log) bytes: usize,
}

impl Log {
    pub(in crate::log) fn new(
        metadata: &LogMetadata,
        identity: Arc<LogIdentity>,
        storage: StorageKind,
        store: Store,
        pages: Arc<PageCache>,
    ) -> Log {
        let bounds = metadata.position;
        let LogBounds { head, floor, .. } = bounds;
        let tail = Tail { from: head, batches: VecDeque::new(), bounds, step: Offset::ZERO };
        Log {
            id: metadata.id,
            identity,
            storage,
            opened_at: head,
            head: AtomicU64::new(head.0),
            floor: AtomicU64::new(floor.0),
            appended: AtomicU64::new(0),
            clock_steps: AtomicU64::new(0),
            tail: Mutex::new(tail),
            store,
            pages,
            observers: Observers::default(),
        }
    }

    /// Returns the id of the log in the engine. For a log on disk, it is also the
    /// id in the store.
    pub fn id(&self) -> LogId {
        self.id
    }

    /// Returns the identity of the log.
    pub fn origin(&self) -> &Arc<LogIdentity> {
        &self.identity
    }

    /// Returns where the log is kept.
    pub fn medium(&self) -> StorageKind {
        self.storage
    }

    /// Returns the head: the offset of the newest committed event.
    pub fn head(&self) -> Offset {
        Offset(self.head.load(Ordering::Acquire))
    }

    /// Returns the floor: the offset of the newest trimmed event. The log has all
    /// events after the floor. The floor rises before events are trimmed, so a
    /// reader that compares it after a read finds each gap. A head that is read
    /// after the floor is never below the floor.
    pub fn floor(&self) -> Offset {
        Offset(self.floor.load(Ordering::Acquire))
    }

    /// Returns the number of events that were appended since the process started.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// Returns the number of steps back of the log's time since the process
    /// started. A step follows a clock that was ahead.
    pub fn clock_steps(&self) -> u64 {
        self.clock_steps.load(Ordering::Relaxed)
    }

    /// Notifies `observer` after each commit to this log, until `observer` is
    /// dropped. The log does not keep it. Read the head after this call: a commit
    /// before the call notifies nobody.
    pub fn observe<O: LogObserver + 'static>(&self, observer: &Arc<O>) {
        let observer: Weak<O> = Arc::downgrade(observer);
        self.observers.add(observer);
    }

    /// Notifies the observers, once the head is published.
    pub(crate) fn notify_observers(&self) {
        self.observers.notify();
    }

    /// Returns whether the tail has the batch that ends at `end`.
    pub fn holds(&self, end: Offset) -> bool {
        self.tail.lock().from < end
    }

    /// Returns the committed batches after `after`, oldest first. The first batch
    /// may start before `after`. Returns `None` if some of the batches are no
    /// longer in memory. The caller then reads pages.
    pub fn tail(&self, after: Offset) -> Option<Vec<Arc<Batch>>> {
        self.tail_from(after, usize::MAX)
    }

    /// Returns the first `count` batches of [`Log::tail`].
    pub(in crate::log) fn tail_from(&self, after: Offset, count: usize) -> Option<Vec<Arc<Batch>>> {
        let tail = self.tail.lock();
        if after < tail.from {
            return None;
        }
        let first = tail.batches.partition_point(|entry| entry.batch.end() <= after);
        Some(tail.batches.range(first..).take(count).map(|entry| entry.batch.clone()).collect())
    }

    /// Returns the page with the events after `after`. It comes from the tail,
    /// from the cache of pages, or, for a log on disk, from the disk on a blocking
    /// thread with a permit. If `after` is below the floor, the page starts at the
    /// floor. The caller finds the gap in [`Page::floor`].
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe. A read that has started ends, and its page may be cached.
    pub async fn page(&self, after: Offset) -> Result<Page, Error> {
        // The floor is read before the head, so it is not above the head. The head
        // is read before the events, so `scanned_to` is not beyond them.
        let floor = self.floor();
        let head = self.head();
        let from = after.max(floor);
        if from >= head {
            return Ok(self.empty_page(from, floor));
        }
        let newest = self.tail_from(from, 1).and_then(|batches| batches.into_iter().next());
        let page = match newest {
            Some(batch) if batch.events().len() >= BATCH_EVENTS_MIN => whole(batch),
            _ if PageRange::around(from).end() <= head => self.sealed_page(from, head).await?,
            Some(batch) => whole(batch),
            // The last page of the log when it was opened. Many clients resume
            // there after a restart, so it is cached up to that head.
            None if from < self.opened_at => {
                let range = PageRange::around(from).until(self.opened_at);
                self.page_in(range, from, head).await?
            }
            None => self.growing_page(from, head).await?,
        };
        Ok(page.trimmed(floor, head))
    }

    /// Returns a page of events of the resource `subject` after `after`. The index
    /// of the store finds them, so the cost does not depend on the length of the
    /// log. A log in memory has no index: each page searches a few thousand events
    /// of the tail.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn page_of(&self, subject: &ResourceId, after: Offset) -> Result<Page, Error> {
        let floor = self.floor();
        let head = self.head();
        if after >= head {
            return Ok(self.empty_page(after, floor));
        }
        let page = match self.storage {
            StorageKind::Disk => self.indexed_page(subject.clone(), after).await?,
            StorageKind::Memory => self.read_tail_of(subject, after, (floor, head)),
        };
        Ok(page.trimmed(Offset::ZERO, head))
    }

    fn empty_page(&self, scanned_to: Offset, floor: Offset) -> Page {
        let batch = Arc::new(Batch::new(self.identity.clone(), Vec::new(), None));
        Page { batch, scanned_to, floor }
    }

    /// Returns the current state of a resource of the collection. The read takes
    /// place on a blocking thread with a permit.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn resource(&self, id: &ResourceId) -> Result<Option<Resource>, Error> {
        match self.storage {
            StorageKind::Disk => self.stored_resource(id.clone()).await,
            StorageKind::Memory => Ok(None),
        }
    }

    /// Returns the current state of the next resources of the collection, in the
    /// order of their ids. `after` is the id of the last resource of the call
    /// before. The result has at most 1,024 resources and 256 KiB, or one larger
    /// resource. It is empty if there are no more resources.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn resources(
        &self,
        after: Option<ResourceId>,
    ) -> Result<Vec<(ResourceId, Resource)>, Error> {
        match self.storage {
            StorageKind::Disk => self.stored_resources(after).await,
            StorageKind::Memory => Ok(Vec::new()),
        }
    }

    /// Returns the offset before the first event at or after `time`, and whether
    /// the log still has every event at or after `time`. If the log's time stepped
    /// back, only the events after the last step count, because earlier events may
    /// have the time of a clock that was ahead. The call blocks on the disk if the
    /// log is on disk.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read.
    pub fn before(&self, time: Timestamp) -> Result<(Offset, bool), Error> {
        if self.storage == StorageKind::Memory {
            return Ok(self.tail_before(time));
        }
        Ok(self.store.view().before(self.id, time)?)
    }

    /// Runs [`Log::before`] on a blocking thread with a permit.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe. A read that has started ends without effect.
    pub async fn find_before(self: &Arc<Self>, time: Timestamp) -> Result<(Offset, bool), Error> {
        let log = self.clone();
        self.pages.on_thread(move || log.before(time)).await?
    }

    /// Returns the bounds of the log after the last published commit.
    pub fn position(&self) -> LogBounds {
        self.tail.lock().bounds
    }

    /// Takes all permits for reads on blocking threads until the result is
    /// dropped.
    #[cfg(test)]
    pub(crate) fn take_permits(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.pages.take_permits()
    }

    pub(in crate::log) fn store(&self) -> &Store {
        &self.store
    }

    /// Moves the floor. The caller does so before events are trimmed, and never
    /// moves the floor above the head.
    pub(in crate::log) fn raise_floor(&self, floor: Offset) {
        self.floor.store(floor.0, Ordering::Release);
    }

    /// Counts a step back of the log's time.
    pub(in crate::log) fn count_clock_step(&self) {
        self.clock_steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a committed batch to the tail and moves the head to the end of the
    /// batch. `step` is where the log's time last stepped back. Returns the
    /// memory that the batch takes, in bytes.
    ///
    /// The head moves under the lock of the tail: a reader that finds the batch
    /// in the tail can read the log up to the end of the batch. Otherwise a
    /// subscription that the fan-out is ahead of would ask for empty pages in a
    /// loop until the head has moved.
    pub(in crate::log) fn publish(&self, batch: Arc<Batch>, step: Offset) -> usize {
        let (bytes, end) = (footprint(batch.events()), batch.end());
        self.appended.fetch_add(batch.events().len() as u64, Ordering::Relaxed);
        let mut tail = self.tail.lock();
        tail.step = step;
        tail.batches.push_back(TailBatch { batch, bytes });
        self.head.store(end.0, Ordering::Release);
        bytes
    }
}
