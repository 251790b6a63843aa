//! A node restarts, and all clients reconnect at once with their positions,
//! while publishers go on.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Deserialize;
use toml::Table;

use super::topic::{self, QUIET, TICKS};
use crate::clock;
use crate::delivery_stats::SubscriberProgress;
use crate::feed::{Feed, FeedHandle, FeedResult, OnFailure};
use crate::gateway::Gateway;
use crate::latency;
use crate::metrics_snapshot::MetricsSnapshot;
use crate::publisher::{Dialect, PublishPlan};
use crate::report::figures::short;
use crate::report::proof_report::ProofReport;
use crate::subscriber::{Protocol, Subscriber};
use crate::subscriber_pool::SubscriberPool;

/// The size of the load, and the bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// SSE clients of one topic.
    clients: usize,
    /// The way in which the gateway ends.
    end: NodeEnd,
    /// The number of events a second to all clients.
    rate: f64,
    /// Events a second to a topic without readers, to time publishing with.
    quiet_rate: f64,
    /// The size of an event's data, in bytes.
    bytes: usize,
    /// The number of events that are published between the restart and the reconnects.
    missed: u64,
    /// Seconds before the end of the node, and after all clients have caught
    /// up.
    calm_secs: u64,
    /// The most seconds from the first reconnect until all clients have caught
    /// up.
    caught_up_secs_max: f64,
    /// The most that a publish's p99 in the storm may be, as a multiple of that
    /// before,
    publish_times_max: f64,
    /// or in seconds, whichever is more.
    publish_secs_max: f64,
    /// The most encodings for each event that clients are sent.
    encodings_max: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NodeEnd {
    Kill,
    Term,
}

/// The timeout for clients to see the end of the node, and for the last events.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// The time between two checks whether all clients have caught up.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// The counter of encoded events, by form.
const ENCODINGS: &str = "streamgate_encodings_total";

/// The numbers of the publishers in the stamps of [`TICKS`].
const MISSED: usize = 0;
const LIVE: usize = 1;

/// Points in time, by [`clock::now`].
struct Times {
    calm: u64,
    ended: u64,
    serving: u64,
    storm: u64,
    heads: u64,
    caught_up: u64,
}

/// # Errors
/// If the proof cannot be carried to its end.
pub fn run(settings: &Settings, config: &Table) -> io::Result<ProofReport> {
    let mut gateway = Gateway::start(config)?;
    let epoch = topic::epoch(gateway.address(), TICKS)?;
    let subscription = topic::subscription(&gateway, TICKS, Protocol::Sse);
    let mut pool = SubscriberPool::open(&subscription, settings.clients)?;
    let live = feed(settings, &gateway, TICKS, LIVE, settings.rate).start()?;
    let quiet = feed(settings, &gateway, QUIET, LIVE, settings.quiet_rate).start()?;
    let calm = clock::now();
    let calm_time = Duration::from_secs(settings.calm_secs);
    pool.read_until(calm_time, |_| false)?;
    let ended = clock::now();
    end(settings, &mut gateway, &mut pool)?;
    let before = pool.stats.faults();
    let progress: Vec<SubscriberProgress> =
        pool.subscribers().iter().map(Subscriber::progress).cloned().collect();
    drop(pool);
    gateway.restart()?;
    let serving = clock::now();
    missed(settings, &gateway)?;
    let metrics = gateway.metrics()?;
    let storm = clock::now();
    // All clients send their request before the first is answered.
    let mut progress = progress.into_iter().enumerate();
    let mut pool = SubscriberPool::open_with(settings.clients, settings.clients, |_| {
        let (index, progress) =
            progress.next().ok_or_else(|| io::Error::other("fewer clients than expected"))?;
        subscription.resume(index, &epoch, progress)
    })?;
    let heads = clock::now();
    let is_caught_up = catch_up(settings, &mut pool, &live)?;
    let caught_up = clock::now();
    let metrics = [metrics, gateway.metrics()?];
    pool.read_until(calm_time, |_| false)?;
    let (live, quiet) = (live.finish()?, quiet.finish()?);
    let totals = [settings.missed, live.acknowledged];
    pool.read_until(WAIT_MAX, |pool| has(pool, totals))?;
    let after = pool.close(&totals).faults();
    let times = Times { calm, ended, serving, storm, heads, caught_up };
    let mut report = ProofReport::new();
    report.check("all clients caught up", is_caught_up.to_string(), "true", is_caught_up);
    let faults: u64 = before[..4].iter().chain(&after).sum();
    report.exactly(
        "events lost, repeated or out of order; gaps; streams disconnected again",
        faults,
        0,
    );
    conclude(settings, &times, &[&live, &quiet], &mut report);
    shared(settings, &metrics, &mut report);
    Ok(report)
}

fn feed(
    settings: &Settings,
    gateway: &Gateway,
    topic: &'static str,
    publisher: usize,
    rate: f64,
) -> Feed {
    let (address, bytes) = (gateway.address(), settings.bytes);
    Feed { address, topic, publisher, rate, bytes, on_failure: OnFailure::Retry }
}

