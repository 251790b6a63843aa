//! One measurement of one target.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::settings::{FanoutLoad, Measure, Scenario};
use crate::delivery_stats::DeliveryStats;
use crate::process::Meter;
use crate::publisher::PublishPlan;
use crate::subscriber::{Protocol, Subscription};
use crate::subscriber_pool::{self, SubscriberPool};
use crate::target::{RunningTarget, Target};

/// After this time without a byte, missing events are lost.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The longest time of a phase.
const PHASE_MAX: Duration = Duration::from_mins(2);

/// The time between two samples of the process.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// The part of a measurement in which no stalled readers are connected.
pub const ALONE: &str = "alone";

/// The time in which the memory can settle.
const SETTLE: Duration = Duration::from_millis(1500);

/// The figures of one measurement of one target. `None` where the measurement
/// has no such figure.
pub struct Sample {
    /// The part, if a measurement has several, or the protocol, if it is not
    /// the scenario's.
    pub part: &'static str,
    /// CPU time of a delivery in µs, without that of publishing.
    pub cpu_per_delivery: Option<f64>,
    /// CPU time of publishing an event to one subscriber, in µs.
    pub cpu_per_publish: Option<f64>,
    /// CPU time of the whole phase, in seconds.
    pub cpu: Option<f64>,
    /// The time from the first event, or the first connection, to the last delivery.
    pub wall: Option<Duration>,
    /// CPU time of the generator for each delivery, in µs.
    pub generator: Option<f64>,
    /// The most resident memory, in bytes.
    pub rss_max: u64,
    /// Resident memory of a connection, in bytes.
    pub rss_per_connection: Option<f64>,
    /// Counts of what arrived.
    pub stats: DeliveryStats,
}

/// One phase: events published to a pool of subscribers.
struct FanoutPhase {
    cpu: u64,
    generator: u64,
    wall: Duration,
    rss_max: u64,
    stats: DeliveryStats,
}

/// Measures a target once. `name` selects its number of events.
///
/// # Errors
/// If the target cannot be started, refuses a request, or breaks off.
pub fn measure(scenario: &Scenario, name: &str, target: &Target) -> io::Result<Vec<Sample>> {
    match &scenario.measure {
        Measure::Fanout(load) => {
            let (running, load) = (target.start()?, load.of(name));
            warm_up(&running, &load, scenario.warm_up)?;
            let base = phase(&running, &load, 1)?;
            let run = phase(&running, &load, load.subscribers)?;
            let is_other = !target.speaks(load.protocol);
            let part =
                if is_other { running.subscription(load.protocol)?.protocol.label() } else { "" };
            Ok(vec![fanout_sample(part, &load, &base, run)])
        }
        Measure::Stalled { stalled, load } => {
            let running = target.start()?;
            warm_up(&running, load, scenario.warm_up)?;
            let base = phase(&running, load, 1)?;
            let alone = phase(&running, load, load.subscribers)?;
            let subscription = running.subscription(load.protocol)?;
            let readers = subscriber_pool::stalled(&subscription, *stalled)?;
            let beside = phase(&running, load, load.subscribers)?;
            drop(readers);
            Ok(vec![
                fanout_sample(ALONE, load, &base, alone),
                fanout_sample("beside stalled readers", load, &base, beside),
            ])
        }
        Measure::Idle { connections, protocols } => protocols
            .iter()
            .filter(|&&protocol| target.speaks(protocol))
            .map(|&protocol| idle(&target.start()?, protocol, *connections, scenario.warm_up))
            .collect(),
        Measure::Reconnect { clients, events, bytes, protocol } => {
            let load = FanoutLoad {
                protocol: *protocol,
                subscribers: *clients,
                bytes: *bytes,
                rate: None,
                events: *events,
                events_of: BTreeMap::new(),
                batch: None,
                publishers: 1,
            };
            let running = target.start()?;
            warm_up(&running, &load, scenario.warm_up)?;
            Ok(vec![reconnect(&running, &load)?])
        }
    }
}

fn publish_plan(running: &RunningTarget, load: &FanoutLoad) -> PublishPlan {
    let publishers = load.publishers.max(1);
    PublishPlan {
        address: running.publish_address(),
        path: running.publish().to_owned(),
        dialect: running.dialect(),
        publishers,
        first: 0,
        events: load.events / publishers as u64,
        rate: load.rate.map(|rate| rate / publishers as f64),
        batch: load.batch,
        bytes: load.bytes,
        subjects: 0,
    }
}

/// Publishes a tenth of the events, so that code and memory are in use.
fn warm_up(running: &RunningTarget, load: &FanoutLoad, subscribers: usize) -> io::Result<()> {
    let load =
        FanoutLoad { events: (load.events / 10).clamp(20, 2000), rate: None, ..load.clone() };
    phase(running, &load, subscribers).map(|_| ())
}

