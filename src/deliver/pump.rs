//! What a connection writes next: notices, then by turns what was pushed to
//! its ring and what its parked subscriptions read from the log.
//!
//! The pump hands out slices without taking them from where they are. Only
//! [`Pump::wrote`] does, so a writer whose socket takes nothing keeps the
//! rest of one slice and a cursor, and lets everything else go.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Settings;
use super::gap::{Gap, Reason};
use super::notices::Notices;
use crate::event::{EventId, Offset, ResourceId};
use crate::hub::{
    Ending, Next, OnGap, Reading, Room, Scope, Slice, Subscriber, SubscriptionId, Turn, slices,
};
use crate::log::{self, Page};
use crate::metrics::Metrics;
use crate::store::State;
use crate::wire::problem::{Code, Problem};
use crate::wire::{Form, Selection};

type Read<T> = Pin<Box<dyn Future<Output = Result<T, log::Error>> + Send>>;

/// What is being read for one parked subscription. One at a time a
/// connection: this is what bounds its memory while it catches up. Who the
/// subscription is, how far it has come, its form and its credit are the
/// hub's to say, each time.
enum Work {
    /// The log is being read; the place and the subscription as they were.
    Reading(Reading, Read<Page>),
    /// A page that is being written.
    Page(PageUnderWay),
    /// The resources are being read.
    Resources(SubscriptionId, Read<Vec<(ResourceId, State)>>),
    /// Resources that are being written, and how many are.
    Rows(SubscriptionId, Vec<(ResourceId, State)>, usize),
}

struct PageUnderWay {
    subscription: SubscriptionId,
    page: Page,
    selection: Selection,
    /// How many of the selection are written.
    next: u32,
}

/// What the pump has for its writer.
#[derive(Debug)]
pub enum Filled {
    /// Slices in the hand.
    Write,
    /// Nothing more comes: what is in the hand is a farewell, and this is why.
    End(End),
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The hub says so.
    Ending(Ending),
    /// Events are missing and the client asked for an end then.
    HistoryGone,
    /// The log could not be read.
    Unreadable,
}

impl End {
    /// The label `reason` in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            End::Ending(Ending::Drained) => "drain",
            End::Ending(Ending::Stalled) => "stalled",
            End::Ending(Ending::Idle) => "idle",
            End::HistoryGone => "history-gone",
            End::Unreadable => "error",
        }
    }

    /// Whether the client was told and has everything it was told of.
    pub fn is_orderly(self) -> bool {
        match self {
            End::Ending(Ending::Drained | Ending::Idle) | End::HistoryGone => true,
            End::Ending(Ending::Stalled) | End::Unreadable => false,
        }
    }
}

/// The source of one connection's bytes. As long as it lives its stream
/// counts as open; with it the subscriptions go.
pub struct Pump {
    subscriber: Arc<Subscriber>,
    metrics: Arc<Metrics>,
    notices: Notices,
    waiting: VecDeque<Bytes>,
    work: Option<Work>,
    turn: Turn,
    batch_size: u32,
    heartbeats: u32,
    end: Option<End>,
    reason: &'static str,
}

impl Pump {
    /// A pump for `subscriber` that speaks `form` and puts at most
    /// `batch_size` events into one write.
    pub fn new(
        subscriber: Arc<Subscriber>,
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
        form: Form,
        batch_size: Option<u32>,
    ) -> Pump {
        let notices = Notices::new(settings, form, subscriber.id());
        let streams = metrics.streams(subscriber.protocol());
        streams.opened.increment(1);
        streams.open.increment(1);
        Pump {
            subscriber,
            metrics,
            notices,
            waiting: VecDeque::new(),
            work: None,
            turn: Turn::Ring,
            batch_size: batch_size.unwrap_or(u32::MAX),
            heartbeats: 0,
            end: None,
            reason: "client",
        }
    }

    /// Why the stream ends, for the metrics; until this is said, its client
    /// has gone.
    pub fn ends(&mut self, reason: &'static str) {
        self.reason = reason;
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Speaks `form` from here on, also what waits.
    pub fn reform(&mut self, form: Form) {
        self.notices.reform(form);
        self.subscriber.reform(form);
    }

    /// The connection it serves.
    pub fn subscriber(&self) -> &Arc<Subscriber> {
        &self.subscriber
    }

    /// What it says beside events.
    pub fn notices(&mut self) -> &mut Notices {
        &mut self.notices
    }

    /// Puts a ready frame before everything that is not written yet.
    pub fn say(&mut self, frame: Bytes) {
        self.waiting.push_back(frame);
    }

    /// How many heartbeats there were.
    pub fn heartbeats(&self) -> u32 {
        self.heartbeats
    }

    /// Bytes of frames that were [said](Pump::say) and are not written.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(Bytes::len).sum()
    }

