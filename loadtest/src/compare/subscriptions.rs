//! Many resources with one subscription each, and updates of random ones. An
//! update must cost the same as among few subscriptions.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use serde::Deserialize;

use super::batches::Batches;
use super::document::resource;
use super::plan::RunPlan;
use super::received_set::ReceivedSet;
use super::usage::{self, Usage};
use crate::clock::{self, Pace};
use crate::delivery_stats::DeliveryStats;
use crate::framing;
use crate::gateway::Gateway;
use crate::http::Connection;
use crate::latency;
use crate::publisher::{self, JSON};
use crate::report::builds::Better;
use crate::report::table::{Column, Table, compared, plain};
use crate::run_options::order;
use crate::stamp::{EventStamp, PUBLISHERS_MAX};
use crate::subscriber::{Protocol, Subscription};
use crate::subscriber_pool::SubscriberPool;

/// The size of the load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The number of sockets in the case of many. The case of few has one.
    sockets: u64,
    /// Subscriptions of a socket, each to its own resource.
    each: u64,
    /// Updates a second of all publishers together.
    rate: f64,
    /// Updates of a round.
    updates: u64,
    /// The number of publishers, each with one request at a time.
    publishers: usize,
    /// The size of a resource before the updates, in bytes.
    bytes: usize,
}

const COLUMNS: &[Column] = &[
    compared("CPU µs per update", Better::Lower),
    plain("updates/s"),
    plain("p50 ms"),
    compared("p99 ms", Better::Lower),
    plain("RSS MiB"),
];

/// The timeouts for all subscriptions, and for data after the last update.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_mins(1);
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The longest time by which a round may exceed the time that its rate requires.
const ROUND_SLACK: Duration = Duration::from_mins(1);

/// A gateway with its subscribers.
struct SubscribedGateway {
    name: String,
    gateway: Gateway,
    pool: SubscriberPool,
    resources: u64,
}

/// Runs the comparison.
///
/// # Errors
/// If a gateway cannot be started, or refuses a request.
pub fn run(settings: &Settings, plan: &RunPlan) -> io::Result<Table> {
    if settings.publishers > PUBLISHERS_MAX {
        return Err(io::Error::other(format!("`publishers` must be at most {PUBLISHERS_MAX}")));
    }
    let name = |build: &str, sockets| format!("{build}, {} resources", sockets * settings.each);
    let mut table = Table::new(COLUMNS, "few", "lost, repeated, gaps, disconnected");
    let mut audiences = Vec::new();
    for sockets in [settings.sockets, 1] {
        for (build, gateway) in plan.gateways()? {
            let audience = settings.gather(name(build, sockets), gateway, sockets)?;
            audiences.push((name(build, 1), audience));
        }
    }
    let mut done = 0;
    // The first round is the warm-up.
    for round in 0..=plan.repeats {
        plan.announce(round);
        let numbers = done..done + settings.updates;
        done = numbers.end;
        for at in order(round, audiences.len()) {
            let (base, audience) = &mut audiences[at];
            let (figures, faults) = settings.round(audience, numbers.clone())?;
            if round > 0 {
                table.add(&audience.name, Some(base), figures, faults);
            }
        }
    }
    Ok(table)
}

impl Settings {
    /// Creates the resources and subscribes to each.
    fn gather(
        &self,
        name: String,
        gateway: Gateway,
        sockets: u64,
    ) -> io::Result<SubscribedGateway> {
        let (address, resources) = (gateway.address(), sockets * self.each);
        let batches = Batches::of_orders(address);
        batches.send(0..resources, |out, number| resource(out, number, self.bytes))?;
        let (path, protocol) = ("/ws".to_owned(), Protocol::Ws);
        let subscription = Subscription { address, path, protocol, after: None };
        let mut pool = SubscriberPool::open(&subscription, sockets as usize)?;
        for (socket, subscriber) in pool.subscribers().iter().enumerate() {
            let first = socket as u64 * self.each;
            let commands = (first..first + self.each).flat_map(subscribe);
            let commands: Vec<u8> = commands.collect();
            subscriber.socket().write_all(&commands)?;
        }
        if !pool.read_until(SUBSCRIBE_TIMEOUT, |pool| pool.stats.answers >= resources)? {
            let answers = pool.stats.answers;
            return Err(io::Error::other(format!(
                "only {answers} of {resources} subscriptions were answered"
            )));
        }
        usage::wait_until_idle(gateway.meter())?;
        Ok(SubscribedGateway { name, gateway, pool, resources })
    }

