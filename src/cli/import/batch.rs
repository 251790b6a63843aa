//! The batch of an import: sends lines, matches them with their answers, and sends lines
//! without an answer again on the next connection.

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

/// The largest total size, in bytes, of the lines that were sent and have no answer.
/// More lines would only wait in the buffers of the gateway and the kernel. After a
/// lost connection, they would be sent again.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// The longest wait for the answer to the oldest line without an answer. Only that
/// answer extends the deadline. Bytes of an incomplete answer and further lines of
/// the input do not extend the deadline.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest wait for the end of the response after the answer to the last line.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest number of failed lines that are reported one by one.
const PROBLEMS_MAX: usize = 5;

/// The largest number of chunks that are queued for the connection.
const CHUNKS_QUEUED: usize = 2;

/// The number of answered lines for each result.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) created: u64,
    /// The number of lines that were sent again after a lost connection and whose
    /// resource already existed.
    pub(super) already_there: u64,
    pub(super) failed: u64,
    /// The first failed lines. An item is the number of the line and the reason of
    /// the failure.
    pub(super) problems: Vec<(u64, String)>,
}

impl Counts {
    /// Returns the number of answered lines.
    pub(super) fn answered(&self) -> u64 {
        self.created + self.already_there + self.failed
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { created, already_there, failed, .. } = self;
        write!(f, "{created} created, {already_there} already there, {failed} failed")
    }
}

/// The reason why a connection ended before the import was complete.
#[derive(Debug)]
pub(super) enum Stop {
    Stream(Error),
    Input(std::io::Error),
}

/// The answer to one line.
#[derive(Deserialize)]
struct LineAnswer {
    status: u16,
    #[serde(default)]
    problem: Option<Problem>,
}

/// The state of an import. If a connection is lost, the next connection continues
/// with this state.
pub(super) struct Batch<'a> {
    input: Input,
    /// Whether the end of the input was read.
    ended: bool,
    /// The lines that were read and have no answer yet, in the order in which the
    /// gateway answers them.
    pending: VecDeque<Line>,
    /// The number of bytes of the pending lines.
    pending_bytes: usize,
    /// The lines that failed with a transient error on this connection. They are
    /// sent again on the next connection.
    deferred: Vec<Line>,
    /// The error of the last line in `deferred`.
    deferral: Option<Error>,
    answer_timeout: Duration,
    counts: Counts,
    progress: &'a ProgressBar,
}

