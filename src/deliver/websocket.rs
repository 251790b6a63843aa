//! A WebSocket session. It decodes messages, and executes one command after the
//! other. Its output has the same source and writer as any other stream.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::Sleep;

use super::end::End;
use super::gap::Gap;
use super::scratch::with_scratch;
use super::socket_writer::SocketWriter;
use super::source::StreamSource;
use super::token_bucket::TokenBucket;
use super::transport::Transport;
use super::{CONTROL_SAVED, Settings};
use crate::hub::{EndReason, SubscriptionId};
use crate::wire::WireFormat;
use crate::wire::close::CloseCode;
use crate::wire::problem::Problem;
use crate::wire::websocket::{self, Decoder, Limits, Message};

/// The limit of queued answers, in bytes. Above this limit, the session does not
/// read. So a client that sends commands and does not read answers uses little
/// memory.
const ANSWER_BYTES: usize = 64 * 1024;

/// The time that a client has to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of pings that a client may leave unanswered.
const UNANSWERED_PINGS_MAX: u32 = 2;

/// One reply to a command. The replies of a command are sent in order.
#[derive(Debug)]
pub enum CommandReply {
    /// The answer: the id of the command as JSON text, and the data.
    Response(Option<Bytes>, Vec<u8>),
    /// The rejection of the command.
    Error(Option<Bytes>, Problem),
    /// The answer to the bare message `get-status`.
    Status(Bytes),
    /// A gap at the start of a subscription.
    Gap(Gap, SubscriptionId),
    /// Later messages have the bare format.
    Bare,
}

/// A command in progress.
pub type CommandFuture = Pin<Box<dyn Future<Output = Vec<CommandReply>> + Send>>;

/// The handler of the commands of a session.
pub trait CommandHandler: Send + Unpin {
    /// Starts to execute the command in a text message. The session calls it again
    /// after the command has ended, so the commands of a session take effect in
    /// order. The session may drop the future before its end. A write that the
    /// command has started is committed then, without an answer.
    fn command(&mut self, text: String) -> CommandFuture;
}

/// The task of a WebSocket session.
///
/// # Cancel safety
/// Dropping the future closes the connection at once. The client can resume.
pub struct Session<C> {
    transport: Transport,
    source: StreamSource,
    writer: SocketWriter,
    /// The decoder of a frame or message that has arrived in part. It is boxed and
    /// optional, because most sessions have none most of the time.
    decoder: Option<Box<Decoder>>,
    message_bytes_max: usize,
    message_timeout_ms: u64,
    control: TokenBucket,
    commands: C,
    running: Option<CommandFuture>,
    inbox: VecDeque<Message>,
    /// The number of heartbeats when bytes of the client last arrived.
    heartbeats_answered: u32,
    /// The hub's time at which the incomplete message began.
    message_since: Option<u64>,
    state: State,
    /// Counts the connection as open.
    _open: Option<Arc<dyn Send + Sync>>,
}

enum State {
    Open,
    /// The close frame is queued. No frame follows.
    Closing,
    /// All frames are written. Bytes of the client are read until this deadline.
    Lingering(Pin<Box<Sleep>>),
}

impl<C: CommandHandler> Session<C> {
    /// Returns the session of a connection whose handshake is complete. `early`
    /// contains the bytes that the client has sent after the handshake. The
    /// connection counts as open as long as `open` lives.
    pub fn new(
        transport: Transport,
        source: StreamSource,
        commands: C,
        settings: &Settings,
        early: &[u8],
        open: Option<Arc<dyn Send + Sync>>,
    ) -> Session<C> {
        if let Some(direct_writer) = transport.direct_writer() {
            source.allow_direct_writes(direct_writer);
        }
        let mut session = Session {
            transport,
            source,
            writer: SocketWriter::default(),
            decoder: None,
            message_bytes_max: settings.message_bytes_max,
            message_timeout_ms: settings.message_timeout.as_millis() as u64,
            control: TokenBucket::new(settings.control_rate.into()),
            commands,
            running: None,
            inbox: VecDeque::new(),
            heartbeats_answered: 0,
            message_since: None,
            state: State::Open,
            _open: open,
        };
        session.take_input(early);
        session
    }

    // === input ===

    fn take_input(&mut self, input: &[u8]) {
        self.source.metrics().received_bytes.increment(input.len() as u64);
        self.heartbeats_answered = self.source.heartbeats();
        let inbox = &mut self.inbox;
        let limits = Limits { message_bytes_max: self.message_bytes_max, ..Limits::default() };
        let mut decoder = self.decoder.take().map(|decoder| *decoder).unwrap_or_default();
        if let Err(error) = decoder.feed(input, limits, |message| inbox.push_back(message)) {
            self.close(error.close, error.detail, "client-error");
        }
        let now = self.source.subscriber().now();
        let control = decoder.take_control_frames();
        let elapsed = Duration::from_millis(now);
        if control > 0 && !self.control.take(control.into(), CONTROL_SAVED, elapsed) {
            self.close(CloseCode::Policy, "too many control frames", "control-rate");
        }
        let before = self.message_since;
        self.message_since = decoder.unfinished().then(|| before.unwrap_or(now));
        if self.message_since.is_some() != before.is_some() {
            self.source.subscriber().set_needs_tick(self.message_since.is_some());
        }
        if !decoder.is_at_rest() {
            self.decoder = Some(Box::new(decoder));
        }
    }

    /// Closes the session if a message takes too long. An incomplete message uses
    /// memory, and with a ping now and then it would outlive every other deadline.
    /// Each tick of the hub wakes the task while a message is incomplete.
    fn check_message_deadline(&mut self) {
        // The session does not read during a command. The rest of the message may
        // have arrived.
        if self.running.is_some() {
            return;
        }
        let now = self.source.subscriber().now();
        if self.message_since.is_some_and(|since| now - since > self.message_timeout_ms) {
            self.close(CloseCode::Policy, "a message took too long", "client-error");
        }
    }

