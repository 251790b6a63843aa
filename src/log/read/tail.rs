//! The type [`Log`], from which other modules read the bounds of a log, its newest
//! batches in memory, and pages of its older events.

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

/// A batch in the tail that has at least this number of events is returned as a page
/// of its own, because it is often encoded already. Smaller batches are joined to
/// one page. Otherwise a reader of a log with one event in each batch would get one
/// event in each page.
const BATCH_EVENTS_MIN: usize = 64;

/// A log: its identity, its bounds and its tail. Readers and the committer share
/// this object.
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
    /// The offset of the last event before the newest step back of the log's time,
    /// or 0 if the time has not stepped back in this process. A search by time in a
    /// log in memory starts after this event.
    pub(in crate::log) step: Offset,
}

pub(in crate::log) struct TailBatch {
    pub(in crate::log) batch: Arc<Batch>,
    /// The memory that the batch takes, in bytes.
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
    pub fn identity(&self) -> &Arc<LogIdentity> {
        &self.identity
    }

    /// Returns where the log is stored: on disk or only in memory.
    pub fn storage(&self) -> StorageKind {
        self.storage
    }

    /// Returns the head: the offset of the newest committed event.
    pub fn head(&self) -> Offset {
        Offset(self.head.load(Ordering::Acquire))
    }

    /// Returns the floor: the offset of the newest trimmed event. The log has all
    /// events after the floor. The floor rises before events are trimmed. So a
    /// reader that gets the floor after a read detects each gap in the events that
    /// it has read. A reader that gets the head after the floor never gets a head
    /// below this floor.
    pub fn floor(&self) -> Offset {
        Offset(self.floor.load(Ordering::Acquire))
    }

    /// Returns the number of events that were appended since the process started.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// Returns how often the log's time has stepped back since the process started:
    /// an event then has an earlier time than the event before it. This happens if
    /// the wall clock was ahead before.
    pub fn clock_steps(&self) -> u64 {
        self.clock_steps.load(Ordering::Relaxed)
    }

    /// Registers `observer`, which the log then notifies after each commit. The log
    /// has only a weak reference and does not keep `observer` alive. The caller must
    /// read the head after this call, because a commit before the call notifies
    /// nobody.
    pub fn observe<O: LogObserver + 'static>(&self, observer: &Arc<O>) {
        let observer: Weak<O> = Arc::downgrade(observer);
        self.observers.add(observer);
    }

    /// Notifies the observers of the log. The caller calls this after the head has
    /// moved.
    pub(crate) fn notify_observers(&self) {
        self.observers.notify();
    }

    /// Returns whether the tail, the newest batches in memory, has the batch that
    /// ends at `end`.
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

    /// Returns the page with the events after `after`. The page comes from the tail,
    /// from the cache of pages, or, for a log on disk, from the disk. A disk read
    /// waits for a permit and runs on a blocking thread. If `after` is below the
    /// floor, the page starts at the floor. The caller detects the gap by
    /// [`Page::floor`].
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe. A read that has started ends, and its page may be cached.
    pub async fn page(&self, after: Offset) -> Result<Page, Error> {
        // The floor is read before the head, so the floor is not above the head. The
        // head is read before the events, so `scanned_to` is not beyond the last
        // event.
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
            // This was the last page when the log was opened. Many clients resume in
            // this page after a restart, so the cache keeps it up to the head at
            // that time.
            None if from < self.opened_at => {
                let range = PageRange::around(from).until(self.opened_at);
                self.page_in(range, from, head).await?
            }
            None => self.growing_page(from, head).await?,
        };
        Ok(page.trimmed(floor, head))
    }

    /// Returns a page of events of the resource `subject` after `after`. The events
    /// are found with the index of the store, so the cost does not depend on the
    /// length of the log. A log in memory has no index: each page searches a few
    /// thousand events of the tail.
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

    /// Returns the current state of a resource of the collection. The read waits for
    /// a permit and runs on a blocking thread.
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
    /// order of their ids. `after` is the id of the last resource of the previous
    /// call. The result has at most 1,024 resources and 256 KiB, or one larger
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

    /// Returns the offset before the first event at or after `time`, and whether the
    /// log still has every event at or after `time`. If the log's time stepped back
    /// (an event got an earlier time than the event before it), only the events
    /// after the last step are searched. The earlier events may have the time of a
    /// clock that was ahead. The call blocks on the disk if the log is on disk.
    ///
    /// # Errors
    /// [`Error::Store`] if the disk cannot be read.
    pub fn before(&self, time: Timestamp) -> Result<(Offset, bool), Error> {
        if self.storage == StorageKind::Memory {
            return Ok(self.tail_before(time));
        }
        Ok(self.store.view().before(self.id, time)?)
    }

    /// Waits for a permit and runs [`Log::before`] on a blocking thread.
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

    /// Takes all permits for reads on blocking threads, so that no such read starts
    /// until the result is dropped.
    #[cfg(test)]
    pub(crate) fn take_permits(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.pages.take_permits()
    }

    pub(in crate::log) fn store(&self) -> &Store {
        &self.store
    }

    /// Sets the floor, the offset of the newest trimmed event. The caller does so
    /// before it trims the events, and never sets a floor above the head.
    pub(in crate::log) fn raise_floor(&self, floor: Offset) {
        self.floor.store(floor.0, Ordering::Release);
    }

    /// Counts a step back of the log's time.
    pub(in crate::log) fn count_clock_step(&self) {
        self.clock_steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a committed batch to the tail and moves the head to the end of the
    /// batch. `step` is the offset of the last event before the newest step back of
    /// the log's time. Returns the memory that the batch takes, in bytes.
    ///
    /// The head moves under the lock of the tail. So a reader that finds the batch
    /// in the tail can read the log up to the end of the batch. Otherwise a
    /// subscription that is behind the fan-out would request empty pages in a loop
    /// until the head has moved.
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
