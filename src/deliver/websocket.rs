//! The task of a WebSocket session. It decodes the messages of the client and
//! executes its commands one after the other. Its output uses the same
//! [`StreamSource`] and [`SocketWriter`] as an SSE or NDJSON stream.

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

/// The limit of the answers to commands that wait in the queue, in bytes. Above this
/// limit, the session does not read from the socket. So a client that sends commands
/// and does not read the answers uses little memory.
const ANSWER_BYTES: usize = 64 * 1024;

/// The time that the gateway waits for the client to close the connection after the
/// gateway has sent its close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest number of consecutive pings that a client may leave without a pong or
/// other data. After one more unanswered ping, the connection ends as idle.
const UNANSWERED_PINGS_MAX: u32 = 2;

/// A part of the result of a command. The session sends the replies of one command
/// in order.
#[derive(Debug)]
pub enum CommandReply {
    /// The answer to the command. The fields are the id of the command as JSON text,
    /// and the data as JSON.
    Response(Option<Bytes>, Vec<u8>),
    /// The rejection of the command. The fields are the id of the command as JSON
    /// text, and the problem.
    Error(Option<Bytes>, Problem),
    /// The answer to the command `get-status` in the bare format (messages without
    /// an envelope). The field is the status document as JSON.
    Status(Bytes),
    /// The `gap` message of a new subscription: the log no longer keeps some events
    /// that the client asked for.
    Gap(Gap, SubscriptionId),
    /// A change of the wire format: all later messages have the bare format
    /// (messages without an envelope).
    Bare,
}

/// The future that executes a command and returns its replies.
pub type CommandFuture = Pin<Box<dyn Future<Output = Vec<CommandReply>> + Send>>;

/// Executes the commands that a client sends in a WebSocket session.
pub trait CommandHandler: Send + Unpin {
    /// Returns a future that executes the command in a text message. The session
    /// starts the next command after this future has ended, so the commands of a
    /// session take effect in order. The session may drop the future early. If the
    /// command has started a write, this write is then still committed, but the
    /// client gets no answer.
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
    /// The decoder of a frame or message that is only partly received. It is boxed
    /// and optional, because most sessions have no partly received frame most of the
    /// time.
    decoder: Option<Box<Decoder>>,
    message_bytes_max: usize,
    message_timeout_ms: u64,
    control: TokenBucket,
    commands: C,
    running: Option<CommandFuture>,
    inbox: VecDeque<Message>,
    /// The number of heartbeats that the gateway had queued when it last received
    /// bytes of the client.
    heartbeats_answered: u32,
    /// The time of the hub's clock, in milliseconds, at which the first byte of the
    /// partly received message arrived. It is `None` if there is no such message.
    message_since: Option<u64>,
    state: State,
    /// A guard. The connection counts as open until the guard is dropped.
    _open: Option<Arc<dyn Send + Sync>>,
}

enum State {
    Open,
    /// The close frame is queued. No frame follows the close frame.
    Closing,
    /// All frames are written. Until this deadline, the session reads and drops the
    /// bytes of the client.
    Lingering(Pin<Box<Sleep>>),
}

impl<C: CommandHandler> Session<C> {
    /// Creates the session of a connection whose handshake is complete. `early`
    /// contains the bytes that the client has sent after its handshake. The
    /// connection counts as open until the guard `open` is dropped.
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

    // === input: messages of the client ===

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

    /// Closes the session if a message is not complete within `limits.body_timeout`.
    /// A partly received message uses memory. A client that sends a ping now and
    /// then would keep this message past every other deadline. While a message is
    /// incomplete, each tick of the hub wakes the task.
    fn check_message_deadline(&mut self) {
        // While a command is in progress, the session does not read. So the rest of
        // the message may already be in the socket.
        if self.running.is_some() {
            return;
        }
        let now = self.source.subscriber().now();
        if self.message_since.is_some_and(|since| now - since > self.message_timeout_ms) {
            self.close(
                CloseCode::Policy,
                "the client did not send its whole message in time",
                "client-error",
            );
        }
    }

    /// Runs the command in progress, starts the next command, and reads from the
    /// socket. The session reads only if no command is in progress and few answers
    /// are queued. One read can return hundreds of commands, each with a large
    /// answer.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(running) = &mut self.running {
                if !self.source.is_answering() {
                    // The close frame is already queued, so the answer can no longer
                    // be sent.
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

    // === output: frames for the client ===

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

    /// Reads and drops the bytes of the client until the client closes its side of
    /// the connection. If the gateway closed a socket with unread bytes, the kernel
    /// would reset the connection. The client could then lose the close frame
    /// because of the reset.
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

    /// Becomes ready if the hub ends the connection at once, even if a frame is only
    /// partly written. Otherwise the task of `cx` is woken when the state of the
    /// connection changes in the hub.
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

/// Returns the WebSocket close code for the reason `end`. Returns `None` for a
/// stalled connection, whose socket accepts no close frame.
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
            // The queued answers, which had stopped the reads, are now written. The
            // session must continue with its inbox now, because no event wakes the
            // task for messages in the inbox.
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
