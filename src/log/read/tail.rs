//! One log as everybody above sees it: its positions, its newest batches in
//! memory, and its older events as pages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::page::{Page, PageRange, footprint, whole};
use super::page_cache::PageCache;
use crate::event::{LogId, Offset, ResourceId, Timestamp};
use crate::log::{Error, StorageKind};
use crate::store::{LogBounds, LogMetadata, Resource, Store};
use crate::sync::{AtomicU64, Mutex};
use crate::wire::{Batch, LogIdentity};

/// A batch of the tail at least this large is given out as a page: it is
/// encoded already. Smaller ones are put together, or a reader would be
/// handed a log of single writes one event at a time.
const BATCH_EVENTS_MIN: usize = 64;

/// A log's identity, positions and recent batches. Cheap to share.
pub struct Log {
    id: LogId,
    origin: Arc<LogIdentity>,
    pub(in crate::log) medium: StorageKind,
    /// The log's end when it was opened.
    opened_at: Offset,
    head: AtomicU64,
    floor: AtomicU64,
    appended: AtomicU64,
    clock_steps: AtomicU64,
    pub(in crate::log) tail: Mutex<Tail>,
    store: Store,
    pub(in crate::log) pages: Arc<PageCache>,
}

pub(in crate::log) struct Tail {
    /// All committed events after this are in `batches`.
    pub(in crate::log) from: Offset,
    pub(in crate::log) batches: VecDeque<TailBatch>,
    /// What the last commit that was shown left of the log.
    pub(in crate::log) bounds: LogBounds,
    /// The newest event before the last step back of the log's time, as far as
    /// this process has seen one: a log in memory is searched from there on.
    pub(in crate::log) step: Offset,
}

pub(in crate::log) struct TailBatch {
    pub(in crate::log) batch: Arc<Batch>,
    pub(in crate::log) bytes: usize,
}

impl Log {
    pub(in crate::log) fn new(
        meta: &LogMetadata,
        origin: Arc<LogIdentity>,
        medium: StorageKind,
        store: Store,
        pages: Arc<PageCache>,
    ) -> Log {
        let LogBounds { head, floor, .. } = meta.position;
        let tail = Tail {
            from: head,
            batches: VecDeque::new(),
            bounds: meta.position,
            step: Offset::ZERO,
        };
        Log {
            id: meta.id,
            origin,
            medium,
            opened_at: head,
            head: AtomicU64::new(head.0),
            floor: AtomicU64::new(floor.0),
            appended: AtomicU64::new(0),
            clock_steps: AtomicU64::new(0),
            tail: Mutex::new(tail),
            store,
            pages,
        }
    }

    /// Its number in the engine, and in the store if it is there.
    pub fn id(&self) -> LogId {
        self.id
    }

    /// What its events have in common.
    pub fn origin(&self) -> &Arc<LogIdentity> {
        &self.origin
    }

    /// Its committed end: the offset of the newest event that anybody may see.
    pub fn head(&self) -> Offset {
        Offset(self.head.load(Ordering::Acquire))
    }

    /// The last trimmed offset; an id at or above it is whole. It moves before
    /// the events go, so who compares it after a read misses no gap, and it is
    /// never above a head that is read after it.
    pub fn floor(&self) -> Offset {
        Offset(self.floor.load(Ordering::Acquire))
    }

    /// Events appended since the process started.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// The number of times that the log's time stepped back since the process
    /// started, because the clock had been ahead.
    pub fn clock_steps(&self) -> u64 {
        self.clock_steps.load(Ordering::Relaxed)
    }

    /// Whether memory still holds the batch that ends at `end`.
    pub fn holds(&self, end: Offset) -> bool {
        self.tail.lock().from < end
    }

    /// The committed batches after `after`, oldest first, if memory still
    /// holds all of them; the first may begin before `after`. None when some
    /// are gone: the log itself must be read.
    pub fn tail(&self, after: Offset) -> Option<Vec<Arc<Batch>>> {
        self.tail_from(after, usize::MAX)
    }

    pub(in crate::log) fn tail_from(&self, after: Offset, count: usize) -> Option<Vec<Arc<Batch>>> {
        let tail = self.tail.lock();
        if after < tail.from {
            return None;
        }
        let first = tail.batches.partition_point(|held| held.batch.end() <= after);
        Some(tail.batches.range(first..).take(count).map(|held| held.batch.clone()).collect())
    }

