//! Pages read back: shared by all who catch up, read once.
//!
//! Ten thousand clients that resume after a restart ask for much the same.
//! Pages therefore have fixed boundaries in offset, are read by one asker
//! while the others wait, and are kept with their encodings.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::tail::{Log, Page, footprint};
use super::{Error, StorageKind, store};
use crate::event::{Event, LogId, Offset, ResourceId};
use crate::store::{LogBounds, ReadSnapshot, Resource, Store};
use crate::sync::unblock;
use crate::wire::{Batch, LogIdentity};

/// Offsets of a page.
const PAGE_OFFSETS: u64 = 256;
/// Bytes of data past which a page is halved.
const PAGE_BYTES: usize = 1024 * 1024;
/// Most resources read at a time.
const RESOURCES_MAX: usize = 1024;
/// Most bytes of them, unless one alone has more. Nobody shares them, so each
/// slow reader of a snapshot holds as much: four writes, which is what makes
/// the way to a blocking thread worth its cost.
const RESOURCES_BYTES_MAX: usize = 256 * 1024;
/// What a resource takes there beside its document.
const RESOURCE_BYTES: usize = 128;
/// What an entry of the cache costs beside its events.
const SLOT_BYTES: usize = 256;

/// A run of offsets, of which a page holds the events. Its boundaries do not
/// depend on the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PageRange {
    start: u64,
    length: u64,
}

impl PageRange {
    /// The page that holds what follows `after`.
    pub(super) fn around(after: Offset) -> PageRange {
        PageRange { start: after.0 - after.0 % PAGE_OFFSETS, length: PAGE_OFFSETS }
    }

    /// The part of the range up to `end`.
    pub(super) fn until(self, end: Offset) -> PageRange {
        PageRange { length: self.length.min(end.0 - self.start), ..self }
    }

    /// Exclusive.
    pub(super) fn start(self) -> Offset {
        Offset(self.start)
    }

    /// Inclusive.
    pub(super) fn end(self) -> Offset {
        Offset(self.start + self.length)
    }

    /// How many offsets it has.
    pub(super) fn length(self) -> u64 {
        self.length
    }

    /// The half that holds what follows `after`.
    fn half(self, after: Offset) -> PageRange {
        let lower = self.length / 2;
        match after.0 >= self.start + lower {
            true => PageRange { start: self.start + lower, length: self.length - lower },
            false => PageRange { length: lower, ..self },
        }
    }
}

/// The cache, and the permits to read for it.
pub(super) struct PageCache {
    permits: Arc<Semaphore>,
    bytes_max: usize,
    cache: Mutex<Cache>,
}

type Key = (LogId, PageRange);

#[derive(Default)]
struct Cache {
    slots: HashMap<Key, Slot>,
    /// Keys by last use.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
}

struct Slot {
    cell: Arc<OnceCell<Entry>>,
    used: u64,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Entry {
    Page(Page),
    /// More than [`PAGE_BYTES`]: look at the halves.
    Split,
}

impl PageCache {
    pub(super) fn new(bytes_max: usize, concurrency: usize) -> PageCache {
        PageCache {
            permits: Arc::new(Semaphore::new(concurrency.max(1))),
            bytes_max,
            cache: Mutex::new(Cache::default()),
        }
    }

    /// The page with what follows `after`, all of whose offsets are issued.
    pub(super) async fn sealed_page(
        &self,
        log: &Log,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        self.page_in(log, PageRange::around(after), after, head).await
    }

    /// The page with what follows `after` in `span`, all of whose offsets are
    /// issued.
    pub(super) async fn page_in(
        &self,
        log: &Log,
        mut span: PageRange,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        loop {
            match self.entry(log, span, head).await? {
                Entry::Page(page) => return Ok(page),
                Entry::Split => span = span.half(after),
            }
        }
    }

    /// What follows `after` in the last page, which is still growing and
    /// therefore not kept.
    pub(super) async fn growing_page(
        &self,
        log: &Log,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        let (id, origin) = (log.id(), log.origin().clone());
        if log.medium() == StorageKind::Memory {
            // The floor has moved since the tail was asked.
            let (floor, batches) = log.read_tail(after, PAGE_OFFSETS);
            let events = batches.iter().flat_map(|batch| batch.events());
            let events = events.filter(|event| event.offset > after && event.offset <= head);
            let page = collect(origin, events.cloned().map(Ok), head)?;
            return Ok(Page { floor, ..page });
        }
        self.read(log.store(), move |view| {
            let floor = view.position(id)?.floor;
            let events = view.events(id, after);
            let page = collect(origin, events.take_while(|event| !beyond(event, head)), head)?;
            Ok(Page { floor, ..page })
        })
        .await
    }

    /// Events of one resource after `after`.
    pub(super) async fn of(
        &self,
        log: &Log,
        subject: ResourceId,
        after: Offset,
    ) -> Result<Page, Error> {
        let (id, origin) = (log.id(), log.origin().clone());
        self.read(log.store(), move |view| {
            let LogBounds { floor, head, .. } = view.position(id)?;
            let page = collect(origin, view.events_of(id, &subject, after), head.max(after))?;
            Ok(Page { floor, ..page })
        })
        .await
    }

    /// One resource.
    pub(super) async fn resource(
        &self,
        log: &Log,
        subject: ResourceId,
    ) -> Result<Option<Resource>, Error> {
        let id = log.id();
        self.read(log.store(), move |view| view.resource(id, &subject)).await
    }

