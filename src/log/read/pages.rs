//! Reads of pages, which come from the cache, from the tail in memory or from disk.

use std::sync::Arc;

use super::page::{PAGE_OFFSETS, Page, PageRange};
use super::page_cache::Entry;
use super::tail::Log;
use crate::event::{Event, Offset, ResourceId};
use crate::log::{Error, StorageKind};
use crate::store::{self, LogBounds, ReadSnapshot, Resource};
use crate::wire::{Batch, LogIdentity};

/// The bytes of event data above which a page is split.
const PAGE_BYTES: usize = 1024 * 1024;
/// The largest number of resources of one read.
const RESOURCES_MAX: usize = 1024;
/// The largest size of the resources of one read, in bytes. Only a single larger
/// resource may exceed it. Readers of snapshots do not share reads, so each slow
/// reader holds this much memory. The size is enough for four writes to a socket,
/// which makes the cost of a blocking thread small in comparison.
const RESOURCES_BYTES_MAX: usize = 256 * 1024;
/// The memory of a resource in a read without its document, in bytes.
const RESOURCE_BYTES: usize = 128;

impl Log {
    /// Returns the page with the events after `after`. The log must have issued all
    /// offsets of the page. The page no longer changes then, so the cache keeps it.
    pub(in crate::log) async fn sealed_page(
        &self,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        self.page_in(PageRange::around(after), after, head).await
    }

    /// Returns the page with the events after `after` in `range`. The log must have
    /// issued all offsets of `range`.
    pub(in crate::log) async fn page_in(
        &self,
        mut range: PageRange,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        loop {
            match self.entry(range, head).await? {
                Entry::Page(page) => return Ok(page),
                Entry::Split => range = range.half(after),
            }
        }
    }

    /// Returns the events after `after` in the last page of the log. The cache does
    /// not keep that page, because the page still gets new events.
    pub(in crate::log) async fn growing_page(
        &self,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        let (id, identity) = (self.id(), self.identity().clone());
        if self.storage() == StorageKind::Memory {
            // The floor may have risen since the caller read the tail.
            let (floor, batches) = self.read_tail(after, PAGE_OFFSETS);
            let events = batches.iter().flat_map(|batch| batch.events());
            let events = events.filter(|event| event.offset > after && event.offset <= head);
            let page = collect(identity, events.cloned().map(Ok), head)?;
            return Ok(Page { floor, ..page });
        }
        self.pages
            .read(self.store(), move |view| {
                let floor = view.position(id)?.floor;
                let events = view.events(id, after).take_while(|event| !is_beyond(event, head));
                Ok(Page { floor, ..collect(identity, events, head)? })
            })
            .await
    }

    /// Returns a page of events of one resource after `after`. The index of the
    /// store finds the events.
    pub(in crate::log) async fn indexed_page(
        &self,
        subject: ResourceId,
        after: Offset,
    ) -> Result<Page, Error> {
        let (id, identity) = (self.id(), self.identity().clone());
        self.pages
            .read(self.store(), move |view| {
                let LogBounds { floor, head, .. } = view.position(id)?;
                let page = collect(identity, view.events_of(id, &subject, after), head.max(after))?;
                Ok(Page { floor, ..page })
            })
            .await
    }

    /// Reads one resource from the store.
    pub(in crate::log) async fn stored_resource(
        &self,
        subject: ResourceId,
    ) -> Result<Option<Resource>, Error> {
        let id = self.id();
        self.pages.read(self.store(), move |view| view.resource(id, &subject)).await
    }

    /// Reads the next resources after the id `after` from the store: at most
    /// [`RESOURCES_MAX`] resources and [`RESOURCES_BYTES_MAX`] bytes, but at least
    /// one resource if there is one.
    pub(in crate::log) async fn stored_resources(
        &self,
        after: Option<ResourceId>,
    ) -> Result<Vec<(ResourceId, Resource)>, Error> {
        let id = self.id();
        self.pages
            .read(self.store(), move |view| {
                let mut resources = Vec::new();
                let mut bytes = 0;
                for resource in view.resources(id, after.as_ref()).take(RESOURCES_MAX) {
                    let resource = resource?;
                    bytes += RESOURCE_BYTES + resource.state.document.len();
                    if bytes > RESOURCES_BYTES_MAX && !resources.is_empty() {
                        break;
                    }
                    resources.push((view.id_of(&resource)?, resource.state));
                }
                Ok(resources)
            })
            .await
    }

    /// Returns the cache entry for `range`. Loads the entry if it is not in the
    /// cache.
    async fn entry(&self, range: PageRange, head: Offset) -> Result<Entry, Error> {
        let load = async {
            let identity = self.identity().clone();
            if let Some((floor, events)) = self.recent(range) {
                let events = events.into_iter().map(Ok);
                return Ok(assemble(identity, range, (floor, head), events)?);
            }
            let id = self.id();
            let assemble = move |view: ReadSnapshot| {
                let floor = view.position(id)?.floor;
                assemble(identity, range, (floor, head), view.events(id, range.start()))
            };
            self.pages.read(self.store(), assemble).await
        };
        self.pages.entry((self.id(), range), load).await
    }
}

fn is_beyond(event: &Result<Event, store::Error>, end: Offset) -> bool {
    event.as_ref().is_ok_and(|event| event.offset > end)
}

/// Returns the cache entry for `range`, made from `events`. `events` starts with the
/// first event of the range that is above the floor, and may continue after the
/// range.
fn assemble(
    identity: Arc<LogIdentity>,
    range: PageRange,
    (floor, head): (Offset, Offset),
    events: impl Iterator<Item = Result<Event, store::Error>>,
) -> Result<Entry, store::Error> {
    let mut page = Vec::new();
    let mut bytes = 0;
    let mut scanned_to = None;
    for event in events {
        let event = event?;
        if event.offset > range.end() {
            scanned_to = Some(Offset(event.offset.0 - 1));
            break;
        }
        bytes += event.data.len();
        page.push(event);
        if bytes > PAGE_BYTES && page.len() > 1 && range.length() > 1 {
            return Ok(Entry::Split);
        }
    }
    // An unclean stop leaves up to 65,536 offsets unused. An empty page skips them,
    // so that a reader does not read them page by page.
    let scanned_to = if page.is_empty() { scanned_to.unwrap_or(head) } else { range.end() };
    let scanned_to = scanned_to.max(range.end());
    let batch = Arc::new(Batch::new(identity, page, None));
    Ok(Entry::Page(Page { batch, scanned_to, floor }))
}

/// Returns a page of at most [`PAGE_OFFSETS`] events and about [`PAGE_BYTES`].
/// `events` has the events of the log up to the offset `end`.
fn collect(
    identity: Arc<LogIdentity>,
    events: impl Iterator<Item = Result<Event, store::Error>>,
    end: Offset,
) -> Result<Page, store::Error> {
    let mut page = Vec::new();
    let mut bytes = 0;
    let mut scanned_to = end;
    for event in events {
        let event = event?;
        bytes += event.data.len();
        let offset = event.offset;
        page.push(event);
        if bytes > PAGE_BYTES || page.len() as u64 == PAGE_OFFSETS {
            scanned_to = offset;
            break;
        }
    }
    let batch = Arc::new(Batch::new(identity, page, None));
    Ok(Page { batch, scanned_to, floor: Offset::ZERO })
}
