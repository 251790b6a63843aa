//! The source of the bytes that a connection sends, for SSE, NDJSON and WebSocket. A
//! slice is a part of a block of encoded events or control messages, and is written
//! as it is.
//!
//! # The loop
//! [`StreamSource::poll_fill`] contains the loop. Each iteration uses the first of
//! these sources that has bytes to write:
//!
//! 1. The queue of encoded frames: control messages and answers to commands.
//! 2. The end of the stream, once it is decided.
//! 3. The read of a subscription that is catching up from the log ([`CatchUp`]).
//! 4. The hub ([`Subscriber::next`]). The hub returns the first of these that
//!    exists: the rest of a direct write, the end of the stream, events of the ring
//!    or the next read of the log (by turns), a heartbeat. A drop marker stands for
//!    events that the overflow policy dropped; it has its place among the events of
//!    the ring. If the hub has nothing, it arranges a wake-up of the task.
//!
//! The source returns slices, but the data stays in the queue, the ring or the page
//! of the log. The source removes the data only in [`StreamSource::note_written`].
//! If the socket accepts no bytes, the connection keeps the positions of its
//! subscriptions and the rest of at most one slice. [`StreamSource::release_read`]
//! frees the page.
//!
//! # No gap and no repeat
//! Each subscription contains a [`log::Follower`](crate::log::Follower). The
//! documentation of `Follower` proves that no event is lost or repeated. This table
//! shows which call performs which step of that proof:
//!
//! | step | call |
//! |---|---|
//! | 1 `new`, `restart` | [`Subscriber::subscribe`]; [`Subscriber::restart`] after a gap or a snapshot |
//! | 2 `read_after` | [`Subscriber::next`] returns [`WriterAction::Read`] with the offset |
//! | 3 `advance` | [`Subscriber::note_written`] for slices; [`Subscriber::note_read`] at the end of a page; [`Subscriber::next`] for drop markers; the fan-out after a [direct write](DirectWriter), and while the ring is empty |
//! | 4 `join` | [`Subscriber::next`], before it returns a read: a subscription without anything left to read goes live |
//! | 5 `accept`, 6 `push` | the fan-out, for a live subscription |
//! | 7 `fall_behind` | the fan-out, when the ring is full, the credit does not suffice, or the tail of the log no longer has the next batch; the tick, when a batch in the ring was evicted from memory |
//!
//! The proof requires that step 3 comes after the write to the socket. The source
//! satisfies this rule: each written slice moves the position to the last event of
//! the slice, and only the last slice of a page moves the position to the end of the
//! page. If the source releases a page before its last slice is written, the next
//! read starts at the position. So no event is lost or repeated.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Settings;
use super::catch_up::{CatchUp, Connection};
use super::control_messages::ControlMessages;
use super::end::End;
use super::pace::Pacer;
use super::queue::FrameQueue;
use crate::hub::{DirectWriter, PollMode, Slice, Subscriber, WriteBudget, WriterAction};
use crate::metrics::Metrics;
use crate::wire::WireFormat;

/// The result of [`StreamSource::poll_fill`].
#[derive(Debug)]
pub enum Filled {
    /// The caller must write the slices that `poll_fill` has added to `out`.
    Slices,
    /// The caller must write these bytes, the rest of a partial direct write of the
    /// fan-out. `poll_fill` has added no slices to `out`.
    PartialWrite(Bytes),
    /// The stream ends. `poll_fill` has added no slices to `out`, and the last
    /// control message is already written.
    End(End),
}

/// The source of the bytes that one connection sends. The stream counts as open in
/// the metrics until the source is dropped. The drop also ends all subscriptions of
/// the connection.
pub struct StreamSource {
    subscriber: Arc<Subscriber>,
    metrics: Arc<Metrics>,
    messages: ControlMessages,
    queue: FrameQueue,
    /// The current read of the log for a subscription that is catching up.
    catch_up: Option<CatchUp>,
    /// Whether the next call of the hub asks the ring or the log first.
    poll_mode: PollMode,
    /// The largest number of events in one write.
    batch_size: u32,
    pacer: Option<Box<Pacer>>,
    heartbeats: u32,
    end: Option<End>,
    /// Whether a WebSocket command is in progress. The end of the stream waits for
    /// the answer to this command.
    answering: bool,
    /// The time of the hub's clock at which the end of the stream was decided, in
    /// milliseconds plus one. With `NonZeroU64` the `Option` takes eight bytes
    /// instead of sixteen, and every connection has this field.
    ending_since: Option<NonZeroU64>,
    /// A guard. The stream counts towards the limits of its client until the guard
    /// is dropped.
    stream_guard: Option<Box<dyn Send + Sync>>,
    end_label: &'static str,
}

