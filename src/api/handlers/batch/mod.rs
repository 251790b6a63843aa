//! The handler of NDJSON batches: each line is a write of its own. The memory is constant.
//!
//! Lines are collected into groups as they arrive. A few groups are in progress at once,
//! so that the read, the commit and the answers overlap. A group costs its bytes and one
//! allocation for its future. There is no task per line.

mod answers;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::header::{EXPECT, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};

use answers::{BatchBody, Sender, Stopped, answers};

use crate::api::answer::{body::Body, media_type::MediaType, problem, response};
use crate::api::authorize::{Action, Permit, Target, authorize};
use crate::api::context::Caller;
use crate::api::handlers::write::{WriteRequest, creation, parse, publication};
use crate::api::request::{body_reader::BodyReader, idempotency};
use crate::api::state::{Api, InFlightGuard};
use crate::deliver::H2SendTracker;
use crate::log::{self, AppendOutcome, AppendRejection, Log, Write};
use crate::wire::LogKind;
use crate::wire::lines::{Line, Lines};
use crate::wire::problem::Problem;

/// The largest number of lines of a group. Eight groups at one sync of a millisecond each
/// are two million lines a second, more than any disk can write.
const GROUP_LINES: usize = 256;
/// The largest number of bytes of a group, as posted. A larger line is a group by itself.
const GROUP_BYTES: usize = 256 * 1024;
/// The largest number of groups in progress. With the group that is being filled, a batch
/// uses at most 9 × (256 KiB + one line) of memory.
const GROUPS_MAX: usize = 8;

/// The header that names an applied preference (RFC 7240).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Handles `POST` of `application/x-ndjson` to a collection or a topic.
///
/// # Errors
/// 400 for an `Idempotency-Key` or a precondition: both apply to one write.
///
/// # Cancel safety
/// Safe until the response is returned.
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
    // A client with `Expect: 100-continue` waits for 100 before it sends; the first read
    // makes hyper send it ahead of the response.
    let mut intake = BodyReader::new(&api.settings, &api.metrics, body);
    let first = if headers.contains_key(EXPECT) { intake.next().await? } else { None };
    let minimal = prefers_minimal(headers);
    let settings = &api.settings;
    let (bytes_max, stall_timeout) = (settings.batch_answer_bytes, settings.stall_timeout);
    let answers = answers(&api.tasks, bytes_max, stall_timeout, |sender| {
        let mut run = Run {
            api: Arc::clone(api),
            log: Arc::clone(log),
            path: context.head.uri.path().to_owned(),
            intake,
            flow: context.connection.flow.clone(),
            lines: Lines::new(settings.body_bytes_max),
            sender,
            caller: context.caller,
            allowance: 0,
            minimal,
            ended: false,
            open: Group::default(),
            under_way: VecDeque::new(),
            written: 0,
            failed: 0,
        };
        run.feed(&first.unwrap_or_default());
        async move {
            // The client has gone; ignore the error.
            let _ = run.run().await;
        }
    });
    let body = BatchBody { answers, _in_flight: InFlightGuard::new(api) };
    let mut response = response::new(200, MediaType::Ndjson, Body::Steps(Box::new(body)));
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

/// Lines that are appended together.
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

    /// Adds the write of a line that was authorized.
    fn push(&mut self, _permit: Permit, line: u64, write: Write) {
        self.writes.push(write);
        self.lines.push((line, None));
    }

    /// Takes the first lines out, up to and including the last of `count` writes.
    fn split(&mut self, count: usize) -> Group {
        if count >= self.writes.len() {
            return std::mem::take(self);
        }
        let writes = self.writes.drain(..count).collect();
        let mut left = count;
        let behind = self.lines.iter().position(|(_, problem)| match problem {
            Some(_) => false,
            None if left == 0 => true,
            None => {
                left -= 1;
                false
            }
        });
        let lines = self.lines.drain(..behind.unwrap_or(0)).collect();
        // The bytes stay counted in this group, which only fills it earlier.
        Group { writes, lines, bytes: 0 }
    }
}

/// A group that is queued in the log.
struct UnderWay {
    lines: Vec<(u64, Option<Problem>)>,
    appended: Pin<Box<dyn Future<Output = Appended> + Send>>,
}

/// A running batch.
struct Run {
    api: Arc<Api>,
    log: Arc<Log>,
    path: String,
    intake: BodyReader,
    /// The send tracker of the HTTP/2 stream.
    flow: Option<Arc<H2SendTracker>>,
    lines: Lines,
    sender: Sender,
    /// The caller of the batch.
    caller: Caller,
    /// The number of events that the client may publish now.
    allowance: u32,
    minimal: bool,
    ended: bool,
    open: Group,
    under_way: VecDeque<UnderWay>,
    written: u64,
    failed: u64,
}

