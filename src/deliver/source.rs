//! The source of a connection's bytes, for SSE, NDJSON and WebSocket.
//!
//! # The loop
//! [`StreamSource::poll_fill`] is the loop. Each pass takes the first of these
//! sources that has something to write:
//!
//! 1. The queue of ready frames: control messages and answers to commands.
//! 2. The end of the stream, once it is decided.
//! 3. The read of a subscription that is catching up ([`CatchUp`]).
//! 4. The hub ([`Subscriber::next`]). It returns the first of these: the rest of a
//!    direct write, the end, events of the ring or the next read of the log (by
//!    turns), a heartbeat. A drop marker has its place among the events of the ring.
//!    If there is none of these, the hub arranges a wake-up.
//!
//! The source returns slices, and the data stays in the queue, the ring or the page.
//! The source removes the data only in [`StreamSource::note_written`]. If the socket
//! accepts no bytes, the connection keeps its positions and the rest of at most one
//! slice, and [`StreamSource::release_read`] frees the page.
//!
//! # No gap and no repeat
//! Each subscription contains a [`log::Follower`](crate::log::Follower), whose
//! documentation has the proof. This table shows which call performs which step of
//! that proof:
//!
//! | step | call |
//! |---|---|
//! | 1 `new`, `restart` | [`Subscriber::subscribe`]; [`Subscriber::restart`] after a gap or a snapshot |
//! | 2 `read_after` | [`Subscriber::next`] returns [`WriterAction::Read`] with the offset |
//! | 3 `advance` | [`Subscriber::note_written`] for slices; [`Subscriber::note_read`] at the end of a page; the fan-out after a [direct write](DirectWriter) |
//! | 4 `join` | [`Subscriber::next`], before it returns a read: a subscription without anything left to read goes live |
//! | 5 `accept`, 6 `push` | the fan-out, for a live subscription |
//! | 7 `fall_behind` | the fan-out, when the ring is full, or when the tail of the log no longer has the next batch |
//!
//! The proof requires of the writer that step 3 comes after the write. The source
//! satisfies this: a page advances the position by the slices that were written,
//! and to the end of the page only after its last slice. If a page is released
//! before its last slice is written, it is read again from the position, so no event
//! is lost or repeated.

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
    /// Write the slices.
    Slices,
    /// Write the rest of a direct write of the fan-out. There are no slices.
    PartialWrite(Bytes),
    /// The stream ends. There are no slices, and the last control message is
    /// written.
    End(End),
}

/// The source of one connection's bytes. The stream counts as open as long as the
/// source lives. A drop of the source ends all subscriptions of the connection.
pub struct StreamSource {
    subscriber: Arc<Subscriber>,
    metrics: Arc<Metrics>,
    messages: ControlMessages,
    queue: FrameQueue,
    /// The read of a subscription that is catching up.
    catch_up: Option<CatchUp>,
    /// The next source that the hub asks first.
    poll_mode: PollMode,
    /// The most events of one write.
    batch_size: u32,
    pacer: Option<Box<Pacer>>,
    heartbeats: u32,
    end: Option<End>,
    /// Whether a command is in progress. The end waits for its answer.
    answering: bool,
    /// The hub's time at which the end was decided, plus one millisecond. The type
    /// takes eight bytes, and every session has this field.
    ending_since: Option<NonZeroU64>,
    /// Counts the stream for its client.
    stream_guard: Option<Box<dyn Send + Sync>>,
    end_label: &'static str,
}

impl StreamSource {
    /// Returns a source for `subscriber` that encodes control messages in `format`.
    /// A write contains at most `batch_size` events.
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

    /// Keeps `guard` as long as the stream lives.
    pub fn keep_guard(&mut self, guard: Option<Box<dyn Send + Sync>>) {
        self.stream_guard = guard;
    }

    /// Lets the fan-out write to `direct_writer` while the writer of the connection
    /// sleeps. This has no effect on a stream with a pace or a batch size, because
    /// each of its writes is measured.
    pub(super) fn allow_direct_writes(&self, direct_writer: Arc<dyn DirectWriter>) {
        if self.pacer.is_none() && self.batch_size == u32::MAX {
            self.subscriber.allow_direct_writes(direct_writer);
        }
    }