    /// Some resources after `after`: as many as [`RESOURCES_BYTES_MAX`] takes,
    /// at least one.
    pub(super) async fn resources(
        &self,
        log: &Log,
        after: Option<ResourceId>,
    ) -> Result<Vec<(ResourceId, Resource)>, Error> {
        let id = log.id();
        self.read(log.store(), move |view| {
            let mut found = Vec::new();
            let mut bytes = 0;
            for resource in view.resources(id, after.as_ref()).take(RESOURCES_MAX) {
                let resource = resource?;
                bytes += RESOURCE_BYTES + resource.state.document.len();
                if bytes > RESOURCES_BYTES_MAX && !found.is_empty() {
                    break;
                }
                found.push((view.id_of(&resource)?, resource.state));
            }
            Ok(found)
        })
        .await
    }

    async fn entry(&self, log: &Log, span: PageRange, head: Offset) -> Result<Entry, Error> {
        let key = (log.id(), span);
        let cell = self.cell(key);
        let load = async {
            let origin = log.origin().clone();
            let entry = if let Some((floor, events)) = log.recent(span) {
                // Memory holds all of them, whatever retention took since.
                assemble(origin, span, (floor, head), events.into_iter().map(Ok))?
            } else {
                let id = log.id();
                let assembled = move |view: ReadSnapshot| {
                    let floor = view.position(id)?.floor;
                    assemble(origin, span, (floor, head), view.events(id, span.start()))
                };
                self.read(log.store(), assembled).await?
            };
            self.account(key, &entry);
            Ok::<_, Error>(entry)
        };
        cell.get_or_try_init(|| load).await.cloned()
    }

    fn cell(&self, key: Key) -> Arc<OnceCell<Entry>> {
        let mut cache = self.cache.lock();
        let Cache { slots, order, clock, bytes } = &mut *cache;
        *clock += 1;
        let slot = slots.entry(key).or_insert_with(|| {
            *bytes += SLOT_BYTES;
            Slot { cell: Arc::default(), used: *clock, bytes: SLOT_BYTES }
        });
        order.remove(&slot.used);
        slot.used = *clock;
        order.insert(*clock, key);
        slot.cell.clone()
    }

    fn account(&self, key: Key, entry: &Entry) {
        let Entry::Page(page) = entry else { return };
        let added = footprint(page.batch.events());
        let mut cache = self.cache.lock();
        let Some(slot) = cache.slots.get_mut(&key) else { return };
        slot.bytes += added;
        cache.bytes += added;
        while cache.bytes > self.bytes_max {
            let Some((_, oldest)) = cache.order.pop_first() else { return };
            let freed = cache.slots.remove(&oldest).map_or(0, |slot| slot.bytes);
            cache.bytes -= freed;
        }
    }

    /// Runs `read` on a blocking thread. The permit goes with it, so that
    /// callers who leave do not let more in than there is room for.
    async fn read<T: Send + 'static>(
        &self,
        store: &Store,
        read: impl FnOnce(ReadSnapshot) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = store.clone();
        Ok(self.on_thread(move || read(store.view())).await??)
    }

    /// Runs `read` on a blocking thread, with a permit that goes with it.
    pub(super) async fn on_thread<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let reading = unblock(move || {
            let _permit = permit;
            read()
        });
        Ok(reading.await.map_err(|error| store::Error::Io(std::io::Error::other(error)))?)
    }

    /// Takes all permits, so that no read begins while the result lives.
    #[cfg(test)]
    pub(super) fn take_permits(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = self.permits.available_permits() as u32;
        self.permits.clone().try_acquire_many_owned(all).expect("nobody else reads")
    }
}

fn beyond(event: &Result<Event, store::Error>, end: Offset) -> bool {
    event.as_ref().is_ok_and(|event| event.offset > end)
}

/// The entry for `span` from `events`, which begin with its first one that is
/// above the floor.
fn assemble(
    origin: Arc<LogIdentity>,
    span: PageRange,
    (floor, head): (Offset, Offset),
    events: impl Iterator<Item = Result<Event, store::Error>>,
) -> Result<Entry, store::Error> {
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut upto = None;
    for event in events {
        let event = event?;
        if event.offset > span.end() {
            upto = Some(Offset(event.offset.0 - 1));
            break;
        }
        bytes += event.data.len();
        found.push(event);
        if bytes > PAGE_BYTES && found.len() > 1 && span.length > 1 {
            return Ok(Entry::Split);
        }
    }
    // Offsets that were never used need not be walked through page by page.
    let upto = if found.is_empty() { upto.unwrap_or(head) } else { span.end() };
    let upto = upto.max(span.end());
    let batch = Arc::new(Batch::new(origin, found, None));
    Ok(Entry::Page(Page { batch, scanned_to: upto, floor }))
}

/// A page of at most [`PAGE_OFFSETS`] events and about [`PAGE_BYTES`]; `end`
/// is how far `events` reach.
fn collect(
    origin: Arc<LogIdentity>,
    events: impl Iterator<Item = Result<Event, store::Error>>,
    end: Offset,
) -> Result<Page, store::Error> {
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut upto = end;
    for event in events {
        let event = event?;
        bytes += event.data.len();
        let offset = event.offset;
        found.push(event);
        if bytes > PAGE_BYTES || found.len() as u64 == PAGE_OFFSETS {
            upto = offset;
            break;
        }
    }
    let batch = Arc::new(Batch::new(origin, found, None));
    Ok(Page { batch, scanned_to: upto, floor: Offset::ZERO })
}
