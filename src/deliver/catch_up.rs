//! A read for a subscription that is catching up. It reads a page of events from the
//! log, or some resources of a snapshot from the store, and then writes them.
//!
//! A connection has at most one such read at a time, which limits the memory of the
//! connection. A read starts in a `Read…` state and continues in the `Write…` state
//! below it:
//!
//! | state | activity |
//! |---|---|
//! | [`CatchUp::ReadPage`] | a page of events is being read from the log |
//! | [`CatchUp::WritePage`] | the events of the page are being written, in slices |
//! | [`CatchUp::ReadResources`] | resources are being read from the store |
//! | [`CatchUp::WriteResources`] | the resources are being written, in slices |
//!
//! If the connection drops a read, no event is lost. The position of the
//! subscription in the hub moves only when slices are written. So the next read
//! starts after the last event that was written (step 2 of [`log::Follower`]).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::control_messages::ControlMessages;
use super::end::End;
use super::gap::{Gap, Reason};
use super::queue::FrameQueue;
use crate::event::{Offset, ResourceId};
use crate::hub::{
    OnGap, ReadRequest, SLICE_BYTES, Scope, Slice, Subscriber, SubscriptionId, WriteBudget,
    newest_of_each, slices,
};
use crate::log::{self, Page};
use crate::metrics::Metrics;
use crate::store::Resource;
use crate::wire::Selection;
use crate::wire::problem::{Code, Problem};

type Read<T> = Pin<Box<dyn Future<Output = Result<T, log::Error>> + Send>>;

/// A read for a subscription that is catching up, in one of its four states. The
/// hub, and not this type, stores whether the subscription still exists, its
/// position, its wire format and its credit (the number of events that the client
/// still permits). Large states are boxed: every connection has room for this enum,
/// but few connections catch up at the same time.
pub(super) enum CatchUp {
    /// A page of events is being read from the log. The `ReadRequest` is the one
    /// with which the read started; the subscription may have changed since then.
    ReadPage(Box<ReadRequest>, Read<Page>),
    WritePage(Box<PageInProgress>),
    ReadResources(SubscriptionId, Read<Vec<(ResourceId, Resource)>>),
    WriteResources(Box<SnapshotChunk>),
}

pub(super) struct PageInProgress {
    subscription: SubscriptionId,
    page: Page,
    selection: Selection,
    /// The number of events of `selection` that are already written.
    next: u32,
}

pub(super) struct SnapshotChunk {
    subscription: SubscriptionId,
    resources: Vec<(ResourceId, Resource)>,
    /// The number of resources that are already written.
    next: usize,
    /// The number of resources in each slice that the last fill has returned.
    slice_lengths: Vec<usize>,
}

/// The parts of a connection that a read for a subscription uses.
pub(super) struct Connection<'a> {
    pub(super) subscriber: &'a Subscriber,
    pub(super) messages: &'a mut ControlMessages,
    pub(super) queue: &'a mut FrameQueue,
    pub(super) metrics: &'a Metrics,
    pub(super) end: &'a mut Option<End>,
}

impl Connection<'_> {
    /// Queues a `gap` message for the `count` events, up to the offset `to`, that
    /// the overflow policy has dropped. Counts these events in the metrics.
    pub(super) fn note_dropped(&mut self, request: &ReadRequest, count: u64, to: Offset) {
        let identity = request.log.identity();
        let gap = Gap {
            from: identity.id(request.after),
            to: identity.id(to),
            earliest: identity.id(request.log.floor()),
            reason: Reason::Dropped,
            count: Some(count),
        };
        self.metrics.dropped(request.overflow.as_str(), count);
        self.queue.push(self.messages.gap_of(&gap, request));
    }

    /// Queues a `gap` message for the events up to the offset `floor`, which the log
    /// no longer keeps. The client has chosen what follows: the subscription
    /// continues after the gap, or it restarts with a snapshot, or the stream ends.
    fn note_expired(&mut self, request: &ReadRequest, floor: Offset) {
        let identity = request.log.identity();
        let gap = Gap {
            from: identity.id(request.after),
            to: identity.id(floor),
            earliest: identity.id(floor),
            reason: Reason::Expired,
            count: None,
        };
        self.queue.push(self.messages.gap_of(&gap, request));
        match request.on_gap {
            OnGap::Event => self.subscriber.restart(request.subscription, floor, false),
            OnGap::Snapshot => {
                let head = request.log.head();
                self.subscriber.restart(request.subscription, head, true);
            }
            OnGap::Error => {
                let problem =
                    Problem::new(Code::HistoryGone, "the log no longer keeps the next events")
                        .with("earliest", gap.earliest.to_string());
                self.queue.push(self.messages.error(&problem));
                *self.end = Some(End::HistoryGone);
            }
        }
    }

    fn note_failed(&mut self, error: &log::Error) {
        let cause = std::error::Error::source(error);
        tracing::error!(%error, ?cause, "a stream could not read its log and is closed");
        *self.end = Some(End::Unreadable);
    }
}