impl Run {
    async fn run(mut self) -> Result<(), Stopped> {
        loop {
            self.fill();
            while self.may_start() && self.waits_for() == 0 {
                self.start().await;
                self.fill();
            }
            if self.ended && self.open.lines.is_empty() && self.under_way.is_empty() {
                break;
            }
            let reading = !self.ended && !self.open.is_full();
            let events = if self.may_start() { self.waits_for() } else { 0 };
            tokio::select! {
                biased;
                appended = front(&mut self.under_way), if !self.under_way.is_empty() => {
                    // The answer may wait for the client to read.
                    self.intake.hold();
                    let group = self.under_way.pop_front().expect("its front was awaited");
                    self.answer(group.lines, appended).await?;
                }
                allowed = self.api.publish_in_time(self.caller.client, events), if events > 0 => {
                    if !reading {
                        self.intake.hold();
                    }
                    self.allowance += allowed;
                }
                read = self.intake.next(), if reading => self.take(read),
            }
        }
        if self.minimal {
            let (written, failed) = (self.written, self.failed);
            let count = format!("{{\"status\":200,\"written\":{written},\"failed\":{failed}}}\n");
            self.sender.send(count.as_bytes()).await?;
        }
        Ok(())
    }

    fn may_start(&self) -> bool {
        !self.open.lines.is_empty() && self.under_way.len() < GROUPS_MAX
    }

    /// Returns the number of events of the open group that need an allowance. Returns zero
    /// while some allowance is left, because a part of a group may start.
    fn waits_for(&self) -> u32 {
        if self.allowance > 0 { 0 } else { self.open.writes.len() as u32 }
    }

    fn take(&mut self, read: Result<Option<Bytes>, Problem>) {
        match read {
            Ok(Some(bytes)) => {
                if let Some(flow) = &self.flow {
                    flow.moved();
                }
                self.feed(&bytes);
            }
            Ok(None) => {
                self.ended = true;
                if let Some(line) = self.lines.finish() {
                    self.add(&line);
                }
            }
            // The current line may be incomplete. It is not written, and the client gets
            // the number of the line at which the batch broke off.
            Err(problem) => {
                self.ended = true;
                self.open.lines.push((self.lines.current(), Some(problem)));
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') {
            self.intake.begin_line(bytes.len() - end - 1);
        }
        self.lines.feed(bytes);
    }

    /// Moves complete lines into the open group.
    fn fill(&mut self) {
        while !self.open.is_full() {
            let Some(line) = self.lines.next_line() else { break };
            self.add(&line);
        }
    }

    fn add(&mut self, line: &Line) {
        let write = match &line.bytes {
            None => Err(problem::too_large("the line", self.api.settings.body_bytes_max)),
            Some(bytes) => {
                self.open.bytes += bytes.len();
                parse(bytes)
                    .and_then(|json| match self.log.origin().kind {
                        LogKind::Collection { .. } => creation(self.log.origin(), &json),
                        LogKind::Topic => publication(&json),
                    })
                    .and_then(|write| Ok((self.authorize(&write)?, write)))
            }
        };
        match write {
            Ok((permit, write)) => self.open.push(permit, line.number, write),
            Err(problem) => self.open.lines.push((line.number, Some(problem))),
        }
    }

    /// Authorizes the write of one line.
    fn authorize(&self, write: &Write) -> Result<Permit, Problem> {
        let log = &*self.log;
        let (action, topic) = match log.origin().kind {
            LogKind::Collection { .. } => (Action::Create, None),
            LogKind::Topic => (Action::Publish, Some(&*log.origin().name)),
        };
        let target = Target::Log { log, topic, resource: write.subject.as_ref() };
        authorize(&self.caller, action, target)
    }

    /// Queues the open group in the log, as far as the allowance permits. Waits until the
    /// log has queued the group, which keeps the order of the lines.
    async fn start(&mut self) {
        let Group { writes, lines, .. } = self.open.split(self.allowance as usize);
        self.allowance -= writes.len() as u32;
        let appended: Pin<Box<dyn Future<Output = Appended> + Send>> = if writes.is_empty() {
            Box::pin(std::future::ready(Ok(Vec::new())))
        } else {
            let queued = self.api.engine.queue(&self.log, writes).await;
            Box::pin(async move { queued?.answered().await })
        };
        self.under_way.push_back(UnderWay { lines, appended });
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
                    .map_err(|refusal| problem::refused(&refusal, self.log.origin())),
            };
            match outcome {
                Ok(written) => {
                    self.written += 1;
                    if !self.minimal {
                        self.done(&written, &mut out);
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

    fn done(&self, written: &AppendOutcome, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let event = self.log.origin().id(written.offset);
        let line = match (&self.log.origin().kind, &written.subject) {
            (LogKind::Collection { .. }, Some(subject)) => {
                writeln!(out, "{{\"status\":201,\"id\":\"{subject}\",\"event\":\"{event}\"}}")
            }
            _ => writeln!(out, "{{\"status\":201,\"event\":\"{event}\"}}"),
        };
        line.expect("a Vec takes every write");
    }
}

/// Waits for the oldest group. Waits forever if there is none.
async fn front(under_way: &mut VecDeque<UnderWay>) -> Appended {
    match under_way.front_mut() {
        Some(group) => group.appended.as_mut().await,
        None => std::future::pending().await,
    }
}
