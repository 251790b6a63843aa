//! Each overflow policy with a reader that is slower than the publishers: the
//! events that arrive, the events that `gap` messages report as dropped, and
//! whether the two add up.

use std::io;
use std::time::{Duration, Instant};

use serde::Deserialize;
use socket2::SockRef;
use toml::Table;

use super::topic::{self, TICKS};
use crate::clock;
use crate::delivery_stats::DeliveryStats;
use crate::gateway::Gateway;
use crate::http::Connection;
use crate::publisher::{self, Dialect, JSON, PublishPlan};
use crate::report::proof_report::ProofReport;
use crate::stamp::EventStamp;
use crate::subscriber::{Protocol, ReadBuffers, ReadOutcome, Subscriber, Subscription};

/// The size of the load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The policies, as values of `?overflow=`.
    policies: Vec<String>,
    /// The number of events of all publishers together, including the last event.
    events: u64,
    /// The number of events a second of all publishers together.
    rate: u32,
    publishers: usize,
    /// The number of subjects, divided among the publishers.
    subjects: u64,
    /// The size of an event's data, in bytes.
    bytes: usize,
    /// The ratio of the rate of the publishers to the rate of a reader.
    slower: u64,
}

/// The receive buffer that a slow reader requests. It is small, so that the
/// gateway and not the kernel holds what the reader has not read.
const SLOW_BYTES: usize = 4096;

/// The timeout for publishing all events.
const PUBLISHING_MAX: Duration = Duration::from_mins(2);

/// The receive buffer of a reader that reads at full speed again.
const QUICK_BYTES: usize = 256 * 1024;

/// The time between two reads of a slow reader.
const STEP: Duration = Duration::from_millis(20);

/// The number of bytes of an event on the wire without its data: id, type and chunk.
const FRAMING_BYTES: usize = 64;

/// After this time without a byte, a reader has everything that it will get.
const QUIET: Duration = Duration::from_millis(1500);

/// The timeout for all readers to read everything.
const READ_MAX: Duration = Duration::from_mins(1);

/// A reader, and what it received.
struct Reader {
    policy: String,
    subscriber: Subscriber,
    stats: DeliveryStats,
    /// The number of events that arrived while the reader was slow.
    slow: u64,
    /// The reason for the end of the first stream, if the reader had to reconnect.
    ended: Option<String>,
    is_over: bool,
}

