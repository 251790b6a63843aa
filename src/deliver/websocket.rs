//! One WebSocket: what comes in is decoded and answered command by command,
//! what goes out comes from the same pump and the same writer as any stream.

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
use super::socket_writer::{SocketWriter, with_hand};
use super::source::{Filled, StreamSource};
use super::token_bucket::TokenBucket;
use super::transport::Transport;
use super::{CONTROL_SAVED, Settings};
use crate::hub::{EndReason, SubscriptionId};
use crate::wire::WireFormat;
use crate::wire::close::CloseCode;
use crate::wire::problem::Problem;
use crate::wire::websocket::{self, Decoder, Limits, Message};

/// Answers that may wait before no more is read: a client that sends commands
/// and reads nothing is slowed down, not given memory.
const ANSWER_BYTES: usize = 64 * 1024;

/// How long a client has to answer a close frame.
const LINGER: Duration = Duration::from_secs(2);

/// Heartbeats without a sign of life before a client is given up.
const UNANSWERED_PINGS_MAX: u32 = 2;

/// What a command came to, in the order it is to be said.
#[derive(Debug)]
pub enum CommandReply {
    /// An answer: the command's id as it came (JSON text), and data.
    Response(Option<Bytes>, Vec<u8>),
    /// A refusal.
    Error(Option<Bytes>, Problem),
    /// The answer to a bare `get-status`.
    Status(Bytes),
    /// Missing events at the start of a subscription.
    Gap(Gap, SubscriptionId),
    /// From here on the socket speaks bare.
    Bare,
}

/// A command under way.
pub type CommandFuture = Pin<Box<dyn Future<Output = Vec<CommandReply>> + Send>>;

/// Who understands what a client sends.
pub trait CommandHandler: Send + Unpin {
    /// Starts to carry out one text message. The next is given when this one
    /// is done, so commands of a socket take effect in order. The reaction may
    /// be dropped before its end: what it has written stays, unanswered.
    fn command(&mut self, text: String) -> CommandFuture;
}

/// Serves one socket to its end.
///
/// # Cancel safety
/// Dropping it cuts the connection and frees everything; the client resumes.
pub struct Session<C> {
    transport: Transport,
    pump: StreamSource,
    outlet: SocketWriter,
    /// Of what has come in part; none while nothing has, which is most of the
    /// time.
    decoder: Option<Box<Decoder>>,
    message_bytes_max: usize,
    message_timeout_ms: u64,
    control: TokenBucket,
    commands: C,
    running: Option<CommandFuture>,
    inbox: VecDeque<Message>,
    /// Heartbeats when the client was last heard.
    heard: u32,
    /// When the message that has begun and not ended began, in the hub's time.
    unfinished: Option<u64>,
    state: State,
    /// Makes the connection count as open.
    _open: Option<Arc<dyn Send + Sync>>,
}

enum State {
    Open,
    /// The close frame is said; nothing is said behind it.
    Closing,
    /// All is out; the client's last bytes are read until then.
    Lingering(Pin<Box<Sleep>>),
}

impl<C: CommandHandler> Session<C> {
    /// A session on a socket behind whose handshake nothing was written yet.
    /// `early` is what the client has sent behind the handshake. The connection
    /// counts as open as long as `open` lives.
    pub fn new(
        transport: Transport,
        pump: StreamSource,
        commands: C,
        settings: &Settings,
        early: &[u8],
        open: Option<Arc<dyn Send + Sync>>,
    ) -> Session<C> {
        if let Some(port) = transport.port() {
            pump.open_port(port);
        }
        let mut session = Session {
            transport,
            pump,
            outlet: SocketWriter::default(),
            decoder: None,
            message_bytes_max: settings.message_bytes_max,
            message_timeout_ms: settings.message_timeout.as_millis() as u64,
            control: TokenBucket::new(settings.control_rate.into()),
            commands,
            running: None,
            inbox: VecDeque::new(),
            heard: 0,
            unfinished: None,
            state: State::Open,
            _open: open,
        };
        session.take_input(early);
        session
    }

    // === what comes in ===

    fn take_input(&mut self, input: &[u8]) {
        self.pump.metrics().received_bytes.increment(input.len() as u64);
        self.heard = self.pump.heartbeats();
        let inbox = &mut self.inbox;
        let limits = Limits { message_bytes_max: self.message_bytes_max, ..Limits::default() };
        let mut decoder = self.decoder.take().map(|decoder| *decoder).unwrap_or_default();
        if let Err(violation) = decoder.feed(input, limits, |one| inbox.push_back(one)) {
            self.close(violation.close, violation.detail, "client-error");
        }
        let now = self.pump.subscriber().now();
        let control = decoder.take_control_frames();
        let moment = Duration::from_millis(now);
        if control > 0 && !self.control.take(control.into(), CONTROL_SAVED, moment) {
            self.close(CloseCode::Policy, "too many control frames", "control-rate");
        }
        let before = self.unfinished;
        self.unfinished = decoder.unfinished().then(|| before.unwrap_or(now));
        if self.unfinished.is_some() != before.is_some() {
            self.pump.subscriber().set_needs_tick(self.unfinished.is_some());
        }
        if !decoder.is_at_rest() {
            self.decoder = Some(Box::new(decoder));
        }
    }

