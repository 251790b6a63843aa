//! Every overflow policy with a reader that is slower than the publisher:
//! what it gets, what it is told, and whether the two make a whole.

use std::io;
use std::time::{Duration, Instant};

use serde::Deserialize;
use socket2::SockRef;
use toml::Table;

use super::topic::{self, TICKS};
use crate::clock;
use crate::gateway::Gateway;
use crate::http::Connection;
use crate::mark::Mark;
use crate::publisher::{self, Dialect, JSON, Publishing};
use crate::report::findings::Findings;
use crate::subscriber::{Protocol, Scratch, Step, Subscriber, Subscription};
use crate::tally::Tally;

/// What is done.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Policies, as `?overflow=` takes them.
    policies: Vec<String>,
    /// Events, all publishers together, the last one included.
    events: u64,
    /// Events a second, all publishers together.
    rate: u32,
    publishers: usize,
    /// Subjects that the events go round, shared out among the publishers.
    subjects: u64,
    /// Bytes of an event's data.
    bytes: usize,
    /// So many times a reader is slower than the publishers.
    slower: u64,
}

/// Receive buffer that a slow reader asks for: little, so that it is slow for
/// the gateway and not for the kernel.
const SLOW_BYTES: usize = 4096;

/// For all events to be published.
const PUBLISHING_MAX: Duration = Duration::from_mins(2);

/// Receive buffer of a reader that has become quick.
const QUICK_BYTES: usize = 256 * 1024;

/// Between two reads of a slow reader.
const STEP: Duration = Duration::from_millis(20);

/// What an event is longer on the wire than its data: id, type and chunk.
const FRAMING_BYTES: usize = 64;

/// Without a byte for so long, a reader has all that it is to get.
const QUIET: Duration = Duration::from_millis(1500);

/// For all readers to have read all.
const READ_MAX: Duration = Duration::from_mins(1);

/// What a reader came to.
struct Reader {
    policy: String,
    subscriber: Subscriber,
    tally: Tally,
    /// Events that it got while it was slow.
    slow: u64,
    /// Its first stream's end, where it had to come back.
    ended: Option<String>,
    is_over: bool,
}

/// # Errors
/// If it cannot be carried to its end.
pub fn run(settings: &Settings, config: &Table) -> io::Result<Findings> {
    let gateway = Gateway::start(config)?;
    let epoch = topic::epoch(gateway.address(), TICKS)?;
    let mut readers = settings
        .policies
        .iter()
        .map(|policy| Reader::open(&gateway, policy))
        .collect::<io::Result<Vec<_>>>()?;
    topic::await_streams(&gateway, readers.len())?;
    let before = gateway.metrics()?;
    let publishing = Publishing {
        address: gateway.address(),
        path: format!("/events/{TICKS}"),
        dialect: Dialect::Streamgate,
        publishers: settings.publishers,
        first: 0,
        events: (settings.events - 1) / settings.publishers as u64,
        rate: Some(f64::from(settings.rate) / settings.publishers as f64),
        batch: None,
        bytes: settings.bytes,
        subjects: settings.subjects / settings.publishers as u64,
    };
    let mut totals = publishing.totals();
    let begun = Instant::now();
    let publishers = publishing.start()?;
    let mut scratch = Scratch::of(settings.step_bytes());
    while !publishers.is_done() {
        if begun.elapsed() > PUBLISHING_MAX {
            return Err(io::Error::other("the publishers were not done in time"));
        }
        for reader in &mut readers {
            reader.read(&mut scratch)?;
        }
        std::thread::sleep(STEP);
    }
    publishers.finish()?;
    let took = begun.elapsed();
    for reader in &mut readers {
        reader.quicken(&gateway, &epoch)?;
    }
    read_all(&mut readers)?;
    // What was dropped last is told with the next event.
    publish_last(settings, &gateway, &totals)?;
    totals[0] += 1;
    read_all(&mut readers)?;
    let after = gateway.metrics()?;
    let dropped = |policy: &str| {
        let sum = |metrics: &crate::exposition::Exposition| {
            metrics.count("streamgate_events_dropped_total", &[("policy", policy)]).unwrap_or(0)
        };
        sum(&after) - sum(&before)
    };
    let head = after.count("streamgate_log_head_offset", &[("log", TICKS)]).unwrap_or(0);
    let mut findings = Findings::new();
    let mut rows = Vec::new();
    for reader in &readers {
        let dropped = dropped(&reader.policy);
        judge(settings, reader, &totals, dropped, head, &mut findings);
        rows.push(reader.row(dropped, head, took));
    }
    let heads = [
        "policy",
        "received",
        "while slow, events/s",
        "dropped",
        "told",
        "gaps",
        "ended",
        "last is",
    ];
    findings.table(&heads, &rows);
    Ok(findings)
}

/// Reads until no reader gets anything any more.
fn read_all(readers: &mut [Reader]) -> io::Result<()> {
    let mut scratch = Scratch::new();
    let (begun, mut last) = (Instant::now(), Instant::now());
    while last.elapsed() < QUIET && begun.elapsed() < READ_MAX {
        let mut is_idle = true;
        for reader in readers.iter_mut() {
            is_idle &= reader.read(&mut scratch)? == Step::Idle;
        }
        if is_idle {
            std::thread::sleep(Duration::from_millis(1));
        } else {
            last = Instant::now();
        }
    }
    Ok(())
}

fn publish_last(settings: &Settings, gateway: &Gateway, totals: &[u64]) -> io::Result<()> {
    let mut body = Vec::new();
    let mark = Mark { publisher: 0, sequence: totals[0], due: clock::now() };
    let subjects = settings.subjects / settings.publishers as u64;
    publisher::write_event(&mut body, mark, settings.bytes, totals[0].checked_rem(subjects));
    let mut connection = Connection::open(gateway.address())?;
    publisher::taken(connection.post(&format!("/events/{TICKS}"), JSON, &body)?).map(|_| ())
}