    /// Fills `hand` with what comes next, or arranges for the task of `cx` to
    /// be woken. The hand must be empty.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, hand: &mut Vec<Slice>) -> Poll<Filled> {
        loop {
            if self.fill_waiting(hand) {
                return Poll::Ready(Filled::Write);
            }
            if let Some(end) = self.end {
                return Poll::Ready(Filled::End(end));
            }
            if self.work.is_some() && self.poll_work(cx, hand).is_ready() {
                if hand.is_empty() {
                    continue;
                }
                return Poll::Ready(Filled::Write);
            }
            let turn = if self.work.is_some() { Turn::RingOnly } else { self.turn };
            self.turn = if turn == Turn::Ring { Turn::Log } else { Turn::Ring };
            let mut room = Room::for_write(self.batch_size);
            match self.subscriber.next(cx, turn, hand, &mut room) {
                Next::Write => return Poll::Ready(Filled::Write),
                Next::Wait => return Poll::Pending,
                Next::Read(reading) => self.begin_read(reading),
                Next::Snapshot(reading) => self.begin_resources(&reading),
                Next::Heartbeat(position) => self.say_heartbeat(position),
                Next::End(ending, position) => self.farewell(ending, position),
            }
        }
    }

    fn fill_waiting(&mut self, hand: &mut Vec<Slice>) -> bool {
        let Room { slices, mut bytes, .. } = Room::for_write(self.batch_size);
        for frame in self.waiting.iter().take(slices as usize) {
            hand.push(Slice {
                bytes: frame.clone(),
                subscription: SubscriptionId::NONE,
                through: Offset::ZERO,
                events: 0,
                committed: None,
            });
            bytes = bytes.saturating_sub(frame.len());
            if bytes == 0 {
                break;
            }
        }
        !hand.is_empty()
    }

    /// These slices of the hand are on their way; one that is half out counts,
    /// and its writer sees to the rest.
    pub fn wrote(&mut self, written: &[Slice]) {
        let notices = written.iter().filter(|slice| slice.subscription == SubscriptionId::NONE);
        let notices = notices.count();
        if notices > 0 {
            self.waiting.drain(..notices);
            if self.waiting.is_empty() {
                self.waiting = VecDeque::new();
            }
        }
        self.subscriber.wrote(written);
        let of = |id| written.iter().filter(move |slice| slice.subscription == id);
        match &mut self.work {
            Some(Work::Page(under_way)) => {
                under_way.next += of(under_way.subscription).map(|slice| slice.events).sum::<u32>();
                if under_way.next >= under_way.selection.len() {
                    self.subscriber.passed(under_way.subscription, under_way.page.upto);
                    self.work = None;
                }
            }
            Some(Work::Rows(id, rows, next)) => {
                *next += of(*id).count();
                if let Some((last, _)) = next.checked_sub(1).and_then(|last| rows.get(last)) {
                    self.subscriber.reached(*id, last.clone());
                }
                if *next >= rows.len() {
                    self.work = None;
                }
            }
            _ => {}
        }
    }

    /// The socket takes nothing: gives the page back, keeping its place.
    pub fn release(&mut self) {
        if matches!(self.work, Some(Work::Page(_) | Work::Rows(..))) {
            self.work = None;
        }
    }

    // === reading the log ===

    fn begin_read(&mut self, reading: Reading) {
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
        self.work = Some(Work::Reading(reading, read));
    }

    fn poll_work(&mut self, cx: &mut Context<'_>, hand: &mut Vec<Slice>) -> Poll<()> {
        match self.work.take() {
            Some(Work::Reading(reading, mut read)) => match read.as_mut().poll(cx) {
                Poll::Pending => {
                    self.work = Some(Work::Reading(reading, read));
                    return Poll::Pending;
                }
                Poll::Ready(Ok(page)) => self.take_page(&reading, page),
                Poll::Ready(Err(error)) => self.fail(&error),
            },
            Some(Work::Resources(id, mut read)) => match read.as_mut().poll(cx) {
                Poll::Pending => {
                    self.work = Some(Work::Resources(id, read));
                    return Poll::Pending;
                }
                Poll::Ready(Ok(resources)) => self.take_resources(id, resources),
                Poll::Ready(Err(error)) => self.fail(&error),
            },
            Some(Work::Page(under_way)) => self.fill_page(under_way, hand),
            Some(Work::Rows(id, rows, next)) => self.fill_rows(id, rows, next, hand),
            None => {}
        }
        Poll::Ready(())
    }

    fn fill_page(&mut self, under_way: PageUnderWay, hand: &mut Vec<Slice>) {
        let PageUnderWay { subscription, page, selection, next } = &under_way;
        let Some(reading) = self.subscriber.reading(*subscription) else { return };
        let credit = reading.credit.map_or(u32::MAX, |n| n.min(u64::from(u32::MAX)) as u32);
        if credit == 0 {
            return;
        }
        let mut room = Room::for_write(self.batch_size.min(credit));
        slices(hand, &mut room, *subscription, &page.batch, selection, reading.form, *next);
        for slice in hand.iter_mut() {
            // What is read back says nothing of the fan-out's latency.
            slice.committed = None;
        }
        self.work = Some(Work::Page(under_way));
    }

    fn fill_rows(
        &mut self,
        id: SubscriptionId,
        rows: Vec<(ResourceId, State)>,
        next: usize,
        hand: &mut Vec<Slice>,
    ) {
        let Some(reading) = self.subscriber.reading(id) else { return };
        let collection = &reading.log.origin().name;
        let Room { slices, events, bytes } = Room::for_write(self.batch_size);
        let mut filled = 0;
        for (subject, state) in rows[next..].iter().take(slices.min(events) as usize) {
            let frame = self.notices.snapshot(collection, subject, &state.document);
            filled += frame.len();
            let through = Offset::ZERO;
            hand.push(Slice {
                bytes: frame,
                subscription: id,
                through,
                events: 0,
                committed: None,
            });
            if filled >= bytes {
                break;
            }
        }
        self.work = Some(Work::Rows(id, rows, next));
    }

    /// What was read is of use only where the subscription still stands where
    /// it stood: it may have been ended, or begun anew, meanwhile.
    fn take_page(&mut self, asked: &Reading, page: Page) {
        let Some(reading) = self.subscriber.reading(asked.subscription) else { return };
        if reading.after != asked.after {
            return;
        }
        if page.floor > reading.after {
            self.meet_gap(&reading, page.floor);
            return;
        }
        match reading.filter.select(&page.batch, reading.after) {
            Some(selection) => {
                let subscription = reading.subscription;
                self.work =
                    Some(Work::Page(PageUnderWay { subscription, page, selection, next: 0 }));
            }
            None => self.subscriber.passed(reading.subscription, page.upto),
        }
    }

    fn meet_gap(&mut self, reading: &Reading, floor: Offset) {
        let origin = reading.log.origin();
        let gap = Gap {
            from: origin.id(reading.after),
            to: origin.id(floor),
            earliest: origin.id(floor),
            reason: Reason::Expired,
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

    // === reading the resources ===

    fn begin_resources(&mut self, reading: &Reading) {
        let (log, scope) = (reading.log.clone(), reading.scope.clone());
        let reached = reading.reached.clone();
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
        self.work = Some(Work::Resources(reading.subscription, read));
    }

    fn take_resources(&mut self, id: SubscriptionId, resources: Vec<(ResourceId, State)>) {
        let Some(reading) = self.subscriber.reading(id) else { return };
        if resources.is_empty() {
            let frame = self.notices.snapshot_end(&reading);
            self.say(frame);
            self.subscriber.restart(id, reading.after, false);
        } else {
            self.work = Some(Work::Rows(id, resources, 0));
        }
    }

    // === notices ===

    fn say_heartbeat(&mut self, position: Option<EventId>) {
        let frame = self.notices.heartbeat(position);
        self.heartbeats += 1;
        self.say(frame);
    }

    fn farewell(&mut self, ending: Ending, position: Option<EventId>) {
        if let Some(frame) = self.notices.close(ending, position) {
            self.say(frame);
        }
        self.end = Some(End::Ending(ending));
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.subscriber.leave();
        self.metrics.closed(self.subscriber.protocol(), self.reason);
    }
}
