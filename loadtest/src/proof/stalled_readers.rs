//! Readers that never read, beside live ones: what they cost the gateway and
//! the kernel, whether they delay the live ones once they are stalled, and
//! whether each gets everything once it reads again or reconnects.

use std::fs;
use std::io;
use std::mem;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Deserialize;
use socket2::SockRef;
use toml::Table;

use super::topic::{self, TICKS};
use crate::delivery_stats::DeliveryStats;
use crate::gateway::Gateway;
use crate::latency;
use crate::process::Meter;
use crate::publisher::{Dialect, PublishPlan};
use crate::report::figures::median;
use crate::report::figures::short;
use crate::report::proof_report::ProofReport;
use crate::subscriber::{Protocol, ReadBuffers, ReadOutcome, Subscriber, Subscription};
use crate::subscriber_pool::{self, SubscriberPool};

/// The size of the load, and the bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Readers that do not read.
    stalled: usize,
    /// Readers that read.
    live: usize,
    /// Events a second of all publishers.
    rate: f64,
    publishers: usize,
    /// The size of an event's data, in bytes.
    bytes: usize,
    /// Events of all publishers at the start of a phase: enough that no more
    /// fit into the socket of a reader that does not read. Until then such a
    /// reader is a live one for the gateway and the kernel, and costs the same.
    filling: u64,
    /// The number of events of all publishers after the sockets are full.
    events: u64,
    /// The number of rounds. Each has a phase without the stalled readers and
    /// one with them.
    rounds: usize,
    /// The number of events that fill the gateway's caches before the first phase.
    warm_up: u64,
    p99_times_max: f64,
    /// The most milliseconds of the live readers' p99 while the sockets of the
    /// others fill.
    filling_ms_max: f64,
    rss_bytes_max: u64,
    kernel_bytes_max: u64,
}

/// The timeout for deliveries after the last event of a phase, and for the
/// stalled readers to catch up.
const CATCH_UP_MAX: Duration = Duration::from_mins(2);

/// The time after a phase in which the memory can settle.
const SETTLE: Duration = Duration::from_secs(1);

/// The time between two samples of memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// The receive buffer of a reader that reads again.
const READING_BYTES: usize = 256 * 1024;

/// Readers that read the whole warm-up from the log, to fill the page cache.
const WARM_READERS: usize = 4;

/// The timeout for the gateway to report all stalled readers.
const FILL_MAX: Duration = Duration::from_secs(10);

/// One phase.
struct Phase {
    /// The latencies in it are those of the events after the filling ones.
    stats: DeliveryStats,
    /// The latencies of the filling events.
    filling: Histogram<u64>,
    /// CPU time of the gateway, in nanoseconds.
    cpu: u64,
    rss: MemoryLevel,
    kernel: MemoryLevel,
}

/// An amount of memory over a phase, in bytes.
#[derive(Clone, Copy, Default)]
struct MemoryLevel {
    start: u64,
    peak: u64,
    settled: u64,
}

/// Samples memory during a phase.
struct MemoryWatch {
    meter: Meter,
    cpu: u64,
    rss: MemoryLevel,
    kernel: MemoryLevel,
    sampled_at: Instant,
}

/// # Errors
/// If the proof cannot be carried to its end.
pub fn run(settings: &Settings, config: &Table) -> io::Result<ProofReport> {
    let gateway = Gateway::start(config)?;
    let mut report = ProofReport::new();
    let epoch = topic::epoch(gateway.address(), TICKS)?;
    warm_up(settings, &gateway)?;
    let mut rounds = Vec::new();
    for round in 1..=settings.rounds {
        eprintln!("  round {round} of {}", settings.rounds);
        let without = phase(settings, &gateway, MemoryWatch::start(&gateway)?, 0)?;
        let watch = MemoryWatch::start(&gateway)?;
        let readers = stall(settings, &gateway)?;
        let beside = phase(settings, &gateway, watch, settings.stalled)?;
        if round == settings.rounds {
            resume(settings, &gateway, &epoch, readers, &mut report)?;
        } else {
            drop(readers);
            topic::await_streams(&gateway, 0)?;
        }
        rounds.push((without, beside));
    }
    conclude(settings, &rounds, &mut report);
    Ok(report)
}

