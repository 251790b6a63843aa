//! One log as everybody above sees it: its positions, its newest batches in
//! memory, and its older events as pages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::page_cache::{PageCache, PageRange};
use super::{Error, StorageKind};
use crate::event::{Event, LogId, Offset, ResourceId, Timestamp};
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
    pub(super) medium: StorageKind,
    /// The log's end when it was opened.
    opened_at: Offset,
    head: AtomicU64,
    floor: AtomicU64,
    appended: AtomicU64,
    clock_steps: AtomicU64,
    pub(super) tail: Mutex<Tail>,
    store: Store,
    pages: Arc<PageCache>,
}

pub(super) struct Tail {
    /// All committed events after this are in `batches`.
    pub(super) from: Offset,
    pub(super) batches: VecDeque<TailBatch>,
    /// What the last commit that was shown left of the log.
    pub(super) place: LogBounds,
    /// The newest event before the last step back of the log's time, as far as
    /// this process has seen one: a log in memory is searched from there on.
    pub(super) step: Offset,
}

pub(super) struct TailBatch {
    pub(super) batch: Arc<Batch>,
    pub(super) bytes: usize,
}

/// Events read back, in order, and how far the reading has come.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events. With fixed boundaries in offset where a page is shared, so
    /// it may begin at or before the position that was asked for.
    pub batch: Arc<Batch>,
    /// The last offset that was looked at: the log's end when there is no
    /// more, even where nothing matched. Never below the position asked for.
    pub scanned_to: Offset,
    /// Where it is above the position asked for, events between the two may
    /// be missing: it is the last one that had been trimmed. Where it is not,
    /// nothing is missing.
    pub floor: Offset,
}

impl Log {
    pub(super) fn new(
        meta: &LogMetadata,
        origin: Arc<LogIdentity>,
        medium: StorageKind,
        store: Store,
        pages: Arc<PageCache>,
    ) -> Log {
        let LogBounds { head, floor, .. } = meta.position;
        let tail =
            Tail { from: head, batches: VecDeque::new(), place: meta.position, step: Offset::ZERO };
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

    fn tail_from(&self, after: Offset, count: usize) -> Option<Vec<Arc<Batch>>> {
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
            _ if PageRange::around(from).end() <= head => {
                self.pages.sealed_page(self, from, head).await?
            }
            Some(batch) => whole(batch),
            // The page that the log ended with when it was opened.
            None if from < self.opened_at => {
                let span = PageRange::around(from).until(self.opened_at);
                self.pages.page_in(self, span, from, head).await?
            }
            None => self.pages.growing_page(self, from, head).await?,
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
            StorageKind::Disk => self.pages.of(self, subject.clone(), after).await?,
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
            StorageKind::Disk => self.pages.resource(self, id.clone()).await,
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
            StorageKind::Disk => self.pages.resources(self, after).await,
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
        self.tail.lock().place
    }

    /// Takes all permits that reads on blocking threads need, until the result
    /// is dropped.
    #[cfg(test)]
    pub(crate) fn take_permits(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.pages.take_permits()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Moves the floor, before the commit that trims and never past the head.
    pub(super) fn raise_floor(&self, floor: Offset) {
        self.floor.store(floor.0, Ordering::Release);
    }

    /// Counts a step back of the log's time.
    pub(super) fn count_clock_step(&self) {
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
    pub(super) fn publish(&self, batch: Arc<Batch>, step: Offset) -> usize {
        let (bytes, end) = (footprint(batch.events()), batch.end());
        self.appended.fetch_add(batch.events().len() as u64, Ordering::Relaxed);
        let mut tail = self.tail.lock();
        tail.step = step;
        tail.batches.push_back(TailBatch { batch, bytes });
        self.head.store(end.0, Ordering::Release);
        bytes
    }
}

impl Page {
    /// With the floor that was met, if it is above the page's own. What a view
    /// finds may be trimmed further than the head has moved yet.
    fn trimmed(self, floor: Offset, head: Offset) -> Page {
        Page { floor: self.floor.min(head).max(floor), ..self }
    }
}

fn whole(batch: Arc<Batch>) -> Page {
    let upto = batch.end();
    Page { batch, scanned_to: upto, floor: Offset::ZERO }
}

/// Memory that a batch takes: its events, and about as much again encoded.
pub(super) fn footprint(events: &[Event]) -> usize {
    const BATCH: usize = 512;
    const EVENT: usize = 256;
    BATCH + events.iter().map(|event| EVENT + 2 * event.data.len()).sum::<usize>()
}
