//! The drain of a gateway with thousands of streams and with writes in flight.
//! Every stream is closed the reason, the closes are spread over time, no
//! acknowledged event is lost, and every request is answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Deserialize;
use toml::Table;

use super::topic::{self, PROTOCOLS, TICKS};
use crate::clock::{self, Pace};
use crate::feed::{Feed, FeedEnd, FeedHandle, FeedResult, OnFailure};
use crate::gateway::Gateway;
use crate::gateway_config;
use crate::http::Connection;
use crate::publisher;
use crate::report::figures::short;
use crate::report::proof_report::ProofReport;
use crate::stamp::EventStamp;
use crate::subscriber::{Protocol, Subscriber, Subscription};
use crate::subscriber_pool::SubscriberPool;

/// The size of the load, and the bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Streams, over SSE, NDJSON and WebSocket in turn.
    streams: usize,
    /// Publishers, each with one event a request.
    publishers: usize,
    /// Events a second of each publisher.
    rate: f64,
    /// Lines a second of one batch that is in flight at the signal.
    batch_rate: f64,
    /// The size of an event's data, in bytes.
    bytes: usize,
    /// The time of publishing before the signal, in seconds.
    lead_secs: f64,
    /// The largest deviation of the close times from an even spread: the largest
    /// difference of the two distributions, 0 to 1.
    uneven_max: f64,
}

/// The part of the drain over which the closes are spread
/// (`docs/operations.md#signals-and-health`).
const SPREAD: f64 = 2.0 / 3.0;

/// The longest delay of the last close and of the end of the process.
const LATE_MAX: Duration = Duration::from_secs(1);

/// The part of the drain for which the batch continues: longer than the
/// streams, with time left for its response.
const BATCH_PART: f64 = 0.85;

/// The time before the end of the process in which only the kernel may have
/// accepted a connection.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// The number of the batch's publisher in its stamps.
const BATCH: usize = 3;

/// The timeout for reading the whole log at the end.
const AUDIT_MAX: Duration = Duration::from_mins(1);

/// # Errors
/// If the proof cannot be carried to its end.
pub fn run(settings: &Settings, config: &Table) -> io::Result<ProofReport> {
    if settings.publishers > BATCH {
        return Err(io::Error::other(format!("`publishers` must be at most {BATCH}")));
    }
    let drain = gateway_config::duration(config, "server.drain")?;
    let mut gateway = Gateway::start(config)?;
    let mut pool = topic::mixed(&gateway, TICKS, settings.streams)?;
    let (address, rate, bytes) = (gateway.address(), settings.rate, settings.bytes);
    let feed =
        Feed { address, topic: TICKS, publisher: 0, rate, bytes, on_failure: OnFailure::End };
    let feeds = feed.start_all(settings.publishers)?;
    let batch = OpenBatch::start(gateway.address(), settings.batch_rate, settings.bytes)?;
    pool.read_until(Duration::from_secs_f64(settings.lead_secs), |_| false)?;
    let (signalled, from) = (clock::now(), Instant::now());
    gateway.signal(Signal::TERM)?;
    let mut ended = None;
    let limit = drain + Duration::from_secs(10);
    let batch_end = from + drain.mul_f64(BATCH_PART);
    pool.read_until(limit, |_| {
        if Instant::now() > batch_end {
            batch.end();
        }
        if ended.is_none()
            && let Ok(Some(status)) = gateway.try_wait()
        {
            ended = Some((status, from.elapsed()));
        }
        ended.is_some()
    })?;
    // Reads what the kernel still holds of the last streams.
    pool.read_until(Duration::from_secs(1), |pool| pool.ended() == pool.subscribers().len())?;
    let (status, took) = ended.ok_or_else(|| {
        io::Error::other(format!("the gateway has not ended {} s after SIGTERM", limit.as_secs()))
    })?;
    let mut report = ProofReport::new();
    check_closes(&pool, signalled, drain.mul_f64(SPREAD), settings.uneven_max, &mut report);
    let code = status.code().map_or("a signal".to_owned(), |code| code.to_string());
    report.check("exit code", code, "0", status.success());
    let bound = drain + LATE_MAX;
    report.at_most(
        "time from the signal to the end of the process",
        took.as_secs_f64(),
        bound.as_secs_f64(),
        "s",
    );
    let feeds = feeds.into_iter().map(FeedHandle::finish).collect::<io::Result<Vec<_>>>()?;
    let batched = batch.finish();
    gateway.restart()?;
    let ended = signalled + took.as_nanos() as u64;
    check_responses(&feeds, &batched, ended, &mut report);
    audit(&gateway, &feeds, &batched, &mut report)?;
    Ok(report)
}