impl StreamSource {
    /// Creates the source of the connection `subscriber`. Control messages are
    /// encoded in `format`. One write contains at most `batch_size` events.
    pub fn new(
        subscriber: Arc<Subscriber>,
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
        format: WireFormat,
        batch_size: Option<u32>,
    ) -> StreamSource {
        let pacer = Pacer::new(settings.pace);
        let messages = ControlMessages::new(settings, format, subscriber.id());
        let streams = metrics.streams(subscriber.protocol());
        streams.opened.increment(1);
        streams.open.increment(1);
        StreamSource {
            subscriber,
            metrics,
            messages,
            queue: FrameQueue::default(),
            catch_up: None,
            poll_mode: PollMode::Ring,
            batch_size: batch_size.unwrap_or(u32::MAX),
            pacer,
            heartbeats: 0,
            end: None,
            answering: false,
            ending_since: None,
            stream_guard: None,
            end_label: "client",
        }
    }

    /// Keeps `guard` until the stream ends.
    pub fn keep_guard(&mut self, guard: Option<Box<dyn Send + Sync>>) {
        self.stream_guard = guard;
    }

    /// Lets the fan-out task write events to `direct_writer` while the task of the
    /// connection sleeps. This call has no effect on a stream with a pace or a batch
    /// size, because the source must count the events of each write of such a
    /// stream.
    pub(super) fn allow_direct_writes(&self, direct_writer: Arc<dyn DirectWriter>) {
        if self.pacer.is_none() && self.batch_size == u32::MAX {
            self.subscriber.allow_direct_writes(direct_writer);
        }
    }

    /// Sets the value of the label `reason` with which the metrics count the end of
    /// the stream. The default is `client`: the client has closed the connection.
    pub fn set_end_label(&mut self, label: &'static str) {
        self.end_label = label;
    }

    /// Returns the metrics of the process.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the connection's handle in the hub.
    pub fn subscriber(&self) -> &Arc<Subscriber> {
        &self.subscriber
    }

    /// Returns the encoder of the connection's control messages.
    pub fn messages(&mut self) -> &mut ControlMessages {
        &mut self.messages
    }

    /// Changes the wire format of all messages that are encoded after this call.
    /// These include the events that are already in the ring.
    pub fn change_format(&mut self, format: WireFormat) {
        // Frames in the queue have the old format. Without this call, the fan-out
        // could write events in the new format before these frames. Direct writes
        // are suspended until the frames are written.
        if let Some(rest) = self.subscriber.suspend_direct_writes() {
            self.queue.push_front(rest);
        }
        self.messages.change_format(format);
        self.subscriber.change_format(format);
    }

    /// Adds an encoded frame to the end of the queue. The source writes the queue
    /// before any events.
    pub fn queue_frame(&mut self, frame: Bytes) {
        self.queue.push(frame);
    }

    /// Returns the number of bytes of frames in the queue.
    pub fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Returns the number of heartbeats that this connection has queued since it was
    /// opened.
    pub fn heartbeats(&self) -> u32 {
        self.heartbeats
    }

    // === the end of the stream, and the last answer ===

    /// Records that the client has sent a WebSocket command. Returns `false` if the
    /// end of the stream is already decided. In this case the caller must not
    /// execute the command.
    pub(super) fn note_received(&mut self) -> bool {
        if !self.subscriber.note_received() {
            self.begin_ending();
        }
        !self.is_ending()
    }

    /// Returns whether the end of the stream is decided. After that no command
    /// starts.
    pub(super) fn is_ending(&self) -> bool {
        self.ending_since.is_some() || self.end.is_some()
    }

    /// Sets whether a WebSocket command is in progress. The end of the stream waits
    /// for the answer to this command, until the deadline of
    /// [`Subscriber::answer_due`].
    pub(super) fn set_answering(&mut self, answering: bool) {
        self.answering = answering;
    }

    /// Returns whether the answer to the command in progress can still be sent.
    pub(super) fn is_answering(&self) -> bool {
        self.answering
    }

    /// Records the current time as the time at which the end of the stream was
    /// decided, if no time is recorded. Returns the recorded time.
    fn begin_ending(&mut self) -> u64 {
        let since = self.ending_since.get_or_insert_with(|| {
            // From now on, every tick of the hub wakes the task, so that the task
            // checks the deadline of the answer.
            self.subscriber.set_needs_tick(true);
            NonZeroU64::MIN.saturating_add(self.subscriber.now())
        });
        since.get()
    }

    /// Returns whether the end of the stream must wait for the answer to a command.
    /// After the deadline of the answer the end does not wait, and the answer is
    /// dropped.
    fn waits_for_answer(&mut self) -> bool {
        let since = self.begin_ending();
        self.answering &= self.subscriber.now() < self.subscriber.answer_due(since);
        self.answering
    }

    // === the loop ===

