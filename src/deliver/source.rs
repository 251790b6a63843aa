//! What a connection writes next: notices, then by turns what was pushed to
//! its ring and what its parked subscriptions read from the log.
//!
//! The pump hands out slices without taking them from where they are. Only
//! [`StreamSource::wrote`] does, so a writer whose socket takes nothing keeps the
//! rest of one slice and a cursor, and lets everything else go.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Settings;
use super::catch_up::CatchUp;
use super::end::End;
use super::gap::{Gap, Reason};
use super::notices::Notices;
use super::pace::Pacer;
use crate::event::{EventId, Offset};
use crate::hub::{
    DirectWriter, EndReason, PollMode, ReadRequest, Slice, Subscriber, SubscriptionId, WriteBudget,
    WriterAction,
};
use crate::metrics::Metrics;
use crate::wire::WireFormat;

/// What the pump has for its writer.
#[derive(Debug)]
pub enum Filled {
    /// Slices in the hand.
    Write,
    /// The rest of what the fan-out has put out half; the hand is empty.
    Rest(Bytes),
    /// Nothing more comes: what is in the hand is a farewell, and this is why.
    End(End),
}

/// The source of one connection's bytes. As long as it lives its stream
/// counts as open; with it the subscriptions go.
pub struct StreamSource {
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) notices: Notices,
    waiting: VecDeque<Bytes>,
    pub(super) work: Option<CatchUp>,
    turn: PollMode,
    batch_size: u32,
    pacer: Option<Box<Pacer>>,
    heartbeats: u32,
    pub(super) end: Option<End>,
    /// A command is under way, and the end waits for its answer.
    answering: bool,
    /// The hub's time at which the end was decided, and one millisecond: in
    /// eight bytes, since each session holds it.
    ending_since: Option<NonZeroU64>,
    /// Counts the stream as somebody's, as long as it lives.
    share: Option<Box<dyn Send + Sync>>,
    reason: &'static str,
}

impl StreamSource {
    /// A pump for `subscriber` that speaks `form` and puts at most
    /// `batch_size` events into one write.
    pub fn new(
        subscriber: Arc<Subscriber>,
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
        form: WireFormat,
        batch_size: Option<u32>,
    ) -> StreamSource {
        let pacer = Pacer::new(settings.pace);
        let notices = Notices::new(settings, form, subscriber.id());
        let streams = metrics.streams(subscriber.protocol());
        streams.opened.increment(1);
        streams.open.increment(1);
        StreamSource {
            subscriber,
            metrics,
            notices,
            waiting: VecDeque::new(),
            work: None,
            turn: PollMode::Ring,
            batch_size: batch_size.unwrap_or(u32::MAX),
            pacer,
            heartbeats: 0,
            end: None,
            answering: false,
            ending_since: None,
            share: None,
            reason: "client",
        }
    }

    /// Keeps `share` as long as the stream lives.
    pub fn hold(&mut self, share: Option<Box<dyn Send + Sync>>) {
        self.share = share;
    }