/// Checks whether every stream was closed the reason, with its position, and
/// when.
fn check_closes(
    pool: &SubscriberPool,
    signalled: u64,
    spread: Duration,
    uneven_max: f64,
    report: &mut ProofReport,
) {
    let streams = pool.subscribers();
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for protocol in PROTOCOLS {
        let of: Vec<&Subscriber> =
            streams.iter().filter(|stream| stream.protocol() == protocol).collect();
        let is_closed_properly = |stream: &&&Subscriber| is_closed_properly(stream);
        let closed = of.iter().filter(is_closed_properly).count();
        let how = match protocol {
            Protocol::Ws | Protocol::Nats => "the close code 1012",
            Protocol::Sse | Protocol::Ndjson => "`stream-close`, reason draining, and a whole end",
        };
        let what = format!("{} streams that received {how}", protocol.label());
        report.exactly(what, closed as u64, of.len() as u64);
        let after = |stream: &&Subscriber| {
            let at = stream.progress().end.at;
            (at > 0).then(|| at.saturating_sub(signalled) as f64 / 1e9)
        };
        let mut secs: Vec<f64> = of.iter().filter_map(after).collect();
        secs.sort_by(f64::total_cmp);
        let last = secs.len().saturating_sub(1);
        let at = |percent| secs.get(last * percent / 100).map_or("–".to_owned(), |at| short(*at));
        let mut row = vec![protocol.label().to_owned(), of.len().to_string()];
        row.extend([0, 10, 25, 50, 75, 90, 100].map(at));
        rows.push(row);
        all.extend(secs);
    }
    all.sort_by(f64::total_cmp);
    let last = all.last().copied().unwrap_or(0.0);
    let bound = (spread + LATE_MAX).as_secs_f64();
    report.at_most("time until the last close message", last, bound, "s");
    report.at_most(
        format!(
            "largest deviation of the close times from an even spread over {} s",
            short(spread.as_secs_f64())
        ),
        uneven(&all, spread.as_secs_f64()),
        uneven_max,
        "",
    );
    let elsewhere = |stream: &&Subscriber| {
        let progress = stream.progress();
        progress.end.position != Some(progress.offset())
    };
    let elsewhere = streams.iter().filter(elsewhere).count();
    report.exactly(
        "streams whose final position is not that of their last event",
        elsewhere as u64,
        0,
    );
    let faults: u64 = pool.stats.faults()[..4].iter().sum();
    report.exactly("events lost, repeated or out of order on a stream; gaps", faults, 0);
    report.table(
        &[
            "time of the close message, s",
            "streams",
            "first",
            "10 %",
            "25 %",
            "50 %",
            "75 %",
            "90 %",
            "last",
        ],
        &rows,
    );
}

fn is_closed_properly(stream: &Subscriber) -> bool {
    let end = &stream.progress().end;
    match stream.protocol() {
        Protocol::Ws | Protocol::Nats => end.code == Some(1012),
        Protocol::Sse | Protocol::Ndjson => {
            end.reason.as_deref() == Some("draining") && stream.ended_cleanly()
        }
    }
}

/// Returns the largest difference between the distribution of `sorted` and an
/// even one over 0 to `spread`: the Kolmogorov–Smirnov statistic.
fn uneven(sorted: &[f64], spread: f64) -> f64 {
    let count = sorted.len() as f64;
    let difference = |(index, value): (usize, &f64)| {
        let even = (value / spread).min(1.0);
        (even - index as f64 / count).abs().max(((index + 1) as f64 / count - even).abs())
    };
    sorted.iter().enumerate().map(difference).fold(0.0, f64::max)
}