    /// Sets the label of the end in the metrics. The default is `client`: the
    /// client has closed the connection.
    pub fn set_end_label(&mut self, label: &'static str) {
        self.end_label = label;
    }

    /// Returns the metrics of the process.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the connection in the hub.
    pub fn subscriber(&self) -> &Arc<Subscriber> {
        &self.subscriber
    }

    /// Returns the encoder of control messages.
    pub fn messages(&mut self) -> &mut ControlMessages {
        &mut self.messages
    }

    /// Changes the wire format of everything that is encoded from now on, including
    /// events that are in the ring.
    pub fn change_format(&mut self, format: WireFormat) {
        // Frames in the queue have the old format. The fan-out would write events in
        // the new format before them, so direct writes stop until they are written.
        if let Some(rest) = self.subscriber.suspend_direct_writes() {
            self.queue.push_front(rest);
        }
        self.messages.change_format(format);
        self.subscriber.change_format(format);
    }

    /// Queues a frame. It is written before events, and after earlier frames.
    pub fn queue_frame(&mut self, frame: Bytes) {
        self.queue.push(frame);
    }

    /// Returns the number of bytes of frames in the queue.
    pub fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Returns the number of heartbeats that were queued.
    pub fn heartbeats(&self) -> u32 {
        self.heartbeats
    }

    // === the end, and the answer that it waits for ===

    /// Records that the client has sent a command. Returns `false` if the end of the
    /// stream has been decided; the command must not be executed then.
    pub(super) fn note_received(&mut self) -> bool {
        if !self.subscriber.note_received() {
            self.begin_ending();
        }
        !self.is_ending()
    }

    /// Returns whether the end has been decided. No command starts after that.
    pub(super) fn is_ending(&self) -> bool {
        self.ending_since.is_some() || self.end.is_some()
    }

    /// Sets whether a command is in progress. The end waits for its answer until the
    /// deadline of [`Subscriber::answer_due`].
    pub(super) fn set_answering(&mut self, answering: bool) {
        self.answering = answering;
    }

    /// Returns whether the answer of the command in progress can still be written.
    pub(super) fn is_answering(&self) -> bool {
        self.answering
    }

    /// Fixes the time of the end at the first call, and returns it.
    fn begin_ending(&mut self) -> u64 {
        let since = self.ending_since.get_or_insert_with(|| {
            // From now on every tick wakes the task, because of the deadline.
            self.subscriber.set_needs_tick(true);
            NonZeroU64::MIN.saturating_add(self.subscriber.now())
        });
        since.get()
    }

    /// Returns whether the end has to wait for an answer. After the deadline it does
    /// not wait, and the answer is dropped.
    fn waits_for_answer(&mut self) -> bool {
        let since = self.begin_ending();
        self.answering &= self.subscriber.now() < self.subscriber.answer_due(since);
        self.answering
    }

    // === the loop ===

    /// Adds the next slices to `out`, which must be empty. Otherwise the task of
    /// `cx` is woken when there is something to write.
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

    /// Advances the read of a subscription that is catching up. Pending if there is
    /// no read, if the log is still being read, or if pacing permits no events yet.
    fn poll_catch_up(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Slice>,
        budget: WriteBudget,
        is_paced: bool,
    ) -> Poll<()> {
        // The read of a page is completed although the page has to wait: other
        // connections may wait for the same page, or for the permit of this read.
        let Some(catch_up) = self.catch_up.take_if(|it| !is_paced || it.is_reading()) else {
            return Poll::Pending;
        };
        let (next, polled) = catch_up.poll(cx, &mut self.connection(), out, budget);
        self.catch_up = next;
        polled
    }

    /// Returns the mode of the next call of the hub. The ring and the log take
    /// turns, so that neither starves the other.
    fn next_poll_mode(&mut self, is_paced: bool) -> PollMode {
        let mode = match self.catch_up {
            _ if is_paced => PollMode::Paced,
            Some(_) => PollMode::RingOnly,
            None => self.poll_mode,
        };
        self.poll_mode = if mode == PollMode::Ring { PollMode::Log } else { PollMode::Ring };
        mode
    }

    /// Records that these slices of the last fill are written. A slice that is
    /// partly written counts: the writer writes its rest before anything else.
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

    /// Drops the read of a subscription that is catching up, because the socket
    /// accepts no bytes. Other connections may wait for its page or its permit. The
    /// subscription keeps its position.
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