/// Returns the events of a phase after those that fill the sockets.
fn publish_plan(settings: &Settings, gateway: &Gateway) -> PublishPlan {
    let publishers = settings.publishers as u64;
    PublishPlan {
        address: gateway.address(),
        path: format!("/events/{TICKS}"),
        dialect: Dialect::Streamgate,
        publishers: settings.publishers,
        first: settings.filling / publishers,
        events: settings.events / publishers,
        rate: Some(settings.rate / publishers as f64),
        batch: None,
        bytes: settings.bytes,
        subjects: 0,
    }
}

/// Fills the tail in memory and the page cache. Both are full with and without
/// stalled readers, and would count as the cost of those.
fn warm_up(settings: &Settings, gateway: &Gateway) -> io::Result<()> {
    let publish_plan = PublishPlan {
        publishers: 1,
        first: 0,
        events: settings.warm_up,
        rate: None,
        batch: Some(500),
        ..publish_plan(settings, gateway)
    };
    publish_plan.start()?.finish()?;
    let path = format!("/events/{TICKS}?from=earliest");
    let subscription = Subscription { path, ..live(gateway) };
    let mut pool = SubscriberPool::open(&subscription, WARM_READERS)?;
    let expected = publish_plan.totals().iter().sum::<u64>() * WARM_READERS as u64;
    let came = pool.read_until(CATCH_UP_MAX, |pool| pool.stats.deliveries >= expected)?;
    drop(pool);
    topic::await_streams(gateway, 0)?;
    if came { Ok(()) } else { Err(io::Error::other("the warm-up was not delivered in time")) }
}

fn live(gateway: &Gateway) -> Subscription {
    topic::subscription(gateway, TICKS, Protocol::Sse)
}

fn stall(settings: &Settings, gateway: &Gateway) -> io::Result<Vec<TcpStream>> {
    let readers = subscriber_pool::stalled(&live(gateway), settings.stalled)?;
    topic::await_streams(gateway, settings.stalled)?;
    Ok(readers)
}

fn phase(
    settings: &Settings,
    gateway: &Gateway,
    mut watch: MemoryWatch,
    stalled: usize,
) -> io::Result<Phase> {
    let mut pool = SubscriberPool::open(&live(gateway), settings.live)?;
    let publish_plan = publish_plan(settings, gateway);
    let totals = publish_plan.totals();
    let fill = PublishPlan { first: 0, events: publish_plan.first, ..publish_plan.clone() };
    publish(&fill, &mut pool, &mut watch)?;
    let deadline = Instant::now() + FILL_MAX;
    while !is_stalled(gateway.catching_up()?, stalled as u64, Instant::now() > deadline)? {
        pool.read_until(SAMPLE_EVERY, |_| {
            watch.sample();
            false
        })?;
    }
    let filling = mem::replace(&mut pool.stats.latency, latency::empty());
    publish(&publish_plan, &mut pool, &mut watch)?;
    // At the end of the phase, all must still be stalled.
    is_stalled(gateway.catching_up()?, stalled as u64, true)?;
    let settled = Instant::now() + SETTLE;
    pool.read_until(SETTLE, |_| {
        watch.sample();
        Instant::now() > settled
    })?;
    let cpu = watch.meter.cpu()? - watch.cpu;
    let (rss, kernel) = watch.end()?;
    Ok(Phase { stats: pool.close(&totals), filling, cpu, rss, kernel })
}

/// Returns whether the gateway's gauge shows all `stalled` readers as catching
/// up. The gauge also counts a live reader that catches up at that moment, so a
/// larger number is accepted, but only once it `is_late`.
///
/// # Errors
/// If it `is_late` and a stalled reader is missing.
fn is_stalled(catching_up: u64, stalled: u64, is_late: bool) -> io::Result<bool> {
    if is_late && catching_up < stalled {
        let message = format!("only {catching_up} of {stalled} readers are stalled");
        return Err(io::Error::other(message));
    }
    Ok(catching_up == stalled || (is_late && catching_up > stalled))
}

/// Publishes, and reads until all live readers have everything. What has not
/// arrived by then is lost.
fn publish(
    publish_plan: &PublishPlan,
    pool: &mut SubscriberPool,
    watch: &mut MemoryWatch,
) -> io::Result<()> {
    let expected = publish_plan.totals().iter().sum::<u64>() * pool.len() as u64;
    let publishers = publish_plan.start()?;
    let done = pool.read_until(CATCH_UP_MAX, |_| {
        watch.sample();
        publishers.is_done()
    })?;
    if !done {
        return Err(io::Error::other("the publishers did not finish in time"));
    }
    publishers.finish()?;
    pool.read_until(CATCH_UP_MAX, |pool| {
        watch.sample();
        pool.stats.deliveries >= expected
    })?;
    Ok(())
}