    /// Executes commands and reads the next ones. The session reads only if no
    /// command is in progress and few answers are queued, because one read can
    /// return hundreds of commands with a large answer each.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(running) = &mut self.running {
                if !self.source.is_answering() {
                    // The answer is too late, because the close frame is queued.
                    self.running = None;
                    continue;
                }
                let replies = ready!(running.as_mut().poll(cx));
                self.running = None;
                self.source.set_answering(false);
                for reply in replies {
                    self.queue_reply(reply);
                }
            } else if !matches!(self.state, State::Open)
                || self.source.is_ending()
                || self.is_held_back()
            {
                return Poll::Pending;
            } else if let Some(message) = self.inbox.pop_front() {
                self.handle(message);
            } else {
                self.inbox = VecDeque::new();
                ready!(self.poll_read(cx))?;
            }
        }
    }

    fn is_held_back(&self) -> bool {
        self.source.queued_bytes() > ANSWER_BYTES
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.take_input(buffer.filled());
            Poll::Ready(Ok(()))
        })
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Text(text) => {
                if self.source.note_received() {
                    self.source.set_answering(true);
                    self.running = Some(self.commands.command(text));
                }
            }
            Message::Binary(_) => self.close(CloseCode::NotText, "send text", "client-error"),
            Message::Ping(payload) => self.source.queue_frame(websocket::pong(&payload)),
            Message::Pong(_) => {}
            Message::Close { code, .. } => {
                self.source.queue_frame(websocket::close_reply(code));
                self.begin_closing("client");
            }
        }
    }

    // === output ===

    fn queue_reply(&mut self, reply: CommandReply) {
        let messages = self.source.messages();
        let frame = match reply {
            CommandReply::Response(id, data) => messages.response(id.as_deref(), &data),
            CommandReply::Error(id, problem) => messages.rejection(id.as_deref(), &problem),
            CommandReply::Status(document) => messages.status(&document),
            CommandReply::Gap(gap, subscription) => {
                let Some(request) = self.source.subscriber().read_request(subscription) else {
                    return;
                };
                self.source.messages().gap_of(&gap, &request)
            }
            CommandReply::Bare => return self.source.change_format(WireFormat::Bare),
        };
        self.source.queue_frame(frame);
    }

    fn close(&mut self, close: CloseCode, detail: &str, reason: &'static str) {
        if matches!(self.state, State::Open) {
            self.source.queue_frame(websocket::close(close, detail));
            self.begin_closing(reason);
        }
    }

    fn begin_closing(&mut self, reason: &'static str) {
        self.source.set_end_label(reason);
        self.state = State::Closing;
        self.inbox = VecDeque::new();
        self.running = None;
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Session { transport, source, writer, state, .. } = self;
        let closing = !matches!(state, State::Open);
        let is_done = |source: &StreamSource| closing && source.queued_bytes() == 0;
        let end = ready!(writer.poll_stream(cx, transport, source, is_done))?;
        if let Some(end) = end {
            if let Some(close) = close_code(end) {
                self.writer.append(websocket::close(close, ""));
            }
            self.begin_closing(end.reason());
        }
        ready!(self.writer.poll_finish(cx, &mut self.transport, &mut self.source))?;
        self.state = State::Lingering(Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        Poll::Ready(Ok(()))
    }

    /// Reads and drops bytes until the client closes its side. If a socket is closed
    /// with unread bytes, the kernel resets the connection, and the reset can
    /// overtake the close frame.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::Lingering(deadline) = &mut self.state else { return Poll::Pending };
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        with_scratch(|scratch| {
            loop {
                let mut buffer = ReadBuf::new(scratch);
                let read = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer));
                if read.is_err() || buffer.filled().is_empty() {
                    return Poll::Ready(());
                }
            }
        })
    }

    /// Ready if the hub ends the connection at once, even in the middle of a frame.
    /// Otherwise the task is woken by the next change.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.source.subscriber().watch(cx, self.source.is_answering()) {
            Some(end_reason) => {
                self.source.set_end_label(End::Ending(end_reason).reason());
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }
}

/// Returns the close code for an end. Returns `None` if the socket accepts no bytes.
fn close_code(end: End) -> Option<CloseCode> {
    match end {
        End::Ending(EndReason::Drained | EndReason::Lifetime) => Some(CloseCode::Draining),
        End::Ending(EndReason::Overflow) => Some(CloseCode::Overloaded),
        End::Ending(EndReason::Stalled) => None,
        End::Ending(EndReason::Idle) => Some(CloseCode::Idle),
        End::HistoryGone => Some(CloseCode::HistoryGone),
        End::Unreadable => Some(CloseCode::Internal),
    }
}

impl<C: CommandHandler> Future for Session<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.check_message_deadline();
        while !matches!(this.state, State::Lingering(_)) {
            if let Poll::Ready(Err(_)) = this.poll_input(cx) {
                return Poll::Ready(());
            }
            let was_held_back = this.is_held_back();
            if let Poll::Ready(Err(_)) = this.poll_output(cx) {
                return Poll::Ready(());
            }
            // The answers that stopped the reads are written. The session must read
            // now, because nothing wakes this task for messages in the inbox.
            if !was_held_back || this.is_held_back() {
                break;
            }
        }
        if matches!(this.state, State::Lingering(_)) {
            return this.poll_linger(cx);
        }
        if this.source.heartbeats() - this.heartbeats_answered > UNANSWERED_PINGS_MAX {
            this.heartbeats_answered = this.source.heartbeats();
            this.source.subscriber().end(EndReason::Idle);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.poll_cut(cx)
    }
}
