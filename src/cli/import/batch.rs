//! The lines on their way: sent, answered, sent again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use hyper::body::{Body, Frame};
use indicatif::ProgressBar;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::input::{Input, Line};
use crate::cli::client::{self, Answer, Error, GatewayUrl, Lines, Problem};

/// Bytes of lines that are sent and not answered. More would only wait in the
/// gateway's and the kernel's buffers, and here for a cut.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Longest wait for the answer to the oldest line without one. Nothing but
/// that answer puts the deadline off: neither bytes of an answer that is not
/// whole, nor more lines to send.
pub(super) const SILENCE: Duration = Duration::from_mins(1);

/// Longest wait for the end of an answer that has all its lines.
const CLOSING: Duration = Duration::from_secs(5);

/// Failed lines that are told one by one.
const PROBLEMS_MAX: usize = 5;

/// Chunks that wait for the connection to take them.
const CHUNKS_WAITING: usize = 2;

/// What became of the lines that were answered.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) created: u64,
    /// Sent before a cut, and found there when they were sent again.
    pub(super) already_there: u64,
    pub(super) failed: u64,
    /// The first failed lines: their numbers, and why.
    pub(super) problems: Vec<(u64, String)>,
}

impl Tally {
    /// How many lines were answered.
    pub(super) fn answered(&self) -> u64 {
        self.created + self.already_there + self.failed
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { created, already_there, failed, .. } = self;
        write!(f, "{created} created, {already_there} already there, {failed} failed")
    }
}

/// Why a connection has ended before all was done.
#[derive(Debug)]
pub(super) enum Stop {
    Stream(Error),
    Input(std::io::Error),
}

/// A line of the answer.
#[derive(Deserialize)]
struct Outcome {
    status: u16,
    #[serde(default)]
    problem: Option<Problem>,
}

/// The whole import, over all its connections.
pub(super) struct Batch<'a> {
    input: Input,
    /// The input has no more.
    ended: bool,
    /// Lines without an answer, in the order in which answers come.
    pending: VecDeque<Line>,
    /// Their bytes.
    pending_bytes: usize,
    /// Lines that the gateway could not take just now, and why the last.
    deferred: Vec<Line>,
    deferral: Option<Error>,
    silence: Duration,
    tally: Tally,
    progress: &'a ProgressBar,
}

impl<'a> Batch<'a> {
    /// A batch that waits at most `silence` for the answer to its oldest line.
    pub(super) fn new(input: Input, silence: Duration, progress: &'a ProgressBar) -> Batch<'a> {
        Batch {
            input,
            ended: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            deferred: Vec::new(),
            deferral: None,
            silence,
            tally: Tally::default(),
            progress,
        }
    }

    /// Waits until there is something to send; false when all is done.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn wait(&mut self) -> std::io::Result<bool> {
        while self.pending.is_empty() && !self.ended {
            let lines = self.input.next().await?;
            self.take_in(lines);
        }
        Ok(!self.pending.is_empty())
    }

    /// How many lines were answered.
    pub(super) fn answered(&self) -> u64 {
        self.tally.answered()
    }

    /// Whether no line is without an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// What became of the lines.
    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Sends what is pending and then what the input has, over one
    /// connection, to the end of the input or of the connection.
    ///
    /// # Cancel safety
    /// Not safe: what was sent would be forgotten.
    pub(super) async fn connected(&mut self, target: &GatewayUrl, path: &str) -> Result<(), Stop> {
        let result = self.exchange(target, path).await;
        for line in &mut self.pending {
            line.sent_before = true;
        }
        for line in self.deferred.drain(..).rev() {
            self.pending_bytes += line.text.len();
            self.pending.push_front(line);
        }
        match result {
            Ok(()) if !self.pending.is_empty() => {
                Err(Stop::Stream(self.deferral.take().unwrap_or(Error::Ended)))
            }
            result => result,
        }
    }

    async fn exchange(&mut self, target: &GatewayUrl, path: &str) -> Result<(), Stop> {
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        let request = target
            .request("POST", path)
            .header("content-type", "application/x-ndjson")
            .header("accept", "application/x-ndjson")
            .body(Outgoing(chunks))
            .map_err(|error| Stop::Stream(Error::Request(error)))?;
        let mut sender = Some(sender);
        let mut outbox = joined(&self.pending, 0);
        let mut head = pin!(target.send(request));
        let mut answer: Option<Answer> = None;
        let mut lines = Lines::default();
        let mut wait = None;
        loop {
            let last = self.ended || !self.deferred.is_empty();
            let closing = last && self.pending.is_empty();
            wait = self.wait_for(last, wait);
            if last && outbox.is_none() {
                sender = None;
            }
            let reads = sender.is_some() && outbox.is_none() && self.pending_bytes < WINDOW_BYTES;
            tokio::select! {
                permit = reserve(sender.clone()), if outbox.is_some() && sender.is_some() => {
                    match (permit, outbox.take()) {
                        (Ok(permit), Some(chunk)) => drop(permit.send(chunk)),
                        // The connection takes no more; its answer says why.
                        _ => sender = None,
                    }
                }
                read = self.input.next(), if reads => {
                    let read = read.map_err(Stop::Input)?;
                    let first = self.pending.len();
                    self.take_in(read);
                    outbox = joined(&self.pending, first);
                }
                received = receive(&mut head, answer.as_mut(), wait) => {
                    if closing && matches!(received, Ok(Received::End) | Err(_)) {
                        return Ok(());
                    }
                    match received.map_err(Stop::Stream)? {
                        Received::Head(received) if received.status() == StatusCode::OK => {
                            answer = Some(received);
                        }
                        Received::Head(received) => {
                            return Err(Stop::Stream(received.refusal().await));
                        }
                        Received::Chunk(chunk) => self.answers(&mut lines, &chunk)?,
                        Received::End => return Err(Stop::Stream(Error::Ended)),
                    }
                }
            }
        }
    }

