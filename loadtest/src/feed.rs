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
use crate::mark::Mark;
use crate::publisher::{self, JSON};

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
    /// The number of the publisher in its marks.
    pub publisher: usize,
    /// Events a second.
    pub rate: f64,
    /// Bytes of an event's data.
    pub bytes: usize,
    /// What it does when a request is not answered.
    pub on_cut: OnCut,
}

/// What a feed does when a request is not answered as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnCut {
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
    /// When each of these was due, and how long its answer took from then on.
    pub answered: Vec<Answered>,
    /// Requests that had to be sent again.
    pub retries: u64,
    /// What it ended with, if nobody told it to, and when.
    pub end: Option<(End, u64)>,
}

/// An answer, in nanoseconds of [`clock::now`].
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// When its request was due.
    pub due: u64,
    /// From then until it was there.
    pub took: u64,
}

/// How a feed ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nobody listens any more.
    Gone,
    /// A request over a connection that was kept got no byte of an answer:
    /// the server may have closed it at the same moment, and the request is to
    /// be sent again (RFC 9112 §9.3.1).
    Stale,
    /// A request over a new connection got no byte of an answer.
    Unanswered,
    /// An answer broke off.
    Broken,
    /// An answer said no.
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
                match self.on_cut {
                    OnCut::End if end == End::Stale => {}
                    OnCut::End => {
                        return Ok(FeedResult { end: Some((end, clock::now())), ..result });
                    }
                    OnCut::Retry if absent.elapsed() < ABSENCE_MAX => {}
                    OnCut::Fail | OnCut::Retry => return Err(io::Error::other(name)),
                }
                result.retries += 1;
                std::thread::sleep(RETRY_PAUSE);
                // What was due meanwhile would come in one burst.
                pace = Pace::new(self.rate);
            }
            result.acknowledged += 1;
            result.answered.push(Answered { due, took: clock::now().saturating_sub(due) });
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
    ) -> Result<(), End> {
        let kept = connection.take().filter(|open| !open.is_closed());
        let cut = if kept.is_some() { End::Stale } else { End::Unanswered };
        let mut open = match kept {
            Some(open) => open,
            None => Connection::open(self.address).map_err(|_| End::Gone)?,
        };
        let Feed { topic, publisher, bytes, on_cut, .. } = self;
        let mut body = Vec::new();
        let mark = Mark { publisher: *publisher, sequence, due };
        publisher::write_event(&mut body, mark, *bytes, None);
        let fields = match on_cut {
            OnCut::Retry => format!(
                "{JSON}Idempotency-Key: {publisher}-{sequence}
"
            ),
            OnCut::Fail | OnCut::End => JSON.to_owned(),
        };
        let answer = open.post(&format!("/events/{topic}"), &fields, &body);
        let unanswered = if open.has_begun() { End::Broken } else { cut };
        let answer = answer.map_err(|_| unanswered)?;
        if !answer.is_success() {
            return Err(End::Refused(answer.status));
        }
        *connection = (!answer.closes).then_some(open);
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
        let within = move |answered: &&Answered| (from..to).contains(&answered.due);
        self.answered.iter().filter(within).map(|answered| answered.took)
    }
}