    /// Adds the next slices to `out`, which must be empty. If there is nothing to
    /// write, the result is pending, and the task of `cx` is woken when there is
    /// something to write.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, out: &mut Vec<Slice>) -> Poll<Filled> {
        loop {
            if !self.queue.is_empty() {
                if let Some(rest) = self.subscriber.suspend_direct_writes() {
                    return Poll::Ready(Filled::PartialWrite(rest));
                }
                self.queue.fill(out, WriteBudget::for_write(self.batch_size));
                return Poll::Ready(Filled::Slices);
            }
            if let Some(end) = self.end {
                if self.waits_for_answer() {
                    return Poll::Pending;
                }
                return Poll::Ready(Filled::End(end));
            }
            let mut budget = WriteBudget::for_write(self.batch_size);
            let is_paced = match &mut self.pacer {
                Some(pacer) => pacer.poll_budget(cx, &mut budget).is_pending(),
                None => false,
            };
            if self.poll_catch_up(cx, out, budget, is_paced).is_ready() {
                if out.is_empty() {
                    continue;
                }
                return Poll::Ready(Filled::Slices);
            }
            let mode = self.next_poll_mode(is_paced);
            match self.subscriber.next(cx, mode, out, &mut budget) {
                WriterAction::Write => return Poll::Ready(Filled::Slices),
                WriterAction::PartialWrite(rest) => {
                    return Poll::Ready(Filled::PartialWrite(rest));
                }
                WriterAction::Wait => return Poll::Pending,
                WriterAction::Read(request) => {
                    self.catch_up = CatchUp::page(request, &mut self.connection());
                }
                WriterAction::Snapshot(request) => {
                    self.catch_up = Some(CatchUp::resources(&request));
                }
                WriterAction::Dropped(request, marker) => {
                    self.connection().note_dropped(&request, marker.count, marker.to);
                }
                WriterAction::Heartbeat(position) => {
                    self.queue.push(self.messages.heartbeat(position));
                    self.heartbeats += 1;
                }
                WriterAction::End(..) if self.waits_for_answer() => return Poll::Pending,
                WriterAction::End(end_reason, position) => {
                    if let Some(frame) = self.messages.close(end_reason, position) {
                        self.queue.push(frame);
                    }
                    self.end = Some(End::Ending(end_reason));
                }
            }
        }
    }

    /// Polls the current read of the log for a subscription that is catching up.
    /// Adds slices to `out` if the events are ready. The result is pending if there
    /// is no read, if the log is still being read, or if the pace of the connection
    /// permits no events yet.
    fn poll_catch_up(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Slice>,
        budget: WriteBudget,
        is_paced: bool,
    ) -> Poll<()> {
        // A read of the log is completed even while the pace permits no events.
        // Other connections may wait for the same page, or for the permit of this
        // read.
        let Some(catch_up) = self.catch_up.take_if(|it| !is_paced || it.is_reading()) else {
            return Poll::Pending;
        };
        let (next, polled) = catch_up.poll(cx, &mut self.connection(), out, budget);
        self.catch_up = next;
        polled
    }

    /// Returns the mode of the next call of the hub. The mode says whether the hub
    /// asks the ring or the log first. The two take turns, so that neither starves
    /// the other.
    fn next_poll_mode(&mut self, is_paced: bool) -> PollMode {
        let mode = match self.catch_up {
            _ if is_paced => PollMode::Paced,
            Some(_) => PollMode::RingOnly,
            None => self.poll_mode,
        };
        self.poll_mode = if mode == PollMode::Ring { PollMode::Log } else { PollMode::Ring };
        mode
    }

    /// Records that the writer has written the slices `written`. These are the first
    /// slices that the last [`poll_fill`](Self::poll_fill) returned. A partly
    /// written slice counts as written, because the writer writes the rest of this
    /// slice before any other bytes.
    pub fn note_written(&mut self, written: &[Slice]) {
        self.queue.note_written(written);
        self.subscriber.note_written(written);
        if let Some(catch_up) = &mut self.catch_up
            && catch_up.note_written(&self.subscriber, written)
        {
            self.catch_up = None;
        }
        if let Some(pacer) = &mut self.pacer {
            pacer.charge(written);
        }
    }

    /// Drops the current read of a subscription that is catching up, because the
    /// socket accepts no bytes. Other connections may wait for the page or the
    /// permit of this read. The subscription keeps its position in the log.
    pub fn release_read(&mut self) {
        self.catch_up = None;
    }

    fn connection(&mut self) -> Connection<'_> {
        Connection {
            subscriber: &self.subscriber,
            messages: &mut self.messages,
            queue: &mut self.queue,
            metrics: &self.metrics,
            end: &mut self.end,
        }
    }
}

impl Drop for StreamSource {
    fn drop(&mut self) {
        self.subscriber.leave();
        self.metrics.closed(self.subscriber.protocol(), self.end_label);
    }
}
