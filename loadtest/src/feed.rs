//! A publisher without an end of its own: an event a request at a steady
//! rate, until it is told to stop or the server goes, and what became of each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::{self, Pace};
use crate::http::Connection;
use crate::publisher::{self, JSON};
use crate::stamp::EventStamp;

/// For a server to come back.
const ABSENCE_MAX: Duration = Duration::from_mins(1);

/// Between two tries to reach it.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What is published, and how.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The server.
    pub address: SocketAddr,
    /// The topic.
    pub topic: &'static str,
    /// The number of the publisher in its stamps.
    pub publisher: usize,
    /// Events a second.
    pub rate: f64,
    /// Bytes of an event's data.
    pub bytes: usize,
    /// What it does when a request is not answered.
    pub on_failure: OnFailure,
}

/// What a feed does when a request is not answered as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It fails.
    Fail,
    /// It ends, and says how; what may have crossed the end of a connection
    /// that was kept is sent again first.
    End,
    /// It asks again, with the same `Idempotency-Key`, until it is answered.
    Retry,
}

/// A feed at work.
pub struct FeedHandle {
    thread: Option<JoinHandle<io::Result<FeedResult>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

/// What became of a feed.
#[derive(Debug, Default)]
pub struct FeedResult {
    /// Its first so many events were acknowledged.
    pub acknowledged: u64,
    /// When each of these was due, and how long its response took from then on.
    pub timings: Vec<PublishTiming>,
    /// Requests that had to be sent again.
    pub retries: u64,
    /// What it ended with, if nobody told it to, and when.
    pub end: Option<(FeedEnd, u64)>,
}

/// An response, in nanoseconds of [`clock::now`].
#[derive(Clone, Copy, Debug)]
pub struct PublishTiming {
    /// When its request was due.
    pub due: u64,
    /// From then until it was there.
    pub took: u64,
}

/// How a feed ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEnd {
    /// Nobody listens any more.
    Gone,
    /// A request over a connection that was kept got no byte of an response:
    /// the server may have closed it at the same moment, and the request is to
    /// be sent again (RFC 9112 §9.3.1).
    Stale,
    /// A request over a new connection got no byte of an response.
    Unanswered,
    /// An response broke off.
    Broken,
    /// An response said no.
    Refused(u16),
}

impl Feed {
    /// Starts `count` publishers like this one, numbered from its own on.
    ///
    /// # Errors
    /// If one cannot connect.
    pub fn start_all(&self, count: usize) -> io::Result<Vec<FeedHandle>> {
        let numbers = self.publisher..self.publisher + count;
        numbers.map(|publisher| Feed { publisher, ..self.clone() }.start()).collect()
    }

    /// Starts it.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(self) -> io::Result<FeedHandle> {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::Builder::new()
            .name(format!("feed-{}", self.publisher))
            .spawn(move || self.run(&stopped, &counted))?;
        Ok(FeedHandle { thread: Some(thread), stop, acknowledged })
    }

    fn run(&self, stop: &AtomicBool, acknowledged: &AtomicU64) -> io::Result<FeedResult> {
        let (mut pace, mut connection, mut result) =
            (Pace::new(self.rate), None, FeedResult::default());
        while !stop.load(Ordering::Relaxed) {
            let due = pace.wait();
            let absent = Instant::now();
            while let Err(end) = self.publish(&mut connection, result.acknowledged, due) {
                connection = None;
                let name = format!("publisher {}: {end:?}", self.publisher);
                match self.on_failure {
                    OnFailure::End if end == FeedEnd::Stale => {}
                    OnFailure::End => {
                        return Ok(FeedResult { end: Some((end, clock::now())), ..result });
                    }
                    OnFailure::Retry if absent.elapsed() < ABSENCE_MAX => {}
                    OnFailure::Fail | OnFailure::Retry => return Err(io::Error::other(name)),
                }
                result.retries += 1;
                std::thread::sleep(RETRY_PAUSE);
                // What was due meanwhile would come in one burst.
                pace = Pace::new(self.rate);
            }
            result.acknowledged += 1;
            result.timings.push(PublishTiming { due, took: clock::now().saturating_sub(due) });
            acknowledged.store(result.acknowledged, Ordering::Relaxed);
        }
        Ok(result)
    }

    /// One try.
    fn publish(
        &self,
        connection: &mut Option<Connection>,
        sequence: u64,
        due: u64,
    ) -> Result<(), FeedEnd> {
        let kept = connection.take().filter(|open| !open.is_closed());
        let cut = if kept.is_some() { FeedEnd::Stale } else { FeedEnd::Unanswered };
        let mut open = match kept {
            Some(open) => open,
            None => Connection::open(self.address).map_err(|_| FeedEnd::Gone)?,
        };
        let Feed { topic, publisher, bytes, on_failure, .. } = self;
        let mut body = Vec::new();
        let stamp = EventStamp { publisher: *publisher, sequence, due };
        publisher::write_event(&mut body, stamp, *bytes, None);
        let fields = match on_failure {
            OnFailure::Retry => format!(
                "{JSON}Idempotency-Key: {publisher}-{sequence}
"
            ),
            OnFailure::Fail | OnFailure::End => JSON.to_owned(),
        };
        let response = open.post(&format!("/events/{topic}"), &fields, &body);
        let unanswered = if open.has_begun() { FeedEnd::Broken } else { cut };
        let response = response.map_err(|_| unanswered)?;
        if !response.is_success() {
            return Err(FeedEnd::Refused(response.status));
        }
        *connection = (!response.closes).then_some(open);
        Ok(())
    }
}

impl FeedHandle {
    /// How many events were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Stops it and says what became of it.
    ///
    /// # Errors
    /// If it failed.
    pub fn finish(mut self) -> io::Result<FeedResult> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        joined.and_then(Result::ok).unwrap_or_else(|| Err(io::Error::other("a feed panicked")))
    }
}

impl Drop for FeedHandle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl FeedResult {
    /// How long the answers took to what was due between `from` and `to`.
    pub fn within(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let within = move |timing: &&PublishTiming| (from..to).contains(&timing.due);
        self.timings.iter().filter(within).map(|timing| timing.took)
    }
}