impl CatchUp {
    /// Starts the read of a page of events from the log. Returns `None` if the log
    /// no longer keeps the next events.
    pub(super) fn page(request: ReadRequest, connection: &mut Connection<'_>) -> Option<CatchUp> {
        if request.after < request.log.floor() {
            connection.note_expired(&request, request.log.floor());
            return None;
        }
        let (log, scope, after) = (request.log.clone(), request.scope.clone(), request.after);
        let read = Box::pin(async move {
            match scope {
                Scope::Whole => log.page(after).await,
                Scope::Subject(subject) => log.page_of(&subject, after).await,
            }
        });
        Some(CatchUp::ReadPage(Box::new(request), read))
    }

    /// Starts the read of the next resources of a snapshot from the store.
    pub(super) fn resources(request: &ReadRequest) -> CatchUp {
        let (log, scope) = (request.log.clone(), request.scope.clone());
        let after = request.snapshot_after.clone();
        let read = Box::pin(async move {
            match scope {
                Scope::Whole => log.resources(after).await,
                Scope::Subject(_) if after.is_some() => Ok(Vec::new()),
                Scope::Subject(subject) => {
                    let resource = log.resource(&subject).await?;
                    Ok(resource.map(|resource| (subject, resource)).into_iter().collect())
                }
            }
        });
        CatchUp::ReadResources(request.subscription, read)
    }

    /// Returns whether the log or the store is still being read.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self, CatchUp::ReadPage(..) | CatchUp::ReadResources(..))
    }

    /// Advances the read by one state. If a page or resources are read, adds slices
    /// to `out`, as many as `budget` permits. Returns the next state, or `None` at
    /// the end of the read. The poll is pending only while the log or the store is
    /// being read; the task of `cx` is woken when that ends.
    pub(super) fn poll(
        self,
        cx: &mut Context<'_>,
        connection: &mut Connection<'_>,
        out: &mut Vec<Slice>,
        budget: WriteBudget,
    ) -> (Option<CatchUp>, Poll<()>) {
        let next = match self {
            CatchUp::ReadPage(request, mut read) => match read.as_mut().poll(cx) {
                Poll::Pending => return (Some(CatchUp::ReadPage(request, read)), Poll::Pending),
                Poll::Ready(Ok(page)) => PageInProgress::start(&request, page, connection),
                Poll::Ready(Err(error)) => {
                    connection.note_failed(&error);
                    None
                }
            },
            CatchUp::ReadResources(id, mut read) => match read.as_mut().poll(cx) {
                Poll::Pending => return (Some(CatchUp::ReadResources(id, read)), Poll::Pending),
                Poll::Ready(Ok(resources)) => SnapshotChunk::start(id, resources, connection),
                Poll::Ready(Err(error)) => {
                    connection.note_failed(&error);
                    None
                }
            },
            CatchUp::WritePage(page) => {
                page.fill(connection.subscriber, out, budget).then_some(CatchUp::WritePage(page))
            }
            CatchUp::WriteResources(mut chunk) => {
                chunk.fill(connection, out, budget).then_some(CatchUp::WriteResources(chunk))
            }
        };
        (next, Poll::Ready(()))
    }

    /// Records that the slices `written` are written to the client. Returns whether
    /// all events of the page, or all resources of this read, are written.
    pub(super) fn note_written(&mut self, subscriber: &Subscriber, written: &[Slice]) -> bool {
        let of = |id| written.iter().filter(move |slice| slice.subscription == id);
        match self {
            CatchUp::WritePage(page) => {
                page.next += of(page.subscription).map(|slice| slice.events).sum::<u32>();
                let ends = page.next >= page.selection.len();
                if ends {
                    subscriber.note_read(page.subscription, page.page.scanned_to);
                }
                ends
            }
            CatchUp::WriteResources(chunk) => {
                let SnapshotChunk { subscription, resources, next, slice_lengths } = &mut **chunk;
                *next += slice_lengths.iter().take(of(*subscription).count()).sum::<usize>();
                if let Some((last, _)) = next.checked_sub(1).and_then(|last| resources.get(last)) {
                    subscriber.note_snapshot_to(*subscription, last.clone());
                }
                *next >= resources.len()
            }
            CatchUp::ReadPage(..) | CatchUp::ReadResources(..) => false,
        }
    }
}