/// Half of the readers read on. The others read what has reached them, close
/// the connection, and reconnect with the last id of it.
fn resume(
    settings: &Settings,
    gateway: &Gateway,
    epoch: &str,
    readers: Vec<TcpStream>,
    report: &mut ProofReport,
) -> io::Result<()> {
    let (count, begun) = (readers.len(), Instant::now());
    let totals = publish_plan(settings, gateway).totals();
    let (mut early, mut buffers) = (DeliveryStats::new(), ReadBuffers::new());
    let mut readers = readers.into_iter();
    let subscription = live(gateway);
    let mut pool = SubscriberPool::open_with(count, count, |index| {
        let socket =
            readers.next().ok_or_else(|| io::Error::other("fewer readers than expected"))?;
        SockRef::from(&socket).set_recv_buffer_size(READING_BYTES)?;
        let mut reader = Subscriber::new(socket, Protocol::Sse)?;
        if index.is_multiple_of(2) {
            return Ok(reader);
        }
        // Only a few reads: the gateway refills the socket as it empties.
        for _ in 0..3 {
            match reader.read(&mut buffers, &mut early)? {
                ReadOutcome::Opened | ReadOutcome::Data => {}
                ReadOutcome::Idle => break,
                ReadOutcome::Ended => {
                    early.ended += 1;
                    break;
                }
            }
        }
        let progress = reader.progress().clone();
        drop(reader);
        subscription.resume(index, epoch, progress)
    })?;
    let expected = totals.iter().sum::<u64>() * count as u64;
    let before = early.deliveries;
    pool.read_until(CATCH_UP_MAX, |pool| pool.stats.deliveries + before >= expected)?;
    let took = begun.elapsed();
    let deliveries = pool.stats.deliveries + before;
    let stats = pool.close(&totals);
    let faults = stats.faults().iter().zip(early.faults()).map(|(a, b)| a + b).collect::<Vec<_>>();
    report.exactly(
        format!("events received in the end by {count} stalled readers, of {expected}"),
        deliveries,
        expected,
    );
    report.check(
        "of these: lost, repeated, out of order, reported as gaps; streams disconnected",
        faults.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        "0 of each",
        faults.iter().all(|&fault| fault == 0),
    );
    report.check(
        "time until the last stalled reader had caught up",
        format!("{} s", short(took.as_secs_f64())),
        format!("≤ {} s", CATCH_UP_MAX.as_secs()),
        took <= CATCH_UP_MAX,
    );
    Ok(())
}

fn conclude(settings: &Settings, rounds: &[(Phase, Phase)], report: &mut ProofReport) {
    let p99 = |phase: &Phase| latency::ms(&phase.stats.latency, 0.99);
    report.at_most(
        "p99 of the live readers after the sockets are full, relative to the phase without \
         stalled readers",
        median(rounds.iter().map(|(without, beside)| p99(beside) / p99(without))),
        settings.p99_times_max,
        "",
    );
    report.at_most(
        "p99 of the live readers while the sockets fill",
        median(rounds.iter().map(|(_, beside)| latency::ms(&beside.filling, 0.99))),
        settings.filling_ms_max,
        "ms",
    );
    let each = |what: fn(&Phase) -> MemoryLevel, end: fn(&MemoryLevel) -> u64| {
        let grown = |phase: &Phase| {
            let level = what(phase);
            end(&level) as f64 - level.start as f64
        };
        let more = rounds.iter().map(|(without, beside)| grown(beside) - grown(without));
        median(more) / settings.stalled as f64 / 1024.0
    };
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let (rss_max, kernel_max) = (kib(settings.rss_bytes_max), kib(settings.kernel_bytes_max));
    for (name, memory, max) in [
        ("RSS per stalled reader", (|phase| phase.rss) as fn(&Phase) -> MemoryLevel, rss_max),
        (
            "kernel memory per stalled reader, both ends of the connection",
            |phase| phase.kernel,
            kernel_max,
        ),
    ] {
        let peak = each(memory, |level| level.peak);
        report.at_most(format!("{name}: peak"), peak, max, "KiB");
        let settled = each(memory, |level| level.settled);
        report.at_most(format!("{name}: settled"), settled, max, "KiB");
    }
    let faults: u64 = rounds
        .iter()
        .flat_map(|(without, beside)| [without, beside])
        .map(|phase| phase.stats.faults().iter().sum::<u64>())
        .sum();
    report.exactly(
        "live readers: events lost, repeated or out of order; gaps; disconnects",
        faults,
        0,
    );
    tabulate(rounds, report);
}