fn phase(
    running: &RunningTarget,
    load: &FanoutLoad,
    subscribers: usize,
) -> io::Result<FanoutPhase> {
    let mut pool = SubscriberPool::open(&running.subscription(load.protocol)?, subscribers)?;
    let publish_plan = publish_plan(running, load);
    let totals = publish_plan.totals();
    let expected = totals.iter().sum::<u64>() * subscribers as u64;
    let mut meter = running.process.meter();
    let mut own = Meter::of(std::process::id());
    let (cpu, generator) = (meter.cpu()?, own.cpu()?);
    let begun = Instant::now();
    let publishers = publish_plan.start()?;
    if !read_until_delivered(&mut pool, &mut meter, expected, || publishers.is_done())? {
        publishers.stop();
    }
    let wall = begun.elapsed();
    let (cpu, generator) = (meter.cpu()? - cpu, own.cpu()? - generator);
    publishers.finish()?;
    Ok(FanoutPhase { cpu, generator, wall, rss_max: meter.rss_max(), stats: pool.close(&totals) })
}

/// Reads until `expected` deliveries arrived and everything is published, or no
/// more data arrives. Returns whether everything arrived.
fn read_until_delivered(
    pool: &mut SubscriberPool,
    meter: &mut Meter,
    expected: u64,
    is_published: impl Fn() -> bool,
) -> io::Result<bool> {
    let begun = Instant::now();
    let (mut sampled, mut came, mut last) = (begun, 0, begun);
    while pool.stats.deliveries < expected || !is_published() {
        pool.read_ready(Duration::from_millis(5))?;
        let now = Instant::now();
        if now - sampled >= SAMPLE_EVERY {
            sampled = now;
            meter.cpu()?;
        }
        if pool.stats.bytes > came || !is_published() {
            (came, last) = (pool.stats.bytes, now);
        }
        if now - last > SILENCE_MAX || now - begun > PHASE_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

fn fanout_sample(
    part: &'static str,
    load: &FanoutLoad,
    base: &FanoutPhase,
    run: FanoutPhase,
) -> Sample {
    let more = run.stats.deliveries.saturating_sub(base.stats.deliveries);
    let cpu = run.cpu as f64 - base.cpu as f64;
    Sample {
        part,
        cpu_per_delivery: (more > 0).then(|| cpu / more as f64 / 1e3),
        cpu_per_publish: Some(base.cpu as f64 / load.events as f64 / 1e3),
        cpu: Some(run.cpu as f64 / 1e9),
        generator: Some(run.generator as f64 / run.stats.deliveries.max(1) as f64 / 1e3),
        wall: Some(run.wall),
        rss_max: run.rss_max,
        rss_per_connection: None,
        stats: run.stats,
    }
}

fn idle(
    running: &RunningTarget,
    protocol: Protocol,
    count: usize,
    warm_up: usize,
) -> io::Result<Sample> {
    let subscription = running.subscription(protocol)?;
    drop(SubscriberPool::open(&subscription, warm_up)?);
    std::thread::sleep(SETTLE);
    let mut meter = running.process.meter();
    let before = meter.rss()?;
    let mut pool = SubscriberPool::open(&subscription, count)?;
    let settled = Instant::now() + SETTLE;
    while Instant::now() < settled {
        pool.read_ready(Duration::from_millis(50))?;
    }
    let after = meter.rss()?;
    let each = (after as f64 - before as f64) / pool.len() as f64;
    Ok(Sample {
        part: protocol.label(),
        cpu_per_delivery: None,
        cpu_per_publish: None,
        cpu: None,
        generator: None,
        wall: None,
        rss_max: meter.rss_max(),
        rss_per_connection: Some(each),
        stats: pool.close(&[]),
    })
}

fn reconnect(running: &RunningTarget, load: &FanoutLoad) -> io::Result<Sample> {
    let one = PublishPlan { events: 1, ..publish_plan(running, load) };
    let response = one.start()?.finish()?.pop().unwrap_or_default();
    let response: serde_json::Value = serde_json::from_str(&response)?;
    let after = response.get("id").and_then(|id| id.as_str()).map(str::to_owned);
    let missed = publish_plan(running, load);
    missed.start()?.finish()?;
    let subscription = Subscription { after, ..running.subscription(load.protocol)? };
    let mut meter = running.process.meter();
    let cpu = meter.cpu()?;
    let begun = Instant::now();
    let mut pool = SubscriberPool::open(&subscription, load.subscribers)?;
    let expected = load.events * load.subscribers as u64;
    read_until_delivered(&mut pool, &mut meter, expected, || true)?;
    let (wall, cpu) = (begun.elapsed(), meter.cpu()? - cpu);
    let stats = pool.close(&missed.totals());
    Ok(Sample {
        part: "",
        cpu_per_delivery: Some(cpu as f64 / stats.deliveries.max(1) as f64 / 1e3),
        cpu_per_publish: None,
        cpu: Some(cpu as f64 / 1e9),
        generator: None,
        wall: Some(wall),
        rss_max: meter.rss_max(),
        rss_per_connection: None,
        stats,
    })
}
