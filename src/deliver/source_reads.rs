//! How a stream source reads for its subscriptions that catch up: pages of the
//! log, and resources for a snapshot.

use std::task::{Context, Poll};

use super::catch_up::{CatchUp, PageUnderWay, SnapshotChunk};
use super::end::End;
use super::gap::{Gap, Reason};
use super::source::StreamSource;
use crate::event::{Offset, ResourceId};
use crate::hub::{
    OnGap, ReadRequest, SLICE_BYTES, Scope, Slice, SubscriptionId, WriteBudget, newest_of_each,
    slices,
};
use crate::log::{self, Page};
use crate::store::Resource;
use crate::wire::Selection;
use crate::wire::problem::{Code, Problem};

impl StreamSource {
    /// Slices of what was read are on their way.
    pub(super) fn advance_work(&mut self, written: &[Slice]) {
        let of = |id| written.iter().filter(move |slice| slice.subscription == id);
        match &mut self.work {
            Some(CatchUp::Page(under_way)) => {
                under_way.next += of(under_way.subscription).map(|slice| slice.events).sum::<u32>();
                if under_way.next >= under_way.selection.len() {
                    self.subscriber.note_read(under_way.subscription, under_way.page.scanned_to);
                    self.work = None;
                }
            }
            Some(CatchUp::Rows(rows)) => {
                let SnapshotChunk { subscription, resources, next, handed } = &mut **rows;
                *next += handed.iter().take(of(*subscription).count()).sum::<usize>();
                if let Some((last, _)) = next.checked_sub(1).and_then(|last| resources.get(last)) {
                    self.subscriber.note_snapshot_to(*subscription, last.clone());
                }
                if *next >= resources.len() {
                    self.work = None;
                }
            }
            _ => {}
        }
    }

    pub(super) fn begin_read(&mut self, reading: ReadRequest) {
        if reading.after < reading.log.floor() {
            self.meet_gap(&reading, reading.log.floor());
            return;
        }
        let (log, scope, after) = (reading.log.clone(), reading.scope.clone(), reading.after);
        let read = Box::pin(async move {
            match scope {
                Scope::Whole => log.page(after).await,
                Scope::Subject(subject) => log.page_of(&subject, after).await,
            }
        });
        self.work = Some(CatchUp::Reading(Box::new(reading), read));
    }

    /// Goes on with what is being read: into `hand` what of it is ready and
    /// fits into `room`. The hand stays empty where a step brought nothing.
    pub(super) fn poll_work(
        &mut self,
        cx: &mut Context<'_>,
        hand: &mut Vec<Slice>,
        room: WriteBudget,
    ) -> Poll<()> {
        match self.work.take() {
            Some(CatchUp::Reading(reading, mut read)) => match read.as_mut().poll(cx) {
                Poll::Pending => {
                    self.work = Some(CatchUp::Reading(reading, read));
                    return Poll::Pending;
                }
                Poll::Ready(Ok(page)) => self.take_page(&reading, page),
                Poll::Ready(Err(error)) => self.fail(&error),
            },
            Some(CatchUp::Resources(id, mut read)) => match read.as_mut().poll(cx) {
                Poll::Pending => {
                    self.work = Some(CatchUp::Resources(id, read));
                    return Poll::Pending;
                }
                Poll::Ready(Ok(resources)) => self.take_resources(id, resources),
                Poll::Ready(Err(error)) => self.fail(&error),
            },
            Some(CatchUp::Page(under_way)) => self.fill_page(under_way, hand, room),
            Some(CatchUp::Rows(rows)) => self.fill_rows(rows, hand, room),
            None => {}
        }
        Poll::Ready(())
    }

    fn fill_page(
        &mut self,
        under_way: Box<PageUnderWay>,
        hand: &mut Vec<Slice>,
        mut room: WriteBudget,
    ) {
        let PageUnderWay { subscription, page, selection, next } = &*under_way;
        let Some(reading) = self.subscriber.read_request(*subscription) else { return };
        let credit = reading.credit.map_or(u32::MAX, |n| n.min(u64::from(u32::MAX)) as u32);
        if credit == 0 {
            return;
        }
        room.events = room.events.min(credit);
        let places = *next..selection.len();
        slices(hand, &mut room, *subscription, &page.batch, selection, reading.format, places);
        for slice in hand.iter_mut() {
            // What is read back says nothing of the fan-out's latency.
            slice.committed = None;
        }
        self.work = Some(CatchUp::Page(under_way));
    }

