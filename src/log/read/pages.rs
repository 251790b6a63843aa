//! How the pages of a log are read: from the cache, from memory or from disk.

use std::sync::Arc;

use super::page::{PAGE_OFFSETS, Page, PageRange};
use super::page_cache::Entry;
use super::tail::Log;
use crate::event::{Event, Offset, ResourceId};
use crate::log::{Error, StorageKind};
use crate::store::{self, LogBounds, ReadSnapshot, Resource};
use crate::wire::{Batch, LogIdentity};

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
impl Log {
    /// The page with what follows `after`, all of whose offsets are issued.
    pub(in crate::log) async fn sealed_page(
        &self,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        self.page_in(PageRange::around(after), after, head).await
    }

    /// The page with what follows `after` in `span`, all of whose offsets are
    /// issued.
    pub(in crate::log) async fn page_in(
        &self,
        mut span: PageRange,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        loop {
            match self.entry(span, head).await? {
                Entry::Page(page) => return Ok(page),
                Entry::Split => span = span.half(after),
            }
        }
    }

    /// What follows `after` in the last page, which is still growing and
    /// therefore not kept.
    pub(in crate::log) async fn growing_page(
        &self,
        after: Offset,
        head: Offset,
    ) -> Result<Page, Error> {
        let (id, origin) = (self.id(), self.origin().clone());
        if self.medium() == StorageKind::Memory {
            // The floor has moved since the tail was asked.
            let (floor, batches) = self.read_tail(after, PAGE_OFFSETS);
            let events = batches.iter().flat_map(|batch| batch.events());
            let events = events.filter(|event| event.offset > after && event.offset <= head);
            let page = collect(origin, events.cloned().map(Ok), head)?;
            return Ok(Page { floor, ..page });
        }
        self.pages
            .read(self.store(), move |view| {
                let floor = view.position(id)?.floor;
                let events = view.events(id, after);
                let page = collect(origin, events.take_while(|event| !beyond(event, head)), head)?;
                Ok(Page { floor, ..page })
            })
            .await
    }

    /// Events of one resource after `after`.
    pub(in crate::log) async fn indexed_page(
        &self,
        subject: ResourceId,
        after: Offset,
    ) -> Result<Page, Error> {
        let (id, origin) = (self.id(), self.origin().clone());
        self.pages
            .read(self.store(), move |view| {
                let LogBounds { floor, head, .. } = view.position(id)?;
                let page = collect(origin, view.events_of(id, &subject, after), head.max(after))?;
                Ok(Page { floor, ..page })
            })
            .await
    }

    /// One resource.
    pub(in crate::log) async fn stored_resource(
        &self,
        subject: ResourceId,
    ) -> Result<Option<Resource>, Error> {
        let id = self.id();
        self.pages.read(self.store(), move |view| view.resource(id, &subject)).await
    }

    /// Some resources after `after`: as many as [`RESOURCES_BYTES_MAX`] takes,
    /// at least one.
    pub(in crate::log) async fn stored_resources(
        &self,
        after: Option<ResourceId>,
    ) -> Result<Vec<(ResourceId, Resource)>, Error> {
        let id = self.id();
        self.pages
            .read(self.store(), move |view| {
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

    async fn entry(&self, span: PageRange, head: Offset) -> Result<Entry, Error> {
        let load = async {
            let origin = self.origin().clone();
            if let Some((floor, events)) = self.recent(span) {
                // Memory holds all of them, whatever retention took since.
                return Ok(assemble(origin, span, (floor, head), events.into_iter().map(Ok))?);
            }
            let id = self.id();
            let assembled = move |view: ReadSnapshot| {
                let floor = view.position(id)?.floor;
                assemble(origin, span, (floor, head), view.events(id, span.start()))
            };
            self.pages.read(self.store(), assembled).await
        };
        self.pages.entry((self.id(), span), load).await
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
        if bytes > PAGE_BYTES && found.len() > 1 && span.length() > 1 {
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
