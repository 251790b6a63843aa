//! Deliveries to many subscribers, with and without one scrape of `/metrics` a
//! second. A scrape must not delay a delivery.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;

use super::plan::RunPlan;
use super::usage::Usage;
use crate::clock::{self, Pace};
use crate::delivery_stats::DeliveryStats;
use crate::gateway::Gateway;
use crate::http::Connection;
use crate::latency;
use crate::publisher::{Dialect, PublishPlan};
use crate::report::builds::{Better, Figure, Ratios};
use crate::report::table::{Column, Table, compared, plain};
use crate::run_options::order;
use crate::subscriber::{Protocol, Subscription};
use crate::subscriber_pool::SubscriberPool;

/// The size of the load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// SSE subscribers.
    subscribers: usize,
    /// The number of events a second.
    rate: f64,
    /// The number of events of a phase.
    events: u64,
    /// The size of an event's data, in bytes.
    bytes: usize,
    /// The number of scrapes a second in the phases with scrapes.
    scrape_rate: f64,
}

const COLUMNS: &[Column] = &[
    compared("p50 ms", Better::Lower),
    compared("p99 ms", Better::Lower),
    plain("max ms"),
    plain("CPU µs per delivery"),
    plain("scrapes"),
    plain("scrape p50 ms"),
    plain("scrape max ms"),
];

/// The index of the p99 among the columns.
const P99: usize = 1;

/// The longest time by which a phase may exceed the time that its rate requires.
const PHASE_SLACK: Duration = Duration::from_mins(1);

const TOPIC: &str = "/events/ticks";

/// A gateway with its subscribers.
struct SubscribedGateway {
    name: &'static str,
    gateway: Gateway,
    pool: SubscriberPool,
    /// The number of events that were published to the gateway.
    published: u64,
}

/// Runs the comparison, and returns its table and the ratios of the p99.
///
/// # Errors
/// If a gateway cannot be started, or refuses a request.
pub fn run(settings: &Settings, plan: &RunPlan) -> io::Result<(Table, Ratios)> {
    let mut table = Table::new(COLUMNS, "without", "lost, repeated, gaps, disconnected");
    let mut gateways = Vec::new();
    for (name, gateway) in plan.gateways()? {
        let (address, path) = (gateway.address(), TOPIC.to_owned());
        let subscription = Subscription { address, path, protocol: Protocol::Sse, after: None };
        let pool = SubscriberPool::open(&subscription, settings.subscribers)?;
        gateways.push(SubscribedGateway { name, gateway, pool, published: 0 });
    }
    let mut p99 = [Vec::new(), Vec::new()];
    // Round 0 warms up.
    for round in 0..=plan.repeats {
        plan.announce(round);
        for at in order(round, gateways.len()) {
            let gateway = &mut gateways[at];
            let row = |is_scraped| {
                let phase = if is_scraped { "scraped" } else { "without" };
                format!("{}, {phase}", gateway.name)
            };
            let rows = [row(false), row(true)];
            for scraped in order(round, rows.len()) {
                let (figures, faults) = settings.phase(gateway, scraped == 1)?;
                if round == 0 {
                    continue;
                }
                if gateway.name == "gateway" {
                    p99[scraped].push(figures[P99]);
                }
                let base = (scraped == 1).then_some(rows[0].as_str());
                table.add(&rows[scraped], base, figures, faults);
            }
        }
    }
    let [without, scraped] = p99;
    let figure = Figure::new("p99 ms", Better::Lower, scraped.into_iter().zip(without));
    Ok((table, Ratios::new("scraped / without", vec![figure])))
}

impl Settings {
    /// Publishes the events of one phase, and returns its figures and faults.
    fn phase(
        &self,
        subscribed: &mut SubscribedGateway,
        is_scraped: bool,
    ) -> io::Result<(Vec<f64>, u64)> {
        let SubscribedGateway { gateway, pool, published, .. } = subscribed;
        let plan = PublishPlan {
            address: gateway.address(),
            path: TOPIC.to_owned(),
            dialect: Dialect::Streamgate,
            publishers: 1,
            first: *published,
            events: self.events,
            rate: Some(self.rate),
            batch: None,
            bytes: self.bytes,
            subjects: 0,
        };
        *published += self.events;
        let ended = pool.ended();
        pool.stats = DeliveryStats::new();
        let expected = self.events * pool.len() as u64;
        let limit = Duration::from_secs_f64(self.events as f64 / self.rate) + PHASE_SLACK;
        let (admin, is_done) = (gateway.admin_address(), AtomicBool::new(false));
        let (scrapes, usage) = Usage::measure(gateway.meter(), || {
            std::thread::scope(|scope| {
                let scraper = scope.spawn(|| {
                    if is_scraped { scrape(admin, self.scrape_rate, &is_done) } else { Ok(vec![]) }
                });
                let delivered = deliver(&plan, pool, expected, limit);
                is_done.store(true, Ordering::Relaxed);
                let joined = scraper.join().map_err(|_| io::Error::other("the scraper panicked"));
                delivered.and(joined?)
            })
        })?;
        let stats = &pool.stats;
        let missing = expected.saturating_sub(stats.deliveries);
        let cut = (pool.ended() - ended) as u64;
        let faults = stats.lost.max(missing) + stats.repeated + stats.disordered + stats.gaps + cut;
        let count = scrapes.len() as f64;
        let scrapes = latency::from_values(scrapes.into_iter());
        let scrape_ms =
            |quantile| if is_scraped { latency::ms(&scrapes, quantile) } else { f64::NAN };
        let figures = vec![
            latency::ms(&stats.latency, 0.5),
            latency::ms(&stats.latency, 0.99),
            latency::ms(&stats.latency, 1.0),
            usage.cpu_each(stats.deliveries.max(1)),
            count,
            scrape_ms(0.5),
            scrape_ms(1.0),
        ];
        Ok((figures, faults))
    }
}

/// Publishes, and reads until every subscriber has every event.
fn deliver(
    plan: &PublishPlan,
    pool: &mut SubscriberPool,
    expected: u64,
    limit: Duration,
) -> io::Result<()> {
    let publishers = plan.start()?;
    pool.read_until(limit, |pool| publishers.is_done() && pool.stats.deliveries >= expected)?;
    publishers.stop();
    publishers.finish().map(|_| ())
}

/// Scrapes at a steady rate until `is_done`. Returns how long each scrape took,
/// in nanoseconds.
fn scrape(admin: SocketAddr, rate: f64, is_done: &AtomicBool) -> io::Result<Vec<u64>> {
    let (mut connection, mut pace) = (Connection::open(admin)?, Pace::new(rate));
    let mut took = Vec::new();
    while !is_done.load(Ordering::Relaxed) {
        pace.wait();
        let begun = clock::now();
        let response = connection.get("/metrics")?;
        took.push(clock::now() - begun);
        if !response.is_success() {
            return Err(io::Error::other(format!("/metrics: status {}", response.status)));
        }
        if response.closes {
            connection = Connection::open(admin)?;
        }
    }
    Ok(took)
}