/// Reads the log from its start and checks that it has every acknowledged event
/// once, and no other event.
fn audit(
    gateway: &Gateway,
    feeds: &[FeedResult],
    batched: &io::Result<u64>,
    report: &mut ProofReport,
) -> io::Result<()> {
    let mut acknowledged: Vec<u64> = feeds.iter().map(|result| result.acknowledged).collect();
    acknowledged.resize(BATCH, 0);
    acknowledged.push(*batched.as_ref().unwrap_or(&0));
    let expected: u64 = acknowledged.iter().sum();
    let path = format!("/events/{TICKS}?from=earliest");
    let subscription =
        Subscription { path, ..topic::subscription(gateway, TICKS, Protocol::Ndjson) };
    let mut pool = SubscriberPool::open(&subscription, 1)?;
    pool.read_until(AUDIT_MAX, |pool| pool.stats.deliveries >= expected)?;
    // Waits for events that must not be there.
    pool.read_until(Duration::from_millis(500), |_| false)?;
    let progress = pool.subscribers()[0].progress().clone();
    let stats = pool.close(&acknowledged);
    let what =
        format!("acknowledged events, of {expected}, that are missing or repeated in the log");
    report.exactly(what, stats.lost + stats.repeated + stats.disordered, 0);
    let unanswered: u64 =
        (0..acknowledged.len()).map(|p| progress.of(p).saturating_sub(acknowledged[p])).sum();
    report.exactly("events in the log whose request was not answered", unanswered, 0);
    Ok(())
}

/// Checks whether every request was answered.
fn check_responses(
    feeds: &[FeedResult],
    batched: &io::Result<u64>,
    ended: u64,
    report: &mut ProofReport,
) {
    let count = |is: &dyn Fn(&FeedEnd, u64) -> bool| {
        let is = |result: &&FeedResult| result.end.as_ref().is_some_and(|(end, at)| is(end, *at));
        feeds.iter().filter(is).count() as u64
    };
    report.exactly("incomplete responses", count(&|end, _| *end == FeedEnd::Broken), 0);
    let refused = count(&|end, _| matches!(end, FeedEnd::Refused(_)));
    report.exactly("requests refused", refused, 0);
    // Connections that the kernel had accepted and the process had not are cut
    // when the process ends. The gateway cannot prevent that.
    let is_early = |at: u64| at + LAST_MOMENT.as_nanos() as u64 <= ended;
    report.exactly(
        format!(
            "new connections closed before their request was read, without those of the last {} ms",
            LAST_MOMENT.as_millis()
        ),
        count(&|end, at| *end == FeedEnd::Unanswered && is_early(at)),
        0,
    );
    let (received, is_whole) = match batched {
        Ok(lines) => (format!("{lines} lines, all answered"), true),
        Err(error) => (error.to_string(), false),
    };
    report.check("the active batch", received, "every line answered", is_whole);
}

/// A batch that is sent line by line until `end`.
struct OpenBatch {
    thread: std::thread::JoinHandle<io::Result<u64>>,
    end: Arc<AtomicBool>,
}

impl OpenBatch {
    fn start(address: SocketAddr, rate: f64, bytes: usize) -> io::Result<OpenBatch> {
        let end = Arc::new(AtomicBool::new(false));
        let ends = end.clone();
        let run = move || {
            let mut connection = Connection::open(address)?;
            let fields = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
            let head = connection.head(&format!("/events/{TICKS}"), fields);
            connection.write(&head)?;
            let (mut pace, mut lines) = (Pace::new(rate), 0);
            while !ends.load(Ordering::Relaxed) {
                let stamp = EventStamp { publisher: BATCH, sequence: lines, due: pace.wait() };
                let mut line = Vec::new();
                publisher::write_event(&mut line, stamp, bytes, None);
                line.push(b'\n');
                let size = format!("{:x}\r\n", line.len());
                connection.write(&[size.as_bytes(), &line, b"\r\n"].concat())?;
                lines += 1;
            }
            connection.write(b"0\r\n\r\n")?;
            let response = connection.response()?;
            let written = response.body.matches(r#""status":201"#).count() as u64;
            if written == lines {
                return Ok(lines);
            }
            Err(io::Error::other(format!("{written} of {lines} lines were written")))
        };
        let thread = std::thread::Builder::new().name("batch".to_owned()).spawn(run)?;
        Ok(OpenBatch { thread, end })
    }

    fn end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    fn finish(self) -> io::Result<u64> {
        self.end();
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the batch panicked")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_spread_differs_from_a_burst() {
        let check = |values: &[f64], least: f64, most: f64| {
            let found = uneven(values, 10.0);
            assert!((least..=most).contains(&found), "{values:?}: {found}");
        };
        let even: Vec<f64> = (0..100).map(|n| f64::from(n) / 10.0).collect();
        check(&even, 0.0, 0.02);
        check(&[0.0; 100], 0.99, 1.0);
        check(&[5.0; 100], 0.49, 0.51);
        check(&[20.0; 100], 0.99, 1.0);
        check(&[], 0.0, 0.0);
    }
}