    /// Lets the fan-out write to `port` while the writer sleeps; not where each
    /// write has to be measured, by the pace or by `batchSize`.
    pub(super) fn open_port(&self, port: Arc<dyn DirectWriter>) {
        if self.pacer.is_none() && self.batch_size == u32::MAX {
            self.subscriber.allow_direct_writes(port);
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

    /// Speaks `form` from here on, also what waits in the ring.
    pub fn change_format(&mut self, form: WireFormat) {
        // What was said before and waits is in the old form. The fan-out would
        // write in the new one, so it keeps off until that is out.
        if let Some(rest) = self.subscriber.suspend_direct_writes() {
            self.waiting.push_front(rest);
        }
        self.notices.change_format(form);
        self.subscriber.change_format(form);
    }

    /// The connection it serves.
    pub fn subscriber(&self) -> &Arc<Subscriber> {
        &self.subscriber
    }

    /// What it says beside events.
    pub fn notices(&mut self) -> &mut Notices {
        &mut self.notices
    }

    /// Has a ready frame written before events, behind those that were said
    /// before it.
    pub fn say(&mut self, frame: Bytes) {
        self.waiting.push_back(frame);
    }

    /// The client has sent a command. Returns false if the stream is about to
    /// end: the command must not be carried out.
    pub(super) fn note_received(&mut self) -> bool {
        if !self.subscriber.note_received() {
            self.begin_ending();
        }
        !self.is_ending()
    }

    /// Whether the end has been decided: no command begins from then on.
    pub(super) fn is_ending(&self) -> bool {
        self.ending_since.is_some() || self.end.is_some()
    }

    /// Sets whether a command is under way. Its answer goes out before the
    /// end, which waits for it until the deadline of
    /// [`Subscriber::answer_due`].
    pub(super) fn set_answering(&mut self, answering: bool) {
        self.answering = answering;
    }

    /// Whether the answer of the command under way can still go out.
    pub(super) fn is_answering(&self) -> bool {
        self.answering
    }

    fn begin_ending(&mut self) -> u64 {
        let since = self.ending_since.get_or_insert_with(|| {
            // From here on every tick wakes the task, for the deadline.
            self.subscriber.set_needs_tick(true);
            NonZeroU64::MIN.saturating_add(self.subscriber.now())
        });
        since.get()
    }

    /// Whether the end has to wait for an answer. Past the deadline the answer
    /// is given up.
    fn waits_for_answer(&mut self) -> bool {
        let since = self.begin_ending();
        self.answering &= self.subscriber.now() < self.subscriber.answer_due(since);
        self.answering
    }

    /// How many heartbeats there were.
    pub fn heartbeats(&self) -> u32 {
        self.heartbeats
    }

    /// Bytes of frames that were [said](StreamSource::say) and are not written.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(Bytes::len).sum()
    }

    /// Fills `hand` with what comes next, or arranges for the task of `cx` to
    /// be woken. The hand must be empty.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, hand: &mut Vec<Slice>) -> Poll<Filled> {
        loop {
            if !self.waiting.is_empty() {
                if let Some(rest) = self.subscriber.suspend_direct_writes() {
                    return Poll::Ready(Filled::Rest(rest));
                }
                self.fill_waiting(hand);
                return Poll::Ready(Filled::Write);
            }
            if let Some(end) = self.end {
                if self.waits_for_answer() {
                    return Poll::Pending;
                }
                return Poll::Ready(Filled::End(end));
            }
            let mut room = WriteBudget::for_write(self.batch_size);
            let paced = match &mut self.pacer {
                Some(pacer) => pacer.poll_room(cx, &mut room).is_pending(),
                None => false,
            };
            // A read is finished although its page has to wait: others may be
            // waiting for the same one, or for the permit.
            let works = self.work.as_ref().is_some_and(|work| !paced || work.is_read());
            if works && self.poll_work(cx, hand, room).is_ready() {
                if hand.is_empty() {
                    continue;
                }
                return Poll::Ready(Filled::Write);
            }
            let turn = match self.work {
                _ if paced => PollMode::Paced,
                Some(_) => PollMode::RingOnly,
                None => self.turn,
            };
            self.turn = if turn == PollMode::Ring { PollMode::Log } else { PollMode::Ring };
            match self.subscriber.next(cx, turn, hand, &mut room) {
                WriterAction::Write => return Poll::Ready(Filled::Write),
                WriterAction::PartialWrite(rest) => return Poll::Ready(Filled::Rest(rest)),
                WriterAction::Wait => return Poll::Pending,
                WriterAction::Read(reading) => self.begin_read(reading),
                WriterAction::Snapshot(reading) => self.begin_resources(&reading),
                WriterAction::Dropped(reading, lost) => {
                    self.say_lost(&reading, lost.count, lost.to);
                }
                WriterAction::Heartbeat(position) => self.say_heartbeat(position),
                WriterAction::End(..) if self.waits_for_answer() => return Poll::Pending,
                WriterAction::End(ending, position) => self.close_message(ending, position),
            }
        }
    }

    fn fill_waiting(&mut self, hand: &mut Vec<Slice>) {
        let WriteBudget { slices, mut bytes, .. } = WriteBudget::for_write(self.batch_size);
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
        self.subscriber.note_written(written);
        self.advance_work(written);
        if let Some(pacer) = &mut self.pacer {
            pacer.charge(written);
        }
    }

    /// The socket takes nothing: gives the page back, or the read of it, which
    /// others may be waiting behind, and keeps its place.
    pub fn release(&mut self) {
        self.work = None;
    }

    // === notices ===

    fn say_heartbeat(&mut self, position: Option<EventId>) {
        let frame = self.notices.heartbeat(position);
        self.heartbeats += 1;
        self.say(frame);
    }

    /// Events that a policy took, behind where the client stands.
    pub(super) fn say_lost(&mut self, reading: &ReadRequest, count: u64, to: Offset) {
        let origin = reading.log.origin();
        let gap = Gap {
            from: origin.id(reading.after),
            to: origin.id(to),
            earliest: origin.id(reading.log.floor()),
            reason: Reason::Dropped,
            count: Some(count),
        };
        self.metrics.dropped(reading.overflow.as_str(), count);
        let frame = self.notices.gap_of(&gap, reading);
        self.say(frame);
    }

    fn close_message(&mut self, ending: EndReason, position: Option<EventId>) {
        if let Some(frame) = self.notices.close(ending, position) {
            self.say(frame);
        }
        self.end = Some(End::Ending(ending));
    }
}

impl Drop for StreamSource {
    fn drop(&mut self) {
        self.subscriber.leave();
        self.metrics.closed(self.subscriber.protocol(), self.reason);
    }
}