/// # Errors
/// If the proof cannot be carried to its end.
pub fn run(settings: &Settings, config: &Table) -> io::Result<ProofReport> {
    let gateway = Gateway::start(config)?;
    let epoch = topic::epoch(gateway.address(), TICKS)?;
    let mut readers = settings
        .policies
        .iter()
        .map(|policy| Reader::open(&gateway, policy))
        .collect::<io::Result<Vec<_>>>()?;
    topic::await_streams(&gateway, readers.len())?;
    let before = gateway.metrics()?;
    let publish_plan = PublishPlan {
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
    let mut totals = publish_plan.totals();
    let begun = Instant::now();
    let publishers = publish_plan.start()?;
    let mut buffers = ReadBuffers::of(settings.step_bytes());
    while !publishers.is_done() {
        if begun.elapsed() > PUBLISHING_MAX {
            return Err(io::Error::other("the publishers did not finish in time"));
        }
        for reader in &mut readers {
            reader.read(&mut buffers)?;
        }
        std::thread::sleep(STEP);
    }
    publishers.finish()?;
    let took = begun.elapsed();
    for reader in &mut readers {
        reader.quicken(&gateway, &epoch)?;
    }
    read_all(&mut readers)?;
    // The gap of the last dropped events is sent with the next event.
    publish_last(settings, &gateway, &totals)?;
    totals[0] += 1;
    read_all(&mut readers)?;
    let after = gateway.metrics()?;
    let dropped = |policy: &str| {
        let sum = |metrics: &crate::metrics_snapshot::MetricsSnapshot| {
            metrics.count("streamgate_events_dropped_total", &[("policy", policy)]).unwrap_or(0)
        };
        sum(&after) - sum(&before)
    };
    let head = after.count("streamgate_log_head_offset", &[("log", TICKS)]).unwrap_or(0);
    let mut report = ProofReport::new();
    let mut rows = Vec::new();
    for reader in &readers {
        let dropped = dropped(&reader.policy);
        judge(settings, reader, &totals, dropped, head, &mut report);
        rows.push(reader.row(dropped, head, took));
    }
    let heads = [
        "policy",
        "events received",
        "events/s while slow",
        "dropped (metric)",
        "dropped (reported)",
        "gaps",
        "reason for the end",
        "last event is",
    ];
    report.table(&heads, &rows);
    Ok(report)
}

/// Reads until no reader receives anything.
fn read_all(readers: &mut [Reader]) -> io::Result<()> {
    let mut buffers = ReadBuffers::new();
    let (begun, mut last) = (Instant::now(), Instant::now());
    while last.elapsed() < QUIET && begun.elapsed() < READ_MAX {
        let mut is_idle = true;
        for reader in readers.iter_mut() {
            is_idle &= reader.read(&mut buffers)? == ReadOutcome::Idle;
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
    let stamp = EventStamp { publisher: 0, sequence: totals[0], due: clock::now() };
    let subjects = settings.subjects / settings.publishers as u64;
    publisher::write_event(&mut body, stamp, settings.bytes, totals[0].checked_rem(subjects));
    let mut connection = Connection::open(gateway.address())?;
    publisher::expect_success(connection.post(&format!("/events/{TICKS}"), JSON, &body)?)
        .map(|_| ())
}

fn judge(
    settings: &Settings,
    reader: &Reader,
    totals: &[u64],
    dropped: u64,
    head: u64,
    report: &mut ProofReport,
) {
    let policy = &reader.policy;
    let (received, reported) = (reader.stats.deliveries, reader.subscriber.progress().dropped);
    let events: u64 = totals.iter().sum();
    let [_, repeated, disordered, _, _] = reader.stats.faults();
    let named = |what: &str| format!("`{policy}`: {what}");
    report.exactly(named("events repeated or out of order"), repeated + disordered, 0);
    report.exactly(
        named("offset of the last event received (must equal the head)"),
        reader.subscriber.progress().offset(),
        head,
    );
    match policy.as_str() {
        "log" | "disconnect" => {
            report.exactly(named("events received"), received, events);
            report.exactly(named("events reported or counted as dropped"), reported + dropped, 0);
        }
        _ => {
            report.exactly(
                named("events received plus events reported as dropped"),
                received + reported,
                events,
            );
            let counted = "dropped events counted by the metric (must equal the number reported to \
                           the client)";
            report.exactly(named(counted), dropped, reported);
            let slow = "dropped events reported to the client (more than 0 shows that the reader \
                        was slow)";
            report.check(named(slow), reported.to_string(), "> 0", reported > 0);
        }
    }
    if policy == "conflate" {
        let subjects = settings.subjects / settings.publishers as u64;
        let missing = newest_missing(reader.stats.stamps.as_deref(), totals, subjects);
        report.exactly(named("subjects whose newest event was not received"), missing, 0);
    }
    if policy == "disconnect" {
        let ended = reader.ended.as_deref().unwrap_or("nothing");
        report.check(named("reason for the end"), ended, "overflow", ended == "overflow");
    }
}

/// Returns the number of subjects whose newest event is not among `stamps`.
/// Each publisher cycles through its own subjects, so its last cycle has the
/// newest event of each.
fn newest_missing(stamps: Option<&[EventStamp]>, totals: &[u64], subjects: u64) -> u64 {
    let newest = |publisher: usize| totals[publisher].saturating_sub(subjects);
    let is_newest = |stamp: &&EventStamp| stamp.sequence >= newest(stamp.publisher);
    let came = stamps.unwrap_or_default().iter().filter(is_newest).count() as u64;
    let expected: u64 = totals.iter().map(|&total| total.min(subjects)).sum();
    expected.saturating_sub(came)
}

impl Settings {
    /// Returns the bytes that a slow reader reads at a time.
    fn step_bytes(&self) -> usize {
        let event_bytes = self.bytes + FRAMING_BYTES;
        let steps = (1000 / STEP.as_millis() as u64) * self.slower;
        (u64::from(self.rate) * event_bytes as u64 / steps).max(1) as usize
    }
}

impl Reader {
    fn open(gateway: &Gateway, policy: &str) -> io::Result<Reader> {
        let subscription = Reader::subscription(gateway, policy);
        let socket = subscription.connect(0, Some(SLOW_BYTES))?;
        let mut stats = DeliveryStats::new();
        stats.stamps = Some(Vec::new());
        let subscriber = Subscriber::new(socket, Protocol::Sse)?;
        let (policy, slow, ended, is_over) = (policy.to_owned(), 0, None, false);
        Ok(Reader { policy, subscriber, stats, slow, ended, is_over })
    }

    fn subscription(gateway: &Gateway, policy: &str) -> Subscription {
        let path = format!("/events/{TICKS}?overflow={policy}");
        Subscription { path, ..topic::subscription(gateway, TICKS, Protocol::Sse) }
    }

    fn read(&mut self, buffers: &mut ReadBuffers) -> io::Result<ReadOutcome> {
        if self.is_over {
            return Ok(ReadOutcome::Idle);
        }
        let named = |error| io::Error::other(format!("{}: {error}", self.policy));
        let step = self.subscriber.read(buffers, &mut self.stats).map_err(named)?;
        self.is_over = step == ReadOutcome::Ended;
        Ok(step)
    }

    /// Publishing is over, so the reader reads as fast as it can from now on. A
    /// reader whose stream was ended reads the rest and reconnects.
    fn quicken(&mut self, gateway: &Gateway, epoch: &str) -> io::Result<()> {
        self.slow = self.stats.deliveries;
        SockRef::from(self.subscriber.socket()).set_recv_buffer_size(QUICK_BYTES)?;
        if self.policy != "disconnect" {
            return Ok(());
        }
        read_all(std::slice::from_mut(self))?;
        if self.is_over {
            let progress = self.subscriber.progress().clone();
            self.ended =
                Some(progress.end.reason.clone().unwrap_or("the connection was lost".to_owned()));
            self.subscriber =
                Reader::subscription(gateway, &self.policy).resume(0, epoch, progress)?;
            self.is_over = false;
        }
        Ok(())
    }

    fn row(&self, dropped: u64, head: u64, took: Duration) -> Vec<String> {
        let progress = self.subscriber.progress();
        let last = if progress.offset() == head { "the head" } else { "not the head" };
        vec![
            format!("`{}`", self.policy),
            self.stats.deliveries.to_string(),
            crate::report::figures::short(self.slow as f64 / took.as_secs_f64()),
            dropped.to_string(),
            progress.dropped.to_string(),
            progress.gaps.to_string(),
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
        let stamp = |publisher, sequence| EventStamp { publisher, sequence, due: 0 };
        let check = |stamps: &[EventStamp], expected| {
            assert_eq!(newest_missing(Some(stamps), &[4, 3], 2), expected, "{stamps:?}");
        };
        check(&[stamp(0, 2), stamp(0, 3), stamp(1, 1), stamp(1, 2)], 0);
        check(&[stamp(0, 1), stamp(0, 3), stamp(1, 1), stamp(1, 2)], 1);
        check(&[], 4);
    }
}