    /// The page of the log that holds what follows `after`: from the tail,
    /// from the cache of encoded pages, or from disk on a blocking thread
    /// with a permit. Of a log in memory only the first two. Where `after` is below the floor the page starts at the
    /// floor; the caller compares [`Page::floor`] to tell the gap.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe: a read under way is finished for the cache, or dropped.
    pub async fn page(&self, after: Offset) -> Result<Page, Error> {
        // The floor first, so that it is not above the head; and the head
        // before anything is scanned: `upto` never runs ahead of the scan.
        let floor = self.floor();
        let head = self.head();
        let from = after.max(floor);
        if from >= head {
            return Ok(self.nothing(from, floor));
        }
        let newest = self.tail_from(from, 1).and_then(|batches| batches.into_iter().next());
        let page = match newest {
            Some(batch) if batch.events().len() >= BATCH_EVENTS_MIN => whole(batch),
            _ if PageRange::around(from).end() <= head => self.sealed_page(from, head).await?,
            Some(batch) => whole(batch),
            // The page that the log ended with when it was opened.
            None if from < self.opened_at => {
                let span = PageRange::around(from).until(self.opened_at);
                self.page_in(span, from, head).await?
            }
            None => self.growing_page(from, head).await?,
        };
        Ok(page.trimmed(floor, head))
    }

    /// The same for the events of one resource, through its index: costs what
    /// that resource's events cost, however long the log is. A log in memory
    /// has no index and is looked through, a few thousand events a page.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn page_of(&self, subject: &ResourceId, after: Offset) -> Result<Page, Error> {
        let floor = self.floor();
        let head = self.head();
        if after >= head {
            return Ok(self.nothing(after, floor));
        }
        let page = match self.medium {
            StorageKind::Disk => self.indexed_page(subject.clone(), after).await?,
            StorageKind::Memory => self.read_tail_of(subject, after, (floor, head)),
        };
        Ok(page.trimmed(Offset::ZERO, head))
    }

    fn nothing(&self, upto: Offset, floor: Offset) -> Page {
        let batch = Arc::new(Batch::new(self.origin.clone(), Vec::new(), None));
        Page { batch, scanned_to: upto, floor }
    }

    /// A resource of the collection as it is now; read as pages are.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn resource(&self, id: &ResourceId) -> Result<Option<Resource>, Error> {
        match self.medium {
            StorageKind::Disk => self.stored_resource(id.clone()).await,
            StorageKind::Memory => Ok(None),
        }
    }

    /// Some resources of the collection after `after`, by id, as they are
    /// now: at most 1,024 in 256 KiB, or one that is larger. None when there
    /// are no more.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn resources(
        &self,
        after: Option<ResourceId>,
    ) -> Result<Vec<(ResourceId, Resource)>, Error> {
        match self.medium {
            StorageKind::Disk => self.stored_resources(after).await,
            StorageKind::Memory => Ok(Vec::new()),
        }
    }

    /// The position just before the first event at or after `time`, and
    /// whether every such event is still kept. Where the log's time stepped
    /// back, only the events after the last step are considered: before it,
    /// times may be those of a clock that was ahead. Blocks on the disk, if the
    /// log is there.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk cannot be read.
    pub fn before(&self, time: Timestamp) -> Result<(Offset, bool), Error> {
        if self.medium == StorageKind::Memory {
            return Ok(self.tail_before(time));
        }
        Ok(self.store.view().before(self.id, time)?)
    }

    /// [`Log::before`] on a blocking thread, with one of the permits that pages
    /// are read with.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk cannot be read.
    ///
    /// # Cancel safety
    /// Safe: a read under way is finished for nobody.
    pub async fn find_before(self: &Arc<Self>, time: Timestamp) -> Result<(Offset, bool), Error> {
        let log = self.clone();
        self.pages.on_thread(move || log.before(time)).await?
    }

    /// Its place as of the last commit that was shown.
    pub fn position(&self) -> LogBounds {
        self.tail.lock().bounds
    }

    /// Takes all permits that reads on blocking threads need, until the result
    /// is dropped.
    #[cfg(test)]
    pub(crate) fn take_permits(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.pages.take_permits()
    }

    pub(in crate::log) fn store(&self) -> &Store {
        &self.store
    }

    /// Moves the floor, before the commit that trims and never past the head.
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