impl PageInProgress {
    /// Selects the events of `page` that match the filter of the subscription.
    /// Returns `None` if no event matches. Also returns `None` if the subscription
    /// has changed since `request` was made: it may have ended, or restarted at
    /// another position.
    fn start(
        request: &ReadRequest,
        mut page: Page,
        connection: &mut Connection<'_>,
    ) -> Option<CatchUp> {
        let current = connection.subscriber.read_request(request.subscription)?;
        if current.after != request.after {
            return None;
        }
        if page.floor > current.after {
            connection.note_expired(&current, page.floor);
            return None;
        }
        let mut selection = current.filter.select(&page.batch, current.after);
        if let (Some(conflated), Some(all)) = (current.conflate, &selection) {
            selection = conflate(&current, &mut page, all, conflated, connection);
        }
        let subscription = current.subscription;
        let Some(selection) = selection else {
            connection.subscriber.note_read(subscription, page.scanned_to);
            return None;
        };
        let page = PageInProgress { subscription, page, selection, next: 0 };
        Some(CatchUp::WritePage(Box::new(page)))
    }

    /// Adds the next slices of the page to `out`. Returns `false` if the
    /// subscription has ended or the client permits no further events (no credit).
    /// The caller then drops the page.
    fn fill(&self, subscriber: &Subscriber, out: &mut Vec<Slice>, mut budget: WriteBudget) -> bool {
        let PageInProgress { subscription, page, selection, next } = self;
        let Some(request) = subscriber.read_request(*subscription) else { return false };
        let credit = request.credit.map_or(u32::MAX, |n| n.min(u64::from(u32::MAX)) as u32);
        if credit == 0 {
            return false;
        }
        budget.events = budget.events.min(credit);
        let rest = *next..selection.len();
        slices(out, &mut budget, *subscription, &page.batch, selection, request.format, rest);
        for slice in out.iter_mut() {
            // The latency metric covers only live events, and not events that were
            // read from the log.
            slice.committed = None;
        }
        true
    }
}

/// Selects the newest event of each resource on a page. Queues one `gap` message for
/// all other events of the page.
///
/// If a page is dropped before its last slice is written, the same events are read
/// again. The client then already has the `gap` message for the events up to
/// `conflated`. So the second page ends at `conflated`, the same events are omitted,
/// and no second `gap` message is sent.
fn conflate(
    request: &ReadRequest,
    page: &mut Page,
    all: &Selection,
    conflated: Offset,
    connection: &mut Connection<'_>,
) -> Option<Selection> {
    let is_new = conflated <= request.after;
    if !is_new {
        page.scanned_to = page.scanned_to.min(conflated);
    }
    let (kept, count, last) = newest_of_each(&page.batch, all, page.scanned_to);
    if is_new && count > 0 {
        connection.note_dropped(request, count, last);
        connection.subscriber.note_conflated(request.subscription, page.scanned_to);
    }
    (!kept.is_empty()).then_some(kept)
}

impl SnapshotChunk {
    /// Returns the state that writes `resources`. An empty list means that the
    /// snapshot is complete. Then the function queues the message `snapshot-end`,
    /// the subscription continues with the events of the log, and the result is
    /// `None`.
    fn start(
        subscription: SubscriptionId,
        resources: Vec<(ResourceId, Resource)>,
        connection: &mut Connection<'_>,
    ) -> Option<CatchUp> {
        let request = connection.subscriber.read_request(subscription)?;
        if resources.is_empty() {
            connection.queue.push(connection.messages.snapshot_end(&request));
            connection.subscriber.restart(subscription, request.after, false);
            return None;
        }
        let chunk = SnapshotChunk { subscription, resources, next: 0, slice_lengths: Vec::new() };
        Some(CatchUp::WriteResources(Box::new(chunk)))
    }

    /// Adds the next resources to `out`, in slices. Returns `false` if the
    /// subscription has ended. The caller then drops the resources.
    fn fill(
        &mut self,
        connection: &mut Connection<'_>,
        out: &mut Vec<Slice>,
        budget: WriteBudget,
    ) -> bool {
        let SnapshotChunk { subscription, resources, next, slice_lengths } = self;
        let Some(request) = connection.subscriber.read_request(*subscription) else {
            return false;
        };
        let collection = &request.log.identity().name;
        let mut rest = &resources[*next..];
        rest = &rest[..rest.len().min(budget.events as usize)];
        let mut filled = 0;
        slice_lengths.clear();
        while !rest.is_empty() && slice_lengths.len() < budget.slices as usize {
            let bytes_max = SLICE_BYTES.min(budget.bytes.saturating_sub(filled));
            if bytes_max == 0 && filled > 0 {
                break;
            }
            let (bytes, count) = connection.messages.snapshot(collection, rest, bytes_max);
            (filled, rest) = (filled + bytes.len(), &rest[count..]);
            slice_lengths.push(count);
            let (subscription, through) = (*subscription, Offset::ZERO);
            out.push(Slice { bytes, subscription, through, events: 0, committed: None });
        }
        true
    }
}