    /// What is waited for after `before`, which goes on if it is the same:
    /// the answer to the oldest line, or the end behind the `last` answer.
    fn wait_for(&self, last: bool, before: Option<Wait>) -> Option<Wait> {
        let (line, most) = match self.pending.front() {
            Some(line) => (Some(line.number), self.silence),
            None if last => (None, CLOSING),
            None => return None,
        };
        let same = before.filter(|before| before.line == line);
        same.or_else(|| Some(Wait { line, most, due: Instant::now() + most }))
    }

    fn take_in(&mut self, lines: Option<Vec<Line>>) {
        match lines {
            None => self.ended = true,
            Some(lines) => {
                self.pending_bytes += lines.iter().map(|line| line.text.len()).sum::<usize>();
                self.pending.extend(lines);
            }
        }
    }

    fn answers(&mut self, lines: &mut Lines, chunk: &[u8]) -> Result<(), Stop> {
        lines.push(chunk);
        while let Some(text) = lines.next().map_err(Stop::Stream)? {
            let outcome: Option<Outcome> = serde_json::from_slice(&text).ok();
            let (Some(outcome), Some(line)) = (outcome, self.pending.pop_front()) else {
                return Err(Stop::Stream(Error::Ended));
            };
            self.pending_bytes -= line.text.len();
            self.answer(outcome, line);
        }
        self.progress.set_message(format!("{} lines", self.tally.answered()));
        Ok(())
    }

    fn answer(&mut self, outcome: Outcome, mut line: Line) {
        let status = StatusCode::from_u16(outcome.status).unwrap_or_default();
        match outcome.status {
            200..=299 => self.tally.created += 1,
            409 if line.sent_before => self.tally.already_there += 1,
            // Refused, hence not written: another try can do no harm.
            _ if client::is_transient(status) => {
                line.sent_before = false;
                self.deferred.push(line);
                let problem = outcome.problem.unwrap_or_default();
                self.deferral = Some(Error::Refused { status, problem, after: None });
                return;
            }
            code => {
                self.tally.failed += 1;
                if self.tally.problems.len() < PROBLEMS_MAX {
                    let problem = outcome.problem.unwrap_or_default();
                    self.tally.problems.push((line.number, format!("{code}: {problem}")));
                }
            }
        }
        self.progress.inc(line.text.len() as u64);
    }
}

/// The lines from the `first` on as one chunk; none if there are none.
fn joined(lines: &VecDeque<Line>, first: usize) -> Option<Bytes> {
    if first == lines.len() {
        return None;
    }
    let mut chunk = BytesMut::new();
    for line in lines.range(first..) {
        chunk.extend_from_slice(&line.text);
    }
    Some(chunk.freeze())
}

async fn reserve(
    sender: Option<mpsc::Sender<Bytes>>,
) -> Result<mpsc::OwnedPermit<Bytes>, mpsc::error::SendError<()>> {
    match sender {
        Some(sender) => sender.reserve_owned().await,
        None => Err(mpsc::error::SendError(())),
    }
}

enum Received {
    Head(Answer),
    Chunk(Bytes),
    End,
}

/// A wait for one answer, however many bytes of it have come.
#[derive(Clone, Copy)]
struct Wait {
    /// The line whose answer it is; none for the end.
    line: Option<u64>,
    most: Duration,
    due: Instant,
}

/// The next thing that the gateway says, within the deadline of `wait`.
async fn receive(
    head: &mut Pin<&mut impl Future<Output = Result<Answer, Error>>>,
    answer: Option<&mut Answer>,
    wait: Option<Wait>,
) -> Result<Received, Error> {
    let receiving = async {
        match answer {
            None => head.as_mut().await.map(Received::Head),
            Some(answer) => match answer.chunk().await {
                None => Ok(Received::End),
                Some(chunk) => chunk.map(Received::Chunk),
            },
        }
    };
    match wait {
        None => receiving.await,
        // A server that always has a byte ready would never let the timer have
        // its turn.
        Some(wait) if wait.due <= Instant::now() => Err(Error::Silence(wait.most)),
        Some(wait) => {
            let received = tokio::time::timeout_at(wait.due, receiving).await;
            received.unwrap_or(Err(Error::Silence(wait.most)))
        }
    }
}

/// A request's body out of the chunks of a channel.
struct Outgoing(mpsc::Receiver<Bytes>);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}