    /// A message that never ends holds memory and, with a ping now and then,
    /// outlives every other deadline. Looked at whenever the task is woken,
    /// which every tick of the hub does as long as there is one.
    fn check_message_deadline(&mut self) {
        // Meanwhile nothing is read, so the rest may be here.
        if self.running.is_some() {
            return;
        }
        let now = self.pump.subscriber().now();
        if self.unfinished.is_some_and(|since| now - since > self.message_timeout_ms) {
            self.close(CloseCode::Policy, "a message took too long", "client-error");
        }
    }

    /// Reads while the last command is done and its answers are on their way:
    /// one read may hold hundreds of commands with a large answer each.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(running) = &mut self.running {
                if !self.pump.is_answering() {
                    // Its answer is too late: the close has been said.
                    self.running = None;
                    continue;
                }
                let said = ready!(running.as_mut().poll(cx));
                self.running = None;
                self.pump.set_answering(false);
                for say in said {
                    self.say(say);
                }
            } else if !matches!(self.state, State::Open)
                || self.pump.is_ending()
                || self.is_held_back()
            {
                return Poll::Pending;
            } else if let Some(incoming) = self.inbox.pop_front() {
                self.react(incoming);
            } else {
                self.inbox = VecDeque::new();
                ready!(self.poll_read(cx))?;
            }
        }
    }

    fn is_held_back(&self) -> bool {
        self.pump.waiting_bytes() > ANSWER_BYTES
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

    fn react(&mut self, incoming: Message) {
        match incoming {
            Message::Text(text) => {
                if self.pump.note_received() {
                    self.pump.set_answering(true);
                    self.running = Some(self.commands.command(text));
                }
            }
            Message::Binary(_) => self.close(CloseCode::NotText, "send text", "client-error"),
            Message::Ping(payload) => self.pump.say(websocket::pong(&payload)),
            Message::Pong(_) => {}
            Message::Close { code, .. } => {
                self.pump.say(websocket::close_reply(code));
                self.begin_closing("client");
            }
        }
    }

    // === what goes out ===

    fn say(&mut self, say: CommandReply) {
        let notices = self.pump.notices();
        let frame = match say {
            CommandReply::Response(id, data) => notices.response(id.as_deref(), &data),
            CommandReply::Error(id, problem) => notices.refusal(id.as_deref(), &problem),
            CommandReply::Status(document) => notices.status(&document),
            CommandReply::Gap(gap, subscription) => {
                let Some(reading) = self.pump.subscriber().read_request(subscription) else {
                    return;
                };
                self.pump.notices().gap_of(&gap, &reading)
            }
            CommandReply::Bare => return self.pump.change_format(WireFormat::Bare),
        };
        self.pump.say(frame);
    }

    fn close(&mut self, close: CloseCode, detail: &str, reason: &'static str) {
        if matches!(self.state, State::Open) {
            self.pump.say(websocket::close(close, detail));
            self.begin_closing(reason);
        }
    }

    fn begin_closing(&mut self, reason: &'static str) {
        self.pump.ends(reason);
        self.state = State::Closing;
        self.inbox = VecDeque::new();
        self.running = None;
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Session { transport, pump, outlet, state, .. } = self;
        let end = with_hand(|hand| {
            loop {
                ready!(outlet.poll_open(cx, transport, pump))?;
                if !matches!(state, State::Open) && pump.waiting_bytes() == 0 {
                    return Poll::Ready(Ok(None));
                }
                match ready!(pump.poll_fill(cx, hand)) {
                    Filled::Write => ready!(outlet.poll_hand(cx, transport, pump, hand))?,
                    Filled::Rest(rest) => outlet.take_over(rest),
                    Filled::End(end) => return Poll::Ready(Ok::<_, io::Error>(Some(end))),
                }
            }
        });
        if let Some(end) = ready!(end)? {
            if let Some(close) = close_code(end) {
                self.outlet.append(websocket::close(close, ""));
            }
            self.begin_closing(end.reason());
        }
        ready!(self.outlet.poll_finish(cx, &mut self.transport, &mut self.pump))?;
        self.state = State::Lingering(Box::pin(tokio::time::sleep(LINGER)));
        Poll::Ready(Ok(()))
    }

    /// Reads what still comes until the client closes its side too: a socket
    /// that is dropped with unread bytes is reset, and the reset can overtake
    /// the close frame.
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

    /// Ends at once where the hub asks for it although a frame may be half
    /// out; otherwise the task is woken by whatever comes.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.pump.subscriber().watch(cx, self.pump.is_answering()) {
            Some(ending) => {
                self.pump.ends(End::Ending(ending).reason());
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }
}

/// The code that says why; none where the socket takes nothing.
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
            let held_back = this.is_held_back();
            if let Poll::Ready(Err(_)) = this.poll_output(cx) {
                return Poll::Ready(());
            }
            // Answers that held back the reading are out: read on, since
            // nothing else would wake this task for what has come already.
            if !held_back || this.is_held_back() {
                break;
            }
        }
        if matches!(this.state, State::Lingering(_)) {
            return this.poll_linger(cx);
        }
        if this.pump.heartbeats() - this.heard > UNANSWERED_PINGS_MAX {
            this.heard = this.pump.heartbeats();
            this.pump.subscriber().end(EndReason::Idle);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.poll_cut(cx)
    }
}
