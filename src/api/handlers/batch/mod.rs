//! The handler of NDJSON batches. Each line of a batch is a separate write. A batch
//! uses constant memory.
//!
//! Lines are collected into groups as they arrive. A few groups are in progress at
//! once, so that three steps overlap: the read of the body, the commit of the lines,
//! and the sending of the answers. A group costs its bytes and one allocation for
//! its future. There is no task per line.

mod answers;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{EXPECT, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};

use answers::{Sender, Stopped, answers};

use crate::api::answer::{body::Body, media_type::MediaType, problem, response};
use crate::api::authorize::{Action, Permit, Target, authorize};
use crate::api::context::Caller;
use crate::api::handlers::write::{WriteRequest, creation, publication};
use crate::api::request::{body_reader::BodyReader, idempotency};
use crate::api::state::{Api, BodyWait, InFlightGuard};
use crate::deliver::H2SendTracker;
use crate::log::{self, AppendOutcome, AppendRejection, Log, Write};
use crate::wire::LogKind;
use crate::wire::json::Json;
use crate::wire::lines::{Line, Lines};
use crate::wire::problem::Problem;

/// The largest number of lines of a group. A group is the lines of a batch that are
/// appended to the log together. With eight groups in progress and one fsync of a
/// millisecond for all, a batch writes two million lines a second, more than any
/// disk can write.
const GROUP_LINES: usize = 256;
/// The largest number of bytes of a group of lines, as the client sent them. A
/// larger line forms a group by itself.
const GROUP_BYTES: usize = 256 * 1024;
/// The largest number of groups of lines in progress. Together with the group that
/// is being filled, a batch uses at most 9 × (256 KiB + one line) of memory.
const GROUPS_MAX: usize = 8;

/// The header that names an applied preference (RFC 7240).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Handles a `POST` request with an `application/x-ndjson` body to a collection or a
/// topic.
///
/// # Errors
/// 400 for an `Idempotency-Key` or a precondition: both apply to a single write and
/// not to a batch.
///
/// # Cancel safety
/// Safe: if the future is dropped, no line is written.
pub async fn batch(request: WriteRequest<'_>, log: &Arc<Log>) -> Result<Response<Body>, Problem> {
    let WriteRequest { api, context, body, .. } = request;
    let headers = &context.head.headers;
    if idempotency::header(headers)?.is_some() {
        return Err(problem::header("Idempotency-Key applies to one write; omit it for a batch"));
    }
    if headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH) {
        return Err(problem::header(
            "If-Match and If-None-Match apply to one write; omit them for a batch",
        ));
    }
    // A client with `Expect: 100-continue` sends the body only after a 100 response.
    // The first read of the body makes hyper send the 100 before the final response.
    let mut body = BodyReader::new(&api.settings, &api.metrics, body);
    let first = if headers.contains_key(EXPECT) {
        let _wait = BodyWait::new(api);
        body.next().await?
    } else {
        None
    };
    let minimal = prefers_minimal(headers);
    let settings = &api.settings;
    let (bytes_max, stall_timeout) = (settings.batch_answer_bytes, settings.stall_timeout);
    let answers = answers(api, bytes_max, stall_timeout, |sender| {
        let mut run = Run {
            api: Arc::clone(api),
            log: Arc::clone(log),
            path: context.head.uri.path().to_owned(),
            body,
            send_tracker: context.connection.flow.clone(),
            lines: Lines::new(settings.body_bytes_max),
            sender,
            caller: context.caller,
            allowance: 0,
            minimal,
            ended: false,
            filling: Group::default(),
            in_progress: VecDeque::new(),
            written: 0,
            failed: 0,
            in_flight: Some(InFlightGuard::new(api)),
        };
        run.feed(&first.unwrap_or_default());
        async move {
            // The client has gone; ignore the error.
            let _ = run.run().await;
        }
    });
    let mut response = response::new(200, MediaType::Ndjson, Body::Steps(Box::new(answers)));
    if minimal {
        let applied = HeaderValue::from_static("return=minimal");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

fn prefers_minimal(headers: &hyper::HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    preferences.any(|preference| {
        let token = preference.split(';').next().unwrap_or_default();
        token.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("return")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("minimal")
        })
    })
}

type Appended = Result<Vec<Result<AppendOutcome, AppendRejection>>, log::Error>;

/// Lines of a batch that are appended to the log together.
#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    /// The number of each line, and its problem if the line is not a valid write.
    lines: Vec<(u64, Option<Problem>)>,
    bytes: usize,
}

impl Group {
    fn is_full(&self) -> bool {
        self.lines.len() >= GROUP_LINES || self.bytes >= GROUP_BYTES
    }