fn tabulate(rounds: &[(Phase, Phase)], report: &mut ProofReport) {
    let row = |(index, (without, beside)): (usize, &(Phase, Phase))| {
        let mut cells = vec![(index + 1).to_string()];
        for phase in [without, beside] {
            let mib = |level: MemoryLevel| {
                let mib = |bytes: u64| short(bytes as f64 / 1_048_576.0);
                format!("{} → {}, {}", mib(level.start), mib(level.peak), mib(level.settled))
            };
            for latency in [&phase.filling, &phase.stats.latency] {
                let quantile = |quantile| short(latency::ms(latency, quantile));
                cells.push(format!("{}, {}", quantile(0.5), quantile(0.99)));
            }
            cells.push(short(phase.cpu as f64 / 1e9));
            cells.push(mib(phase.rss));
            cells.push(mib(phase.kernel));
        }
        cells
    };
    let rows: Vec<Vec<String>> = rounds.iter().enumerate().map(row).collect();
    let heads = [
        "round",
        "without, sockets fill: p50, p99 ms",
        "without, sockets full: p50, p99 ms",
        "without: CPU s",
        "without, RSS MiB: start → peak, settled",
        "without, TCP MiB: start → peak, settled",
        "with, sockets fill: p50, p99 ms",
        "with, sockets full: p50, p99 ms",
        "with: CPU s",
        "with, RSS MiB: start → peak, settled",
        "with, TCP MiB: start → peak, settled",
    ];
    report.table(&heads, &rows);
}

impl MemoryWatch {
    fn start(gateway: &Gateway) -> io::Result<MemoryWatch> {
        let mut meter = gateway.meter();
        let level = |start| MemoryLevel { start, peak: start, settled: start };
        let (rss, kernel) = (level(meter.rss()?), level(kernel_bytes()?));
        Ok(MemoryWatch { cpu: meter.cpu()?, meter, rss, kernel, sampled_at: Instant::now() })
    }

    fn sample(&mut self) {
        if self.sampled_at.elapsed() < SAMPLE_EVERY {
            return;
        }
        self.sampled_at = Instant::now();
        if let (Ok(rss), Ok(kernel)) = (self.meter.rss(), kernel_bytes()) {
            for (level, now) in [(&mut self.rss, rss), (&mut self.kernel, kernel)] {
                level.peak = level.peak.max(now);
                level.settled = now;
            }
        }
    }

    fn end(mut self) -> io::Result<(MemoryLevel, MemoryLevel)> {
        (self.rss.settled, self.kernel.settled) = (self.meter.rss()?, kernel_bytes()?);
        Ok((self.rss, self.kernel))
    }
}

/// Returns the memory of all TCP sockets of the machine, which includes both
/// ends of this proof's.
fn kernel_bytes() -> io::Result<u64> {
    let pages = tcp_pages(&fs::read_to_string("/proc/net/sockstat")?);
    let pages = pages.ok_or_else(|| io::Error::other("/proc/net/sockstat has no `mem` of TCP"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let mut words = line.split(' ').skip_while(|word| *word != "mem");
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_reader_that_catches_up_is_no_error() {
        for (catching_up, is_late, expected) in [
            (9, false, Some(false)),
            (9, true, None),
            (10, false, Some(true)),
            (10, true, Some(true)),
            (11, false, Some(false)),
            (11, true, Some(true)),
        ] {
            let found = is_stalled(catching_up, 10, is_late).ok();
            assert_eq!(found, expected, "{catching_up} {is_late}");
        }
    }

    #[test]
    fn tcp_pages_are_those_of_tcp() {
        let text = "sockets: used 13\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 281\n\
                    UDP: inuse 0 mem 7\n";
        assert_eq!(tcp_pages(text), Some(281));
        assert_eq!(tcp_pages("UDP: inuse 0 mem 7\n"), None);
    }
}