fn judge(
    settings: &Settings,
    reader: &Reader,
    totals: &[u64],
    dropped: u64,
    head: u64,
    findings: &mut Findings,
) {
    let policy = &reader.policy;
    let (received, told) = (reader.tally.deliveries, reader.subscriber.seen().dropped);
    let events: u64 = totals.iter().sum();
    let [_, repeated, disordered, _, _] = reader.tally.faults();
    let named = |what: &str| format!("`{policy}`: {what}");
    findings.exactly(named("repeated or out of order"), repeated + disordered, 0);
    findings.exactly(named("last id is the head"), reader.subscriber.seen().offset(), head);
    match policy.as_str() {
        "log" | "disconnect" => {
            findings.exactly(named("received"), received, events);
            findings.exactly(named("told or counted as dropped"), told + dropped, 0);
        }
        _ => {
            findings.exactly(named("received and told"), received + told, events);
            findings.exactly(named("counted by the metric, as told"), dropped, told);
            findings.claim(
                named("dropped at all: the reader was slow"),
                told.to_string(),
                "> 0",
                told > 0,
            );
        }
    }
    if policy == "conflate" {
        let subjects = settings.subjects / settings.publishers as u64;
        let missing = newest_missing(reader.tally.marks.as_deref(), totals, subjects);
        findings.exactly(named("subjects whose newest event did not come"), missing, 0);
    }
    if policy == "disconnect" {
        let ended = reader.ended.as_deref().unwrap_or("nothing");
        findings.claim(named("ended with"), ended, "overflow", ended == "overflow");
    }
}

/// Of how many subjects the newest event is not among `marks`. Each publisher
/// goes round subjects of its own, so the last round has the newest of each.
fn newest_missing(marks: Option<&[Mark]>, totals: &[u64], subjects: u64) -> u64 {
    let newest = |publisher: usize| totals[publisher].saturating_sub(subjects);
    let is_newest = |mark: &&Mark| mark.sequence >= newest(mark.publisher);
    let came = marks.unwrap_or_default().iter().filter(is_newest).count() as u64;
    let expected: u64 = totals.iter().map(|&total| total.min(subjects)).sum();
    expected.saturating_sub(came)
}

impl Settings {
    /// What a slow reader reads at a time.
    fn step_bytes(&self) -> usize {
        let event_bytes = self.bytes + FRAMING_BYTES;
        let steps = (1000 / STEP.as_millis() as u64) * self.slower;
        (u64::from(self.rate) * event_bytes as u64 / steps).max(1) as usize
    }
}

impl Reader {
    fn open(gateway: &Gateway, policy: &str) -> io::Result<Reader> {
        let subscription = Reader::subscription(gateway, policy);
        let socket = subscription.ask(0, Some(SLOW_BYTES))?;
        let mut tally = Tally::new();
        tally.marks = Some(Vec::new());
        let subscriber = Subscriber::new(socket, Protocol::Sse)?;
        let (policy, slow, ended, is_over) = (policy.to_owned(), 0, None, false);
        Ok(Reader { policy, subscriber, tally, slow, ended, is_over })
    }

    fn subscription(gateway: &Gateway, policy: &str) -> Subscription {
        let path = format!("/events/{TICKS}?overflow={policy}");
        Subscription { path, ..topic::subscription(gateway, TICKS, Protocol::Sse) }
    }

    fn read(&mut self, scratch: &mut Scratch) -> io::Result<Step> {
        if self.is_over {
            return Ok(Step::Idle);
        }
        let named = |error| io::Error::other(format!("{}: {error}", self.policy));
        let step = self.subscriber.read(scratch, &mut self.tally).map_err(named)?;
        self.is_over = step == Step::Ended;
        Ok(step)
    }

    /// Publishing is over: from here on it reads as fast as it can. One whose
    /// stream has been ended reads what is left of it and comes back.
    fn quicken(&mut self, gateway: &Gateway, epoch: &str) -> io::Result<()> {
        self.slow = self.tally.deliveries;
        SockRef::from(self.subscriber.socket()).set_recv_buffer_size(QUICK_BYTES)?;
        if self.policy != "disconnect" {
            return Ok(());
        }
        read_all(std::slice::from_mut(self))?;
        if self.is_over {
            let seen = self.subscriber.seen().clone();
            self.ended = Some(seen.farewell.reason.clone().unwrap_or("a cut".to_owned()));
            self.subscriber = Reader::subscription(gateway, &self.policy).rejoin(0, epoch, seen)?;
            self.is_over = false;
        }
        Ok(())
    }

    fn row(&self, dropped: u64, head: u64, took: Duration) -> Vec<String> {
        let seen = self.subscriber.seen();
        let last = if seen.offset() == head { "the head" } else { "not the head" };
        vec![
            format!("`{}`", self.policy),
            self.tally.deliveries.to_string(),
            crate::report::figures::short(self.slow as f64 / took.as_secs_f64()),
            dropped.to_string(),
            seen.dropped.to_string(),
            seen.gaps.to_string(),
            self.ended.clone().unwrap_or("–".to_owned()),
            last.to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_subject_is_in_the_last_round() {
        let mark = |publisher, sequence| Mark { publisher, sequence, due: 0 };
        let check = |marks: &[Mark], expected| {
            assert_eq!(newest_missing(Some(marks), &[4, 3], 2), expected, "{marks:?}");
        };
        check(&[mark(0, 2), mark(0, 3), mark(1, 1), mark(1, 2)], 0);
        check(&[mark(0, 1), mark(0, 3), mark(1, 1), mark(1, 2)], 1);
        check(&[], 4);
    }
}