    /// Adds the write of the line with the number `line`. The permit proves that the
    /// write was authorized.
    fn push(&mut self, _permit: Permit, line: u64, write: Write) {
        self.writes.push(write);
        self.lines.push((line, None));
    }

    /// Removes the first `count` writes and their lines from this group, and returns
    /// them as a group.
    fn split(&mut self, count: usize) -> Group {
        if count >= self.writes.len() {
            return std::mem::take(self);
        }
        let writes = self.writes.drain(..count).collect();
        let mut left = count;
        let end = self.lines.iter().position(|(_, problem)| match problem {
            Some(_) => false,
            None if left == 0 => true,
            None => {
                left -= 1;
                false
            }
        });
        let lines = self.lines.drain(..end.unwrap_or(0)).collect();
        // This group still counts the bytes of the removed lines, so it is full
        // earlier. That does no harm.
        Group { writes, lines, bytes: 0 }
    }
}

/// A group of lines whose writes are queued in the log.
struct QueuedGroup {
    lines: Vec<(u64, Option<Problem>)>,
    appended: Pin<Box<dyn Future<Output = Appended> + Send>>,
}

/// The state of a batch while its body is read and its lines are written.
struct Run {
    api: Arc<Api>,
    log: Arc<Log>,
    path: String,
    body: BodyReader,
    /// Tracks the unsent bytes of the HTTP/2 stream. `None` on HTTP/1.
    send_tracker: Option<Arc<H2SendTracker>>,
    lines: Lines,
    sender: Sender,
    /// The caller that sent the batch.
    caller: Caller,
    /// The number of events that the publish rate of the client allows now.
    allowance: u32,
    minimal: bool,
    ended: bool,
    /// The group of lines that is being filled with the next lines of the batch.
    filling: Group,
    /// The groups of lines whose writes are queued in the log.
    in_progress: VecDeque<QueuedGroup>,
    written: u64,
    failed: u64,
    /// Counts the batch as in flight while lines that have arrived are not answered. The
    /// drain waits for these lines, and does not wait for a client that sends no more.
    in_flight: Option<InFlightGuard>,
}

impl Run {
    async fn run(mut self) -> Result<(), Stopped> {
        loop {
            self.fill();
            while self.can_queue() && self.missing_allowance() == 0 {
                self.queue().await;
                self.fill();
            }
            if self.ended && self.filling.lines.is_empty() && self.in_progress.is_empty() {
                break;
            }
            if self.has_unanswered_lines() != self.in_flight.is_some() {
                let api = &self.api;
                self.in_flight = self.in_flight.is_none().then(|| InFlightGuard::new(api));
            }
            let reads = !self.ended && !self.filling.is_full();
            let events = if self.can_queue() { self.missing_allowance() } else { 0 };
            tokio::select! {
                biased;
                appended = front(&mut self.in_progress), if !self.in_progress.is_empty() => {
                    // The answers may have to wait until the client reads. Do not
                    // measure the rate of the request body during this time.
                    self.body.hold();
                    let group = self.in_progress.pop_front().expect("its front was awaited");
                    self.answer(group.lines, appended).await?;
                }
                allowed = self.api.publish_in_time(self.caller.client, events), if events > 0 => {
                    if !reads {
                        self.body.hold();
                    }
                    self.allowance += allowed;
                }
                read = self.body.next(), if reads => self.handle(read),
            }
        }
        if self.minimal {
            let (written, failed) = (self.written, self.failed);
            let count = format!("{{\"status\":200,\"written\":{written},\"failed\":{failed}}}\n");
            self.sender.send(count.as_bytes()).await?;
        }
        Ok(())
    }

    /// Returns whether a line that has arrived has no answer yet. With
    /// `Prefer: return=minimal`, the last line of the answer answers all writes.
    fn has_unanswered_lines(&self) -> bool {
        let has_lines = !self.filling.lines.is_empty() || !self.in_progress.is_empty();
        has_lines || (self.minimal && self.written > 0)
    }

    fn can_queue(&self) -> bool {
        !self.filling.lines.is_empty() && self.in_progress.len() < GROUPS_MAX
    }

    /// Returns the number of events that wait until the publish rate of the client
    /// allows them: all events of the group that is being filled. Returns zero if
    /// the rate already allows at least one event, because then a part of the group
    /// can be queued.
    fn missing_allowance(&self) -> u32 {
        if self.allowance > 0 { 0 } else { self.filling.writes.len() as u32 }
    }

