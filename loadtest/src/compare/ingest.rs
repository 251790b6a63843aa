//! Batches sent as fast as possible, and a check that the log has every event
//! that was acknowledged.

use std::io;
use std::net::SocketAddr;
use std::ops::{ControlFlow, Range};

use serde::Deserialize;

use super::batches::{BatchFormat, Batches};
use super::document::resource;
use super::ndjson;
use super::plan::RunPlan;
use super::received_set::ReceivedSet;
use super::usage::Usage;
use crate::process::Meter;
use crate::publisher;
use crate::report::builds::{BESIDE, Better};
use crate::report::table::{Column, Table, compared, plain};
use crate::run_options::order;
use crate::stamp::EventStamp;
use crate::target;

/// The size of the load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The target of the batches: a topic or a collection.
    into: IngestTarget,
    /// The number of events.
    events: u64,
    /// The size of an event's data or of a resource, in bytes.
    bytes: usize,
    /// The number of publishers.
    publishers: usize,
    /// Lines of a batch.
    batch: u64,
    /// Targets of `targets.toml` that take a JSON array of events.
    #[serde(default)]
    targets: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum IngestTarget {
    Topic,
    Collection,
}

const COLUMNS: &[Column] = &[
    compared("events/s", Better::Higher),
    compared("CPU µs per event", Better::Lower),
    plain("MB/s"),
    plain("generator µs"),
    plain("RSS MiB"),
];

/// Runs the comparison.
///
/// # Errors
/// If a server cannot be started, or refuses a request.
pub fn run(settings: &Settings, plan: &RunPlan) -> io::Result<Table> {
    let peers = if plan.is_beside() { &[] } else { settings.targets.as_slice() };
    let against = peers.first().map(String::as_str);
    let mut table = Table::new(COLUMNS, against.unwrap_or(BESIDE), "lost, repeated");
    for round in 1..=plan.repeats {
        plan.announce(round);
        let gateways = plan.gateways()?;
        for at in order(round, gateways.len()) {
            let (name, gateway) = &gateways[at];
            let address = gateway.address();
            let figures = settings.measure(address, &gateway.meter(), None)?;
            let faults = settings.count(address)?;
            table.add(name, against.or(plan.other(name)), figures, faults);
        }
        for name in peers {
            match target::named(name)?.start() {
                Ok(running) => {
                    let (address, path) = (running.publish_address(), running.publish());
                    let meter = running.process.meter();
                    let figures = settings.measure(address, &meter, Some(path))?;
                    table.add(name, against, figures, 0);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    table.leave_out(name);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(table)
}

impl Settings {
    /// Returns the event numbers of the warm-up and of the measurement.
    fn all(&self) -> (Range<u64>, Range<u64>) {
        let warm_up = self.events / 10;
        (0..warm_up, warm_up..warm_up + self.events)
    }

    /// Sends all events and returns the figures. `target` is the path of a
    /// target that takes arrays. `None` is the gateway.
    fn measure(
        &self,
        address: SocketAddr,
        meter: &Meter,
        target: Option<&str>,
    ) -> io::Result<Vec<f64>> {
        let (warm_up, numbers) = self.all();
        self.send(address, target, warm_up)?;
        let ((), usage) = Usage::measure(meter.clone(), || self.send(address, target, numbers))?;
        let rate = usage.rate(self.events);
        Ok(vec![
            rate,
            usage.cpu_each(self.events),
            rate * self.bytes as f64 / 1e6,
            usage.own_each(self.events),
            usage.rss_max as f64 / 1_048_576.0,
        ])
    }

    fn send(
        &self,
        address: SocketAddr,
        target: Option<&str>,
        numbers: Range<u64>,
    ) -> io::Result<()> {
        let (publishers, lines, bytes) = (self.publishers, self.batch, self.bytes);
        let batches = |path, format| Batches { address, path, publishers, lines, format };
        let stamp = |number| EventStamp { publisher: 0, sequence: number, due: 0 };
        match (target, self.into) {
            (Some(path), _) => batches(path, BatchFormat::Array)
                .send(numbers, |out, number| stamp(number).write(out, bytes)),
            (None, IngestTarget::Topic) => batches("/events/ticks", BatchFormat::Ndjson)
                .send(numbers, |out, n| publisher::write_event(out, stamp(n), bytes, None)),
            (None, IngestTarget::Collection) => batches("/orders", BatchFormat::Ndjson)
                .send(numbers, |out, number| resource(out, number, bytes)),
        }
    }

    /// Reads the whole log and returns the number of faults.
    fn count(&self, address: SocketAddr) -> io::Result<u64> {
        let path = match self.into {
            IngestTarget::Topic => "/events/ticks?from=earliest",
            IngestTarget::Collection => "/orders/events?from=earliest",
        };
        let mut received = ReceivedSet::new(0..self.all().1.end);
        ndjson::read_lines(address, path, |line| {
            if let Some(stamp) = EventStamp::read(line) {
                received.insert(stamp.sequence);
            }
            if received.is_complete() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(received.faults())
    }
}