/// Ends the node and waits until its clients have seen the end.
fn end(settings: &Settings, gateway: &mut Gateway, pool: &mut SubscriberPool) -> io::Result<()> {
    gateway.signal(match settings.end {
        NodeEnd::Kill => Signal::KILL,
        NodeEnd::Term => Signal::TERM,
    })?;
    let gone = pool.read_until(WAIT_MAX, |pool| pool.ended() == pool.subscribers().len())?;
    if gone && gateway.wait(WAIT_MAX)?.is_some() {
        return Ok(());
    }
    Err(io::Error::other("the node did not end in time"))
}

/// Publishes what the clients miss before they reconnect.
fn missed(settings: &Settings, gateway: &Gateway) -> io::Result<()> {
    let missed = PublishPlan {
        address: gateway.address(),
        path: format!("/events/{TICKS}"),
        dialect: Dialect::Streamgate,
        publishers: 1,
        first: 0,
        events: settings.missed,
        rate: None,
        batch: Some(settings.missed),
        bytes: settings.bytes,
        subjects: 0,
    };
    missed.start()?.finish().map(|_| ())
}

/// Reads until all clients have what had been acknowledged at the check before.
fn catch_up(settings: &Settings, pool: &mut SubscriberPool, live: &FeedHandle) -> io::Result<bool> {
    let (mut due, mut checked_at) = (live.acknowledged(), Instant::now());
    pool.read_until(WAIT_MAX, |pool| {
        if checked_at.elapsed() < CHECK_EVERY {
            return false;
        }
        checked_at = Instant::now();
        let before = std::mem::replace(&mut due, live.acknowledged());
        has(pool, [settings.missed, before])
    })
}

/// Returns whether all clients have this many events of each publisher.
fn has(pool: &SubscriberPool, totals: [u64; 2]) -> bool {
    pool.subscribers().iter().all(|subscriber| {
        let progress = subscriber.progress();
        progress.of(MISSED) >= totals[MISSED] && progress.of(LIVE) >= totals[LIVE]
    })
}

fn conclude(settings: &Settings, times: &Times, results: &[&FeedResult], report: &mut ProofReport) {
    let secs = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
    report.at_most(
        format!("time until {} clients had reconnected and caught up", settings.clients),
        secs(times.storm, times.caught_up),
        settings.caught_up_secs_max,
        "s",
    );
    let publishes =
        |from, to| latency::from_values(results.iter().flat_map(|result| result.within(from, to)));
    let (before, storm) =
        (publishes(times.calm, times.ended), publishes(times.storm, times.caught_up));
    let after = publishes(times.caught_up, u64::MAX);
    let bound = (settings.publish_times_max * latency::ms(&before, 0.99))
        .max(settings.publish_secs_max * 1e3);
    report.at_most("p99 of a publish during the storm", latency::ms(&storm, 0.99), bound, "ms");
    let row = |name: &str, histogram: &hdrhistogram::Histogram<u64>| {
        let quantile = |quantile| short(latency::ms(histogram, quantile));
        let mut row = vec![name.to_owned(), histogram.len().to_string()];
        row.extend([0.5, 0.99, 1.0].map(quantile));
        row
    };
    let heads = ["publishes", "requests", "p50 ms", "p99 ms", "max ms"];
    let rows = [
        row("before the storm", &before),
        row("during the storm", &storm),
        row("after the storm", &after),
    ];
    report.table(&heads, &rows);
    let retries: u64 = results.iter().map(|result| result.retries).sum();
    let rows = [
        (
            "time from the signal until the gateway served again, s",
            secs(times.ended, times.serving),
        ),
        ("time until all clients had received a response head, s", secs(times.storm, times.heads)),
        ("time until all clients had caught up, s", secs(times.storm, times.caught_up)),
        ("publishes retried with their `Idempotency-Key`", retries as f64),
    ];
    let rows = rows.map(|(what, value)| vec![what.to_owned(), short(value)]);
    report.table(&["storm", "value"], &rows);
}

/// Checks that reads and encodings were shared: they grow with events, not with
/// clients.
fn shared(settings: &Settings, metrics: &[MetricsSnapshot; 2], report: &mut ProofReport) {
    let grown = |name: &str, labels: &[(&str, &str)]| {
        let [before, after] = metrics;
        (after.count(name, labels).unwrap_or(0) - before.count(name, labels).unwrap_or(0)) as f64
    };
    // The missed events are in the log before the first scrape.
    let ticks = [("log", TICKS)];
    let events = settings.missed as f64 + grown("streamgate_events_appended_total", &ticks);
    report.at_most(
        "encodings per event sent to the clients",
        grown(ENCODINGS, &[]) / events,
        settings.encodings_max,
        "",
    );
    let mut rows = vec![vec!["events to send to each client".to_owned(), short(events)]];
    for form in metrics[1].label_values(ENCODINGS, "form") {
        let made = grown(ENCODINGS, &[("form", &form)]);
        if made > 0.0 {
            rows.push(vec![format!("events encoded as {form}"), short(made)]);
        }
    }
    for (what, name) in [
        ("deliveries", "streamgate_events_delivered_total"),
        ("of these: read from the log", "streamgate_events_replayed_total"),
    ] {
        rows.push(vec![what.to_owned(), short(grown(name, &[]))]);
    }
    report.table(&["until all clients had caught up", "value"], &rows);
}
