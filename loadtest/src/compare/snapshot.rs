//! A whole collection, read by one client.

use std::io;
use std::ops::ControlFlow;

use serde::Deserialize;

use super::batches::Batches;
use super::document::resource;
use super::ndjson;
use super::plan::RunPlan;
use super::received_set::ReceivedSet;
use super::usage::{self, Usage};
use crate::report::builds::{BESIDE, Better};
use crate::report::table::{Column, Table, compared, plain};
use crate::run_options::order;
use crate::stamp::EventStamp;

/// The size of the collection.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The number of resources.
    resources: u64,
    /// The size of a resource, in bytes.
    bytes: usize,
}

const COLUMNS: &[Column] = &[
    compared("MB/s", Better::Higher),
    plain("seconds"),
    compared("CPU µs per resource", Better::Lower),
    plain("generator µs"),
    plain("RSS growth MiB"),
    plain("RSS MiB"),
];

/// Runs the comparison.
///
/// # Errors
/// If a gateway cannot be started, or refuses a request.
pub fn run(settings: &Settings, plan: &RunPlan) -> io::Result<Table> {
    let mut table = Table::new(COLUMNS, BESIDE, "lost, repeated");
    let gateways = plan.gateways()?;
    for (_, gateway) in &gateways {
        let address = gateway.address();
        let batches = Batches::of_orders(address);
        let line = |out: &mut Vec<u8>, number| resource(out, number, settings.bytes);
        batches.send(0..settings.resources, line)?;
        usage::wait_until_idle(gateway.meter())?;
    }
    for round in 1..=plan.repeats {
        plan.announce(round);
        for at in order(round, gateways.len()) {
            let (name, gateway) = &gateways[at];
            let mut received = ReceivedSet::new(0..settings.resources);
            let (bytes, usage) = Usage::measure(gateway.meter(), || {
                ndjson::read_lines(gateway.address(), "/orders/stream", |line| {
                    if let Some(stamp) = EventStamp::read(line) {
                        received.insert(stamp.sequence);
                    }
                    ControlFlow::Continue(())
                })
            })?;
            let figures = vec![
                usage.rate(bytes) / 1e6,
                usage.wall.as_secs_f64(),
                usage.cpu_each(settings.resources),
                usage.own_each(settings.resources),
                usage.growth(),
                usage.rss_max as f64 / 1_048_576.0,
            ];
            table.add(name, plan.other(name), figures, received.faults());
        }
    }
    Ok(table)
}