    fn handle(&mut self, read: Result<Option<Bytes>, Problem>) {
        match read {
            Ok(Some(bytes)) => {
                if let Some(tracker) = &self.send_tracker {
                    tracker.moved();
                }
                self.feed(&bytes);
            }
            Ok(None) => {
                self.ended = true;
                if let Some(line) = self.lines.finish() {
                    self.add(&line);
                }
            }
            // The current line may be incomplete, so it is not written. The answer
            // with the problem names this line.
            Err(problem) => {
                self.ended = true;
                self.filling.lines.push((self.lines.current(), Some(problem)));
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') {
            self.body.begin_line(bytes.len() - end - 1);
        }
        self.lines.feed(bytes);
    }

    /// Moves complete lines of the batch into the group that is being filled, until
    /// this group is full.
    fn fill(&mut self) {
        while !self.filling.is_full() {
            let Some(line) = self.lines.next_line() else { break };
            self.add(&line);
        }
    }

    fn add(&mut self, line: &Line) {
        let write = match &line.bytes {
            None => Err(problem::too_large("the line", self.api.settings.body_bytes_max)),
            Some(bytes) => {
                self.filling.bytes += bytes.len();
                Json::parse(bytes)
                    .map_err(Problem::from)
                    .and_then(|json| match self.log.identity().kind {
                        LogKind::Collection { .. } => creation(self.log.identity(), &json),
                        LogKind::Topic => publication(&json),
                    })
                    .and_then(|write| Ok((self.authorize(&write)?, write)))
            }
        };
        match write {
            Ok((permit, write)) => self.filling.push(permit, line.number, write),
            Err(problem) => self.filling.lines.push((line.number, Some(problem))),
        }
    }

    /// Authorizes the write of one line of the batch.
    fn authorize(&self, write: &Write) -> Result<Permit, Problem> {
        let log = &*self.log;
        let (action, topic) = match log.identity().kind {
            LogKind::Collection { .. } => (Action::Create, None),
            LogKind::Topic => (Action::Publish, Some(&*log.identity().name)),
        };
        let target = Target::Log { log, topic, resource: write.subject.as_ref() };
        authorize(&self.caller, action, target)
    }

    /// Queues writes of the group that is being filled in the log, as many as the
    /// publish rate of the client allows. Waits until they are queued, which keeps
    /// the order of the lines.
    async fn queue(&mut self) {
        let Group { writes, lines, .. } = self.filling.split(self.allowance as usize);
        self.allowance -= writes.len() as u32;
        let appended: Pin<Box<dyn Future<Output = Appended> + Send>> = if writes.is_empty() {
            Box::pin(std::future::ready(Ok(Vec::new())))
        } else {
            let queued = self.api.engine.queue(&self.log, writes).await;
            Box::pin(async move { queued?.answered().await })
        };
        self.in_progress.push_back(QueuedGroup { lines, appended });
    }

    async fn answer(
        &mut self,
        lines: Vec<(u64, Option<Problem>)>,
        appended: Appended,
    ) -> Result<(), Stopped> {
        let mut out = Vec::with_capacity(lines.len() * 96);
        let mut results = match appended {
            Ok(results) => Ok(results.into_iter()),
            Err(error) => Err(error),
        };
        for (number, problem) in lines {
            let outcome = match (problem, &mut results) {
                (Some(problem), _) => Err(problem),
                (None, Err(error)) => Err(problem::unavailable(error)),
                (None, Ok(results)) => results
                    .next()
                    .expect("an append returns one result per write")
                    .map_err(|rejection| {
                        let bytes_max = self.api.settings.body_bytes_max;
                        problem::rejected(&rejection, self.log.identity(), bytes_max)
                    }),
            };
            match outcome {
                Ok(written) => {
                    self.written += 1;
                    if !self.minimal {
                        self.append_success(&written, &mut out);
                    }
                }
                Err(problem) => {
                    self.failed += 1;
                    let problem = problem.with("line", number);
                    let status = problem.status();
                    out.extend_from_slice(format!("{{\"status\":{status},\"problem\":").as_bytes());
                    out.extend_from_slice(&problem.to_json(Some(&self.path)));
                    out.extend_from_slice(b"}\n");
                }
            }
        }
        if out.is_empty() { Ok(()) } else { self.sender.send(&out).await }
    }

    fn append_success(&self, written: &AppendOutcome, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let event = self.log.identity().id(written.offset);
        let line = match (&self.log.identity().kind, &written.subject) {
            (LogKind::Collection { .. }, Some(subject)) => {
                writeln!(out, "{{\"status\":201,\"id\":\"{subject}\",\"event\":\"{event}\"}}")
            }
            _ => writeln!(out, "{{\"status\":201,\"event\":\"{event}\"}}"),
        };
        line.expect("a Vec takes every write");
    }
}

/// Waits for the append result of the oldest group of lines in progress. Waits
/// forever if no group is in progress.
async fn front(groups: &mut VecDeque<QueuedGroup>) -> Appended {
    match groups.front_mut() {
        Some(group) => group.appended.as_mut().await,
        None => std::future::pending().await,
    }
}
