//! A publisher that sends one event a request at a steady rate until it is
//! stopped or the server is gone, and records what became of each event.

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

/// The longest time without a connection to the server.
const ABSENCE_MAX: Duration = Duration::from_mins(1);

/// The pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The settings of a feed.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The server.
    pub address: SocketAddr,
    /// The topic.
    pub topic: &'static str,
    /// The number of the publisher in its stamps.
    pub publisher: usize,
    /// The number of events a second.
    pub rate: f64,
    /// The size of an event's data, in bytes.
    pub bytes: usize,
    /// The action after a request without a response.
    pub on_failure: OnFailure,
}

/// The action of a feed after a request that is not answered or is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The feed returns an error.
    Fail,
    /// The feed ends, and its result says how. A request over a kept connection
    /// that got no response is sent again first.
    End,
    /// The feed sends the request again, with the same `Idempotency-Key`, until
    /// it is answered.
    Retry,
}

/// A running feed. Dropping it stops the feed.
pub struct FeedHandle {
    thread: Option<JoinHandle<io::Result<FeedResult>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

/// The result of a feed.
#[derive(Debug, Default)]
pub struct FeedResult {
    /// The number of events that were acknowledged. They are the first ones of
    /// the feed.
    pub acknowledged: u64,
    /// The time of each of these requests.
    pub timings: Vec<PublishTiming>,
    /// The number of requests that were sent again.
    pub retries: u64,
    /// The reason and the time of the end, if the feed was not stopped.
    pub end: Option<(FeedEnd, u64)>,
}

/// The time of one request, in nanoseconds of [`clock::now`].
#[derive(Clone, Copy, Debug)]
pub struct PublishTiming {
    /// The time at which the request was due.
    pub due: u64,
    /// The time from the due time until the response arrived.
    pub took: u64,
}

/// The reason why a feed ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEnd {
    /// The server accepts no connection.
    Gone,
    /// A request over a kept connection got no byte of a response. The server
    /// may have closed the connection at the same moment, so the request must
    /// be sent again (RFC 9112 §9.3.1).
    Stale,
    /// A request over a new connection got no byte of a response.
    Unanswered,
    /// A response broke off.
    Broken,
    /// The response had this status, which is no success.
    Refused(u16),
}

impl Feed {
    /// Starts `count` such publishers, numbered from this one's number.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start_all(&self, count: usize) -> io::Result<Vec<FeedHandle>> {
        let numbers = self.publisher..self.publisher + count;
        numbers.map(|publisher| Feed { publisher, ..self.clone() }.start()).collect()
    }

    /// Starts the feed.
    ///
    /// # Errors
    /// If the thread cannot be started.
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
                let name = format!("publisher {} failed: {end:?}", self.publisher);
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
                // Without a new schedule, the events due meanwhile would be
                // sent in one burst.
                pace = Pace::new(self.rate);
            }
            result.acknowledged += 1;
            result.timings.push(PublishTiming { due, took: clock::now().saturating_sub(due) });
            acknowledged.store(result.acknowledged, Ordering::Relaxed);
        }
        Ok(result)
    }

    /// Sends one request.
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
    /// Returns how many events were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Stops the feed and returns its result.
    ///
    /// # Errors
    /// If the feed failed.
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
    /// Returns how long the requests took that were due between `from` and
    /// `to`.
    pub fn within(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let within = move |timing: &&PublishTiming| (from..to).contains(&timing.due);
        self.timings.iter().filter(within).map(|timing| timing.took)
    }
}