    fn fill_rows(
        &mut self,
        mut under_way: Box<SnapshotChunk>,
        hand: &mut Vec<Slice>,
        room: WriteBudget,
    ) {
        let SnapshotChunk { subscription, resources, next, handed } = &mut *under_way;
        let Some(reading) = self.subscriber.read_request(*subscription) else { return };
        let collection = &reading.log.origin().name;
        let mut left = &resources[*next..];
        left = &left[..left.len().min(room.events as usize)];
        let mut filled = 0;
        handed.clear();
        while !left.is_empty() && handed.len() < room.slices as usize {
            let most = SLICE_BYTES.min(room.bytes.saturating_sub(filled));
            if most == 0 && filled > 0 {
                break;
            }
            let (bytes, count) = self.notices.snapshot(collection, left, most);
            (filled, left) = (filled + bytes.len(), &left[count..]);
            handed.push(count);
            let (subscription, through) = (*subscription, Offset::ZERO);
            hand.push(Slice { bytes, subscription, through, events: 0, committed: None });
        }
        self.work = Some(CatchUp::Rows(under_way));
    }

    /// What was read is of use only where the subscription still stands where
    /// it stood: it may have been ended, or begun anew, meanwhile.
    fn take_page(&mut self, asked: &ReadRequest, mut page: Page) {
        let Some(reading) = self.subscriber.read_request(asked.subscription) else { return };
        if reading.after != asked.after {
            return;
        }
        if page.floor > reading.after {
            self.meet_gap(&reading, page.floor);
            return;
        }
        let mut selection = reading.filter.select(&page.batch, reading.after);
        if let (Some(told), Some(whole)) = (reading.conflate, &selection) {
            selection = self.conflate(&reading, &mut page, whole, told);
        }
        match selection {
            Some(selection) => {
                let subscription = reading.subscription;
                let under_way = PageUnderWay { subscription, page, selection, next: 0 };
                self.work = Some(CatchUp::Page(Box::new(under_way)));
            }
            None => self.subscriber.note_read(reading.subscription, page.scanned_to),
        }
    }

    /// Leaves of a page the newest event of each resource. A page that was
    /// given back half written is read again: what of it is left out was told
    /// the first time, so the same events are left out, up to the same place,
    /// and nothing is told twice.
    fn conflate(
        &mut self,
        reading: &ReadRequest,
        page: &mut Page,
        whole: &Selection,
        told: Offset,
    ) -> Option<Selection> {
        let fresh = told <= reading.after;
        if !fresh {
            page.scanned_to = page.scanned_to.min(told);
        }
        let (kept, count, last) = newest_of_each(&page.batch, whole, page.scanned_to);
        if fresh && count > 0 {
            self.say_lost(reading, count, last);
            self.subscriber.note_conflated(reading.subscription, page.scanned_to);
        }
        (!kept.is_empty()).then_some(kept)
    }

    fn meet_gap(&mut self, reading: &ReadRequest, floor: Offset) {
        let origin = reading.log.origin();
        let gap = Gap {
            from: origin.id(reading.after),
            to: origin.id(floor),
            earliest: origin.id(floor),
            reason: Reason::Expired,
            count: None,
        };
        let frame = self.notices.gap_of(&gap, reading);
        self.say(frame);
        match reading.on_gap {
            OnGap::Event => self.subscriber.restart(reading.subscription, floor, false),
            OnGap::Snapshot => {
                let cursor = reading.log.head();
                self.subscriber.restart(reading.subscription, cursor, true);
            }
            OnGap::Error => {
                let problem =
                    Problem::new(Code::HistoryGone, "the events that follow are no longer kept")
                        .with("earliest", gap.earliest.to_string());
                let frame = self.notices.error(&problem);
                self.say(frame);
                self.end = Some(End::HistoryGone);
            }
        }
    }

    fn fail(&mut self, error: &log::Error) {
        tracing::error!(%error, cause = ?std::error::Error::source(error), "a stream could not read its log");
        self.end = Some(End::Unreadable);
    }

    pub(super) fn begin_resources(&mut self, reading: &ReadRequest) {
        let (log, scope) = (reading.log.clone(), reading.scope.clone());
        let reached = reading.snapshot_after.clone();
        let read = Box::pin(async move {
            match scope {
                Scope::Whole => log.resources(reached).await,
                Scope::Subject(_) if reached.is_some() => Ok(Vec::new()),
                Scope::Subject(subject) => {
                    let state = log.resource(&subject).await?;
                    Ok(state.map(|state| (subject, state)).into_iter().collect())
                }
            }
        });
        self.work = Some(CatchUp::Resources(reading.subscription, read));
    }

    fn take_resources(&mut self, id: SubscriptionId, resources: Vec<(ResourceId, Resource)>) {
        let Some(reading) = self.subscriber.read_request(id) else { return };
        if resources.is_empty() {
            let frame = self.notices.snapshot_end(&reading);
            self.say(frame);
            self.subscriber.restart(id, reading.after, false);
        } else {
            let (subscription, next, handed) = (id, 0, Vec::new());
            self.work = Some(CatchUp::Rows(Box::new(SnapshotChunk {
                subscription,
                resources,
                next,
                handed,
            })));
        }
    }
}