impl<'a> Batch<'a> {
    /// Creates a batch that waits at most `answer_timeout` for the answer to the oldest line
    /// without an answer.
    pub(super) fn new(
        input: Input,
        answer_timeout: Duration,
        progress: &'a ProgressBar,
    ) -> Batch<'a> {
        Batch {
            input,
            ended: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            deferred: Vec::new(),
            deferral: None,
            answer_timeout,
            counts: Counts::default(),
            progress,
        }
    }

    /// Waits until there is a line to send, and returns true. Returns false if the
    /// import is complete.
    ///
    /// # Errors
    /// The error of the input.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn wait(&mut self) -> std::io::Result<bool> {
        while self.pending.is_empty() && !self.ended {
            let lines = self.input.next().await?;
            self.add_lines(lines);
        }
        Ok(!self.pending.is_empty())
    }

    /// Returns the number of answered lines.
    pub(super) fn answered(&self) -> u64 {
        self.counts.answered()
    }

    /// Returns whether every sent line has an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the number of answered lines for each result.
    pub(super) fn into_counts(self) -> Counts {
        self.counts
    }

    /// Sends the lines in `pending`, and then the further lines of the input, over
    /// one connection. Returns when all lines are answered or when the connection
    /// ends.
    ///
    /// # Errors
    /// The reason why the connection ended before all lines were answered.
    ///
    /// # Cancel safety
    /// Not safe: the lines that were sent are not marked as sent.
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
        let (sender, chunks) = mpsc::channel(CHUNKS_QUEUED);
        let request = target
            .request("POST", path)
            .header("content-type", "application/x-ndjson")
            .header("accept", "application/x-ndjson")
            .body(ChannelBody(chunks))
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
                        // The connection does not read the request body any more.
                        // The response has the reason.
                        _ => sender = None,
                    }
                }
                read = self.input.next(), if reads => {
                    let read = read.map_err(Stop::Input)?;
                    let first = self.pending.len();
                    self.add_lines(read);
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
                            return Err(Stop::Stream(received.into_error().await));
                        }
                        Received::Chunk(chunk) => self.answers(&mut lines, &chunk)?,
                        Received::End => return Err(Stop::Stream(Error::Ended)),
                    }
                }
            }
        }
    }

    /// Returns the wait for the answer to the oldest line in `pending`. If `last` is
    /// true and `pending` is empty, returns the wait for the end of the response. If
    /// `before` is a wait for the same answer, returns `before`, so the deadline
    /// does not move.
    fn wait_for(&self, last: bool, before: Option<Wait>) -> Option<Wait> {
        let (line, timeout) = match self.pending.front() {
            Some(line) => (Some(line.number), self.answer_timeout),
            None if last => (None, END_TIMEOUT),
            None => return None,
        };
        let same = before.filter(|before| before.line == line);
        same.or_else(|| Some(Wait { line, timeout, due: Instant::now() + timeout }))
    }

    fn add_lines(&mut self, lines: Option<Vec<Line>>) {
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
            let answer: Option<LineAnswer> = serde_json::from_slice(&text).ok();
            let (Some(answer), Some(line)) = (answer, self.pending.pop_front()) else {
                return Err(Stop::Stream(Error::Ended));
            };
            self.pending_bytes -= line.text.len();
            self.count(answer, line);
        }
        self.progress.set_message(format!("{} lines", self.counts.answered()));
        Ok(())
    }

    fn count(&mut self, answer: LineAnswer, mut line: Line) {
        let status = StatusCode::from_u16(answer.status).unwrap_or_default();
        match answer.status {
            200..=299 => self.counts.created += 1,
            409 if line.sent_before => self.counts.already_there += 1,
            // The gateway did not write this line. The next attempt is therefore not
            // a repeated write.
            _ if client::is_transient(status) => {
                line.sent_before = false;
                self.deferred.push(line);
                let problem = answer.problem.unwrap_or_default();
                self.deferral = Some(Error::Rejected { status, problem, retry_after: None });
                return;
            }
            code => {
                self.counts.failed += 1;
                if self.counts.problems.len() < PROBLEMS_MAX {
                    let problem = answer.problem.unwrap_or_default();
                    self.counts.problems.push((line.number, format!("{code}: {problem}")));
                }
            }
        }
        self.progress.inc(line.text.len() as u64);
    }
}

/// Returns the lines from the index `first` on as one chunk. Returns `None` if there
/// are no such lines.
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

/// A wait for the answer to one line or for the end of the response, with a
/// deadline. Bytes of an incomplete answer do not extend the deadline.
#[derive(Clone, Copy)]
struct Wait {
    /// The number of the line. It is `None` if this is the wait for the end of the
    /// response.
    line: Option<u64>,
    timeout: Duration,
    due: Instant,
}

/// Waits for the next part of the response: its head, a chunk of its body, or its
/// end.
///
/// # Errors
/// [`Error::Silence`] after the deadline of `wait`, and the errors of the connection.
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
        // timeout_at() polls the timer only if no byte is ready. The check here applies the
        // deadline to a server that always has a byte ready.
        Some(wait) if wait.due <= Instant::now() => Err(Error::Silence(wait.timeout)),
        Some(wait) => {
            let received = tokio::time::timeout_at(wait.due, receiving).await;
            received.unwrap_or(Err(Error::Silence(wait.timeout)))
        }
    }
}

/// A request body that consists of the chunks from a channel.
struct ChannelBody(mpsc::Receiver<Bytes>);

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}