    /// Publishes the updates and waits until all have arrived. Returns figures
    /// and faults.
    fn round(
        &self,
        audience: &mut SubscribedGateway,
        numbers: Range<u64>,
    ) -> io::Result<(Vec<f64>, u64)> {
        let SubscribedGateway { gateway, pool, resources, .. } = audience;
        let (address, resources, updates) = (gateway.address(), *resources, self.updates);
        let ended = pool.ended();
        pool.stats = DeliveryStats { stamps: Some(Vec::new()), ..DeliveryStats::new() };
        let limit = Duration::from_secs_f64(updates as f64 / self.rate) + ROUND_SLACK;
        let (next, end) = (&AtomicU64::new(numbers.start), numbers.end);
        let ((), usage) = Usage::measure(gateway.meter(), || {
            std::thread::scope(|scope| {
                let publish =
                    |publisher| move || self.publish(address, publisher, next, end, resources);
                let threads: Vec<_> =
                    (0..self.publishers).map(|n| scope.spawn(publish(n))).collect();
                pool.read_until(limit, |pool| {
                    pool.stats.deliveries >= updates
                        || threads.iter().all(ScopedJoinHandle::is_finished)
                })?;
                for thread in threads {
                    thread.join().map_err(|_| io::Error::other("a publisher panicked"))??;
                }
                pool.read_until(SILENCE_MAX, |pool| pool.stats.deliveries >= updates)?;
                Ok(())
            })
        })?;
        let stats = &pool.stats;
        let mut received = ReceivedSet::new(numbers);
        stats.stamps.iter().flatten().for_each(|stamp| received.insert(stamp.sequence));
        let cut = (pool.ended() - ended) as u64;
        let figures = vec![
            usage.cpu_each(updates),
            usage.rate(updates),
            latency::ms(&stats.latency, 0.5),
            latency::ms(&stats.latency, 0.99),
            usage.rss_max as f64 / 1_048_576.0,
        ];
        // Only each subscription has an order: the events of a commit are
        // written subscription by subscription.
        Ok((figures, received.faults() + stats.gaps + cut))
    }

    fn publish(
        &self,
        address: SocketAddr,
        publisher: usize,
        next: &AtomicU64,
        end: u64,
        resources: u64,
    ) -> io::Result<()> {
        let mut connection = Connection::open(address)?;
        let share = self.rate / self.publishers as f64;
        // Publishers take turns. Updates sent at the same moment would share
        // one commit.
        std::thread::sleep(Duration::from_secs_f64(publisher as f64 / self.rate));
        let mut pace = Pace::new(share);
        let mut body = Vec::new();
        loop {
            let due = pace.wait().min(clock::now());
            let sequence = next.fetch_add(1, Ordering::Relaxed);
            if sequence >= end {
                return Ok(());
            }
            let path = format!("/orders/r{}/events", scattered(sequence) % resources);
            body.clear();
            publisher::write_event(&mut body, EventStamp { publisher, sequence, due }, 0, None);
            publisher::expect_success(connection.post(&path, JSON, &body)?)?;
        }
    }
}

/// Returns a client's frame with a command that subscribes to a resource.
fn subscribe(number: u64) -> Vec<u8> {
    let command = format!(
        r#"{{"id":"1","type":"command","data":{{"command":"subscribe","collection":"orders","resource":"r{number}"}}}}"#
    );
    framing::control(1, command.as_bytes())
}

/// Returns a pseudo-random number that is the same in each run (splitmix64).
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_fits_a_short_frame() {
        let frame = subscribe(999_999);
        assert!(frame.len() < 6 + 125);
        let command: serde_json::Value = serde_json::from_slice(&frame[6..]).unwrap();
        assert_eq!(command["data"]["resource"], "r999999");
    }

    #[test]
    fn random_numbers_are_spread_evenly() {
        let mut met = [0_u32; 100];
        (0..10_000).for_each(|number| met[(scattered(number) % 100) as usize] += 1);
        assert!(met.iter().all(|&count| count > 50), "{met:?}");
    }
}
